//! The commits of a file system's journal, at a time of the measurement's own.

use std::fs::File;
use std::path::Path;

use anyhow::Result;

use super::PACE;

/// When ext4 commits: so long after the first change since the last commit.
#[derive(Debug)]
pub(super) struct Commits {
    root: File,
    interval: u64,
    due: Option<u64>,
}

impl Commits {
    /// Those of the file system at `root`, `interval` seconds after a change.
    pub(super) fn new(root: &Path, interval: u64) -> Result<Self> {
        let root = File::open(root)?;
        Ok(Self {
            root,
            interval,
            due: None,
        })
    }

    /// Seconds between a change and its commit.
    pub(super) fn interval(&self) -> u64 {
        self.interval
    }

    /// It is `now`, in seconds, and a file may have changed. Commits what is due before the next batch.
    pub(super) fn at(&mut self, now: u64, changed: bool) -> Result<()> {
        if changed && self.due.is_none() {
            self.due = Some(now + self.interval);
        }
        if self.due.is_some_and(|due| now + PACE > due) {
            self.due = None;
            rustix::fs::syncfs(&self.root)?;
        }
        Ok(())
    }
}
