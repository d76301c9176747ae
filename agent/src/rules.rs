//! What is done to readings on their way from a source to the batcher, metric by metric: the `[[metric]]` tables, and thinning while a
//! data budget runs short. Pure: the time is a reading's own.
//!
//! In this order: absent values are no readings; numbers are scaled; what is not plausible is flagged or dropped; then either windows are
//! made of them, or what comes too soon or differs too little from the last one sent is left out. Text and truth values have
//! neither scale nor bounds nor windows; what is no number (NaN) is outside of any bounds, and in no window. Of what is left, thinning
//! takes one reading of so many.
//!
//! Whatever is left out is counted. A metric that is known costs a look-up and no allocation; more metrics than [`METRICS_MAX`] of one
//! source pass as they are, without being remembered.

#[cfg(test)]
mod tests;
mod track;
mod window;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config;
use crate::source::{Metric, Sample};

use track::{Fate, Rule, Track};
use window::Window;

/// Metrics of one source that are remembered.
const METRICS_MAX: usize = 10_000;

/// The rules in force, shared by all sources.
#[derive(Debug, Default)]
pub(crate) struct RuleSet {
    /// Counts the changes.
    generation: AtomicU64,
    rules: Mutex<Arc<[Arc<Rule>]>>,
}

impl RuleSet {
    /// Puts other rules in force.
    pub(crate) fn set(&self, metrics: &[config::Metric]) {
        let rules = metrics.iter().map(|metric| Arc::new(Rule::new(metric))).collect();
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = rules;
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn get(&self) -> (u64, Arc<[Arc<Rule>]>) {
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.generation.load(Ordering::Acquire), rules)
    }
}

/// What was not passed on, or flagged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Values that mean that there is no sensor.
    pub(crate) absent: u64,
    /// Flagged or dropped.
    pub(crate) implausible: u64,
    /// Left out by interval or deadband.
    pub(crate) spared: u64,
    /// Left out by thinning.
    pub(crate) thinned: u64,
}

/// One source's metrics on their way through the rules.
#[derive(Debug)]
pub(crate) struct Rules {
    set: Arc<RuleSet>,
    generation: u64,
    rules: Arc<[Arc<Rule>]>,
    index: HashMap<Arc<Metric>, usize>,
    tracks: Vec<Track>,
    factor: u32,
    /// Some window is open.
    windows: bool,
}

impl Rules {
    pub(crate) fn new(set: Arc<RuleSet>) -> Self {
        let (generation, rules) = set.get();
        Self {
            set,
            generation,
            rules,
            index: HashMap::new(),
            tracks: Vec::new(),
            factor: 1,
            windows: false,
        }
    }

    /// Takes a sample through the rules: what is left in it goes on. Samples that came about otherwise, of windows that are over, are
    /// added to `closed`. `factor`: how many readings thinning makes one of.
    pub(crate) fn take(
        &mut self,
        sample: &mut Sample,
        factor: u32,
        counts: &mut Counts,
        closed: &mut Vec<Sample>,
    ) {
        if self.set.generation.load(Ordering::Acquire) != self.generation {
            self.finish(sample.time_us, closed);
            (self.generation, self.rules) = self.set.get();
            self.index.clear();
            self.tracks.clear();
        }
        if self.factor != factor {
            self.factor = factor;
            self.tracks.iter_mut().for_each(Track::thin_anew);
        }
        if self.rules.is_empty() && factor <= 1 {
            return;
        }
        let time_us = sample.time_us;
        sample.readings.retain_mut(|reading| {
            let Some(at) = self.find(&reading.metric) else {
                return true;
            };
            let fate = self.tracks[at].take(time_us, reading, factor, counts, |track, window| {
                put(track, &window, window.end_us, closed);
            });
            self.windows |= self.tracks[at].window.is_some();
            fate == Fate::On
        });
    }

    /// Ends the windows whose time is over at `now_us`.
    pub(crate) fn close(&mut self, now_us: i64, closed: &mut Vec<Sample>) {
        self.windows = false;
        for track in &mut self.tracks {
            if let Some(window) = track.window.take_if(|window| now_us >= window.end_us) {
                put(track, &window, window.end_us, closed);
            }
            self.windows |= track.window.is_some();
        }
    }

    /// Ends all windows; those whose time is not over carry the time `now_us`.
    pub(crate) fn finish(&mut self, now_us: i64, closed: &mut Vec<Sample>) {
        self.windows = false;
        for track in &mut self.tracks {
            if let Some(window) = track.window.take() {
                put(track, &window, window.end_us.min(now_us), closed);
            }
        }
    }

    /// Whether a window is open.
    pub(crate) fn has_windows(&self) -> bool {
        self.windows
    }

    /// When the first open window ends, microseconds since the Unix epoch.
    pub(crate) fn deadline(&self) -> Option<i64> {
        let ends = self.tracks.iter().filter_map(|track| track.window.as_ref());
        ends.map(|window| window.end_us).min()
    }

    /// The clock was put right by so much.
    pub(crate) fn shift(&mut self, by_us: i64) {
        self.tracks.iter_mut().for_each(|track| track.shift(by_us));
    }

    fn find(&mut self, metric: &Arc<Metric>) -> Option<usize> {
        if let Some(at) = self.index.get(metric) {
            return Some(*at);
        }
        if self.tracks.len() >= METRICS_MAX {
            return None;
        }
        let rule = self.rules.iter().find(|rule| rule.is_for(&metric.name)).cloned();
        self.tracks.push(Track::new(metric, rule));
        self.index.insert(metric.clone(), self.tracks.len() - 1);
        Some(self.tracks.len() - 1)
    }
}

/// Adds a window's aggregates to the sample of their time.
fn put(track: &Track, window: &Window, time_us: i64, closed: &mut Vec<Sample>) {
    let at = closed.iter().position(|sample| sample.time_us == time_us);
    let at = at.unwrap_or_else(|| {
        closed.push(Sample {
            time_us,
            readings: Vec::new(),
        });
        closed.len() - 1
    });
    closed[at].readings.extend(track.readings(window));
}
