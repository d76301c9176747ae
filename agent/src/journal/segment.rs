//! What a segment holds, as found by reading it once from beginning to end.

use std::sync::Arc;

use headwater_proto::{LossReason, SeriesSet};

use super::format::{self, BLOCK, Found, Item, Ledger};
use super::unfinished::Gap;

/// What a segment holds. Bodies of batches stay on flash.
#[derive(Debug, Default)]
pub(super) struct Segment {
    pub(super) entries: Vec<Entry>,
    pub(super) sets: Vec<Arc<SeriesSet>>,
    /// Each ledger, how many entries stand before it, and where it stands.
    pub(super) ledgers: Vec<(usize, usize, Ledger)>,
    /// Where the next write goes; `None` if something stands there already.
    pub(super) end: Option<usize>,
    /// Pieces that are neither records nor zero, and batches whose series set is missing.
    pub(super) bad: u64,
    /// Where those pieces begin.
    pub(super) places: Vec<Place>,
    /// How many of all that is bad may be what is left of a write that was not finished.
    pub(super) unfinished: u64,
    /// Where the last write begins.
    pub(super) last_write: usize,
    /// The checksum of all from there on; 0 where nothing is unfinished.
    pub(super) sum: u32,
    /// Bytes up to the end of the last record.
    pub(super) used: usize,
    /// Nothing of it can be read.
    pub(super) unreadable: bool,
    /// It was written by a program of this version, which is newer than ours.
    pub(super) newer: Option<u64>,
}

/// A piece that is neither record nor zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) at: usize,
    /// It may be what is left of a write that was not finished.
    pub(super) unfinished: bool,
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
        // Since the last record: where what is missing may begin, and the first piece that is bad.
        let (mut from, mut first) = (0, None);
        let mut gaps: Vec<(usize, Gap)> = Vec::new();
        while at < bytes.len() {
            match format::get(&bytes[at..], id, at) {
                Found::Item(item, length) => {
                    let to = Some(at);
                    gaps.extend(first.take().map(|(place, at)| (place, Gap { from, at, to })));
                    if at.is_multiple_of(BLOCK) {
                        segment.last_write = at;
                        gaps.clear();
                    }
                    segment.take(item, at, length);
                    from = at + length;
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
                        if first.is_none() {
                            from = from.next_multiple_of(BLOCK);
                        }
                        continue;
                    }
                    if !bad {
                        segment.bad += 1;
                        first = first.or(Some((segment.places.len(), at)));
                        let unfinished = false;
                        segment.places.push(Place { at, unfinished });
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
        let to = None;
        gaps.extend(first.map(|(place, at)| (place, Gap { from, at, to })));
        for (place, gap) in gaps.into_iter().filter(|(_, gap)| gap.is_unfinished(bytes)) {
            let of = segment.places[place..].iter_mut();
            for place in of.take_while(|place| gap.to.is_none_or(|to| place.at < to)) {
                place.unfinished = true;
                segment.unfinished += 1;
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
        let (sets, unfinished) = (std::mem::take(&mut segment.sets), segment.unfinished > 0);
        let (mut bad, mut late) = (0, 0);
        segment.entries.retain(|entry| {
            let named = entry.loss.is_some() || sets.iter().any(|set| set.hash() == entry.set);
            bad += u64::from(!named);
            late += u64::from(!named && unfinished && entry.offset as usize >= segment.last_write);
            named
        });
        segment.sets = sets;
        segment.bad += bad;
        segment.unfinished += late;
        if segment.unfinished > 0 {
            segment.sum = format::sum(&bytes[segment.last_write..]);
        }
        segment
    }

    /// What is bad in it is damage, whatever it looks like.
    pub(super) fn is_finished(&mut self) {
        self.unfinished = 0;
        self.places.iter_mut().for_each(|place| place.unfinished = false);
    }

    fn take(&mut self, item: Item, at: usize, length: usize) {
        let (offset, length) = (at as u32, length as u32);
        match item {
            Item::Ledger(ledger) => self.ledgers.push((self.entries.len(), at, ledger)),
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
            .filter(|(before, _, ledger)| *before == 0 && ledger.complete)
            .map(|(_, _, ledger)| ledger)
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
