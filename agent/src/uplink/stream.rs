//! How far one stream is sent and acknowledged.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::journal::{Extent, Record};

/// The longest acknowledgement time-out and pause between goings back, as a multiple of the first.
pub(super) const PATIENCE_MAX: u32 = 8;

/// One stream's positions. `acked < next ≤ highest_sent + 1`.
#[derive(Debug)]
pub(super) struct Stream {
    id: u64,
    short: u32,
    /// Everything through here is acknowledged.
    acked: u64,
    /// The record to send next.
    next: u64,
    /// The highest number ever sent.
    highest_sent: u64,
    /// Last number and bytes of each record that was sent since the last going back.
    in_flight: VecDeque<(u64, u64)>,
    bytes: u64,
    /// When in-flight batches were last acknowledged, or began to be in flight.
    progress: Instant,
    /// What the time-out is multiplied by. More than 1: one batch in flight at a time.
    patience: u32,
    /// Position and time of the last going back that was asked for.
    went_back: Option<(u64, Instant)>,
    go_back_at: Option<Instant>,
    /// It was begun by an earlier start that did not end cleanly: the journal may not have seen its end.
    torn: bool,
    /// It was begun by an earlier start.
    earlier: bool,
    /// Everything through here is backlog.
    backlog_through: u64,
    /// A hello of this connection has named it: only then the relay takes its batches.
    pub(super) greeted: bool,
}

/// A stream's number on the wire: from its random id, in three bytes. Were it counted from 1, a second box under this device's
/// name would speak in this one's stream. Should two boxes draw the same, `draw` makes it another.
pub(super) fn short<'a>(stream: u64, draw: u32, others: &(impl Iterator<Item = &'a Stream> + Clone)) -> u32 {
    const MASK: u32 = (1 << 21) - 1;
    let mut short = stream.rotate_right(21 * (draw % 64)) as u32 & MASK;
    while short == 0 || others.clone().any(|other| other.short == short) {
        short = (short + 1) & MASK;
    }
    short
}

impl Stream {
    /// A stream of which the journal holds `extent`, all of which may have been sent by an earlier start.
    pub(super) fn resumed(extent: Extent, short: u32, earlier: bool, now: Instant) -> Self {
        Self {
            id: extent.stream,
            short,
            acked: extent.first - 1,
            next: extent.first,
            highest_sent: extent.last,
            in_flight: VecDeque::new(),
            bytes: 0,
            progress: now,
            patience: 1,
            went_back: None,
            go_back_at: None,
            torn: earlier && extent.torn,
            earlier,
            backlog_through: if earlier { u64::MAX } else { 0 },
            greeted: false,
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn short(&self) -> u32 {
        self.short
    }

    pub(super) fn rename(&mut self, short: u32) {
        self.short = short;
    }

    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn highest_sent(&self) -> u64 {
        self.highest_sent
    }

    /// What a position that the relay names means here. It may know more of an earlier start's stream than was durable when that
    /// start was cut off; and another box, whose journal is a copy of this one, may have gone on with it before it was.
    pub(super) fn within(&self, seq: u64, other_box: bool) -> u64 {
        if self.torn || (self.earlier && other_box) {
            seq.min(self.highest_sent)
        } else {
            seq
        }
    }

    /// Whether something was sent that is not acknowledged.
    pub(super) fn holds(&self) -> bool {
        self.highest_sent > self.acked
    }

    /// Batches and bytes that are sent and not acknowledged.
    pub(super) fn in_flight(&self) -> (usize, u64) {
        (self.in_flight.len(), self.bytes)
    }

    /// Whether nothing came back for so long, or it was asked to go back so often, that one batch at a time is enough.
    pub(super) fn is_patient(&self) -> bool {
        self.patience > 1
    }

    /// Everything through `seq` is backlog.
    pub(super) fn mark_backlog(&mut self, seq: u64) {
        self.backlog_through = self.backlog_through.max(seq);
    }

    pub(super) fn is_backlog(&self, seq: u64) -> bool {
        seq <= self.backlog_through
    }

    /// The record is handed to the network; returns whether it was sent before.
    pub(super) fn sending(&mut self, now: Instant, record: &Record, bytes: u64) -> bool {
        let again = record.through <= self.highest_sent;
        if self.in_flight.is_empty() {
            self.progress = now;
        }
        self.next = record.through + 1;
        self.highest_sent = self.highest_sent.max(record.through);
        self.in_flight.push_back((record.through, bytes));
        self.bytes += bytes;
        again
    }

    /// Everything through `seq` is acknowledged; `acked < seq ≤ highest_sent`.
    pub(super) fn acknowledged(&mut self, now: Instant, seq: u64) {
        self.acked = seq;
        self.next = self.next.max(seq + 1);
        while let Some((_, bytes)) = self.in_flight.pop_front_if(|(through, _)| *through <= seq) {
            self.bytes -= bytes;
        }
        self.progress = now;
        self.patience = 1;
        self.go_back_at = None;
        self.went_back = None;
    }

    /// The next record to send is the first that is not acknowledged.
    pub(super) fn go_back(&mut self) {
        self.next = self.acked + 1;
        self.in_flight.clear();
        self.bytes = 0;
        self.go_back_at = None;
    }

    /// A connection begins: nothing is in flight, and nothing is known of how it answers.
    pub(super) fn start_over(&mut self) {
        self.go_back();
        self.patience = 1;
        self.went_back = None;
    }

    /// When [`Stream::tick`] has something to do.
    pub(super) fn deadline(&self, ack_timeout: Duration) -> Option<Instant> {
        let timeout = (!self.in_flight.is_empty()).then(|| self.progress + ack_timeout * self.patience);
        self.go_back_at.into_iter().chain(timeout).min()
    }

    /// Goes back if that is due; returns the time in which no acknowledgement came, if that is why.
    pub(super) fn tick(&mut self, now: Instant, ack_timeout: Duration) -> Option<Duration> {
        if self.go_back_at.is_some_and(|at| now >= at) {
            self.go_back_again(now);
        }
        let timeout = ack_timeout * self.patience;
        if self.in_flight.is_empty() || now < self.progress + timeout {
            return None;
        }
        self.patience = (self.patience * 2).min(PATIENCE_MAX);
        self.go_back();
        Some(timeout)
    }

    /// The relay asks to go back. Done at once the first time at a position. Further wishes may have crossed what was sent since:
    /// they are put off by `settle`, ever longer, and then one batch at a time is sent.
    pub(super) fn ask_back(&mut self, now: Instant, settle: Duration) {
        if self.in_flight.is_empty() {
            return;
        }
        match self.went_back {
            Some((position, at)) if position == self.acked => {
                let due = at + settle * self.patience;
                if now < due {
                    self.go_back_at.get_or_insert(due);
                } else {
                    self.go_back_again(now);
                }
            }
            _ => {
                self.go_back();
                self.went_back = Some((self.acked, now));
            }
        }
    }

    fn go_back_again(&mut self, now: Instant) {
        self.patience = (self.patience * 2).min(PATIENCE_MAX);
        self.go_back();
        self.went_back = Some((self.acked, now));
    }
}
