//! What a segment holds, as found by reading it once from beginning to end.

use std::sync::Arc;

use headwater_proto::{LossReason, SeriesSet};

use super::format::{self, BLOCK, Found, Item, Ledger};

/// What a segment holds. Bodies of batches stay on flash.
#[derive(Debug, Default)]
pub(super) struct Segment {
    pub(super) entries: Vec<Entry>,
    pub(super) sets: Vec<Arc<SeriesSet>>,
    /// Each ledger, and how many entries stand before it.
    pub(super) ledgers: Vec<(usize, Ledger)>,
    /// Where the next write goes; `None` if something stands there already.
    pub(super) end: Option<usize>,
    /// Pieces that are neither records nor zero, and batches whose series set is missing.
    pub(super) bad: u64,
    /// Where those pieces begin.
    pub(super) places: Vec<usize>,
    /// Bytes up to the end of the last record.
    pub(super) used: usize,
    /// Nothing of it can be read.
    pub(super) unreadable: bool,
    /// It was written by a program of this version, which is newer than ours.
    pub(super) newer: Option<u64>,
}

/// A batch or a loss, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) stream: u64,
    pub(super) seq: u64,
    pub(super) through: u64,
    /// The last number of the stream that was acknowledged when it was written.
    pub(super) acked: u64,
    /// Readings of the stream that were written before it.
    pub(super) before: u64,
    pub(super) readings: u64,
    /// Encoded bytes; 0 for a loss.
    pub(super) bytes: u32,
    /// Time of its oldest reading, where it is final.
    pub(super) oldest_us: Option<i64>,
    /// Where the record stands, and how long it is.
    pub(super) offset: u32,
    pub(super) length: u32,
    /// The series set that names its columns; 0 for a loss.
    pub(super) set: u32,
    pub(super) loss: Option<LossReason>,
}

impl Segment {
    /// Reads a segment from its bytes.
    pub(super) fn read(id: u64, bytes: &[u8]) -> Self {
        let mut segment = Self::default();
        let mut at = 0;
        let mut bad = false;
        let mut end = 0;
        while at < bytes.len() {
            match format::get(&bytes[at..], id, at) {
                Found::Item(item, length) => {
                    segment.take(item, at, length);
                    at += length;
                    end = at;
                    bad = false;
                }
                Found::Newer(version) if at == 0 => {
                    segment.newer = Some(version);
                    return segment;
                }
                found => {
                    let boundary = (at / BLOCK + 1) * BLOCK;
                    let rest = &bytes[at..boundary.min(bytes.len())];
                    if matches!(found, Found::Nothing) && rest.iter().all(|byte| *byte == 0) {
                        at = boundary;
                        bad = false;
                        continue;
                    }
                    if !bad {
                        segment.bad += 1;
                        segment.places.push(at);
                    }
                    bad = true;
                    // No record begins with zero.
                    at += match found {
                        Found::Nothing => rest.iter().take_while(|byte| **byte == 0).count(),
                        _ => 1,
                    };
                }
            }
        }
        segment.used = end;
        let end = end.next_multiple_of(BLOCK);
        let clean = segment.bad == 0
            && bytes
                .get(end..)
                .is_some_and(|rest| rest.iter().all(|byte| *byte == 0));
        segment.end = clean.then_some(end);
        // Without the names of its columns a batch is not readable.
        let Self {
            entries, sets, bad, ..
        } = &mut segment;
        let all = entries.len();
        entries.retain(|entry| entry.loss.is_some() || sets.iter().any(|set| set.hash() == entry.set));
        *bad += (all - entries.len()) as u64;
        segment
    }

    fn take(&mut self, item: Item, at: usize, length: usize) {
        let (offset, length) = (at as u32, length as u32);
        match item {
            Item::Ledger(ledger) => self.ledgers.push((self.entries.len(), ledger)),
            Item::Series(set) => self.sets.push(Arc::new(set)),
            Item::Batch(batch) => self.entries.push(Entry {
                stream: batch.stream,
                seq: batch.seq,
                through: batch.seq,
                acked: batch.acked,
                before: batch.before,
                readings: batch.readings,
                bytes: batch.sealed.body.len() as u32,
                oldest_us: batch.clock.is_none().then_some(batch.oldest_us),
                offset,
                length,
                set: batch.sealed.series_set,
                loss: None,
            }),
            Item::Loss(loss) => self.entries.push(Entry {
                stream: loss.stream,
                seq: loss.seq,
                through: loss.through.max(loss.seq),
                acked: loss.acked,
                before: loss.before,
                readings: loss.readings,
                bytes: 0,
                oldest_us: None,
                offset,
                length,
                set: 0,
                loss: Some(loss.reason),
            }),
        }
    }

    /// The ledger that it begins with.
    pub(super) fn first_ledger(&self) -> Option<&Ledger> {
        self.ledgers
            .first()
            .filter(|(at, ledger)| *at == 0 && ledger.complete)
            .map(|(_, ledger)| ledger)
    }

    /// Leaves out what the ledger of the next segment does not know: writes that failed, whose records were written again.
    pub(super) fn cut(&mut self, next: &Ledger) {
        self.entries.retain(|entry| {
            let stream = next.streams.iter().find(|stream| stream.id == entry.stream);
            stream.is_none_or(|stream| entry.seq <= stream.last)
        });
    }

    /// Whether nothing was ever written to it.
    pub(super) fn is_blank(&self) -> bool {
        self.end == Some(0)
    }

    /// The last time of a reading in it.
    pub(super) fn newest_us(&self) -> Option<i64> {
        self.entries.iter().filter_map(|entry| entry.oldest_us).max()
    }
}
