//! What is to be done about the certificate, and when. Pure.

use std::time::{Duration, Instant};

/// Between attempts: a bound that doubles from the first to the second of these, and no further than a part of what time is left.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3_600));
/// While there is no certificate at all nothing is sent, so it is tried more often.
const PAUSE_WITHOUT: Duration = Duration::from_secs(300);

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// A token to enrol with.
    pub(super) token: bool,
    /// A certificate with its key: from when to when it is valid, seconds since the Unix epoch.
    pub(super) dates: Option<(i64, i64)>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing for so long.
    Wait(Duration),
    Enroll,
    Renew,
    /// Nothing that the agent could do by itself.
    Stuck(&'static str),
}

/// Remembers what was tried.
#[derive(Debug)]
pub(super) struct Plan {
    /// Drawn at the start, so that a fleet does not renew all at once.
    dice: u32,
    attempts: u32,
    /// Not before.
    next: Option<Instant>,
}

impl Plan {
    pub(super) fn new(dice: u32) -> Self {
        Self {
            dice,
            attempts: 0,
            next: None,
        }
    }

    /// `wall_s`: the latest time known, seconds since the Unix epoch.
    pub(super) fn next(&self, now: Instant, wall_s: i64, standing: &Standing) -> Step {
        if let Some(next) = self.next.filter(|next| *next > now) {
            return Step::Wait(next - now);
        }
        match standing.dates {
            _ if standing.token => Step::Enroll,
            None => Step::Stuck(
                "this agent has no certificate that can be used, and no token to get one with: lay a headwater.toml with a new one on the boot \
                 partition, or run headwater-agent enroll",
            ),
            Some((_, until)) if until <= wall_s => Step::Stuck(
                "this agent's certificate has expired, so it cannot be renewed: enrol anew with a new token, by a headwater.toml on the boot \
                 partition or headwater-agent enroll",
            ),
            Some(dates) => match self.due_s(dates) - wall_s {
                ..=0 => Step::Renew,
                // A certificate proves that its beginning has passed, whatever the clock says.
                left => Step::Wait(Duration::from_secs(left.min(dates.1 - dates.0).unsigned_abs())),
            },
        }
    }

    /// When a certificate is to be renewed: after two thirds of its time, less up to a sixteenth of it.
    fn due_s(&self, (from, until): (i64, i64)) -> i64 {
        let lifetime = until.saturating_sub(from).max(0);
        let early = i128::from(lifetime) * i128::from(self.dice) / (16 * (1 << 32));
        from + lifetime / 3 * 2 - early as i64
    }

    /// It was done.
    pub(super) fn succeeded(&mut self) {
        (self.attempts, self.next) = (0, None);
    }

    /// It was tried in vain; says how long it is left. `is_final`: the endpoint has refused, and will refuse the same again.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        wall_s: i64,
        standing: &Standing,
        is_final: bool,
    ) -> Duration {
        let most = match standing.dates {
            Some((_, until)) => Duration::from_secs((until - wall_s).max(0).unsigned_abs() / 16),
            None if is_final => PAUSE.1,
            None => PAUSE_WITHOUT,
        };
        let bound = PAUSE.0.saturating_mul(1 << self.attempts.min(16));
        let bound = bound.min(PAUSE.1).min(most).max(Duration::from_secs(1));
        self.attempts += 1;
        // Other dice each time: a half to the whole of it.
        self.dice = self.dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let pause = bound / 2 + bound.mul_f64(f64::from(self.dice) / f64::from(u32::MAX) / 2.0);
        self.next = Some(now + pause);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: i64 = 365 * 86_400;
    const GOOD: Standing = Standing {
        token: false,
        dates: Some((1_000, 1_000 + YEAR)),
    };

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_time_at_the_latest() {
        let now = Instant::now();
        for dice in [0, 1 << 31, u32::MAX] {
            let plan = Plan::new(dice);
            let at = |wall_s| plan.next(now, wall_s, &GOOD);
            assert_eq!(at(1_000 + YEAR / 3 * 2), Step::Renew);
            assert!(matches!(at(1_000 + YEAR / 5 * 3 - YEAR / 100), Step::Wait(_)));
            // Also by a clock that stands in 1970, before the certificate's beginning.
            let Step::Wait(pause) = at(0) else {
                panic!("{:?}", at(0))
            };
            assert!(pause <= Duration::from_secs(YEAR as u64));
            assert!(matches!(at(1_000 + YEAR), Step::Stuck(why) if why.contains("expired")));
        }
        assert_ne!(
            Plan::new(0).due_s(GOOD.dates.unwrap()),
            Plan::new(u32::MAX).due_s(GOOD.dates.unwrap())
        );
        // Nonsense neither panics nor spins.
        for dates in [(0, 0), (5, 1), (i64::MIN / 2, i64::MAX / 2)] {
            Plan::new(7).next(
                now,
                3,
                &Standing {
                    token: false,
                    dates: Some(dates),
                },
            );
        }
    }

    #[test]
    fn a_token_is_used_whatever_there_is() {
        let now = Instant::now();
        let plan = Plan::new(0);
        for dates in [None, Some((0, 5)), GOOD.dates] {
            assert_eq!(
                plan.next(now, 2_000, &Standing { token: true, dates }),
                Step::Enroll
            );
        }
        let nothing = Standing {
            token: false,
            dates: None,
        };
        assert!(matches!(plan.next(now, 2_000, &nothing), Step::Stuck(why) if why.contains("no token")));
    }

    #[test]
    fn attempts_become_seldom_but_not_too_seldom_for_what_is_left() {
        let mut now = Instant::now();
        let mut plan = Plan::new(99);
        let mut pauses = Vec::new();
        for _ in 0..20 {
            let pause = plan.failed(now, 1_000 + YEAR / 3 * 2, &GOOD, false);
            assert!(matches!(plan.next(now, 1_000 + YEAR / 3 * 2, &GOOD), Step::Wait(wait) if wait == pause));
            now += pause;
            assert_eq!(plan.next(now, 1_000 + YEAR / 3 * 2, &GOOD), Step::Renew);
            pauses.push(pause.as_secs());
        }
        assert!(
            pauses[0] <= 5 && (1_800..=3_600).contains(&pauses[19]),
            "{pauses:?}"
        );
        let brief = Standing {
            token: false,
            dates: Some((0, 30)),
        };
        assert!(plan.failed(now, 22, &brief, false) <= Duration::from_secs(1));
        plan.succeeded();
        assert_eq!(plan.next(now, 22, &brief), Step::Renew);
        let without = Standing {
            token: true,
            dates: None,
        };
        for _ in 0..20 {
            assert!(plan.failed(now, 0, &without, false) <= PAUSE_WITHOUT);
        }
        assert!(plan.failed(now, 0, &without, true) > PAUSE_WITHOUT);
    }
}
