//! The way of a source's samples into the agent.

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

use super::allowance::Allowance;
use super::schedule::sleep_until;
use super::{Cadence, Last, Meter, Opened, Sample};
use crate::clock::Clock;
use crate::config;
use crate::rules::{Counts, RuleSet, Rules};
use crate::thinning::Thinning;

/// Samples on their way, over all sources. Waiting senders are served in turn, so a flood from one source costs another
/// no more than the time to batch these.
const WAITING: usize = 64;
/// Readings a second of a source that others hand readings to and that has no `rate` set.
const HANDED: u32 = 1_000;
/// How long after the end of a window its aggregates are handed over, should no later reading come: microseconds.
const LATE_US: i64 = 1_000_000;
/// Drops that are further apart than this are told as another flood.
const FLOOD: Duration = Duration::from_secs(60);

/// Where a source puts its samples. Clones are the same source's.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    samples: mpsc::Sender<Sample>,
    last: Last,
    clock: Clock,
    thinning: Thinning,
    meter: Meter,
    /// `None`: no bound.
    share: Option<Arc<Mutex<Share>>>,
    rule_set: Arc<RuleSet>,
    rules: Arc<Mutex<Ruled>>,
    /// A window was opened where there was none.
    opened: Arc<Notify>,
}

/// The rules, and how many changes of the clock they know of.
#[derive(Debug)]
struct Ruled {
    rules: Rules,
    told: usize,
}

impl Ruled {
    fn new(set: &Arc<RuleSet>) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            rules: Rules::new(set.clone()),
            told: 0,
        }))
    }
}

/// What a source may hand over.
#[derive(Debug)]
struct Share {
    allowance: Allowance,
    rate: u32,
    /// Beyond it: drop, or wait.
    drops: bool,
    dropped_at: Option<Instant>,
}

impl Output {
    /// An output and its other end.
    pub(crate) fn new(clock: Clock) -> (Self, mpsc::Receiver<Sample>) {
        let (samples, receiver) = mpsc::channel(WAITING);
        let rule_set = Arc::<RuleSet>::default();
        let output = Self {
            samples,
            last: Last::default(),
            clock,
            thinning: Thinning::default(),
            meter: Meter::default(),
            share: None,
            rules: Ruled::new(&rule_set),
            rule_set,
            opened: Arc::default(),
        };
        (output, receiver)
    }

    /// An output to the same end for one source: with its figures, its share.
    pub(crate) fn of(&self, source: &Opened) -> Self {
        Self {
            meter: source.meter.clone(),
            ..self.limited(source.settings.rate, source.source.cadence())
        }
    }

    /// An output to the same end with a share of `rate` readings a second, or what its cadence has without one.
    pub(super) fn limited(&self, rate: Option<u32>, cadence: Cadence) -> Self {
        let drops = cadence == Cadence::Pushed;
        let is_handed = drops || cadence == Cadence::Fed;
        let share = rate.or(is_handed.then_some(HANDED)).map(|rate| {
            Arc::new(Mutex::new(Share {
                allowance: Allowance::new(rate, Instant::now()),
                rate,
                drops,
                dropped_at: None,
            }))
        });
        Self {
            clock: self.clock.another(),
            rules: Ruled::new(&self.rule_set),
            opened: Arc::default(),
            share,
            ..self.clone()
        }
    }

    /// How coarsely readings are taken at present. Whoever spends the link's bytes keeps a clone and sets it.
    pub(crate) fn thinning(&self) -> &Thinning {
        &self.thinning
    }

    /// What sources hand over at their end while there is no room.
    pub(crate) fn last(&self) -> &Last {
        &self.last
    }

    /// The clock that samples are stamped by.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Its source's figures.
    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Tells of something that went wrong and that the source itself survives: one device of several that does not answer, a line
    /// that cannot be read. It stands in the source's figures, and in the log (not every time).
    #[allow(dead_code, reason = "not every build has a source with parts that can fail")]
    pub(crate) fn report(&self, error: &dyn Display) {
        self.meter.reported(Instant::now(), error, None);
    }

    /// As [`Output::report`], of a source that knows whether that is new: then it stands in the log, otherwise only in the figures.
    #[allow(dead_code, reason = "not every build has a source with parts that can fail")]
    pub(crate) fn tell(&self, error: &dyn Display, news: bool) {
        self.meter.reported(Instant::now(), error, Some(news));
    }

    /// Counts readings that the source itself has dropped since it is handed more than its share.
    #[cfg(feature = "source-socket")]
    pub(crate) fn dropped(&self, readings: u64) {
        self.meter.dropped(readings);
    }

    /// Tells that the source is alive though it has nothing to hand over: it listens.
    #[allow(dead_code, reason = "not every build has a source that listens")]
    pub(crate) fn alive(&self) {
        self.meter.alive(Instant::now());
    }

    /// Hands a sample over; waits while the agent is behind. One without readings only says that the source is alive.
    ///
    /// Returns the number of readings that were dropped because the source hands over more than its share; 0 for sources that
    /// are not pushed to, which wait instead.
    pub(crate) async fn send(&self, sample: Sample) -> usize {
        self.send_as_of(self.clock.told(), sample).await
    }

    /// As [`Output::send`], of a sample that was stamped elsewhere, where its clock's user was `told` of so many changes.
    pub(crate) async fn send_as_of(&self, told: usize, mut sample: Sample) -> usize {
        let now = Instant::now();
        self.meter.alive(now);
        if sample.readings.is_empty() {
            return 0;
        }
        let (dropped, wait) = self.share(now, &mut sample);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        if sample.readings.is_empty() {
            return dropped;
        }
        let mut closed = Vec::new();
        self.rule(told, |rules, counts| {
            rules.take(&mut sample, self.thinning.factor(), counts, &mut closed);
        });
        for closed in closed {
            self.hand_over(told, closed).await;
        }
        if !sample.readings.is_empty() {
            self.hand_over(told, sample).await;
        }
        dropped
    }

    /// Puts the rules of metrics in force, for all sources.
    pub(crate) fn set_rules(&self, metrics: &[config::Metric]) {
        self.rule_set.set(metrics);
    }

    /// Hands over the aggregates of windows whose time is over, for ever.
    pub(super) async fn close_windows(&self) {
        let clock = self.clock.another();
        loop {
            let deadline = lock(&self.rules).rules.deadline();
            let Some(end_us) = deadline else {
                self.opened.notified().await;
                continue;
            };
            // What belongs into it may be on its way.
            sleep_until(&clock, end_us.saturating_add(LATE_US)).await;
            let (told, now_us) = (clock.told(), clock.now_us());
            let mut closed = Vec::new();
            self.rule(told, |rules, _| rules.close(now_us - LATE_US, &mut closed));
            for sample in closed {
                self.hand_over(told, sample).await;
            }
        }
    }

    /// Hands over the aggregates of all windows, as they are: the source ends. They do not wait for room, since nobody waits for them.
    pub(super) fn finish(&self) {
        let clock = self.clock.another();
        let (told, now_us) = (clock.told(), clock.now_us());
        let mut closed = Vec::new();
        self.rule(told, |rules, _| rules.finish(now_us, &mut closed));
        for sample in closed {
            match self.samples.try_reserve() {
                Ok(place) => self.put(told, sample, |sample| place.send(sample)),
                Err(_) => self.put(told, sample, |sample| self.last.put(sample)),
            }
        }
    }

    /// Lets the rules do something, by the time that was told last.
    fn rule(&self, told: usize, work: impl FnOnce(&mut Rules, &mut Counts)) {
        let mut counts = Counts::default();
        let mut ruled = lock(&self.rules);
        if ruled.told < told {
            let by_us = self.clock.changed(ruled.told, told);
            ruled.rules.shift(by_us);
            ruled.told = told;
        }
        let before = ruled.rules.has_windows();
        work(&mut ruled.rules, &mut counts);
        if ruled.rules.has_windows() && !before {
            self.opened.notify_one();
        }
        self.meter.ruled(&counts);
    }

    async fn hand_over(&self, told: usize, sample: Sample) {
        match self.samples.reserve().await {
            Ok(place) => self.put(told, sample, |sample| place.send(sample)),
            // The agent has stopped listening, and drops this task next.
            Err(_) => std::future::pending().await,
        }
    }

    fn put(&self, told: usize, mut sample: Sample, place: impl FnOnce(Sample)) {
        self.clock.hand_over(told, |correction| {
            if let Some(correction) = correction {
                sample.time_us = correction.apply(sample.time_us);
            }
            self.meter.sampled(&sample);
            place(sample);
        });
    }

    /// How long until the share has room for so many readings at once; `None`: it never has.
    #[cfg(feature = "source-http")]
    pub(crate) fn room(&self, readings: usize) -> Option<Duration> {
        let Some(share) = &self.share else {
            return Some(Duration::ZERO);
        };
        let mut share = share.lock().unwrap_or_else(PoisonError::into_inner);
        share.allowance.room(Instant::now(), readings)
    }

    /// Takes from the source's share; how much was dropped, and how long to wait.
    fn share(&self, now: Instant, sample: &mut Sample) -> (usize, Duration) {
        let Some(share) = &self.share else {
            return (0, Duration::ZERO);
        };
        let mut share = share.lock().unwrap_or_else(PoisonError::into_inner);
        let readings = sample.readings.len();
        if !share.drops {
            return (0, share.allowance.wait(now, readings));
        }
        let granted = share.allowance.take(now, readings);
        let dropped = readings - granted;
        if dropped > 0 {
            sample.readings.truncate(granted);
            let all = self.meter.dropped(dropped as u64);
            if share.dropped_at.is_none_or(|last| now >= last + FLOOD) {
                let (name, rate) = (self.meter.name(), share.rate);
                log::warn!(
                    "source {name} is handed more than its rate of {rate} readings/s; what is beyond is dropped ({all} so far)"
                );
            }
            share.dropped_at = Some(now);
        }
        (dropped, Duration::ZERO)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
