//! The clock that readings are stamped by, in one place: sources ask [`Clock::now_us`], the pipeline looks after it.
//!
//! `timeline` decides (what time it is, whether that is known to be right, what to correct); `system` asks the machine; `known` keeps the
//! last time known through a power cut. Times from before the clock was known are corrected wherever they are: in a source's hands and in
//! the open batch at once, in closed batches when they are read for sending ([`crate::sealer::correct`]).

mod known;
mod system;
#[cfg(test)]
mod tests;
mod timeline;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::config::{self, Trust};
use crate::host;
use crate::journal::ClockEpoch;
use crate::stats::{ClockState, ClockStats};
use crate::task;

pub(crate) use known::Known;

use timeline::{Change, Evidence, Hardware, Observation, Timeline};

/// When this program was made, seconds since the Unix epoch: no time before it is plausible.
const MADE: &str = env!("HEADWATER_MADE");
/// How often the clocks are looked at, before and after the time is known; half as seldom where nothing else wakes the agent.
const LOOK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// How often the hardware is asked, before and after.
const HARDWARE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));
/// How often it is said that the time is not known, microseconds.
const COMPLAIN_US: i64 = 86_400_000_000;
/// Times may be ahead of the clock by so much (a trace that is replayed as fast as can be) and still be its own.
const AHEAD_US: i64 = 86_400_000_000;

/// Tells the time to whoever stamps readings; clones tell the same.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    shared: Arc<Shared>,
    /// How many changes there had been when its user was last told the time.
    told: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    boot: u128,
    reader: Reader,
}

#[derive(Debug)]
struct Inner {
    timeline: Timeline,
    /// By how much the offset has changed at once, each time.
    changes: Vec<i64>,
    /// What keeps the wall clock, as of the machine's start: a real-time clock's time less `boot`.
    hardware: Hardware,
    /// By how much times from before were corrected.
    corrected_us: i64,
    complained_us: Option<i64>,
    /// The relay's time less the time since the machine's start, as it was last told.
    relay_us: Option<i64>,
    /// That the relay's time is another has been logged.
    doubted: bool,
}

/// Where the clocks are read.
#[derive(Debug)]
enum Reader {
    System,
    #[cfg(test)]
    Fake(Mutex<Observation>),
}

impl Reader {
    fn boot_us(&self) -> i64 {
        match self {
            Self::System => system::boot_us(),
            #[cfg(test)]
            Self::Fake(shown) => lock(shown).boot_us,
        }
    }

    fn observe(&self, hardware: Hardware) -> Observation {
        match self {
            Self::System => system::observe(hardware),
            #[cfg(test)]
            Self::Fake(shown) => *lock(shown),
        }
    }
}

/// By the wall clock alone: for what is not stamped, and for tests.
impl Default for Clock {
    fn default() -> Self {
        let settings = config::Clock {
            trust: Trust::Always,
            ..config::Clock::default()
        };
        Self::with(Reader::System, &settings, None, Hardware::None)
    }
}

impl Clock {
    /// Looks at the system's clocks, hardware too: it may block. `last_us`: the last time known before, microseconds since the Unix
    /// epoch.
    pub(crate) fn open(settings: &config::Clock, last_us: Option<i64>) -> Self {
        Self::with(Reader::System, settings, last_us, hardware())
    }

    fn with(reader: Reader, settings: &config::Clock, last_us: Option<i64>, hardware: Hardware) -> Self {
        let made_us = MADE.parse().unwrap_or(0) * 1_000_000;
        let wait_us = i64::try_from(settings.wait.as_micros()).unwrap_or(i64::MAX);
        let first = at(&reader, hardware);
        let floor_us = last_us.unwrap_or(0).max(made_us);
        let timeline = Timeline::new(settings.trust, wait_us, floor_us, first);
        Self {
            shared: Arc::new(Shared {
                inner: Mutex::new(Inner {
                    timeline,
                    changes: Vec::new(),
                    hardware,
                    corrected_us: 0,
                    complained_us: None,
                    relay_us: None,
                    doubted: false,
                }),
                boot: boot(&host::boot_id()),
                reader,
            }),
            told: Arc::default(),
        }
    }

    /// A clock over fake ones, which [`Clock::show`] sets.
    #[cfg(test)]
    pub(crate) fn fake(settings: &config::Clock, last_us: Option<i64>, shown: (i64, i64, bool)) -> Self {
        let reader = Reader::Fake(Mutex::new(observation(shown)));
        Self::with(reader, settings, last_us, Hardware::None)
    }

    /// Sets fake clocks: the time since the start, the wall clock's, whether a time daemon vouches for it.
    #[cfg(test)]
    pub(crate) fn show(&self, shown: (i64, i64, bool)) {
        match &self.shared.reader {
            Reader::Fake(fake) => *lock(fake) = observation(shown),
            Reader::System => panic!("the system's clocks are not set"),
        }
    }

    /// The same clock for another user: what one was told says nothing of the other.
    pub(crate) fn another(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            told: Arc::new(AtomicUsize::new(self.lock().changes.len())),
        }
    }

    /// Microseconds since the Unix epoch, as far as is known. It never goes back, but when the clock becomes known or is set.
    pub(crate) fn now_us(&self) -> i64 {
        let inner = self.lock();
        self.told.store(inner.changes.len(), Ordering::Relaxed);
        inner.timeline.at(self.shared.reader.boot_us())
    }

    /// Whether the time is known to be right.
    pub(crate) fn is_synchronised(&self) -> bool {
        self.lock().timeline.known().is_some()
    }

    /// What batches that are closed now are marked with; `None`: their times are final.
    pub(crate) fn epoch(&self) -> Option<ClockEpoch> {
        let standing = self.standing();
        let provisional = standing.provisional?;
        Some(ClockEpoch {
            boot: standing.boot,
            offset_us: provisional,
        })
    }

    /// How things stand: for those who hold batches.
    pub(crate) fn standing(&self) -> Standing {
        let inner = self.lock();
        let boot_us = self.shared.reader.boot_us();
        let offset_us = inner.timeline.offset_at(boot_us);
        let known = inner.timeline.known().is_some();
        Standing {
            boot: self.shared.boot,
            boot_us,
            known: known.then_some(offset_us),
            provisional: (!known).then_some(offset_us),
        }
    }

    /// When the clocks should be looked at again.
    pub(crate) fn pace(&self) -> Duration {
        if self.is_synchronised() { LOOK.1 } else { LOOK.0 }
    }

    /// Looks at the system's clocks. If that changes the time at once, `before` is called while nobody is told the new one, to take
    /// over what was stamped by the old one; and the change is returned.
    pub(crate) fn look(&self, before: impl FnOnce()) -> Option<Correction> {
        let mut inner = self.lock();
        let seen = at(&self.shared.reader, inner.hardware);
        let old_us = inner.timeline.offset_at(seen.boot_us);
        let Some(change) = inner.timeline.observe(seen) else {
            inner.complain(seen.boot_us);
            return None;
        };
        before();
        inner.changes.push(change.by_us);
        inner.tell(change);
        Some(Correction {
            by_us: change.by_us,
            offset_us: old_us,
            boot_us: seen.boot_us,
            became_known: change.became_known,
        })
    }

    /// Puts `times` right that its user made since it was last told the time, and hands them over by `put` before anybody is told another.
    pub(crate) fn hand_over<T>(&self, told: usize, put: impl FnOnce(Option<Correction>) -> T) -> T {
        let inner = self.lock();
        let by_us: i64 = inner.changes.iter().skip(told).sum();
        let boot_us = self.shared.reader.boot_us();
        let correction = (by_us != 0).then(|| Correction {
            by_us,
            offset_us: inner.timeline.offset_at(boot_us) - by_us,
            boot_us,
            became_known: false,
        });
        put(correction)
    }

    /// How many changes there had been when its user was last told the time: for [`Clock::hand_over`].
    pub(crate) fn told(&self) -> usize {
        self.told.load(Ordering::Relaxed)
    }

    /// By how much the changes from number `from` up to `to` moved the time.
    pub(crate) fn changed(&self, from: usize, to: usize) -> i64 {
        let inner = self.lock();
        inner.changes.iter().take(to).skip(from).sum()
    }

    /// Its figures.
    pub(crate) fn stats(&self) -> ClockStats {
        let inner = self.lock();
        let holdover = inner.timeline.holdover();
        let state = match inner.timeline.known() {
            None => ClockState::Unknown,
            Some(_) if holdover => ClockState::Holdover,
            Some(Evidence::Kernel) => ClockState::Synchronised,
            Some(Evidence::Hardware) => ClockState::Hardware,
            Some(Evidence::Setting) => ClockState::Trusted,
        };
        let offset_us = inner.timeline.offset_at(self.shared.reader.boot_us());
        ClockStats {
            synchronised: inner.timeline.known().is_some(),
            state,
            offset_us: inner.corrected_us,
            relay_ahead_us: inner.relay_us.map(|relay_us| relay_us.saturating_sub(offset_us)),
        }
    }

    /// The relay has told its time. No reading's time is changed for it: it may be the one that is wrong, and it is late by what its way
    /// takes.
    pub(crate) fn compare(&self, relay_us: i64) {
        self.lock().relay_us = Some(relay_us.saturating_sub(self.shared.reader.boot_us()));
        let stats = self.stats();
        let doubtful = stats.is_doubtful();
        if doubtful && !self.lock().doubted {
            log::error!(
                "this machine's clock is taken to be right, and the relay's is ahead of it by {} s: one of them is wrong. Readings keep this \
                 clock's times",
                stats.relay_ahead_us.unwrap_or(0) / 1_000_000
            );
        }
        self.lock().doubted = doubtful;
    }

    /// Keeps an eye on the hardware, for as long as that can tell anything.
    pub(crate) async fn watch(self) {
        loop {
            let pause = if self.is_synchronised() {
                HARDWARE.1
            } else {
                HARDWARE.0
            };
            tokio::time::sleep(pause).await;
            let Ok(hardware) = task::blocking(hardware).await else {
                continue;
            };
            self.lock().hardware = hardware;
            if !matches!(hardware, Hardware::Rtc(_)) {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.shared.inner)
    }
}

impl Inner {
    /// Says that the time is not known, at most daily.
    fn complain(&mut self, boot_us: i64) {
        let due = self
            .complained_us
            .is_none_or(|last| boot_us - last >= COMPLAIN_US);
        if self.timeline.is_overdue(boot_us) && due {
            self.complained_us = Some(boot_us);
            log::warn!(
                "it is not known whether this machine's clock is right: no time daemon vouches for it, and no hardware that keeps the time \
                 while it is off; readings are flagged. Run a time daemon, or set clock.trust"
            );
        }
    }

    fn tell(&mut self, change: Change) {
        let seconds = change.by_us as f64 / 1e6;
        if change.became_known {
            self.corrected_us = change.by_us;
            let evidence = match self.timeline.known() {
                Some(Evidence::Hardware) => "the hardware's word is taken",
                _ => "a time daemon vouches for it",
            };
            log::info!(
                "the time is known ({evidence}); what was stamped before is corrected by {seconds:.3} s"
            );
        } else {
            log::warn!("the clock was set by {seconds:.3} s");
        }
    }
}

/// What a change of the clock means for times from before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Correction {
    by_us: i64,
    /// The offset that they were made with.
    offset_us: i64,
    /// Now.
    boot_us: i64,
    /// They were provisional; otherwise the clock was set.
    pub(crate) became_known: bool,
}

impl Correction {
    /// The right time for `time_us`: later or earlier by the change, unless it cannot have been read off this clock in this boot; such a
    /// time came with its reading.
    pub(crate) fn apply(&self, time_us: i64) -> i64 {
        let boot_us = time_us.saturating_sub(self.offset_us);
        if (0..=self.boot_us.saturating_add(AHEAD_US)).contains(&boot_us) {
            time_us.saturating_add(self.by_us)
        } else {
            time_us
        }
    }
}

/// How the clock stands, for those who hold batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    boot: u128,
    boot_us: i64,
    known: Option<i64>,
    provisional: Option<i64>,
}

/// What is to be done about a batch's times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing can be done.
    Final,
    /// It may be known later.
    Wait,
    Correct(Correction),
}

impl Standing {
    /// What is to be done about times that were made with `epoch`.
    pub(crate) fn judge(&self, epoch: Option<ClockEpoch>) -> Verdict {
        let Some(epoch) = epoch.filter(|epoch| epoch.boot == self.boot) else {
            return Verdict::Final;
        };
        match self.known {
            Some(offset_us) => Verdict::Correct(Correction {
                by_us: offset_us - epoch.offset_us,
                offset_us: epoch.offset_us,
                boot_us: self.boot_us,
                became_known: true,
            }),
            None => Verdict::Wait,
        }
    }
}

#[cfg(test)]
fn observation((boot_us, wall_us, synchronised): (i64, i64, bool)) -> Observation {
    Observation {
        boot_us,
        wall_us,
        synchronised,
        hardware: Hardware::None,
    }
}

/// The clocks as they show; a real-time clock's time follows from what it showed when it was last asked.
fn at(reader: &Reader, hardware: Hardware) -> Observation {
    let mut seen = reader.observe(hardware);
    if let (Reader::System, Hardware::Rtc(since_start_us)) = (reader, hardware) {
        seen.hardware = Hardware::Rtc(since_start_us + seen.boot_us);
    }
    seen
}

/// Asks the hardware; a real-time clock's time is given less the time since the machine's start.
fn hardware() -> Hardware {
    match system::hardware() {
        Hardware::Rtc(rtc_us) => Hardware::Rtc(rtc_us - system::boot_us()),
        other => other,
    }
}

/// A boot's id as a number.
fn boot(id: &str) -> u128 {
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or(0)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
