//! Lines `name=value name=value …`, as small devices print them.

use crate::mapping::{Mapped, Mapping};
use crate::refusal::{Refusal, shortened};
use crate::scalar::Scalar;
use crate::template::Naming;

/// Maps all lines; empty ones and those that begin with `#` say nothing.
pub(crate) fn map(mapping: &Mapping, naming: Naming<'_>, text: &str, mapped: &mut Mapped) {
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim();
        if line.starts_with('#') {
            continue;
        }
        for field in line
            .split([' ', '\t', ',', ';'])
            .filter(|field| !field.is_empty())
        {
            let Some((name, value)) = field
                .split_once(['=', ':'])
                .filter(|(name, value)| !name.is_empty() && !value.is_empty())
            else {
                mapped.refuse(|| Refusal::Line {
                    number,
                    why: format!("{:?} is not `name=value`", shortened(field)),
                });
                continue;
            };
            if !mapping.has_room(mapped) {
                return;
            }
            mapping.reading(&naming, name, Scalar::Bare(value), None, None, mapped);
        }
    }
}
