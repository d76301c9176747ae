//! Hello and status: what the agent tells of itself.

use std::time::{Duration, Instant};

use headwater_proto::pb;
use headwater_proto::topic::Kind;

use super::budget::Allowance;
use super::{Link, Publication, SPENT_EVERY, STATUS_EVERY, Stream, Uplink};
use crate::journal::Journal;

impl Uplink {
    /// The status that the broker publishes should the connection break.
    pub(crate) fn last_will(session: u64) -> Publication {
        status(false, session, None)
    }

    /// Says goodbye: the status of a clean stop, and no data any more.
    pub(crate) fn stop(&mut self, journal: &dyn Journal) {
        if let Link::Greeting { session, .. } | Link::Up { session } = self.link {
            let waiting = Some(waiting(journal));
            self.control.push_back(status(false, session, waiting));
        }
        self.link = Link::Down;
    }

    pub(super) fn greet(&mut self, now: Instant, session: u64, journal: &dyn Journal) {
        self.link = Link::Greeting {
            session,
            again: now + self.ack_timeout * self.hello_patience,
        };
        self.last_hello = Some(now);
        self.streams.iter_mut().for_each(|stream| stream.greeted = true);
        let short = |id| {
            self.streams
                .iter()
                .find(|stream| stream.id() == id)
                .map(Stream::short)
        };
        let streams = journal.streams().into_iter().filter_map(|extent| {
            Some(pb::HelloStream {
                stream: extent.stream,
                short: short(extent.stream)?,
                first_seq: extent.first,
                last_seq: extent.last,
                acked_seq: extent.first - 1,
                torn: extent.torn,
            })
        });
        let hello = pb::Hello {
            session,
            streams: streams.collect(),
            agent: Some(self.agent.clone()),
        };
        self.control.push_back(Publication::control(Kind::Hello, &hello));
    }

    /// Tells the relay what waits if something waits for long, or does no longer.
    pub(super) fn look(&mut self, now: Instant, session: u64, journal: &dyn Journal) {
        self.next_status = now + self.status_every();
        let first = journal
            .streams()
            .into_iter()
            .find(|extent| extent.last >= extent.first)
            .map(|extent| (extent.stream, extent.first));
        // A batch that was already there at the last look, or more than what is on its way.
        let in_flight: usize = self.streams.iter().map(|stream| stream.in_flight().0).sum();
        let waiting_now = waiting(journal);
        let long = first.is_some() && (first == self.looked || waiting_now.batches > in_flight as u64);
        self.looked = first;
        if (long || self.told.batches > 0) && waiting_now != self.told {
            self.tell(now, session, journal);
        }
    }

    pub(super) fn tell(&mut self, now: Instant, session: u64, journal: &dyn Journal) {
        self.next_status = now + self.status_every();
        self.told = waiting(journal);
        self.control.push_back(status(true, session, Some(self.told)));
    }

    fn status_every(&self) -> Duration {
        match self.allowance {
            Allowance::Spent => SPENT_EVERY,
            _ => STATUS_EVERY,
        }
    }
}

fn status(online: bool, session: u64, waiting: Option<pb::Waiting>) -> Publication {
    let status = pb::Status {
        online,
        session,
        waiting,
    };
    Publication::control(Kind::Status, &status)
}

fn waiting(journal: &dyn Journal) -> pb::Waiting {
    let waiting = journal.waiting();
    pb::Waiting {
        batches: waiting.batches,
        readings: waiting.readings,
        bytes: waiting.bytes,
        oldest_us: waiting.oldest_us,
    }
}
