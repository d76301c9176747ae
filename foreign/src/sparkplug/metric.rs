//! A metric's value.

use headwater_proto::Value;

use super::pb;
use super::pb::metric::Value as Sent;

/// The datatypes, by the specification's numbers (6.4.16).
const INT8: u32 = 1;
const INT16: u32 = 2;
const INT32: u32 = 3;
const INT64: u32 = 4;
const UINT8: u32 = 5;
const UINT16: u32 = 6;
const UINT32: u32 = 7;
const UINT64: u32 = 8;
const FLOAT: u32 = 9;
const DOUBLE: u32 = 10;
/// A truth value.
pub(super) const BOOLEAN: u32 = 11;
const STRING: u32 = 12;
const DATE_TIME: u32 = 13;
const TEXT: u32 = 14;
const UUID: u32 = 15;

/// Longest text that is a reading, bytes.
const TEXT_MAX: usize = 4096;

/// What a metric gives.
#[derive(Debug, PartialEq)]
pub(super) enum Given {
    /// A value.
    Value(Value),
    /// Nothing: it says so itself.
    Null,
    /// It has a type that is no reading's.
    Unsupported,
}

/// The value of a metric of this datatype.
///
/// # Errors
/// What is wrong with it.
pub(super) fn value(metric: &pb::Metric, datatype: u32) -> Result<Given, String> {
    if metric.is_null() {
        return Ok(Given::Null);
    }
    let Some(sent) = &metric.value else {
        return Ok(Given::Null);
    };
    let value = match (datatype, sent) {
        (INT8 | INT16 | INT32 | INT64 | UINT8 | UINT16 | UINT32 | UINT64 | DATE_TIME, sent) => {
            let (bits, is_long) = match sent {
                Sent::IntValue(bits) => (u64::from(*bits), false),
                Sent::LongValue(bits) => (*bits, true),
                _ => return Err(unlike(datatype)),
            };
            Value::I64(integer(bits, is_long, datatype)?)
        }
        (FLOAT, Sent::FloatValue(value)) => Value::F64(f64::from(*value)),
        (DOUBLE, Sent::DoubleValue(value)) => Value::F64(*value),
        // Some encoders have one of them for both.
        (FLOAT, Sent::DoubleValue(value)) => Value::F64(*value),
        (DOUBLE, Sent::FloatValue(value)) => Value::F64(f64::from(*value)),
        (BOOLEAN, Sent::BooleanValue(value)) => Value::Bool(*value),
        (STRING | TEXT | UUID, Sent::StringValue(value)) if value.len() > TEXT_MAX => {
            return Err(format!(
                "a text of {} bytes is longer than {TEXT_MAX}",
                value.len()
            ));
        }
        (STRING | TEXT | UUID, Sent::StringValue(value)) => Value::String(value.clone()),
        (FLOAT..=BOOLEAN | STRING | TEXT | UUID, _) => return Err(unlike(datatype)),
        _ => return Ok(Given::Unsupported),
    };
    Ok(Given::Value(value))
}

fn unlike(datatype: u32) -> String {
    format!("its value is not of datatype {datatype}")
}

/// An integer of this type, out of bits that encoders extend as they please: with their sign to 32 or 64, or with zeros.
fn integer(bits: u64, is_long: bool, datatype: u32) -> Result<i64, String> {
    let width = match datatype {
        INT8 | UINT8 => 8,
        INT16 | UINT16 => 16,
        INT32 | UINT32 => 32,
        _ => 64,
    };
    let beyond = || Err(format!("{bits} is beyond {width} bits"));
    if matches!(datatype, UINT8 | UINT16 | UINT32 | UINT64 | DATE_TIME) {
        return match i64::try_from(bits) {
            Ok(value) if width == 64 || bits >> width == 0 => Ok(value),
            _ if width == 64 => Err(format!("{bits} is beyond the integers of a reading")),
            _ => beyond(),
        };
    }
    // As many bits as were sent, with their sign.
    let sent = if is_long {
        bits as i64
    } else {
        i64::from(bits as u32 as i32)
    };
    if width == 64 {
        // What was sent in 32 bits has no sign to give: Int64 goes as a long.
        return Ok(if is_long { sent } else { bits as i64 });
    }
    let shift = 64 - width;
    let value = ((bits << shift) as i64) >> shift;
    // Its own bits, extended with zeros or with the sign; anything more is another number.
    if sent == value || bits >> width == 0 {
        Ok(value)
    } else {
        beyond()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(datatype: u32, sent: Sent) -> Result<Given, String> {
        let metric = pb::Metric {
            value: Some(sent),
            ..pb::Metric::default()
        };
        value(&metric, datatype)
    }

    #[test]
    fn integers_have_the_sign_of_their_type_however_they_were_extended() {
        for (datatype, sent, expected) in [
            (INT8, Sent::IntValue(0xff), -1),
            (INT8, Sent::IntValue(0xffff_ff80), -128),
            (INT8, Sent::IntValue(127), 127),
            (INT16, Sent::IntValue(0x8000), -32_768),
            (INT32, Sent::IntValue(0xffff_fffb), -5),
            (INT32, Sent::LongValue(-5i64 as u64), -5),
            (INT64, Sent::LongValue(i64::MIN as u64), i64::MIN),
            (INT64, Sent::IntValue(7), 7),
            (UINT8, Sent::IntValue(255), 255),
            (UINT32, Sent::IntValue(u32::MAX), 4_294_967_295),
            (UINT32, Sent::LongValue(4_294_967_295), 4_294_967_295),
            (UINT64, Sent::LongValue(i64::MAX as u64), i64::MAX),
            (DATE_TIME, Sent::LongValue(1_763_812_800_000), 1_763_812_800_000),
        ] {
            assert_eq!(
                given(datatype, sent.clone()),
                Ok(Given::Value(Value::I64(expected))),
                "{datatype} {sent:?}"
            );
        }
        for (datatype, sent) in [
            (INT8, Sent::IntValue(300)),
            (UINT8, Sent::IntValue(256)),
            (UINT64, Sent::LongValue(u64::MAX)),
            (INT32, Sent::DoubleValue(1.0)),
        ] {
            assert!(given(datatype, sent.clone()).is_err(), "{datatype} {sent:?}");
        }
    }

    #[test]
    fn every_datatype_is_a_reading_or_none() {
        assert_eq!(
            given(FLOAT, Sent::FloatValue(1.5)),
            Ok(Given::Value(Value::F64(1.5)))
        );
        assert_eq!(
            given(DOUBLE, Sent::DoubleValue(0.1)),
            Ok(Given::Value(Value::F64(0.1)))
        );
        assert_eq!(
            given(BOOLEAN, Sent::BooleanValue(true)),
            Ok(Given::Value(Value::Bool(true)))
        );
        for datatype in [STRING, TEXT, UUID] {
            let text = Value::String("a".into());
            assert_eq!(
                given(datatype, Sent::StringValue("a".into())),
                Ok(Given::Value(text))
            );
        }
        for datatype in 16..=34 {
            assert_eq!(given(datatype, Sent::BytesValue(vec![1])), Ok(Given::Unsupported));
        }
        let null = pb::Metric {
            is_null: Some(true),
            ..pb::Metric::default()
        };
        assert_eq!(value(&null, DOUBLE), Ok(Given::Null));
        assert!(given(BOOLEAN, Sent::IntValue(1)).is_err());
    }
}
