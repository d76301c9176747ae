//! What is sent next: of the streams in a row, the first record that the window lets through.

use std::ops::Range;
use std::time::Instant;

use headwater_proto::SeriesSet;
use headwater_proto::topic::Kind;

use super::budget::Allowance;
use super::publication::{Publication, data};
use super::{SPENT_EVERY, Stream, Uplink, config};
use crate::clock::Verdict;
use crate::journal::{Journal, Read};

/// Series sets whose publication is remembered; beyond it, some are published once more.
const SETS_MAX: usize = 64;
/// What a data message costs beside its payload, about: MQTT's header, the topic, TLS' record.
const PACKET: u64 = 64;

/// A series set that was published in this connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Published {
    pub(super) at: Instant,
    /// How often the relay asked for it.
    pub(super) asked: u32,
    /// It is to be published again.
    pub(super) again: bool,
}

impl Uplink {
    /// Until when batches are held back whose times are not known to be right; `None`: they are not.
    fn holds_back(&self, now: Instant) -> Option<Instant> {
        let until = self.answered.unwrap_or(now) + self.hold;
        (now < until).then_some(until)
    }

    /// The next message to publish; `None` while there is none, or the window is closed.
    pub(crate) fn next(&mut self, now: Instant, journal: &mut dyn Journal) -> Option<Publication> {
        self.held_back = None;
        if let Some(publication) = self.control.pop_front() {
            return Some(publication);
        }
        if !self.is_up() {
            return None;
        }
        if self.allowance == Allowance::Spent && now < self.spent_until {
            self.held_back = Some(self.spent_until);
            return None;
        }
        let (config::Window { batches, bytes }, all) = (&self.window, self.streams.len());
        let whole = (*batches, bytes.as_u64());
        let live = all.saturating_sub(1);
        if self.mode == config::Drain::InOrder || live == 0 {
            return self.next_of(now, 0..all, whole, journal);
        }
        let half = (whole.0 / 2, whole.1 / 2);
        let rest = (whole.0 - half.0, whole.1 - half.1);
        self.next_of(now, live..all, rest, journal)
            .or_else(|| self.next_of(now, 0..live, half, journal))
    }

    /// The next message of streams in a row, which have a share of the window: batches and bytes. One batch may always.
    fn next_of(
        &mut self,
        now: Instant,
        row: Range<usize>,
        share: (usize, u64),
        journal: &mut dyn Journal,
    ) -> Option<Publication> {
        let beside = row.end < self.streams.len();
        let streams = &self.streams[row.clone()];
        let (batches, bytes) = streams
            .iter()
            .map(Stream::in_flight)
            .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let most = if streams.iter().any(Stream::is_patient) {
            1
        } else {
            share.0
        };
        if beside && self.allowance != Allowance::All {
            return None;
        }
        for at in row {
            let stream = &self.streams[at];
            if !stream.greeted {
                return None;
            }
            let record = match journal.read(stream.id(), stream.next()) {
                Read::Record(record) => record,
                // What comes behind it waits for it.
                Read::Loading => return None,
                Read::None => continue,
            };
            let correction = match self.standing.judge(record.clock()) {
                Verdict::Correct(correction) => Some(correction),
                Verdict::Wait => match self.holds_back(now) {
                    Some(until) => {
                        self.held_back = Some(self.held_back.map_or(until, |at| at.min(until)));
                        continue;
                    }
                    None => None,
                },
                Verdict::Final => None,
            };
            let stream = &self.streams[at];
            let backlog = stream.is_backlog(record.seq);
            let (payload, set) = data(&record, stream.short(), correction.as_ref())?;
            let room = batches < most && bytes + payload.len() as u64 <= share.1;
            if batches > 0 && !room {
                return None;
            }
            if backlog && let Some(opens) = self.drain.opens_at(now) {
                self.held_back = Some(opens);
                return None;
            }
            if let Some(set) = set
                && let Some(publication) = self.publish_first(now, &set)
            {
                return Some(publication);
            }
            // Room was made for what is newer, since it was read.
            if !journal.sent(self.streams[at].id(), record.seq) {
                return None;
            }
            let cost = payload.len() as u64 + PACKET;
            if backlog {
                self.drain.take(now, cost);
            }
            if beside {
                self.counters.backlog_bytes += cost;
            }
            if self.allowance == Allowance::Spent {
                self.spent_until = now + SPENT_EVERY;
            }
            self.counters.sent += 1;
            let stream = &mut self.streams[at];
            if stream.sending(now, &record, payload.len() as u64) {
                self.counters.resent += 1;
            }
            return Some(Publication {
                kind: Kind::Data,
                payload,
            });
        }
        None
    }

    /// The set to publish before a batch that uses it can be sent.
    fn publish_first(&mut self, now: Instant, set: &SeriesSet) -> Option<Publication> {
        let before = self.sets.get(&set.hash()).copied();
        if before.is_some_and(|published| !published.again) {
            return None;
        }
        if self.sets.len() >= SETS_MAX {
            self.sets.clear();
        }
        let published = Published {
            at: now,
            asked: before.map_or(0, |published| published.asked),
            again: false,
        };
        self.sets.insert(set.hash(), published);
        Some(Publication::control(Kind::Series, &set.to_pb()))
    }
}
