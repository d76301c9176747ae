//! Settings as serde reads them: one deserializer for files, variables and parts of settings alike.
//!
//! Serde makes code anew of every struct for every deserializer that it is read by. The `toml` crate alone has four, and
//! internally tagged enums bring one more: with all of them the settings were a quarter of the agent's program. And what a struct can be
//! made of here is a table and nothing else: the code that serde makes for reading it from a sequence is never called, so it falls away.

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use toml::Value;
use toml::de::{DeArray, DeTable};

/// What is wrong with settings, and where.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Mistake {
    message: String,
    /// From the innermost to the outermost.
    path: Vec<Step>,
    /// The last key of the path is wrong, not its value.
    at_key: bool,
}

/// A step on the way to a value.
#[derive(Debug)]
enum Step {
    Key(String),
    Index(usize),
}

impl Mistake {
    /// What is wrong, without where.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The line of it, from 1, in the text that was read; `None`: it is of no place, such as a key that is missing at the top.
    pub(crate) fn line(&self, text: &str) -> Option<usize> {
        let document = DeTable::parse(text).ok()?;
        let (mut table, mut array) = (Some(document.get_ref()), None);
        let mut start = None;
        for step in self.path.iter().rev() {
            let (key, value) = match step {
                Step::Key(wanted) => {
                    let (key, value) = table?.iter().find(|(key, _)| key.get_ref() == wanted)?;
                    (key.span(), value)
                }
                Step::Index(index) => {
                    let value = array.and_then(|array: &DeArray<'_>| array.get(*index))?;
                    (value.span(), value)
                }
            };
            start = Some(if self.at_key {
                key.start
            } else {
                value.span().start
            });
            (table, array) = (value.get_ref().as_table(), value.get_ref().as_array());
        }
        Some(text.get(..start?)?.matches('\n').count() + 1)
    }

    fn at(mut self, step: Step) -> Self {
        self.path.push(step);
        self
    }
}

impl Error for Mistake {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self {
            message: message.to_string(),
            path: Vec::new(),
            at_key: false,
        }
    }
}

/// Makes a `T` of a table of settings, or of a part of one.
///
/// # Errors
/// What does not fit `T`.
pub fn from_table<T: DeserializeOwned>(table: toml::Table) -> Result<T, Mistake> {
    T::deserialize(Tree(Value::Table(table)))
}

struct Tree(Value);

impl<'de> Deserializer<'de> for Tree {
    type Error = Mistake;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.0 {
            Value::Boolean(value) => visitor.visit_bool(value),
            Value::Integer(value) => visitor.visit_i64(value),
            Value::Float(value) => visitor.visit_f64(value),
            Value::String(value) => visitor.visit_string(value),
            Value::Datetime(value) => visitor.visit_string(value.to_string()),
            Value::Array(values) => visitor.visit_seq(Elements(values.into_iter().enumerate())),
            Value::Table(table) => visitor.visit_map(Entries {
                rest: table.into_iter(),
                value: None,
            }),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.0 {
            Value::Boolean(value) => visitor.visit_bool(value),
            other => Err(misfit(&other, &visitor)),
        }
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.0 {
            Value::Integer(value) => visitor.visit_i64(value),
            other => Err(misfit(&other, &visitor)),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.0 {
            Value::Integer(value) => visitor.visit_i64(value),
            Value::Float(value) => visitor.visit_f64(value),
            other => Err(misfit(&other, &visitor)),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.0 {
            Value::String(value) => visitor.visit_string(value),
            Value::Datetime(value) => visitor.visit_string(value.to_string()),
            other => Err(misfit(&other, &visitor)),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.0 {
            Value::Array(values) => visitor.visit_seq(Elements(values.into_iter().enumerate())),
            other => Err(misfit(&other, &visitor)),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.0 {
            Value::Table(table) => visitor.visit_map(Entries {
                rest: table.into_iter(),
                value: None,
            }),
            other => Err(misfit(&other, &visitor)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        self.deserialize_map(visitor)
    }

    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_i16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_string(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        visitor.visit_newtype_struct(self)
    }

    /// Of enums the settings have only names.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        match self.0 {
            Value::String(name) => visitor.visit_enum(name.into_deserializer()),
            other => Err(misfit(&other, &"a string")),
        }
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// A value of another type than the one that was asked for.
fn misfit(value: &Value, expected: &dyn Expected) -> Mistake {
    Error::invalid_type(kind(value), expected)
}

fn kind(value: &Value) -> Unexpected<'_> {
    match value {
        Value::Boolean(value) => Unexpected::Bool(*value),
        Value::Integer(value) => Unexpected::Signed(*value),
        Value::Float(value) => Unexpected::Float(*value),
        Value::String(value) => Unexpected::Str(value),
        Value::Datetime(_) => Unexpected::Other("time"),
        Value::Array(_) => Unexpected::Seq,
        Value::Table(_) => Unexpected::Map,
    }
}

struct Elements(std::iter::Enumerate<std::vec::IntoIter<Value>>);

impl<'de> SeqAccess<'de> for Elements {
    type Error = Mistake;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Mistake> {
        let Some((index, value)) = self.0.next() else {
            return Ok(None);
        };
        let read = seed.deserialize(Tree(value));
        read.map(Some).map_err(|mistake| mistake.at(Step::Index(index)))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

struct Entries {
    rest: toml::map::IntoIter<String, Value>,
    value: Option<(String, Value)>,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = Mistake;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Mistake> {
        let Some((key, value)) = self.rest.next() else {
            return Ok(None);
        };
        // A key is text, and asks for nothing else.
        let read: Result<_, Mistake> = seed.deserialize(key.as_str().into_deserializer());
        let read = read.map(Some).map_err(|mistake| Mistake {
            at_key: true,
            ..mistake.at(Step::Key(key.clone()))
        });
        self.value = Some((key, value));
        read
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Mistake> {
        let (key, value) = self
            .value
            .take()
            .ok_or_else(|| Mistake::custom("a value was asked for before its key"))?;
        seed.deserialize(Tree(value))
            .map_err(|mistake| mistake.at(Step::Key(key)))
    }
}
