//! Writing at the end of the newest segment, and beginning the next.

use std::io;
use std::sync::Arc;

use headwater_proto::{LossReason, SeriesSet};

use super::{BLOCK, Batch, Content, Disk, Item, Ledger, LossItem, Store, Stream, Tail, Unwritten, format};

impl<D: Disk> Store<D> {
    /// Writes records, and what else the medium does not know yet. When it returns, all of it is on the medium. Records of a stream come in
    /// order, without a hole.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn write(&mut self, mut records: &[Unwritten], sets: &[Arc<SeriesSet>]) -> io::Result<()> {
        let mut any_rolled = false;
        while !records.is_empty() || !self.dirty.is_empty() {
            let rolled = match &self.tail {
                Some(tail)
                    if tail.at + (BLOCK as u64) < tail.size
                        || (records.is_empty() && tail.at < tail.size) =>
                {
                    false
                }
                _ => {
                    self.roll()?;
                    true
                }
            };
            let taken = self.write_some(records, sets, rolled)?;
            if rolled {
                self.disk.sync_names()?;
                any_rolled = true;
            }
            records = &records[taken..];
            if !records.is_empty() || !self.dirty.is_empty() {
                self.tail = None;
            }
        }
        if any_rolled { self.retire() } else { Ok(()) }
    }

    /// Writes as many records as the tail has room for, in one piece, and returns how many.
    pub(super) fn write_some(
        &mut self,
        records: &[Unwritten],
        sets: &[Arc<SeriesSet>],
        fresh: bool,
    ) -> io::Result<usize> {
        let Some(mut tail) = self.tail.take() else {
            return Err(io::Error::other("there is no segment to write to"));
        };
        let mut bytes = Vec::new();
        if fresh {
            let ledger = Ledger {
                complete: true,
                streams: self.streams.clone(),
                unfinished: self.unfinished.clone(),
            };
            self.dirty.clear();
            format::put(&mut bytes, tail.id, tail.at, &Item::Ledger(ledger));
        }
        // The last block is left to ledgers, so that room can always be made.
        let room = (tail.size - BLOCK as u64).saturating_sub(tail.at) as usize;
        let mut taken = 0;
        for unwritten in records {
            let before = (bytes.len(), tail.sets.len());
            let item = self.item(unwritten)?;
            if let Item::Batch(batch) = &item
                && !tail.sets.contains(&batch.sealed.series_set)
                && let Some(set) = sets.iter().find(|set| set.hash() == batch.sealed.series_set)
            {
                tail.sets.push(set.hash());
                format::put_within(&mut bytes, tail.id, tail.at, &Item::Series((**set).clone()));
            }
            format::put_within(&mut bytes, tail.id, tail.at, &item);
            if bytes.len() > room {
                bytes.truncate(before.0);
                tail.sets.truncate(before.1);
                if fresh && taken == 0 {
                    return Err(io::Error::other("a record is larger than a segment"));
                }
                break;
            }
            self.note(tail.id, unwritten, &item);
            taken += 1;
        }
        if taken == records.len() && !self.dirty.is_empty() {
            let is_dirty = |stream: &&Stream| self.dirty.contains(&stream.id);
            let streams: Vec<Stream> = self.streams.iter().filter(is_dirty).cloned().collect();
            let ledger = Item::Ledger(Ledger {
                complete: false,
                streams,
                unfinished: Vec::new(),
            });
            let before = bytes.len();
            format::put(&mut bytes, tail.id, tail.at, &ledger);
            match bytes.len() as u64 > tail.size - tail.at {
                true => bytes.truncate(before),
                false => self.dirty.clear(),
            }
        }
        if !bytes.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
            self.disk.write_at(&tail.file, tail.at, &bytes)?;
            self.disk.sync(&tail.file)?;
            if !self.disk.is_named(&tail.file)? {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    "the journal's files are not there any more",
                ));
            }
            tail.at += bytes.len() as u64;
            self.cache.retain(|(id, _)| *id != tail.id);
        }
        self.tail = Some(tail);
        if self.dirty.is_empty() {
            self.prune();
        }
        Ok(taken)
    }

    fn item(&self, unwritten: &Unwritten) -> io::Result<Item> {
        let Unwritten { stream, record, .. } = unwritten;
        let known = self.streams.iter().find(|known| known.id == *stream);
        // What was acknowledged before it had to be written left a gap, which is no hole: nothing before it waits.
        let follows =
            |known: &&Stream| known.last + 1 == record.seq || known.last < record.seq && known.is_drained();
        let Some(known) = known.filter(follows) else {
            return Err(io::Error::other(format!(
                "record {} of stream {stream:016x} does not follow what is written",
                record.seq
            )));
        };
        let acked = if known.is_drained() {
            record.seq - 1
        } else {
            known.acked
        };
        Ok(match &record.content {
            Content::Batch { sealed, clock, .. } => Item::Batch(Batch {
                stream: *stream,
                seq: record.seq,
                acked,
                before: known.readings,
                readings: unwritten.readings,
                oldest_us: unwritten.oldest_us,
                clock: *clock,
                sealed: sealed.clone(),
            }),
            Content::Loss(loss) => Item::Loss(LossItem {
                stream: *stream,
                seq: record.seq,
                through: record.through,
                acked,
                before: known.readings,
                readings: loss.readings,
                reason: loss.reason,
            }),
        })
    }

    /// Takes note of a record that is being written to a segment.
    fn note(&mut self, segment: u64, unwritten: &Unwritten, item: &Item) {
        let record = &unwritten.record;
        let id = unwritten.stream;
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == id) else {
            return;
        };
        if stream.is_drained() {
            stream.begin_at(record.seq, segment);
            self.reading.remove(&id);
            self.acking.remove(&id);
        }
        stream.extend(segment, record.through, stream.readings + unwritten.readings);
        match item {
            Item::Batch(batch) => {
                stream.bytes += batch.sealed.body.len() as u64;
                if stream.oldest_us == 0 {
                    stream.oldest_us = unwritten.oldest_us;
                }
            }
            _ => {
                stream.lost += unwritten.readings;
                stream.covered += record.through - record.seq;
            }
        }
    }

    /// Begins a segment, and makes room for it where the bound asks for that.
    pub(super) fn roll(&mut self) -> io::Result<()> {
        self.tail = None;
        while self.needed() + self.bounds.segment > self.bounds.bytes
            && self.drop_oldest(LossReason::JournalFull)?
        {}
        self.prune();
        let id = self.left.max(self.segments.back().copied().unwrap_or(0)) + 1;
        let size = self.bounds.segment;
        let file = self.disk.create(&format::name(id), size)?;
        self.add(id, size);
        self.tail = Some(Tail {
            id,
            file,
            at: 0,
            size,
            sets: Vec::new(),
        });
        Ok(())
    }

    /// Bytes of the segments that hold something that waits.
    fn needed(&self) -> u64 {
        let needed = |id: &&u64| self.streams.iter().any(|stream| stream.needs(**id));
        let segments = self.segments.iter().filter(needed);
        segments.map(|id| self.sizes.of(*id)).sum()
    }
}
