//! How metrics are named.

use std::fmt::Write;

use serde_json::Value;

use crate::refusal::SettingsError;
use crate::settings::Format;

/// A name with places for what a payload says.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    parts: Vec<Part>,
    separator: String,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Literal(String),
    Key,
    /// Segments of the topic.
    Topic(Segments),
    /// A text of the JSON record.
    Pointer(String),
    Measurement,
    Tags,
    Tag(String),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Segments {
    All,
    /// One, from 0.
    One(usize),
    /// One, counted from the end, from 1.
    FromEnd(usize),
    /// All from this one on.
    From(usize),
}

/// What a payload says.
#[derive(Clone, Copy, Default)]
pub(crate) struct Naming<'a> {
    pub(crate) topic: &'a str,
    /// The JSON record, and the document it stands in.
    pub(crate) record: Option<(&'a Value, &'a Value)>,
    pub(crate) measurement: &'a str,
    /// In the order of the payload, those that stand in no name left out.
    pub(crate) tags: &'a [(&'a str, &'a str)],
    /// All of them: a device may be named by one that stands in no metric's name.
    pub(crate) all_tags: &'a [(&'a str, &'a str)],
}

impl Template {
    /// Reads a template; `has_topic`: whether payloads come under one.
    pub(crate) fn parse(
        text: &str,
        separator: &str,
        format: Format,
        has_topic: bool,
    ) -> Result<Self, SettingsError> {
        let wrong = |why: String| SettingsError {
            key: "name",
            why: format!("{text:?}: {why}"),
        };
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(begin) = rest.find('{') {
            let end = rest[begin..]
                .find('}')
                .ok_or_else(|| wrong("a bracket is not closed".into()))?
                + begin;
            if begin > 0 {
                parts.push(Part::Literal(rest[..begin].to_string()));
            }
            let inner = &rest[begin + 1..end];
            parts.push(
                Part::parse(inner, format, has_topic).map_err(|why| wrong(format!("{{{inner}}} {why}")))?,
            );
            rest = &rest[end + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_string()));
        }
        if parts.is_empty() {
            return Err(wrong("it is empty".into()));
        }
        Ok(Self {
            parts,
            separator: separator.to_string(),
        })
    }

    /// Whether the reading's key stands in it.
    pub(crate) fn has_key(&self) -> bool {
        self.parts.contains(&Part::Key)
    }

    /// The pointers to texts of the record that stand in a name.
    pub(crate) fn pointers(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Pointer(pointer) => Some(pointer.as_str()),
            _ => None,
        })
    }

    /// Writes the name of `key` into `name`.
    pub(crate) fn name(&self, naming: &Naming<'_>, key: &str, name: &mut String) {
        name.clear();
        let separator = self.separator.as_str();
        let mut before_was_empty = false;
        for part in &self.parts {
            let begun = name.len();
            match part {
                Part::Literal(text) => {
                    let text = match text.strip_prefix(separator) {
                        Some(rest) if before_was_empty && begun == 0 => rest,
                        _ => text,
                    };
                    name.push_str(text);
                    before_was_empty &= name.is_empty();
                    continue;
                }
                Part::Key => name.push_str(key),
                Part::Topic(segments) => segments.write(naming.topic, separator, name),
                Part::Pointer(pointer) => {
                    if let Some(value) = naming.at(pointer) {
                        // Writing into a string does not fail.
                        let _ = match value {
                            Value::String(text) => name.write_str(text),
                            Value::Number(number) => write!(name, "{number}"),
                            Value::Bool(truth) => write!(name, "{truth}"),
                            _ => Ok(()),
                        };
                    }
                }
                Part::Measurement => name.push_str(naming.measurement),
                Part::Tags => {
                    for (index, (tag, value)) in naming.tags.iter().enumerate() {
                        let comma = if index == 0 { "" } else { "," };
                        let _ = write!(name, "{comma}{tag}={value}");
                    }
                }
                Part::Tag(wanted) => {
                    let found = naming.tags.iter().find(|(tag, _)| tag == wanted);
                    name.push_str(found.map_or("", |(_, value)| value));
                }
            }
            before_was_empty = name.len() == begun;
            if before_was_empty && !separator.is_empty() && name.ends_with(separator) {
                name.truncate(begun - separator.len());
            }
        }
    }
}

impl Naming<'_> {
    /// What stands at `pointer` in the record, or else in the document.
    pub(crate) fn at(&self, pointer: &str) -> Option<&Value> {
        let (record, root) = self.record?;
        record.pointer(pointer).or_else(|| root.pointer(pointer))
    }
}

impl Part {
    fn parse(inner: &str, format: Format, has_topic: bool) -> Result<Self, String> {
        let is_json = matches!(format, Format::Json | Format::JsonLines);
        let is_influx = format == Format::Influx;
        let part = match inner {
            "key" if format == Format::Value => return Err("means nothing where a payload is one value".into()),
            "key" => return Ok(Self::Key),
            "topic" => Self::Topic(Segments::All),
            "measurement" => Self::Measurement,
            "tags" => Self::Tags,
            _ if inner.starts_with('/') => Self::Pointer(inner.to_string()),
            _ => match inner.strip_prefix("tag:") {
                Some(tag) => Self::Tag(tag.to_string()),
                None => Self::Topic(Segments::parse(inner).ok_or(
                    "is none of {key}, {topic}, {2}, {-1}, {2..}, {/pointer}, {measurement}, {tags}, {tag:name}",
                )?),
            },
        };
        match part {
            Self::Topic(_) if !has_topic => Err("stands for a topic, and here is none".into()),
            Self::Pointer(_) if !is_json => Err("points into JSON, which this format is not".into()),
            Self::Measurement | Self::Tags | Self::Tag(_) if !is_influx => {
                Err("is line protocol's, which this format is not".into())
            }
            part => Ok(part),
        }
    }
}

impl Segments {
    fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| text.parse::<usize>().ok().filter(|number| *number > 0);
        if let Some(text) = text.strip_prefix('-') {
            return number(text).map(Self::FromEnd);
        }
        match text.strip_suffix("..") {
            Some(text) => number(text).map(|number| Self::From(number - 1)),
            None => number(text).map(|number| Self::One(number - 1)),
        }
    }

    fn write(self, topic: &str, separator: &str, name: &mut String) {
        let mut segments = topic.split('/');
        match self {
            Self::One(index) => name.push_str(segments.nth(index).unwrap_or("")),
            Self::FromEnd(index) => name.push_str(segments.nth_back(index - 1).unwrap_or("")),
            Self::All | Self::From(_) => {
                let skip = if let Self::From(index) = self { index } else { 0 };
                for (index, segment) in segments.skip(skip).enumerate() {
                    if index > 0 {
                        name.push_str(separator);
                    }
                    name.push_str(segment);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(template: &str, topic: &str, key: &str) -> String {
        let template = Template::parse(template, ".", Format::Json, true).unwrap();
        let mut name = String::new();
        let naming = Naming {
            topic,
            ..Default::default()
        };
        template.name(&naming, key, &mut name);
        name
    }

    #[test]
    fn segments_of_the_topic_stand_where_they_are_named() {
        let topic = "zigbee2mqtt/floor 1/kitchen/availability";
        for (template, expected) in [
            ("{2}.{key}", "floor 1.state"),
            ("{-1}.{key}", "availability.state"),
            ("{2..}.{key}", "floor 1.kitchen.availability.state"),
            ("{topic}", "zigbee2mqtt.floor 1.kitchen.availability"),
            ("home.{3}", "home.kitchen"),
        ] {
            assert_eq!(name(template, topic, "state"), expected);
        }
    }

    #[test]
    fn what_is_empty_takes_a_separator_along() {
        for (template, topic, key, expected) in [
            ("{1}.{key}", "plug", "", "plug"),
            ("{2}.{key}", "plug", "power", "power"),
            ("{1}.{9}.{key}", "plug", "power", "plug.power"),
            ("{9}.{8}.{key}", "plug", "power", "power"),
            ("a.{9}", "plug", "power", "a"),
            ("{9}.", "plug", "", ""),
        ] {
            assert_eq!(name(template, topic, key), expected, "{template}");
        }
    }

    #[test]
    fn a_record_and_tags_name_metrics() {
        let document: Value = serde_json::from_str(r#"{"gw": "north", "r": {"id": "a/b", "n": 7}}"#).unwrap();
        let template = Template::parse("{/gw}.{/id}.{/n}.{/none}.{key}", ".", Format::Json, false).unwrap();
        let naming = Naming {
            record: Some((&document["r"], &document)),
            ..Default::default()
        };
        let mut name = String::new();
        template.name(&naming, "v", &mut name);
        assert_eq!(name, "north.a/b.7.v");
        let template =
            Template::parse("{measurement}.{tags}.{tag:cpu}.{key}", ".", Format::Influx, false).unwrap();
        let naming = Naming {
            measurement: "cpu",
            tags: &[("cpu", "cpu0"), ("core", "1")],
            ..Default::default()
        };
        template.name(&naming, "idle", &mut name);
        assert_eq!(name, "cpu.cpu=cpu0,core=1.cpu0.idle");
    }

    #[test]
    fn what_cannot_stand_in_a_name_is_refused_with_what_can() {
        for (text, format, has_topic, part) in [
            ("{kye}", Format::Json, true, "{kye} is none of {key}, {topic}"),
            ("{0}", Format::Json, true, "is none of"),
            ("{key", Format::Json, true, "not closed"),
            ("", Format::Json, true, "empty"),
            ("{2}", Format::Json, false, "here is none"),
            ("{/a}", Format::Influx, false, "points into JSON"),
            ("{tags}", Format::Json, false, "line protocol's"),
            ("{key}", Format::Value, true, "one value"),
        ] {
            let error = Template::parse(text, ".", format, has_topic)
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("`name`") && error.contains(part),
                "{text}: {error}"
            );
        }
    }
}
