//! Which time it is, by a clock that never stands still and never goes back, and what is known of the other one. Pure: what the
//! system's clocks show is an argument.
//!
//! The system has two clocks: `boot`, microseconds since the machine's start, suspended time included, which only ever goes forward at the
//! rate of a second a second; and `wall`, which says what day it is, may be wrong by decades, and may be set at any time. The timeline
//! is `boot` plus an offset:
//!
//! - **Provisional** until the wall clock is known to be right: the offset is what the wall clock showed at the start, or the last time
//!   known where that is later. It then stays as it is, whatever is done to the wall clock, so intervals are right and order is kept.
//! - **Known** from the first moment on at which something trusted says that the wall clock is right. The offset becomes its, in one
//!   step ([`Change`]), and whoever holds times from before adds that step to them: they become exact.
//! - From then on small differences are made good at no more than 500 µs a second, so that time never goes back and a cadence stays one (a leap
//!   second, inserted or smeared, is such a difference). A larger one, seen twice, is a step. While nobody vouches for the wall clock
//!   the timeline goes on by itself: the kernel's last correction of the rate still holds.

use crate::config::Trust;

/// Differences up to this are made good slowly: a leap second and the jitter of a bad network.
const STEP_US: i64 = 2_000_000;
/// One part in so many is by how much the rate is bent.
const SLEW: i64 = 2_000;
/// How far a real-time clock, which shows whole seconds and drifts, may be from a wall clock that was set by it.
const AGREE_US: i64 = 5_000_000;

/// What the system's clocks show at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observation {
    /// Microseconds since the machine's start.
    pub(crate) boot_us: i64,
    /// Microseconds since the Unix epoch, by the wall clock.
    pub(crate) wall_us: i64,
    /// A time daemon vouches for the wall clock.
    pub(crate) synchronised: bool,
    /// What else there is to say for it.
    pub(crate) hardware: Hardware,
}

/// What keeps the wall clock while the machine is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Hardware {
    /// Nothing that is known of.
    #[default]
    None,
    /// A real-time clock, which shows this (microseconds since the Unix epoch).
    Rtc(i64),
    /// The host of a virtual machine.
    Host,
}

/// What made the clock known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// A time daemon, by way of the kernel.
    Kernel,
    /// A battery or a host: see [`Trust::Auto`].
    Hardware,
    /// The settings.
    Setting,
}

/// The offset has changed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// By how much.
    pub(crate) by_us: i64,
    /// It became known with this: times from before are to be corrected by it. Otherwise the clock, which was known, was set.
    pub(crate) became_known: bool,
}

/// The timeline.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    trust: Trust,
    wait_us: i64,
    /// No time before this one is plausible.
    floor_us: i64,
    /// Where the offset was last settled.
    at_us: i64,
    offset_us: i64,
    /// What is still to be added to it, slowly.
    rest_us: i64,
    known: Option<Evidence>,
    /// Nobody vouches for the wall clock any more.
    holdover: bool,
    /// A large difference, seen once.
    doubtful: Option<i64>,
}

impl Timeline {
    /// Begins with what the clocks show. `floor_us`: the last time known, or when the program was made.
    pub(crate) fn new(trust: Trust, wait_us: i64, floor_us: i64, first: Observation) -> Self {
        let mut timeline = Self {
            trust,
            wait_us,
            floor_us,
            at_us: first.boot_us,
            offset_us: first.wall_us.max(floor_us) - first.boot_us,
            rest_us: 0,
            known: None,
            holdover: false,
            doubtful: None,
        };
        timeline.observe(first);
        timeline
    }

    /// Microseconds since the Unix epoch at `boot_us`.
    pub(crate) fn at(&self, boot_us: i64) -> i64 {
        boot_us + self.offset_at(boot_us)
    }

    /// What made it known; `None`: it is provisional.
    pub(crate) fn known(&self) -> Option<Evidence> {
        self.known
    }

    /// Whether it was known once and nobody vouches for the wall clock now.
    pub(crate) fn holdover(&self) -> bool {
        self.holdover
    }

    /// The difference between it and `boot` at `boot_us`.
    pub(crate) fn offset_at(&self, boot_us: i64) -> i64 {
        let most = (boot_us - self.at_us).max(0) / SLEW;
        self.offset_us + self.rest_us.clamp(-most, most)
    }

    /// Takes a look at the clocks into account.
    pub(crate) fn observe(&mut self, seen: Observation) -> Option<Change> {
        let evidence = self.evidence(&seen);
        self.holdover = self.known.is_some() && evidence.is_none();
        match evidence {
            Some(evidence) => self.learn(seen.boot_us, seen.wall_us - seen.boot_us, evidence),
            None => {
                self.doubtful = None;
                None
            }
        }
    }

    /// Whether it should have become known by now.
    pub(crate) fn is_overdue(&self, boot_us: i64) -> bool {
        self.known.is_none() && boot_us >= self.wait_us
    }

    fn evidence(&self, seen: &Observation) -> Option<Evidence> {
        if self.trust == Trust::Always {
            return Some(Evidence::Setting);
        }
        if seen.synchronised {
            return Some(Evidence::Kernel);
        }
        if self.trust != Trust::Auto || seen.wall_us < self.floor_us {
            return None;
        }
        let kept = match seen.hardware {
            Hardware::None => false,
            Hardware::Rtc(rtc_us) => {
                seen.boot_us >= self.wait_us && (rtc_us - seen.wall_us).abs() <= AGREE_US
            }
            Hardware::Host => true,
        };
        // Once a daemon has vouched, hardware alone changes nothing any more.
        (kept && self.known != Some(Evidence::Kernel)).then_some(Evidence::Hardware)
    }

    fn learn(&mut self, boot_us: i64, offset_us: i64, evidence: Evidence) -> Option<Change> {
        self.settle(boot_us);
        let by_us = offset_us - self.offset_us;
        let became_known = self.known.is_none();
        if !became_known {
            if by_us.abs() <= STEP_US {
                (self.known, self.rest_us, self.doubtful) = (Some(evidence), by_us, None);
                return None;
            }
            // Twice the same: not a moment between two changes of the daemon's.
            let confirmed = self
                .doubtful
                .replace(offset_us)
                .is_some_and(|doubtful| (offset_us - doubtful).abs() <= STEP_US);
            if !confirmed {
                return None;
            }
        }
        (self.offset_us, self.rest_us) = (offset_us, 0);
        (self.known, self.doubtful) = (Some(evidence), None);
        Some(Change { by_us, became_known })
    }

    /// Makes the offset at `boot_us` the new beginning.
    fn settle(&mut self, boot_us: i64) {
        let offset_us = self.offset_at(boot_us);
        self.rest_us -= offset_us - self.offset_us;
        (self.offset_us, self.at_us) = (offset_us, boot_us);
    }
}
