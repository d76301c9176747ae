//! How long a connection may be without a word, an acknowledgement, a token.

use std::time::{Duration, Instant};

use super::{Close, Entry, Refusal, Session, State, Step, earliest, refused};

/// How long the window may be closed before what was read ahead is let go: longer than a slow link takes to acknowledge its share.
const LET_GO: Duration = Duration::from_secs(5);

impl Session {
    /// When to look again, and whether the window is open.
    pub(super) fn deadlines(&self, now: Instant, now_us: i64) -> Result<(Option<Instant>, bool), Close> {
        let settings = &self.hub.settings;
        let State::Open { window, pace, grant } = &self.state else {
            let until = self.began + settings.hello_timeout;
            let late = || {
                Close::new(
                    Close::LATE,
                    format!("no hello within {:?}", settings.hello_timeout),
                )
            };
            return if now < until {
                Ok((Some(until), false))
            } else {
                Err(late())
            };
        };
        let mut wake = None;
        if let Some(expires_us) = grant.expires_us {
            let left = expires_us.saturating_sub(now_us);
            if left <= 0 {
                return Err(refused(&Refusal::Expired));
            }
            // A far expiry is looked at again now and then; so a clock that is set is noticed too.
            let left = Duration::from_micros(left.unsigned_abs()).min(Duration::from_secs(60));
            wake = Some(now + left);
        }
        if let Some(since) = self.unacked_since {
            let until = since + settings.ack_timeout;
            if now >= until {
                let reason = format!("nothing acknowledged for {:?}", settings.ack_timeout);
                return Err(Close::new(Close::LATE, reason));
            }
            wake = earliest(wake, Some(until));
        }
        Ok((wake, window.is_open() && pace.is_open(window.unacked_bytes())))
    }

    /// Nothing can be sent for now.
    pub(super) fn closed(&mut self, now: Instant, wake: Option<Instant>) -> Step {
        let State::Open { grant, .. } = &self.state else {
            return Step::Wait(wake);
        };
        let mut again = false;
        for open in self.subscriptions.values_mut().filter_map(Entry::open) {
            again |= open.closed(&self.hub, grant);
        }
        let wake = if again { Some(now) } else { wake };
        let since = *self.closed_since.get_or_insert(now);
        if now < since + LET_GO {
            return Step::Wait(earliest(wake, Some(since + LET_GO)));
        }
        for open in self.subscriptions.values_mut().filter_map(Entry::open) {
            open.let_go();
        }
        Step::Wait(wake)
    }
}
