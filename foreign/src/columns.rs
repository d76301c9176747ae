//! Lines of values in columns, as loggers print them. A separator cannot stand in a value.

use crate::mapping::{Mapped, Mapping};
use crate::refusal::{Refusal, shortened};
use crate::scalar::Scalar;
use crate::template::Naming;

/// Maps all lines; empty ones and those that begin with `#` say nothing, and neither does an empty value.
pub(crate) fn map(mapping: &Mapping, naming: Naming<'_>, text: &str, mapped: &mut Mapped) {
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let count = line.split(mapping.delimiter).count();
        if count != mapping.columns.len() {
            mapped.refuse(|| Refusal::Line {
                number,
                why: format!(
                    "{:?} has {count} column(s), not {}",
                    shortened(line),
                    mapping.columns.len()
                ),
            });
            continue;
        }
        for (name, value) in mapping.columns.iter().zip(line.split(mapping.delimiter)) {
            let value = value.trim();
            if name.is_empty() || value.is_empty() {
                continue;
            }
            if !mapping.has_room(mapped) {
                return;
            }
            mapping.reading(&naming, name, Scalar::Bare(value), None, None, mapped);
        }
    }
}
