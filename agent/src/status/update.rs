//! What there is to tell of updates over the air.

use serde::{Deserialize, Serialize};

/// An update over the air.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Update {
    /// Empty: there was none. `downloading`, `trying`: it is under way; `updated`, `failed`: it is over.
    pub state: String,
    /// The version that runs.
    pub running: String,
    /// The slot that it runs in; empty: it is the packaged program.
    pub slot: String,
    /// The version that is, or was, to come.
    pub version: String,
    /// The command that it came by.
    pub command: String,
    /// Bytes that are here.
    pub have: u64,
    /// Of so many.
    pub size: u64,
    /// What came of it, or what it waits for.
    pub what: String,
}

impl Update {
    /// For a person.
    pub(super) fn text(&self) -> String {
        let Self {
            state,
            version,
            what,
            have,
            size,
            ..
        } = self;
        let far = match (&**state, *size) {
            ("downloading", size) if size > 0 => format!(", {} %", have * 100 / size),
            _ => String::new(),
        };
        let what = if what.is_empty() {
            String::new()
        } else {
            format!(": {what}")
        };
        format!("to {version}: {state}{far}{what}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is_is_told() {
        let mut update = Update {
            state: "downloading".into(),
            version: "0.2.0".into(),
            have: 1,
            size: 4,
            ..Update::default()
        };
        assert_eq!(update.text(), "to 0.2.0: downloading, 25 %");
        (update.state, update.what) = ("failed".into(), "rolled back: it hung".into());
        assert_eq!(update.text(), "to 0.2.0: failed: rolled back: it hung");
    }
}
