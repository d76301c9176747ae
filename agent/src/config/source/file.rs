//! The settings of `file`.

use std::path::PathBuf;

use headwater_config::Duration;
use serde::Deserialize;

use super::Mapping;

/// A file that grows by lines, followed as `tail -F` does.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct FileSource {
    /// The file; it may come later, be renamed and begun anew, or be emptied.
    pub path: PathBuf,
    /// Where to begin in a file that is there at the start. Default `end`.
    pub from: Begin,
    /// How often it is looked at. Default 1 s; at least 10 ms.
    #[serde(with = "headwater_config::duration")]
    pub poll: Duration,
    /// How a line is read; `max_payload` is the longest line.
    pub map: Mapping,
}

impl Default for FileSource {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            from: Begin::End,
            poll: Duration::from_secs(1),
            map: Mapping::default(),
        }
    }
}

/// Where to begin.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Begin {
    /// After what is there: what was written while the agent was not running is left out.
    End,
    /// With what is there: what an earlier run has read is read again.
    Beginning,
}
