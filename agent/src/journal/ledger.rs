//! What is known of one stream on flash, in a few bytes, however much of it is held.

use headwater_proto::LossReason;

use super::Waiting;
use super::format::{Reader, number, reason, reason_code, unzigzag, zigzag};

/// One stream.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stream {
    pub(super) id: u64,
    /// The last number that the relay has acknowledged.
    pub(super) acked: u64,
    /// Readings through `acked`. An acknowledgement that ends within a loss record leaves it where that record begins.
    pub(super) acked_readings: u64,
    /// The last number that is written.
    pub(super) last: u64,
    /// Readings through `last`.
    pub(super) readings: u64,
    /// Encoded bytes of the batches between; exact as long as nothing has become unreadable.
    pub(super) bytes: u64,
    /// Readings that loss records between speak of, as far as known.
    pub(super) lost: u64,
    /// How many numbers loss records between cover beyond one each.
    pub(super) covered: u64,
    /// The segment in which `acked` + 1 stands, or an earlier one.
    pub(super) home: u64,
    /// The segment in which `last` stands, or a later one.
    pub(super) end: u64,
    /// Time of the oldest waiting reading, or an older one that no longer waits, microseconds since the Unix epoch.
    pub(super) oldest_us: i64,
    /// It ended with a mark: nothing is missing behind `last`.
    pub(super) ended: bool,
    /// What was given up after it was written, in order, without overlap.
    pub(super) gone: Vec<Gone>,
}

/// Numbers that were given up after they were written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Gone {
    pub(super) seq: u64,
    pub(super) through: u64,
    /// Readings of the stream before it.
    pub(super) before: u64,
    pub(super) readings: u64,
    pub(super) reason: LossReason,
    /// Its extent is known outside.
    pub(super) sent: bool,
}

impl Stream {
    /// A stream that begins behind `acked`, in segment `segment` or later.
    pub(super) fn new(id: u64, segment: u64, acked: u64) -> Self {
        Self {
            id,
            acked,
            acked_readings: 0,
            last: acked,
            readings: 0,
            bytes: 0,
            lost: 0,
            covered: 0,
            home: segment,
            end: segment,
            oldest_us: 0,
            ended: false,
            gone: Vec::new(),
        }
    }

    /// Whether nothing of it waits.
    pub(super) fn is_drained(&self) -> bool {
        self.acked >= self.last
    }

    /// Whether something of it that waits stands in a segment.
    pub(super) fn needs(&self, segment: u64) -> bool {
        !self.is_drained() && (self.home..=self.end).contains(&segment)
    }

    pub(super) fn waiting(&self) -> Waiting {
        if self.is_drained() {
            return Waiting::default();
        }
        let all = self.readings - self.acked_readings;
        let lost = self.lost.min(all);
        Waiting {
            batches: (self.last - self.acked).saturating_sub(self.covered).max(1),
            readings: all - lost,
            bytes: self.bytes,
            lost,
            oldest_us: self.oldest_us,
        }
    }

    /// Everything through `last` is acknowledged.
    pub(super) fn drain(&mut self) {
        self.acked = self.last;
        self.acked_readings = self.readings;
        (self.bytes, self.lost, self.covered, self.oldest_us) = (0, 0, 0, 0);
        self.home = self.end;
        self.gone.clear();
    }

    /// The next record is `seq`, in a segment; everything before it is acknowledged.
    pub(super) fn begin_at(&mut self, seq: u64, segment: u64) {
        self.last = seq - 1;
        self.drain();
        (self.home, self.end) = (segment, segment);
    }

    /// Takes note of numbers that were given up; they overlap nothing in [`Stream::gone`].
    pub(super) fn give_up(&mut self, gone: Gone) {
        let at = self.gone.partition_point(|other| other.seq < gone.seq);
        self.lost += gone.readings;
        self.covered += gone.through - gone.seq;
        self.gone.insert(at, gone);
        self.merge(at + 1);
        self.merge(at);
    }

    /// Makes one of two that stand side by side, where neither was sent.
    fn merge(&mut self, at: usize) {
        let (Some(first), Some(second)) = (
            at.checked_sub(1).and_then(|first| self.gone.get(first)),
            self.gone.get(at),
        ) else {
            return;
        };
        if first.through + 1 != second.seq || first.sent || second.sent {
            return;
        }
        let second = *second;
        self.gone.remove(at);
        let first = &mut self.gone[at - 1];
        first.through = second.through;
        first.readings = (second.before + second.readings).saturating_sub(first.before);
        if first.reason != second.reason {
            first.reason = LossReason::JournalFull;
        }
        self.covered += 1;
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend(self.id.to_le_bytes());
        for value in [
            self.acked,
            self.acked_readings,
            self.last - self.acked,
            self.readings - self.acked_readings,
            self.bytes,
            self.lost,
            self.covered,
            self.home,
            self.end,
            zigzag(self.oldest_us),
            u64::from(self.ended),
            self.gone.len() as u64,
        ] {
            number(out, value);
        }
        for gone in &self.gone {
            for value in [gone.seq, gone.through - gone.seq, gone.before, gone.readings] {
                number(out, value);
            }
            out.extend([reason_code(gone.reason), u8::from(gone.sent)]);
        }
    }

    pub(super) fn get(reader: &mut Reader<'_>) -> Option<Self> {
        let id = u64::from_le_bytes(reader.array()?);
        let (acked, acked_readings) = (reader.number()?, reader.number()?);
        let mut stream = Self {
            id,
            acked,
            acked_readings,
            last: acked.checked_add(reader.number()?)?,
            readings: acked_readings.checked_add(reader.number()?)?,
            bytes: reader.number()?,
            lost: reader.number()?,
            covered: reader.number()?,
            home: reader.number()?,
            end: reader.number()?,
            oldest_us: unzigzag(reader.number()?),
            ended: reader.number()? != 0,
            gone: Vec::new(),
        };
        for _ in 0..reader.number()? {
            let seq = reader.number()?;
            stream.gone.push(Gone {
                seq,
                through: seq.checked_add(reader.number()?)?,
                before: reader.number()?,
                readings: reader.number()?,
                reason: reason(reader.byte()?)?,
                sent: reader.byte()? != 0,
            });
        }
        Some(stream)
    }
}
