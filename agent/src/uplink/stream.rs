//! How far one stream is sent and acknowledged.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::journal::{Extent, Record};

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
    /// Position and time of the last going back that was asked for.
    went_back: Option<(u64, Instant)>,
    go_back_at: Option<Instant>,
    /// It was begun by an earlier start, whose end the journal may not have seen.
    earlier: bool,
}

/// A stream's number on the wire: from its random id, in three bytes. Were it counted from 1, a second box under this device's
/// name would speak in this one's stream.
pub(super) fn short<'a>(stream: u64, others: &(impl Iterator<Item = &'a Stream> + Clone)) -> u32 {
    const MASK: u32 = (1 << 21) - 1;
    let mut short = stream as u32 & MASK;
    while short == 0 || others.clone().any(|other| other.short == short) {
        short = (short + 1) & MASK;
    }
    short
}

impl Stream {
    /// A stream of which the journal holds `extent`, all of which may have been sent by an earlier start.
    pub(super) fn resumed(extent: Extent, short: u32, earlier: bool) -> Self {
        Self {
            id: extent.stream,
            short,
            acked: extent.first - 1,
            next: extent.first,
            highest_sent: extent.last,
            in_flight: VecDeque::new(),
            bytes: 0,
            went_back: None,
            go_back_at: None,
            earlier,
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn short(&self) -> u32 {
        self.short
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
    /// start was cut off.
    pub(super) fn within(&self, seq: u64) -> u64 {
        if self.earlier {
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

    /// When a going back that was put off is due.
    pub(super) fn go_back_at(&self) -> Option<Instant> {
        self.go_back_at
    }

    /// The record is handed to the network; returns whether it was sent before.
    pub(super) fn sending(&mut self, record: &Record, bytes: u64) -> bool {
        let again = record.through <= self.highest_sent;
        self.next = record.through + 1;
        self.highest_sent = self.highest_sent.max(record.through);
        self.in_flight.push_back((record.through, bytes));
        self.bytes += bytes;
        again
    }

    /// Everything through `seq` is acknowledged; `acked < seq ≤ highest_sent`.
    pub(super) fn acknowledged(&mut self, seq: u64) {
        self.acked = seq;
        self.next = self.next.max(seq + 1);
        while let Some((_, bytes)) = self.in_flight.pop_front_if(|(through, _)| *through <= seq) {
            self.bytes -= bytes;
        }
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

    /// The relay asks to go back. Done at once, but for a wish that comes within `settle` of the last one at the same
    /// position: it may have crossed what was sent since, and is put off.
    pub(super) fn ask_back(&mut self, now: Instant, settle: Duration) {
        if self.in_flight.is_empty() {
            return;
        }
        match self.went_back {
            Some((position, at)) if position == self.acked && now < at + settle => {
                self.go_back_at.get_or_insert(at + settle);
            }
            _ => {
                self.go_back();
                self.went_back(now);
            }
        }
    }

    /// Remembers a going back.
    pub(super) fn went_back(&mut self, now: Instant) {
        self.went_back = Some((self.acked, now));
    }
}
