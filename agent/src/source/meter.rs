//! What is counted of a source.

use std::sync::{Arc, Mutex, PoisonError};

use super::Sample;
use crate::stats::{SourceState, SourceStats};

/// Characters of an error that are kept: what a foreign device answers may stand in it.
const ERROR_MAX: usize = 300;

/// Counts what a source does; clones count the same source.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter(Arc<Mutex<SourceStats>>);

impl Meter {
    pub(crate) fn new(name: &str) -> Self {
        Self(Arc::new(Mutex::new(SourceStats {
            name: name.into(),
            ..SourceStats::default()
        })))
    }

    /// The source's name.
    pub(crate) fn name(&self) -> String {
        self.look(|stats| stats.name.clone())
    }

    /// The source is called otherwise from now on.
    pub(crate) fn rename(&self, name: &str) {
        self.look(|stats| stats.name = name.into());
    }

    /// The figures as they are now.
    pub(crate) fn stats(&self) -> SourceStats {
        self.look(|stats| stats.clone())
    }

    /// A sample is handed over.
    pub(crate) fn sampled(&self, sample: &Sample) {
        self.look(|stats| {
            stats.state = SourceState::Running;
            stats.readings += sample.readings.len() as u64;
            stats.newest_us = sample.time_us;
        });
    }

    /// It has failed, and will be started again.
    pub(crate) fn failed(&self, error: &dyn std::fmt::Display) {
        self.look(|stats| {
            stats.state = SourceState::Failing;
            stats.failures += 1;
            stats.last_error = Some(error.to_string().chars().take(ERROR_MAX).collect());
        });
    }

    /// Nothing more will come of it.
    pub(crate) fn ended(&self) {
        self.look(|stats| stats.state = SourceState::Ended);
    }

    fn look<T>(&self, look: impl FnOnce(&mut SourceStats) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
