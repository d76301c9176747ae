//! Influx line protocol.

use influxdb_line_protocol::{FieldValue, ParsedLine, parse_lines, split_lines};

use crate::mapping::{Mapped, Mapping};
use crate::refusal::{Refusal, shortened};
use crate::scalar::Scalar;
use crate::settings::TimeFormat;
use crate::template::Naming;
use crate::time;

/// Maps all lines.
pub(crate) fn map(mapping: &Mapping, naming: Naming<'_>, text: &str, mapped: &mut Mapped) {
    // Lines end with CR LF on some systems; the parser knows LF.
    let without_cr;
    let text = if text.contains('\r') {
        without_cr = text.replace("\r\n", "\n");
        &without_cr
    } else {
        text
    };
    for (line, number) in split_lines(text).zip(1..) {
        // One line, or none if it is empty or a comment.
        for parsed in parse_lines(line) {
            match parsed {
                Ok(line) => map_line(mapping, naming, &line, mapped),
                Err(error) => mapped.refuse(|| Refusal::Line {
                    number,
                    why: format!("{} in {:?}", shortened(&error.to_string()), shortened(line)),
                }),
            }
        }
    }
}

fn map_line(mapping: &Mapping, naming: Naming<'_>, line: &ParsedLine<'_>, mapped: &mut Mapped) {
    let format = match mapping.time_format {
        TimeFormat::Auto => TimeFormat::Ns,
        format => format,
    };
    let time_us = line.timestamp.and_then(|time| time::of_integer(time, format));
    let tag_set = line.series.tag_set.iter().flatten();
    let all_tags: Vec<(&str, &str)> = tag_set
        .map(|(tag, value)| (tag.as_str(), value.as_str()))
        .collect();
    let is_named = |(tag, _): &&(&str, &str)| !mapping.skip_tags.iter().any(|skip| skip == tag);
    let tags: Vec<(&str, &str)> = all_tags.iter().filter(is_named).copied().collect();
    let naming = Naming {
        measurement: line.series.measurement.as_str(),
        tags: &tags,
        all_tags: &all_tags,
        ..naming
    };
    let before = mapped.readings.len();
    for (field, value) in &line.field_set {
        if !mapping.has_room(mapped) {
            break;
        }
        let scalar = match value {
            FieldValue::I64(number) => Scalar::Integer(*number),
            FieldValue::U64(number) => Scalar::Unsigned(*number),
            FieldValue::F64(number) => Scalar::Double(*number),
            FieldValue::String(text) => Scalar::Text(text.as_str()),
            FieldValue::Boolean(truth) => Scalar::Bool(*truth),
        };
        mapping.reading(&naming, field.as_str(), scalar, time_us, None, mapped);
    }
    if line.timestamp.is_some() && time_us.is_none() {
        mapped.untimed += (mapped.readings.len() - before) as u64;
    }
}
