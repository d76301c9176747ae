//! Settings changed by command: keys with values that are laid over the configuration, kept in `overrides.toml` of the state directory.
//!
//! A key is written as in TOML: `batch.age`. Of tables that come as a list (`[[source]]`) one is meant by its name:
//! `source.boiler.interval`; by its `name`, or what it says under `match`, or by its `type`, with `-2` for the second of a type and so on.

use std::collections::BTreeMap;

use toml::{Table, Value};

/// How many keys may be changed.
const KEYS_MAX: usize = 64;
/// The longest key or value, bytes.
const LENGTH_MAX: usize = 1024;

/// Keys that were changed, as they are written, with their values.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Overrides(BTreeMap<String, Value>);

impl Overrides {
    /// From the content of the file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let table: Table = text
            .parse()
            .map_err(|error: toml::de::Error| error.message().to_string())?;
        Ok(Self(table.into_iter().collect()))
    }

    /// As the file's content.
    pub(crate) fn text(&self) -> String {
        let mut text = String::from("# Settings changed by command, laid over the configuration.\n");
        for (key, value) in self.list() {
            text.push_str(&format!("{} = {value}\n", Value::String(key)));
        }
        text
    }

    /// Keys and values as text.
    pub(crate) fn list(&self) -> Vec<(String, String)> {
        let pairs = self.0.iter();
        pairs
            .map(|(key, value)| (key.clone(), value.to_string()))
            .collect()
    }

    /// With `key` changed to `value`: what reads as a TOML value is one, anything else is a string.
    ///
    /// # Errors
    /// What is wrong with the key, or that there are too many.
    pub(crate) fn with(&self, key: &str, value: &str) -> Result<Self, String> {
        if key.len() > LENGTH_MAX || value.len() > LENGTH_MAX {
            return Err(format!("key and value may have {LENGTH_MAX} bytes each"));
        }
        path(key)?;
        let parsed = format!("v = {value}").parse::<Table>().ok();
        let value = parsed
            .filter(|table| table.len() == 1)
            .and_then(|mut table| table.remove("v"))
            .unwrap_or_else(|| Value::String(value.into()));
        let mut next = self.clone();
        next.0.insert(key.into(), value);
        if next.0.len() > KEYS_MAX {
            return Err(format!(
                "{KEYS_MAX} keys are changed already; put them into the configuration"
            ));
        }
        Ok(next)
    }

    /// Without `key`; `None` if it is not changed.
    pub(crate) fn without(&self, key: &str) -> Option<Self> {
        let mut next = self.clone();
        next.0.remove(key).map(|_| next)
    }

    /// Lays them over a configuration.
    ///
    /// # Errors
    /// The key that has no place in it, and why.
    pub(crate) fn apply(&self, table: &mut Table) -> Result<(), String> {
        for (key, value) in &self.0 {
            let segments = path(key)?;
            put(table, &segments, value).map_err(|why| format!("`{key}`: {why}"))?;
        }
        Ok(())
    }
}

/// The segments of a key: TOML's own grammar of dotted keys.
fn path(key: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("{key:?} is no key; write it as batch.age or source.\"my source\".interval");
    if key.contains(['=', '\n', '#', '[']) {
        return Err(wrong());
    }
    let mut table: Table = format!("{key} = 0").parse().map_err(|_| wrong())?;
    let mut segments = Vec::new();
    loop {
        let Some((segment, value)) = table.into_iter().next() else {
            return Err(wrong());
        };
        segments.push(segment);
        match value {
            Value::Table(inner) => table = inner,
            _ => return Ok(segments),
        }
    }
}

fn put(table: &mut Table, segments: &[String], value: &Value) -> Result<(), String> {
    match segments {
        [] => Err("it is empty".into()),
        [key] => match table.get(key) {
            Some(Value::Array(list)) if list.iter().any(Value::is_table) => {
                Err(format!("say which {key} and which key of it"))
            }
            Some(Value::Table(_)) => Err("it is a table; give a key of it".into()),
            _ => {
                table.insert(key.clone(), value.clone());
                Ok(())
            }
        },
        [key, rest @ ..] => {
            let below = table
                .entry(key.clone())
                .or_insert_with(|| Value::Table(Table::new()));
            match below {
                Value::Table(below) => put(below, rest, value),
                Value::Array(list) => {
                    let names = names(list);
                    let Some(at) = names.iter().position(|name| *name == rest[0]) else {
                        return Err(format!(
                            "there is no {key} {:?}; there is {}",
                            rest[0],
                            names.join(", ")
                        ));
                    };
                    match &mut list[at] {
                        Value::Table(below) => put(below, &rest[1..], value),
                        _ => Err(format!("`{key}` is not a list of tables")),
                    }
                }
                _ => Err(format!("`{key}` is a value and has no keys")),
            }
        }
    }
}

/// What the tables of a list are called.
fn names(list: &[Value]) -> Vec<String> {
    let text = |table: &Value, key: &str| table.get(key).and_then(Value::as_str).map(str::to_string);
    let mut taken: Vec<String> = list.iter().filter_map(|table| text(table, "name")).collect();
    let mut names = Vec::with_capacity(list.len());
    for table in list {
        let name = text(table, "name").or_else(|| text(table, "match"));
        let kind = text(table, "type").unwrap_or_else(|| "nameless".into());
        names.push(name.unwrap_or_else(|| {
            let mut name = kind.clone();
            let mut number = 1;
            while taken.contains(&name) {
                number += 1;
                name = format!("{kind}-{number}");
            }
            taken.push(name.clone());
            name
        }));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "device = 'a'\n[batch]\nage = '10s'\n[[source]]\ntype = 'system'\n[[source]]\ntype = 'modbus'\n\
        name = 'my boiler'\ninterval = '5s'\n[[source]]\ntype = 'system'\n[[metric]]\nmatch = 'cpu.*'\ndeadband = 0.5\n";

    fn applied(key: &str, value: &str) -> Result<Table, String> {
        let mut table: Table = CONFIG.parse().unwrap();
        let overrides = Overrides::default().with(key, value)?;
        // As it comes back from the file.
        let read = Overrides::parse(&overrides.text()).unwrap();
        assert_eq!(read, overrides);
        read.apply(&mut table)?;
        Ok(table)
    }

    #[test]
    fn keys_lead_to_their_place() {
        let table = applied("batch.age", "30s").unwrap();
        assert_eq!(table["batch"]["age"].as_str(), Some("30s"));
        let table = applied("batch.readings", "12").unwrap();
        assert_eq!(table["batch"]["readings"].as_integer(), Some(12));
        let table = applied("source.\"my boiler\".interval", "\"1m\"").unwrap();
        assert_eq!(table["source"][1]["interval"].as_str(), Some("1m"));
        let table = applied("source.system-2.groups", "[\"cpu\"]").unwrap();
        assert!(table["source"][2]["groups"].is_array());
        assert!(table["source"][0].get("groups").is_none());
        let table = applied("metric.\"cpu.*\".deadband", "0.1").unwrap();
        assert_eq!(table["metric"][0]["deadband"].as_float(), Some(0.1));
        let table = applied("uplink.window.batches", "3").unwrap();
        assert_eq!(table["uplink"]["window"]["batches"].as_integer(), Some(3));
    }

    #[test]
    fn keys_that_lead_nowhere_are_refused_with_what_there_is() {
        for (key, part) in [
            ("source.kettle.interval", "there is system, my boiler, system-2"),
            ("source", "say which source"),
            ("source.system", "it is empty"),
            ("batch", "it is a table"),
            ("device.x", "is a value and has no keys"),
            ("", "is no key"),
            ("a..b", "is no key"),
            ("a = 1\nb", "is no key"),
            ("[x]\na", "is no key"),
        ] {
            let error = applied(key, "1").unwrap_err();
            assert!(error.contains(part), "{key}: {error}");
        }
    }

    #[test]
    fn a_value_cannot_bring_further_keys() {
        let overrides = Overrides::default().with("batch.age", "1\nevil = 2").unwrap();
        assert_eq!(overrides.list().len(), 1);
        let read = Overrides::parse(&overrides.text()).unwrap();
        assert_eq!(read, overrides);
    }

    #[test]
    fn their_number_is_bounded_and_one_can_be_taken_back() {
        let mut overrides = Overrides::default();
        for number in 0..KEYS_MAX {
            overrides = overrides.with(&format!("a.k{number}"), "1").unwrap();
        }
        assert!(overrides.with("a.more", "1").is_err());
        assert!(overrides.with("a.k3", "2").is_ok());
        let overrides = overrides.without("a.k3").unwrap();
        assert_eq!(overrides.without("a.k3"), None);
        assert!(overrides.with("a.more", &"x".repeat(2000)).is_err());
    }
}
