//! One value as a payload writes it, and as a reading has it.

use std::collections::BTreeMap;

use headwater_proto::Value;
use serde_json::Number;

use crate::refusal::shortened;
use crate::settings::Type;

/// The longest text that is a reading, bytes.
const TEXT_MAX: usize = 4096;

/// A value as it is written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scalar<'a> {
    Bool(bool),
    /// A JSON number: neither a double nor an integer until somebody says so.
    Number(&'a Number),
    Double(f64),
    Integer(i64),
    Unsigned(u64),
    /// A text of a format that has other types too.
    Text(&'a str),
    /// A text of a format that has nothing else.
    Bare(&'a str),
}

impl Scalar<'_> {
    /// The value of this type; `Err`: what it should be.
    pub(crate) fn read(self, wanted: Type, booleans: &BTreeMap<String, bool>) -> Result<Value, &'static str> {
        if let (Self::Text(text) | Self::Bare(text), true) = (self, wanted != Type::Text)
            && let Some(truth) = booleans.get(text.trim())
        {
            return match wanted {
                Type::Number => Ok(Value::F64(f64::from(u8::from(*truth)))),
                Type::Integer => Ok(Value::I64(i64::from(*truth))),
                _ => Ok(Value::Bool(*truth)),
            };
        }
        match wanted {
            Type::Auto => self.as_it_is(),
            Type::Number => self.double().map(Value::F64).ok_or("a number"),
            Type::Integer => self.integer().map(Value::I64).ok_or("a 64-bit integer"),
            Type::Boolean => self.truth().map(Value::Bool).ok_or("a truth value"),
            Type::Text => text(self.written()),
        }
    }

    fn as_it_is(self) -> Result<Value, &'static str> {
        match self {
            Self::Bool(truth) => Ok(Value::Bool(truth)),
            Self::Number(_) | Self::Double(_) => self.double().map(Value::F64).ok_or("a number"),
            Self::Integer(_) | Self::Unsigned(_) => self.integer().map(Value::I64).ok_or("a 64-bit integer"),
            Self::Text(written) => text(written.to_string()),
            Self::Bare(written) => match self.double() {
                Some(number) => Ok(Value::F64(number)),
                None => text(written.trim().to_string()),
            },
        }
    }

    fn double(self) -> Option<f64> {
        match self {
            Self::Bool(_) => None,
            Self::Number(number) => number.as_f64(),
            Self::Double(number) => Some(number),
            Self::Integer(number) => Some(number as f64),
            Self::Unsigned(number) => Some(number as f64),
            Self::Text(text) | Self::Bare(text) => decimal(text),
        }
    }

    fn integer(self) -> Option<i64> {
        let number = match self {
            Self::Bool(_) => return None,
            Self::Integer(number) => return Some(number),
            Self::Unsigned(number) => return i64::try_from(number).ok(),
            Self::Number(number) => match number.as_i64() {
                None => number.as_f64()?,
                number => return number,
            },
            Self::Double(number) => number,
            Self::Text(text) | Self::Bare(text) => match text.trim().parse() {
                Ok(number) => return Some(number),
                Err(_) => decimal(text)?,
            },
        };
        // `3.0` is 3; where doubles are sparser than integers it is anybody's guess.
        (number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0).then_some(number as i64)
    }

    fn truth(self) -> Option<bool> {
        match self {
            Self::Bool(truth) => Some(truth),
            Self::Text(text) | Self::Bare(text) => {
                let text = text.trim();
                let is_one_of = |words: [&str; 4]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
                if is_one_of(["on", "true", "yes", "1"]) {
                    Some(true)
                } else {
                    is_one_of(["off", "false", "no", "0"]).then_some(false)
                }
            }
            number => match number.integer() {
                Some(0) => Some(false),
                Some(1) => Some(true),
                _ => None,
            },
        }
    }

    /// As it is written.
    pub(crate) fn written(self) -> String {
        match self {
            Self::Bool(truth) => truth.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Double(number) => number.to_string(),
            Self::Integer(number) => number.to_string(),
            Self::Unsigned(number) => number.to_string(),
            Self::Text(text) => text.to_string(),
            Self::Bare(text) => text.trim().to_string(),
        }
    }

    /// As it is written, for a message.
    pub(crate) fn shown(self) -> String {
        match self {
            Self::Text(text) | Self::Bare(text) => format!("{:?}", shortened(text)),
            other => shortened(&other.written()),
        }
    }
}

/// The double nearest to a decimal number; the words for infinity and for no number are not numbers here.
fn decimal(text: &str) -> Option<f64> {
    let text = text.trim();
    let is_decimal = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    is_decimal.then(|| text.parse().ok()).flatten()
}

fn text(text: String) -> Result<Value, &'static str> {
    if text.len() <= TEXT_MAX {
        Ok(Value::String(text))
    } else {
        Err("a text of at most 4096 bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str, wanted: Type) -> Result<Value, &'static str> {
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        let scalar = match &value {
            serde_json::Value::Bool(truth) => Scalar::Bool(*truth),
            serde_json::Value::Number(number) => Scalar::Number(number),
            serde_json::Value::String(text) => Scalar::Text(text),
            other => panic!("{other}"),
        };
        let booleans = [("ON".to_string(), true), ("closed".to_string(), false)];
        scalar.read(wanted, &booleans.into())
    }

    #[test]
    fn a_json_number_is_the_double_nearest_to_its_text_however_it_is_written() {
        for text in [
            "21.37",
            "21",
            "-0.0",
            "0.1",
            "9007199254740993",
            "123456789012345678901234567890",
            "2.2250738585072011e-308",
            "8.589934592999999999999999999999",
            "1e23",
        ] {
            let Value::F64(number) = read(text, Type::Auto).unwrap() else {
                panic!("{text} is no double");
            };
            assert_eq!(number.to_bits(), text.parse::<f64>().unwrap().to_bits(), "{text}");
        }
    }

    #[test]
    fn integers_are_exact_where_they_are_asked_for() {
        for (text, expected) in [
            ("9007199254740993", Some(9_007_199_254_740_993)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("\"9007199254740993\"", Some(9_007_199_254_740_993)),
            ("3.0", Some(3)),
            ("\"3.0\"", Some(3)),
            ("3.5", None),
            ("9223372036854775808", None),
            ("1e300", None),
            ("true", None),
        ] {
            assert_eq!(read(text, Type::Integer).ok(), expected.map(Value::I64), "{text}");
        }
    }

    #[test]
    fn texts_are_numbers_where_that_is_asked_for() {
        for (text, expected) in [
            ("\"21.37\"", Some(21.37)),
            ("\" -4e2 \"", Some(-400.0)),
            ("\"NaN\"", None),
            ("\"inf\"", None),
            ("\"12 V\"", None),
            ("\"\"", None),
            ("\"ON\"", Some(1.0)),
        ] {
            assert_eq!(read(text, Type::Number).ok(), expected.map(Value::F64), "{text}");
        }
        assert_eq!(read("\"21.37\"", Type::Auto), Ok(Value::String("21.37".into())));
        assert_eq!(read("21.50", Type::Text), Ok(Value::String("21.5".into())));
    }

    #[test]
    fn truth_values_are_what_the_table_and_the_type_say() {
        assert_eq!(read("\"ON\"", Type::Auto), Ok(Value::Bool(true)));
        assert_eq!(read("\"OFF\"", Type::Auto), Ok(Value::String("OFF".into())));
        assert_eq!(read("\"Off\"", Type::Boolean), Ok(Value::Bool(false)));
        assert_eq!(read("\"closed\"", Type::Boolean), Ok(Value::Bool(false)));
        assert_eq!(read("1", Type::Boolean), Ok(Value::Bool(true)));
        assert_eq!(read("\"ON\"", Type::Text), Ok(Value::String("ON".into())));
        assert!(read("2", Type::Boolean).is_err());
        assert!(read("\"AUTO\"", Type::Boolean).is_err());
    }

    #[test]
    fn a_text_has_a_length_that_is_bounded() {
        assert!(read(&format!("\"{}\"", "x".repeat(4096)), Type::Auto).is_ok());
        assert!(read(&format!("\"{}\"", "x".repeat(4097)), Type::Auto).is_err());
    }
}
