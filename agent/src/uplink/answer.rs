//! What the relay answers, and what follows from it.

use std::time::{Duration, Instant};

use headwater_proto::{LossReason, frame, pb};

use super::{Link, PATIENCE_MAX, Stream, Uplink, stream};
use crate::journal::Journal;

/// Other boxes that were not spoken of for so long are gone.
const OTHERS_GONE: Duration = Duration::from_secs(600);
/// While there are others, it is logged so often.
const OTHERS_LOGGED: Duration = Duration::from_secs(3600);

/// Other boxes under this device's name.
#[derive(Debug)]
pub(super) struct Others {
    /// When the relay last spoke of them.
    told: Instant,
    /// When that was last logged.
    logged: Instant,
    boxes: Vec<pb::Box>,
}

impl Uplink {
    /// An acknowledgement has come.
    pub(crate) fn acknowledged(&mut self, now: Instant, payload: &[u8], journal: &mut dyn Journal) {
        let ack: pb::Ack = match frame::open_control("ack", payload) {
            Ok(ack) => ack,
            Err(error) => return self.ignore(&format!("it cannot be read: {error}")),
        };
        let outage = self.is_outage(now, journal, false);
        let current_acked = |uplink: &Self| uplink.streams.last().map(Stream::acked);
        let acked_before = current_acked(self);
        // First of all: what other boxes there are says what positions may mean.
        self.meet(now, &ack);
        if ack.time_us != 0 {
            self.relay_time_us = Some(ack.time_us);
        }
        for position in &ack.positions {
            self.position(now, position, ack.session != 0, journal);
        }
        for refusal in &ack.refusals {
            self.refused(refusal, journal);
        }
        let current = match self.link {
            Link::Down => return,
            Link::Greeting { session, .. } | Link::Up { session } => session,
        };
        let answers_hello = ack.session == current && matches!(self.link, Link::Greeting { .. });
        if answers_hello && !ack.want_hello {
            journal.told();
            self.link = Link::Up { session: current };
            self.answered.get_or_insert(now);
            let waiting = journal.waiting().batches;
            log::info!("the relay has answered; {waiting} batches wait");
        }
        if ack.want_hello {
            // One that crossed the last hello says nothing new.
            let settle = self.settle() * self.hello_patience;
            if self.last_hello.is_none_or(|last| now >= last + settle) {
                self.hello_patience = (self.hello_patience * 2).min(PATIENCE_MAX);
                self.streams.iter_mut().for_each(Stream::go_back);
                self.draw_again();
                self.greet(now, current, journal);
            }
            return;
        }
        // The relay is back from an outage of its own, which the connection outlived.
        let moved = current_acked(self) != acked_before;
        if (answers_hello || moved) && self.is_up() {
            let waits =
                self.is_outage(now, journal, answers_hello) || (outage && self.holds_current(journal));
            if waits && self.begin_drain(now, true, journal) {
                return self.greet(now, current, journal);
            }
        }
        for hash in &ack.want_series {
            let settle = self.settle();
            match self.sets.get_mut(hash) {
                // One that was published just now may have crossed the question.
                Some(published) if now < published.at + settle * (1 << published.asked) => {}
                Some(published) => {
                    published.asked = (published.asked + 1).min(3);
                    published.again = true;
                }
                None => log::debug!("the relay asks for series set {hash:08x}, which was not sent"),
            }
        }
        let go_back = ack.go_back || !ack.want_series.is_empty() || !ack.refusals.is_empty();
        // An answer to an earlier connection's hello does not know what was sent on this one.
        if go_back && (ack.session == 0 || ack.session == current) {
            let settle = self.settle();
            let named = |stream: &Stream| {
                ack.positions.is_empty()
                    || ack
                        .positions
                        .iter()
                        .any(|position| position.stream == stream.id())
            };
            for stream in self.streams.iter_mut().filter(|stream| named(stream)) {
                stream.ask_back(now, settle);
            }
        }
    }

    /// The other boxes that use this device's name at present, as far as the relay has told.
    pub(crate) fn other_boxes(&self, now: Instant) -> &[pb::Box] {
        match &self.others {
            Some(others) if now < others.told + OTHERS_GONE => &others.boxes,
            _ => &[],
        }
    }

    /// The relay's time, if it was told since this was last asked: microseconds since the Unix epoch.
    pub(crate) fn relay_time_us(&mut self) -> Option<i64> {
        self.relay_time_us.take()
    }

    fn holds_current(&self, journal: &dyn Journal) -> bool {
        journal
            .streams()
            .last()
            .is_some_and(|current| current.last >= current.first)
    }

    /// Other short numbers, should another box use one of these.
    fn draw_again(&mut self) {
        self.draw = self.draw.wrapping_add(1);
        for at in 0..self.streams.len() {
            let (before, rest) = self.streams.split_at_mut(at);
            if let Some((stream, after)) = rest.split_first_mut() {
                let others = before.iter().chain(after.iter());
                let short = stream::short(stream.id(), self.draw, &others);
                stream.rename(short);
            }
        }
    }

    fn position(
        &mut self,
        now: Instant,
        position: &pb::StreamPosition,
        answers_hello: bool,
        journal: &mut dyn Journal,
    ) {
        let Some(at) = self
            .streams
            .iter()
            .position(|stream| stream.id() == position.stream)
        else {
            // An answer to hello may name streams of earlier starts that ended with their process, and another box's.
            if !answers_hello && self.other_boxes(now).is_empty() {
                self.ignore(&format!("stream {:016x} is not of this agent", position.stream));
            }
            return;
        };
        let current = at + 1 == self.streams.len();
        let other_box = !self.other_boxes(now).is_empty();
        let stream = &mut self.streams[at];
        let seq = stream.within(position.seq, other_box);
        if seq > stream.highest_sent() {
            let highest = stream.highest_sent();
            return self.ignore(&format!(
                "it is for seq {seq} of stream {:016x}, of which {highest} was the last that was sent; \
                 is another device using this name?",
                position.stream
            ));
        }
        if seq <= stream.acked() {
            return;
        }
        let forgotten = journal.forget(position.stream, seq);
        stream.acknowledged(now, seq);
        self.forgotten(forgotten);
        self.hello_patience = 1;
        if current {
            self.quiet_since = None;
        }
        // What an earlier start left behind is gone once it is drained.
        self.follow(now, journal);
    }

    fn refused(&mut self, refusal: &pb::Refusal, journal: &mut dyn Journal) {
        let known = self
            .streams
            .iter()
            .any(|stream| stream.id() == refusal.stream && refusal.seq <= stream.highest_sent());
        if known && journal.give_up(refusal.stream, refusal.seq, LossReason::Refused) {
            log::error!(
                "the relay refuses batch {} of stream {:016x}: {}; a loss record takes its place",
                refusal.seq,
                refusal.stream,
                refusal.reason
            );
        }
    }

    /// Takes in what the relay says of other boxes.
    fn meet(&mut self, now: Instant, ack: &pb::Ack) {
        let boxes: Vec<_> = ack
            .boxes
            .iter()
            .filter(|other| other.process != self.agent.process)
            .cloned()
            .collect();
        let Some(other) = boxes.first() else { return };
        let logged = self.others.as_ref().map(|others| others.logged);
        let log = logged.is_none_or(|logged| now >= logged + OTHERS_LOGGED);
        if log {
            log::error!(
                "another box uses this device's name: host {:?}, boot {}, process {:016x} (this one: boot {}, process {:016x}). \
                 Nothing is lost or mixed up, but both fight for one connection and show as one device. Was an SD card cloned? \
                 Set `device` in one box's agent.toml to a name of its own, and restart it",
                other.hostname,
                other.boot_id,
                other.process,
                self.agent.boot_id,
                self.agent.process,
            );
        }
        self.others = Some(Others {
            told: now,
            logged: logged.filter(|_| !log).unwrap_or(now),
            boxes,
        });
    }

    fn ignore(&mut self, why: &str) {
        self.counters.ignored += 1;
        // One that comes with every hello would fill a log.
        if self.counters.ignored.is_power_of_two() {
            log::error!(
                "an acknowledgement is ignored: {why} ({} so far)",
                self.counters.ignored
            );
        }
    }
}
