//! What is counted of a source.

use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::Sample;
use crate::rules::Counts;
use crate::stats::{SourceState, SourceStats};

/// Characters of an error that are kept: what a foreign device answers may stand in it.
const ERROR_MAX: usize = 300;

/// Counts what a source does; clones count the same source.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter(Arc<Mutex<Counted>>);

#[derive(Debug, Default)]
struct Counted {
    stats: SourceStats,
    /// The last sign of life.
    alive: Option<Instant>,
}

impl Meter {
    pub(crate) fn new(name: &str, kind: &str) -> Self {
        let meter = Self::default();
        meter.look(|counted| {
            counted.stats.name = name.into();
            counted.stats.kind = kind.into();
        });
        meter
    }

    /// The source's name.
    pub(crate) fn name(&self) -> String {
        self.look(|counted| counted.stats.name.clone())
    }

    /// It goes on under another name.
    pub(crate) fn rename(&self, name: &str) {
        self.look(|counted| counted.stats.name = name.into());
    }

    /// The figures as they are now.
    pub(crate) fn stats(&self) -> SourceStats {
        self.look(|counted| counted.stats.clone())
    }

    /// A sample has come, even if it holds nothing.
    pub(super) fn alive(&self, now: Instant) {
        self.look(|counted| {
            counted.alive = Some(now);
            if matches!(counted.stats.state, SourceState::Failing | SourceState::Stalled) {
                log::info!("source {} is back", counted.stats.name);
            }
            counted.stats.state = SourceState::Running;
        });
    }

    /// When the last sign of life came.
    pub(super) fn last_alive(&self) -> Option<Instant> {
        self.look(|counted| counted.alive)
    }

    /// A sample goes on to the agent.
    pub(super) fn sampled(&self, sample: &Sample) {
        self.look(|counted| {
            counted.stats.readings += sample.readings.len() as u64;
            counted.stats.newest_us = sample.time_us;
        });
    }

    /// Readings are dropped because the source hands over more than it may; returns all that were so far.
    pub(super) fn dropped(&self, readings: u64) -> u64 {
        self.look(|counted| {
            counted.stats.dropped_readings += readings;
            counted.stats.dropped_readings
        })
    }

    /// Readings are left out or flagged on their way.
    pub(super) fn ruled(&self, counts: &Counts) {
        if *counts == Counts::default() {
            return;
        }
        self.look(|counted| {
            counted.stats.absent_readings += counts.absent;
            counted.stats.implausible_readings += counts.implausible;
            counted.stats.spared_readings += counts.spared;
            counted.stats.thinned_readings += counts.thinned;
        });
    }

    /// Something went wrong that the source itself survives. It is logged if it is `news`; where the source cannot tell (`None`), at the
    /// 1st, 2nd, 4th, 8th, … time.
    pub(super) fn reported(&self, now: Instant, error: &dyn Display, news: Option<bool>) {
        self.look(|counted| {
            counted.alive = Some(now);
            counted.stats.errors += 1;
            counted.stats.last_error = Some(short(error));
            if news.unwrap_or(counted.stats.errors.is_power_of_two()) {
                let (name, errors) = (&counted.stats.name, counted.stats.errors);
                log::warn!("source {name}: {error} ({errors} errors so far)");
            }
        });
    }

    /// It has failed, and will be started again.
    pub(crate) fn failed(&self, error: &dyn Display) {
        self.look(|counted| {
            counted.stats.state = SourceState::Failing;
            counted.stats.errors += 1;
            counted.stats.failures += 1;
            counted.stats.last_error = Some(short(error));
        });
    }

    /// It gives no sign of life; whether that is news.
    pub(super) fn stalled(&self) -> bool {
        self.look(|counted| {
            let news = counted.stats.state != SourceState::Stalled;
            if news {
                counted.stats.state = SourceState::Stalled;
                counted.stats.stalls += 1;
            }
            news
        })
    }

    /// Nothing more will come of it.
    pub(super) fn ended(&self) {
        self.look(|counted| counted.stats.state = SourceState::Ended);
    }

    fn look<T>(&self, look: impl FnOnce(&mut Counted) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn short(error: &dyn Display) -> String {
    error.to_string().chars().take(ERROR_MAX).collect()
}
