//! The settings of `exec`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use headwater_config::Duration;
use serde::Deserialize;

use super::Mapping;

/// A program whose output is readings. It is run as it stands here, never by a shell, in a process group of its own that is
/// ended as a whole.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct ExecSource {
    /// The program, by its absolute path, and its arguments.
    pub command: Vec<String>,
    /// Time between runs. Default 10 s; at least 100 ms.
    #[serde(with = "headwater_config::duration")]
    pub interval: Duration,
    /// How long a run may take. Then the group gets SIGTERM, and a second later SIGKILL. Default 5 s; at most `interval`.
    #[serde(with = "headwater_config::duration")]
    pub timeout: Duration,
    /// The program goes on running and writes a payload a line; if it ends, it is started again. Default false.
    pub persistent: bool,
    /// Its working directory. Default `/`.
    pub dir: PathBuf,
    /// Its environment, beside `PATH=/usr/local/bin:/usr/bin:/bin` and `LANG=C.UTF-8`. Default nothing: the agent's own is not passed on.
    pub environment: BTreeMap<String, String>,
    /// How its output is read; `max_payload` is the most that a run (`persistent`: a line) may write.
    pub map: Mapping,
}

impl Default for ExecSource {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            persistent: false,
            dir: "/".into(),
            environment: BTreeMap::new(),
            map: Mapping::default(),
        }
    }
}
