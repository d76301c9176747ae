//! `Command`: how many, and how often; what becomes of it is decided elsewhere.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use headwater_proto::pb;
use pb::server_frame::Frame;
use tokio::sync::oneshot;

use super::{Session, State, Step};
use crate::gateway::commands::Place;
use crate::gateway::commands::order::{Answer, Order};
use crate::gateway::token::Grant;

/// The commands of a connection.
#[derive(Debug, Default)]
pub(super) struct Orders {
    waiting: VecDeque<Box<Order>>,
    /// Ends when the last one has been written.
    last: Option<oneshot::Receiver<()>>,
    /// Those that have no answer yet.
    carried: usize,
    /// How many may come at once, and as of when.
    bucket: Option<(f64, Instant)>,
    /// The last one came too soon.
    throttled: bool,
}

impl Orders {
    /// Takes one from what may come at once: `rate` more every second, twice that at most.
    fn is_in_time(&mut self, rate: f64, now: Instant) -> bool {
        let (left, as_of) = self.bucket.unwrap_or((rate * 2.0, now));
        let since = now.saturating_duration_since(as_of).as_secs_f64();
        let left = (left + since * rate).min(rate * 2.0);
        let is_in_time = left >= 1.0;
        self.bucket = Some((if is_in_time { left - 1.0 } else { left }, now));
        is_in_time
    }
}

impl Session {
    /// Whether this token allows any command.
    pub(super) fn may_command(&self, grant: &Grant) -> bool {
        let commands = self.hub.commands.get();
        commands.is_some_and(|commands| commands.taken.may(grant))
    }

    /// Commands without an answer.
    pub fn carried(&self) -> usize {
        self.orders.carried
    }

    pub(super) fn command(&mut self, given: pb::Command, now: Instant, now_us: i64) {
        let State::Open { grant, .. } = &self.state else {
            return;
        };
        let Some(commands) = self.hub.commands.get() else {
            let why = "this gateway carries no commands".into();
            self.answers
                .push_back(error(given.id, pb::ErrorCode::Unsupported, why));
            return;
        };
        let settings = &commands.settings;
        let is_in_time = self.orders.is_in_time(f64::from(settings.rate), now);
        let full = self.orders.carried >= settings.per_subject;
        let too_many = if full {
            let most = settings.per_subject;
            Some(format!(
                "{most} commands of this connection have no answer yet (gateway.commands.per_subject)"
            ))
        } else if is_in_time {
            None
        } else {
            let rate = settings.rate;
            Some(format!(
                "more than {rate} commands a second (gateway.commands.rate)"
            ))
        };
        let first = !std::mem::replace(&mut self.orders.throttled, too_many.is_some());
        if let Some(why) = too_many.clone().filter(|_| full || !first) {
            // The audit has the first of them: a client must not fill it.
            commands.metrics.count("limit");
            self.answers.push_back(error(given.id, pb::ErrorCode::Limit, why));
            return;
        }
        let mut order = Order::new(given, grant, &self.caller, commands.taken, settings, now_us);
        if let Some(why) = too_many {
            order.refusal = Some((pb::ErrorCode::Limit, why));
        }
        self.orders.carried += 1;
        self.orders.waiting.push_back(Box::new(order));
    }

    /// A command whose turn it is.
    pub(super) fn order(&mut self) -> Option<Step> {
        let order = self.orders.waiting.pop_front()?;
        let commands = self.hub.commands.get()?;
        let place = Place::next(&mut self.orders.last);
        Some(Step::Carry(Arc::clone(commands), order, place))
    }

    /// What came of a command; `None`: its task is gone.
    pub fn answered(&mut self, id: String, answer: Option<Answer>) {
        self.orders.carried -= 1;
        let frame = match answer {
            Some(Answer::Reply(reply)) => Frame::Reply(reply),
            Some(Answer::Error(code, why)) => error(id, code, why),
            None => {
                let why = "the gateway lost the command; send it again under its id".into();
                error(id, pb::ErrorCode::Unavailable, why)
            }
        };
        self.answers.push_back(frame);
    }
}

fn error(command: String, code: pb::ErrorCode, message: String) -> Frame {
    Frame::Error(pb::ServerError {
        id: 0,
        code: code.into(),
        message,
        command,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn so_many_a_second_and_twice_that_at_once() {
        let (mut orders, now) = (Orders::default(), Instant::now());
        let burst = (0..100).filter(|_| orders.is_in_time(10.0, now)).count();
        assert_eq!(burst, 20);
        let later = now + Duration::from_millis(250);
        assert_eq!((0..100).filter(|_| orders.is_in_time(10.0, later)).count(), 2);
        let much_later = now + Duration::from_secs(3600);
        assert_eq!(
            (0..100).filter(|_| orders.is_in_time(10.0, much_later)).count(),
            20
        );
    }
}
