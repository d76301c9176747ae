//! A journal without an agent, at a time of the caller's own: for measurements.

use std::path::Path;
use std::time::{Duration, Instant};

use headwater_proto::SeriesSet;
use headwater_proto::frame::Sealed;

use super::{Entry, Flash, Journal, Read};
use crate::config;
use crate::state::State;
use crate::{Error, JournalFault};

/// How long flash may take to answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// A journal without an agent.
pub struct Trial {
    journal: Flash,
    now: Instant,
    set: std::sync::Arc<SeriesSet>,
}

impl std::fmt::Debug for Trial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trial").finish_non_exhaustive()
    }
}

impl Trial {
    /// Opens the journal in a state directory, as an agent does, for batches of one series set.
    ///
    /// # Errors
    /// What keeps an agent from starting.
    pub fn open(dir: &Path, settings: &config::Journal, set: SeriesSet) -> Result<Self, Error> {
        let state = State::new(dir.to_path_buf());
        let journal = Flash::open(getrandom::u64()?, settings, &state, Box::new(|| None))?;
        let mut trial = Self {
            journal,
            now: Instant::now(),
            set: set.into(),
        };
        trial.settle(|trial| trial.journal.figures().fault != Some(JournalFault::Opening));
        trial.rest();
        Ok(trial)
    }

    /// Appends a batch, and lets time go on.
    pub fn append(&mut self, sealed: Sealed, readings: u64, oldest_us: i64, then: Duration) {
        let entry = Entry::batch(sealed, self.set.clone(), readings, oldest_us);
        self.journal.append(entry);
        self.journal.tick(self.now);
        self.now += then;
        self.rest();
    }

    /// Everything that waits is acknowledged.
    pub fn acknowledge(&mut self) {
        for extent in self.journal.streams() {
            self.journal.forget(extent.stream, extent.last);
        }
        self.rest();
    }

    /// Sends and acknowledges everything, as a drain does; returns how many records that were.
    pub fn drain(&mut self) -> u64 {
        let mut records = 0;
        while let Some(extent) = self
            .journal
            .streams()
            .into_iter()
            .find(|extent| extent.first <= extent.last)
        {
            let mut seq = extent.first;
            while seq <= extent.last {
                match self.journal.read(extent.stream, seq) {
                    Read::Record(record) if self.journal.sent(extent.stream, seq) => {
                        seq = record.through + 1;
                        records += 1;
                        if records % 32 == 0 {
                            self.journal.forget(extent.stream, seq - 1);
                        }
                    }
                    Read::Record(_) | Read::Loading => {
                        self.settle(|trial| !matches!(trial.journal.read(extent.stream, seq), Read::Loading));
                    }
                    Read::None => break,
                }
            }
            self.journal.forget(extent.stream, extent.last);
            self.rest();
        }
        records
    }

    /// Ends it as a clean stop does.
    pub fn close(mut self) {
        self.journal.close();
        self.settle(|trial| trial.journal.is_closed());
    }

    /// Bytes that it says it has written to flash.
    pub fn written(&self) -> u64 {
        self.journal.figures().flash_written
    }

    /// Bytes of its files.
    pub fn bytes(&self) -> u64 {
        self.journal.figures().flash_bytes
    }

    /// Readings that wait.
    pub fn waiting(&self) -> u64 {
        self.journal.waiting().readings
    }

    /// Why flash cannot be used, if it cannot.
    pub fn fault(&self) -> Option<JournalFault> {
        self.journal.figures().fault
    }

    /// Waits until nothing is on its way to flash.
    fn rest(&mut self) {
        self.settle(|trial| trial.journal.is_at_rest());
    }

    fn settle(&mut self, done: impl Fn(&mut Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            self.journal.tick(self.now);
            if done(self) || Instant::now() > until {
                return;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}
