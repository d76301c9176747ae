//! The settings of the journal.

use std::fmt;
use std::time::Duration;

use headwater_config::ByteSize;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// Where batches wait for their acknowledgement.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Journal {
    /// How long a batch waits for its acknowledgement before it is written to flash. Default 60 s.
    ///
    /// A power cut, or a kill, takes what is younger than this and not acknowledged. With `0s` every batch is written as
    /// soon as it is closed, and what is lost is the batch that is open. With `never` all that is not acknowledged is lost, by an ordinary
    /// restart too.
    pub sync_after: SyncAfter,
    /// What the journal may take on flash; beyond it the oldest segment makes way, and loss records stand in its place. At least four
    /// segments. Default 256 MiB.
    pub max_bytes: ByteSize,
    /// Readings that have become older than this are given up in the same way, a segment at a time, if the clock is known to be
    /// right. Default 0 s: they never are.
    #[serde(with = "headwater_config::duration")]
    pub max_age: Duration,
    /// The size of a file of the journal. Default 256 KiB; 256 KiB to 16 MiB.
    pub segment: ByteSize,
    /// What waiting batches may take in memory: those that flash does not have yet, and all of them without flash. Beyond it the oldest make
    /// way, and a loss record stands in their place. Default 8 MiB.
    pub memory: ByteSize,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            sync_after: SyncAfter::After(Duration::from_secs(60)),
            max_bytes: ByteSize::mib(256),
            max_age: Duration::ZERO,
            segment: ByteSize::kib(256),
            memory: ByteSize::mib(8),
        }
    }
}

impl Journal {
    /// What is wrong with a value: its key, and what is allowed.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let segment = self.segment.as_u64();
        if !(256 * 1024..=16 * 1024 * 1024).contains(&segment) {
            return Err((
                "journal.segment",
                format!("{} is not in 256 KiB..=16 MiB", self.segment),
            ));
        }
        if self.max_bytes.as_u64() < 4 * segment {
            let why = format!(
                "{} is less than four times journal.segment, {}",
                self.max_bytes, self.segment
            );
            return Err(("journal.max_bytes", why));
        }
        Ok(())
    }
}

/// How long a batch waits for its acknowledgement before it is written to flash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncAfter {
    /// So long.
    After(Duration),
    /// For ever: what waits is in memory only.
    Never,
}

impl SyncAfter {
    /// The duration; `None`: for ever.
    pub fn duration(self) -> Option<Duration> {
        match self {
            Self::After(duration) => Some(duration),
            Self::Never => None,
        }
    }
}

impl<'de> Deserialize<'de> for SyncAfter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "never" => Ok(Self::Never),
            text => headwater_config::duration::deserialize(
                serde::de::value::StrDeserializer::<D::Error>::new(text),
            )
            .map(Self::After)
            .map_err(|error| D::Error::custom(format!("{error}, or \"never\""))),
        }
    }
}

impl fmt::Display for SyncAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::After(duration) => write!(f, "{duration:?}"),
            Self::Never => f.write_str("never"),
        }
    }
}
