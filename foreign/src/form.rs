//! Lines of a fixed form: `T=21.5C H=55%` is read by the form `T={temperature}C H={humidity}%`.

use crate::mapping::{Mapped, Mapping};
use crate::refusal::{Refusal, shortened};
use crate::scalar::Scalar;
use crate::template::Naming;

/// What a line begins with, and then each value with what stands behind it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Form {
    begin: String,
    /// An empty name: some text that is left out.
    values: Vec<(String, String)>,
}

impl Form {
    /// Reads `text{name}text…`; `{}` stands for text that is left out.
    pub(crate) fn parse(form: &str) -> Result<Self, String> {
        let (begin, mut rest) = form.split_at(form.find('{').unwrap_or(form.len()));
        let mut values: Vec<(String, String)> = Vec::new();
        while let Some(inside) = rest.strip_prefix('{') {
            let Some((name, after)) = inside.split_once('}') else {
                return Err(format!("{form:?} has a {{ without a }}"));
            };
            let (text, next) = after.split_at(after.find('{').unwrap_or(after.len()));
            if text.is_empty() && !next.is_empty() {
                return Err(format!(
                    "{form:?} does not say where {{{name}}} ends: text must stand between two values"
                ));
            }
            values.push((name.to_string(), text.to_string()));
            rest = next;
        }
        if values.iter().all(|(name, _)| name.is_empty()) {
            return Err(format!("{form:?} has no {{name}} for a value"));
        }
        Ok(Self {
            begin: begin.to_string(),
            values,
        })
    }

    /// The names and texts of a line's values; `None` if it is not of this form.
    fn values<'a>(&'a self, line: &'a str) -> Option<Vec<(&'a str, &'a str)>> {
        let mut rest = line.strip_prefix(self.begin.as_str())?;
        let mut values = Vec::with_capacity(self.values.len());
        for (name, behind) in &self.values {
            let (value, after) = match behind.as_str() {
                "" => (rest, ""),
                behind => rest.split_once(behind)?,
            };
            values.push((name.as_str(), value.trim()));
            rest = after;
        }
        rest.is_empty().then_some(values)
    }
}

/// Maps all lines; empty ones and those that begin with `#` say nothing.
pub(crate) fn map(mapping: &Mapping, naming: Naming<'_>, text: &str, mapped: &mut Mapped) {
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some(values) = mapping.form.values(line) else {
            mapped.refuse(|| Refusal::Line {
                number,
                why: format!("{:?} is not of the form that is set", shortened(line)),
            });
            continue;
        };
        for (name, value) in values.into_iter().filter(|(name, _)| !name.is_empty()) {
            if !mapping.has_room(mapped) {
                return;
            }
            mapping.reading(&naming, name, Scalar::Bare(value), None, None, mapped);
        }
    }
}
