//! A month's data budget: how much of it is used, and what follows from that. Pure: time and the link's byte counters are
//! arguments.
//!
//! - **Counted** is what passes the connection's socket, both ways. What was used is told to the state file ahead of time: the
//!   file holds what may be used until it is written again. So a power cut forgets nothing; it counts too much, at most as much as
//!   the run had used before, plus 16 KiB, and never more than a 500th of the budget. A clean stop writes the exact figure.
//! - **A month** begins when a synchronised clock says so. A clock that is not known to be right begins none; but after 31 days of the
//!   monotonic clock one has begun, whatever the calendar says.
//! - **The backlog waits first.** It is sent only as long as what is left of the budget lasts for live data to the month's end, with a
//!   tenth of that and a 100th of the budget to spare. (With `drain = "in-order"` live data stands behind the backlog, so that nothing is held back.)
//! - **Then live data is thinned.** When what is left will not last at the rate of the last hours (a day at most; looked at every hour, and
//!   whenever another 50th of the budget is used), the thinning factor is raised to the least step (1, 2, 5, 10, …) that will
//!   do; when a lower step would do with a tenth to spare, it is lowered.
//! - **Spent is spent.** Then one batch an hour is sent, beside what keeps the link: hello, keep-alives, acknowledgements, a status an
//!   hour. Thinned as far as the settings allow, everything goes on into the journal, and out of it in the next month.
//!
//! All of it is logged, and shows in the figures.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::month;
use crate::config;

#[cfg(test)]
mod months;

/// How often the rate is looked at, and the span of each of its samples.
const HOUR: Duration = Duration::from_secs(3600);
/// Samples that the rate is taken over.
const SAMPLES: usize = 24;
/// The longest month.
const MONTH_MAX: Duration = Duration::from_secs(31 * 86_400);
/// A rate over less than this means nothing.
const SPAN_MIN: Duration = Duration::from_secs(300);
/// The first bytes that a run writes down ahead.
const AHEAD_MIN: u64 = 16 * 1024;
/// The thinning factors there are, up to the settings' bound.
const STEPS: [u32; 10] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

/// What may be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Allowance {
    /// Everything.
    #[default]
    All,
    /// Live data; the backlog waits.
    Live,
    /// Hardly anything: a batch an hour.
    Spent,
}

/// What the state file holds.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
struct Ledger {
    /// When the month began, seconds since the Unix epoch; 0: not known yet.
    month: i64,
    /// Bytes used in it.
    used: u64,
    /// The thinning factor.
    thinning: u32,
}

/// The budget of the current month.
#[derive(Debug)]
pub(crate) struct Budget {
    settings: config::DataBudget,
    ledger: Ledger,
    /// Bytes used up to which the state file has them already.
    ahead: u64,
    /// Used in this run.
    run: u64,
    /// The link's counters at the last look.
    link: u64,
    backlog: u64,
    looked: Instant,
    /// Time that has passed since a month was last known to begin.
    month_age: Duration,
    /// Live bytes as of the times of the samples, the first the oldest.
    live: u64,
    samples: VecDeque<(Instant, u64)>,
    /// Used when the rate was last judged.
    judged: u64,
    /// Live bytes a second.
    rate: Option<f64>,
    allowance: Allowance,
    warned: bool,
}

impl Budget {
    /// `stored`: the state file's content.
    pub(crate) fn new(settings: config::DataBudget, stored: Option<&[u8]>, now: Instant) -> Self {
        let ledger = match stored.map(serde_json::from_slice::<Ledger>) {
            Some(Ok(ledger)) => ledger,
            Some(Err(error)) => {
                log::error!("the count of the month's bytes cannot be read ({error}); it begins anew at 0");
                Ledger::default()
            }
            None => Ledger::default(),
        };
        let thinning = ledger.thinning.clamp(1, settings.thin_max);
        Self {
            ahead: ledger.used,
            judged: ledger.used,
            ledger: Ledger { thinning, ..ledger },
            settings,
            run: 0,
            link: 0,
            backlog: 0,
            looked: now,
            month_age: Duration::ZERO,
            live: 0,
            samples: VecDeque::from([(now, 0)]),
            rate: None,
            allowance: Allowance::All,
            warned: false,
        }
    }

    /// Goes on with other settings.
    pub(crate) fn reload(&mut self, settings: config::DataBudget) {
        self.ledger.thinning = self.ledger.thinning.min(settings.thin_max);
        self.settings = settings;
        // Judged anew at the next look.
        self.judged = 0;
        self.warned = false;
    }

    /// Bytes a month.
    pub(crate) fn bytes(&self) -> u64 {
        self.settings.bytes.as_u64()
    }

    /// Bytes used in this month.
    pub(crate) fn used(&self) -> u64 {
        self.ledger.used
    }

    /// What may be sent.
    pub(crate) fn allowance(&self) -> Allowance {
        self.allowance
    }

    /// Of so many intervals of a metric one reading is to be taken.
    pub(crate) fn thinning(&self) -> u32 {
        self.ledger.thinning
    }

    /// Takes in the counters since the process began: `link` all bytes of the link, `backlog` those among them that it could have
    /// done without for now. `wall`: seconds since the Unix epoch, if the clock is known to be right.
    pub(crate) fn look(&mut self, now: Instant, wall: Option<i64>, link: u64, backlog: u64) {
        let (used, late) = (
            link.saturating_sub(self.link),
            backlog.saturating_sub(self.backlog),
        );
        self.month_age += now.saturating_duration_since(self.looked);
        (self.link, self.backlog, self.looked) = (link, backlog, now);
        self.turn_month(wall);
        self.ledger.used += used;
        self.run += used;
        self.live += used.saturating_sub(late);
        let since = self
            .samples
            .back()
            .map_or(HOUR, |(at, _)| now.saturating_duration_since(*at));
        let much = self.ledger.used.saturating_sub(self.judged) >= self.bytes() / 50;
        if since >= HOUR || (much && self.span(now) >= SPAN_MIN) {
            self.measure(now);
            self.judge(wall);
            self.judged = self.ledger.used;
        }
        self.allow(wall);
    }

    /// What the state file has to hold from now on, if that has changed.
    pub(crate) fn write_ahead(&mut self) -> Option<Vec<u8>> {
        // Early enough that the bytes of the writing's own time are covered.
        let step = self.run.clamp(AHEAD_MIN, (self.bytes() / 500).max(AHEAD_MIN));
        if self.ledger.used + step / 4 < self.ahead {
            return None;
        }
        self.ahead = self.ledger.used + step;
        Some(self.content(self.ahead))
    }

    /// What the state file has to hold after a clean stop.
    pub(crate) fn close(&self) -> Vec<u8> {
        self.content(self.ledger.used)
    }

    fn content(&self, used: u64) -> Vec<u8> {
        let ledger = Ledger { used, ..self.ledger };
        serde_json::to_vec(&ledger).unwrap_or_default()
    }

    fn turn_month(&mut self, wall: Option<i64>) {
        let begins = wall.map(|wall| month::around(wall, self.settings.reset_day).0);
        let over = match begins {
            Some(begins) => begins > self.ledger.month && self.ledger.month != 0,
            None => self.month_age >= MONTH_MAX,
        };
        if over {
            log::info!(
                "a new month: {} of {} bytes were used in the last",
                self.ledger.used,
                self.bytes()
            );
            (self.ledger.used, self.judged, self.ahead) = (0, 0, 0);
            self.month_age = Duration::ZERO;
            self.warned = false;
            self.thin(1);
            self.rate = None;
        }
        if let Some(begins) = begins {
            if begins != self.ledger.month {
                self.ahead = 0;
            }
            self.ledger.month = begins;
            self.month_age = Duration::ZERO;
        }
    }

    fn span(&self, now: Instant) -> Duration {
        let first = self.samples.front().map_or(now, |(at, _)| *at);
        now.saturating_duration_since(first)
    }

    fn measure(&mut self, now: Instant) {
        if let Some((at, live)) = self.samples.front() {
            let span = now.saturating_duration_since(*at).as_secs_f64().max(1.0);
            self.rate = Some((self.live - live) as f64 / span);
        }
        self.samples.push_back((now, self.live));
        if self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
    }

    /// Bytes a second that last to the month's end, and leave `spare` bytes.
    fn lasting(&self, wall: i64, spare: u64) -> f64 {
        let end = month::around(wall, self.settings.reset_day).1;
        let left = self.bytes().saturating_sub(self.ledger.used + spare);
        left as f64 / (end - wall).max(1) as f64
    }

    /// Chooses the thinning.
    fn judge(&mut self, wall: Option<i64>) {
        let (Some(wall), Some(rate)) = (wall, self.rate) else {
            return;
        };
        if self.ledger.used >= self.bytes() {
            return;
        }
        let (lasting, now) = (self.lasting(wall, 0), self.ledger.thinning);
        let steps = || STEPS.into_iter().filter(|step| *step <= self.settings.thin_max);
        let most = steps().max().unwrap_or(1);
        // What does not shrink with the readings makes this too hopeful; the next hour tells.
        let at = |step: u32| rate * f64::from(now) / f64::from(step);
        let to = if rate > lasting {
            steps()
                .find(|step| *step > now && at(*step) <= lasting)
                .unwrap_or(most)
                .max(now)
        } else {
            steps()
                .find(|step| *step >= now || at(*step) * 1.1 <= lasting)
                .unwrap_or(now)
        };
        self.thin(to);
    }

    fn thin(&mut self, factor: u32) {
        let before = std::mem::replace(&mut self.ledger.thinning, factor);
        if before == factor {
            return;
        }
        // The rate of before says nothing about what comes.
        self.samples = VecDeque::from([(self.looked, self.live)]);
        self.rate = self.rate.map(|rate| rate * f64::from(before) / f64::from(factor));
        match factor {
            1 => log::info!("the data budget lasts: all readings are taken again"),
            _ => log::warn!(
                "the data budget does not last to the month's end: of {factor} intervals one reading is taken \
                 ({} of {} bytes used)",
                self.ledger.used,
                self.bytes()
            ),
        }
    }

    fn allow(&mut self, wall: Option<i64>) {
        let (used, bytes) = (self.ledger.used, self.bytes());
        let warn = used as f64 >= self.settings.warn_at * bytes as f64;
        if warn && !self.warned {
            self.warned = true;
            log::warn!("{used} of the month's {bytes} bytes are used");
        }
        let before = self.allowance;
        let live_only = match (wall, self.rate) {
            _ if self.ledger.thinning > 1 => true,
            (Some(wall), Some(rate)) => {
                let spare = if before == Allowance::All { 1.1 } else { 1.2 };
                rate * spare > self.lasting(wall, bytes / 100)
            }
            // Until the rate is known the backlog may have a little.
            _ => warn || used.saturating_sub(self.judged) >= bytes / 50,
        };
        self.allowance = match live_only {
            _ if used >= bytes => Allowance::Spent,
            true => Allowance::Live,
            false => Allowance::All,
        };
        if self.allowance == Allowance::Spent {
            let most = STEPS
                .into_iter()
                .filter(|step| *step <= self.settings.thin_max)
                .max();
            self.thin(most.unwrap_or(1));
        }
        if self.allowance != before {
            match self.allowance {
                Allowance::All => log::info!("the data budget lasts: the backlog may be sent"),
                Allowance::Live => log::warn!("the data budget is short: the backlog waits"),
                Allowance::Spent => log::error!(
                    "the month's {bytes} bytes are spent: one batch an hour is sent until the next month, the rest \
                     waits in the journal"
                ),
            }
        }
    }
}
