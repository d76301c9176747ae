//! Why a payload, or a part of it, gives no reading; and what can be wrong with settings.

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The payload is too long.
    #[error("a payload of {bytes} bytes is longer than max_payload ({max})")]
    Long {
        /// Its length.
        bytes: usize,
        /// What is allowed.
        max: u64,
    },
    /// The payload is not text.
    #[error("the payload is not UTF-8")]
    NotText,
    /// A document cannot be read.
    #[error("not JSON: {why}")]
    Json {
        /// What the parser says, with line and column.
        why: String,
    },
    /// A pointer of the settings leads nowhere.
    #[error("there is nothing at {pointer:?} in the payload")]
    Nothing {
        /// The pointer.
        pointer: String,
    },
    /// A line cannot be read.
    #[error("line {number}: {why}")]
    Line {
        /// From 1.
        number: usize,
        /// What is wrong.
        why: String,
    },
    /// A name that no metric may have.
    #[error("{why}")]
    Name {
        /// The name, shortened, and what is wrong with it.
        why: String,
    },
    /// A value that is not of the type asked for.
    #[error("{metric:?}: {value} is not {wanted}")]
    Value {
        /// The metric.
        metric: String,
        /// The value, shortened.
        value: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// There are more readings than allowed; the rest is left out.
    #[error("more than max_readings ({max}) in one payload; the rest is left out")]
    Many {
        /// What is allowed.
        max: usize,
    },
}

/// A setting that has a value that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: {why}")]
pub struct SettingsError {
    /// The key, within the mapping.
    pub key: &'static str,
    /// Its value, what is wrong with it, and what is allowed.
    pub why: String,
}

/// The beginning of a text from outside, for a message.
pub(crate) fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(64).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
