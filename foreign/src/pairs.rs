//! Lines `name value`, and `name value time`, which is Graphite's plaintext protocol.

use crate::mapping::{Mapped, Mapping};
use crate::refusal::{Refusal, shortened};
use crate::scalar::Scalar;
use crate::template::Naming;
use crate::time;

/// Maps all lines; empty ones and those that begin with `#` say nothing.
pub(crate) fn map(mapping: &Mapping, naming: Naming<'_>, text: &str, mapped: &mut Mapped) {
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_ascii_whitespace();
        let (Some(name), Some(value), time, None) = (words.next(), words.next(), words.next(), words.next())
        else {
            mapped.refuse(|| Refusal::Line {
                number,
                why: format!("{:?} is not `name value` or `name value time`", shortened(line)),
            });
            continue;
        };
        if !mapping.has_room(mapped) {
            return;
        }
        let time_us = time.and_then(|time| time::of_text(time, mapping.time_format, mapping.utc_offset));
        let before = mapped.readings.len();
        mapping.reading(&naming, name, Scalar::Bare(value), time_us, None, mapped);
        if time.is_some() && time_us.is_none() {
            mapped.untimed += (mapped.readings.len() - before) as u64;
        }
    }
}
