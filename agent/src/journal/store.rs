//! The journal's files: what is decided about them, over a [`Disk`]. Synchronous; time is an argument.
//!
//! An error of a method leaves it unknown what is on the medium (a failed sync may never be repeated): the store is then dropped,
//! and opened again from what is there.
//!
//! What holds at every moment, whatever part of unsynced writes a power cut leaves:
//!
//! - What [`Store::write`] has returned for is read back, until it is acknowledged or given up.
//! - A segment is removed only when ledgers on the medium say of everything in it that it is acknowledged or given up.
//! - A number that is missing between others is a loss record, with the number of readings that it held: each record tells how many
//!   readings of its stream come before it.

mod drain;
mod walk;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use headwater_proto::{LossReason, SeriesSet};

use super::disk::Disk;
use super::format::{self, BLOCK, Batch, Found, Item, Ledger, LossItem};
use super::ledger::Stream;
use super::segment::Segment;
use super::{Content, Record, Waiting};

use walk::Place;

/// Streams that are kept apart; of more, the oldest make way.
const STREAMS: usize = 1024;

/// The bounds of a store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes of a segment.
    pub(crate) segment: u64,
    /// Bytes of all segments.
    pub(crate) bytes: u64,
    /// How old readings may become, in microseconds.
    pub(crate) age_us: Option<i64>,
}

/// A record to be written.
#[derive(Clone, Debug)]
pub(crate) struct Unwritten {
    pub(crate) stream: u64,
    pub(crate) record: Record,
    pub(crate) readings: u64,
    pub(crate) oldest_us: i64,
}

/// What is held of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) stream: u64,
    pub(crate) acked: u64,
    pub(crate) last: u64,
    pub(crate) ended: bool,
    pub(crate) waiting: Waiting,
}

/// What was durable when it was last asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Confirmed {
    streams: Vec<Stream>,
    current: Option<u64>,
    /// Streams that were being begun when an error came.
    pub(crate) unconfirmed: BTreeSet<u64>,
}

struct Tail<F> {
    id: u64,
    file: F,
    /// Where the next write goes.
    at: u64,
    size: u64,
    /// The series sets that stand in it.
    sets: Vec<u32>,
}

/// The journal's files.
pub(crate) struct Store<D: Disk> {
    disk: D,
    bounds: Bounds,
    /// In order.
    segments: VecDeque<u64>,
    streams: Vec<Stream>,
    current: Option<u64>,
    tail: Option<Tail<D::File>>,
    /// The segments read last.
    cache: VecDeque<(u64, Arc<Segment>)>,
    /// Streams of which the medium knows less than memory does.
    dirty: BTreeSet<u64>,
    /// Where reading and acknowledging of each stream have come to.
    reading: BTreeMap<u64, Place>,
    acking: BTreeMap<u64, Place>,
    /// What was sent of each stream keeps its extent.
    sent: BTreeMap<u64, u64>,
    /// Segments with pieces that cannot be read, and how many.
    suspect: BTreeMap<u64, u64>,
    quarantined: u64,
}

impl<D: Disk> Store<D> {
    /// Opens what is in the directory. What cannot be read is set aside, and never a reason to fail.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn open(disk: D, bounds: Bounds) -> io::Result<Self> {
        let mut store = Self {
            disk,
            bounds,
            segments: VecDeque::new(),
            streams: Vec::new(),
            current: None,
            tail: None,
            cache: VecDeque::new(),
            dirty: BTreeSet::new(),
            reading: BTreeMap::new(),
            acking: BTreeMap::new(),
            sent: BTreeMap::new(),
            suspect: BTreeMap::new(),
            quarantined: 0,
        };
        let names = store.disk.names()?;
        let mut segments: Vec<u64> = names.iter().filter_map(|name| format::segment(name)).collect();
        drop(names);
        segments.sort_unstable();
        store.segments = segments.into();
        store.recover()?;
        Ok(store)
    }

    /// Learns from the newest segment what is held; from earlier ones only if that one does not tell.
    fn recover(&mut self) -> io::Result<()> {
        let mut found: Vec<(u64, Arc<Segment>)> = Vec::new();
        for id in self.segments.clone().into_iter().rev() {
            let segment = self.raw(id)?;
            if let Some(version) = segment.newer {
                log::error!(
                    "journal segment {} has format {version}, which a newer program wrote; this one knows {}. \
                     It is set aside, unharmed, in the folder `quarantine`",
                    format::name(id),
                    format::VERSION
                );
                self.quarantined += 1;
                self.put_aside(id)?;
                continue;
            }
            if segment.is_blank() || (segment.entries.is_empty() && segment.ledgers.is_empty()) {
                // It was made, and nothing in it was ever promised; or nothing can be read any more.
                match segment.bad {
                    0 => self.disk.remove(&format::name(id))?,
                    _ => self.put_aside(id)?,
                }
                self.segments.retain(|other| *other != id);
                continue;
            }
            let complete = segment.first_ledger().is_some();
            found.push((id, segment));
            if complete {
                break;
            }
        }
        found.reverse();
        for at in 0..found.len() {
            let (id, segment) = found[at].clone();
            let next = found.get(at + 1).and_then(|(_, next)| next.first_ledger());
            match next {
                Some(next) => {
                    let mut cut = self.raw(id)?;
                    if let Some(segment) = Arc::get_mut(&mut cut) {
                        segment.cut(next);
                    }
                    self.replay(id, &cut);
                }
                None => self.replay(id, &segment),
            }
        }
        if let Some((id, segment)) = found.pop()
            && let Some(end) = segment.end
        {
            let opened = self.disk.open(&format::name(id), true);
            // What may only be read can be read.
            if let Ok((file, size)) = opened
                && (end as u64) < size
            {
                self.tail = Some(Tail {
                    id,
                    file,
                    at: end as u64,
                    size,
                    sets: segment.sets.iter().map(|set| set.hash()).collect(),
                });
            }
        }
        self.prune();
        Ok(())
    }

    fn replay(&mut self, id: u64, segment: &Segment) {
        let mut ledgers = segment.ledgers.iter().peekable();
        for at in 0..=segment.entries.len() {
            while let Some((_, ledger)) = ledgers.next_if(|(before, _)| *before <= at) {
                if ledger.complete {
                    self.streams.clone_from(&ledger.streams);
                    continue;
                }
                for stream in &ledger.streams {
                    match self.streams.iter_mut().find(|known| known.id == stream.id) {
                        Some(known) => known.clone_from(stream),
                        None => self.streams.push(stream.clone()),
                    }
                }
            }
            let Some(entry) = segment.entries.get(at) else {
                return;
            };
            let known = self.streams.iter().position(|stream| stream.id == entry.stream);
            let known = known.unwrap_or_else(|| {
                let mut stream = Stream::new(entry.stream, id, entry.acked);
                (stream.acked_readings, stream.readings) = (entry.before, entry.before);
                self.streams.push(stream);
                self.streams.len() - 1
            });
            let stream = &mut self.streams[known];
            if entry.seq <= stream.last {
                continue;
            }
            if entry.acked > stream.last {
                stream.begin_at(entry.acked + 1, id);
            }
            stream.extend(id, entry.through, entry.before.saturating_add(entry.readings));
            stream.bytes += u64::from(entry.bytes);
            if entry.loss.is_some() {
                stream.lost += entry.readings;
                stream.covered += entry.through - entry.seq;
            } else if stream.oldest_us == 0 {
                stream.oldest_us = entry.oldest_us.unwrap_or(0);
            }
        }
    }

    /// Begins a stream; the one before it is complete.
    /// Returns how many readings of the oldest streams are given up, because there are too many streams.
    pub(crate) fn begin(&mut self, id: u64) -> u64 {
        let mut given_up = 0;
        self.end();
        let segment = self.segments.back().copied().unwrap_or(1);
        self.streams.push(Stream::new(id, segment, 0));
        self.current = Some(id);
        self.dirty.insert(id);
        let held = self.streams.iter().filter(|stream| !stream.is_drained());
        let too_many = held.count().saturating_sub(STREAMS);
        let held = self.streams.iter_mut().filter(|stream| !stream.is_drained());
        for oldest in held.take(too_many) {
            let waiting = oldest.waiting();
            log::error!(
                "the journal holds more than {STREAMS} streams; the oldest, {:016x}, makes way with {} readings",
                oldest.id,
                waiting.readings + waiting.lost
            );
            given_up += waiting.readings + waiting.lost;
            oldest.drain();
            oldest.ended = true;
            self.dirty.insert(oldest.id);
        }
        given_up
    }

    /// What was durable before an error made it necessary to open the store again. Of the streams that this process writes, what
    /// stands behind it was never confirmed, and comes again; what is there no more has become loss records.
    pub(crate) fn restore(&mut self, confirmed: &Confirmed) {
        for before in &confirmed.streams {
            let Some(now) = self.streams.iter_mut().find(|stream| stream.id == before.id) else {
                if !before.is_drained() || Some(before.id) == confirmed.current {
                    let mut stream = before.clone();
                    stream.gone.clear();
                    (stream.bytes, stream.lost, stream.covered) = (0, 0, 0);
                    self.streams.push(stream);
                    self.dirty.insert(before.id);
                }
                continue;
            };
            now.acked = now.acked.max(before.acked);
            now.acked_readings = now.acked_readings.max(before.acked_readings);
            if now.last != before.last {
                (now.last, now.readings) = (before.last, before.readings);
                now.ended = before.ended;
                // The ledger of the next segment leaves out what stands behind this.
                self.tail = None;
                self.dirty.insert(before.id);
            }
        }
        // Begun, and never confirmed.
        let known = |stream: &Stream| confirmed.streams.iter().any(|before| before.id == stream.id);
        self.streams
            .retain(|stream| known(stream) || !confirmed.unconfirmed.contains(&stream.id));
        self.current = confirmed.current;
    }

    /// What is durable now.
    pub(crate) fn confirmed(&self) -> Confirmed {
        Confirmed {
            streams: self.streams.clone(),
            current: self.current,
            unconfirmed: BTreeSet::new(),
        }
    }

    /// Marks the current stream as complete; durable with the next write.
    pub(crate) fn end(&mut self) {
        let current = self.current.take();
        if let Some(stream) = self.streams.iter_mut().find(|stream| Some(stream.id) == current) {
            stream.ended = true;
            self.dirty.insert(stream.id);
        }
        self.prune();
    }

    /// The relay knows which streams are torn.
    pub(crate) fn told(&mut self) {
        for stream in &mut self.streams {
            if stream.is_drained() && Some(stream.id) != self.current {
                stream.ended = true;
            }
        }
        self.prune();
    }

    /// Lets go of streams of which nothing is left to tell.
    fn prune(&mut self) {
        let (current, dirty) = (self.current, &self.dirty);
        // Before its segments may go, the medium has to know that it is drained.
        self.streams.retain(|stream| {
            !stream.is_drained() || !stream.ended || Some(stream.id) == current || dirty.contains(&stream.id)
        });
        let streams = &self.streams;
        let known = |id: &u64| streams.iter().any(|stream| stream.id == *id);
        self.reading.retain(|id, _| known(id));
        self.acking.retain(|id, _| known(id));
        self.sent.retain(|id, _| known(id));
    }

    /// What was sent of a stream: its extent stays as it is.
    pub(crate) fn sent(&mut self, stream: u64, through: u64) {
        self.sent.insert(stream, through);
    }

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
    fn write_some(
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
                format::put(&mut bytes, tail.id, tail.at, &Item::Series((**set).clone()));
            }
            format::put(&mut bytes, tail.id, tail.at, &item);
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
    fn roll(&mut self) -> io::Result<()> {
        self.tail = None;
        while (self.needed() + 1) * self.bounds.segment > self.bounds.bytes
            && self.drop_oldest(LossReason::JournalFull)?
        {}
        self.prune();
        let id = self.segments.back().map_or(1, |newest| newest + 1);
        let size = self.bounds.segment;
        let file = self.disk.create(&format::name(id), size)?;
        self.segments.push_back(id);
        self.tail = Some(Tail {
            id,
            file,
            at: 0,
            size,
            sets: Vec::new(),
        });
        Ok(())
    }

    /// How many segments hold something that waits.
    fn needed(&self) -> u64 {
        let needed = |id: &&u64| self.streams.iter().any(|stream| stream.needs(**id));
        self.segments.iter().filter(needed).count() as u64
    }

    fn put_aside(&mut self, id: u64) -> io::Result<()> {
        self.segments.retain(|other| *other != id);
        self.suspect.remove(&id);
        self.disk.set_aside(&format::name(id))
    }

    /// The segments, in order.
    pub(crate) fn segments(&self) -> Vec<u64> {
        self.segments.iter().copied().collect()
    }

    /// What a segment holds; the store's own view of a chain leaves out what it knows to be stale.
    pub(crate) fn look(&mut self, id: u64) -> io::Result<Arc<Segment>> {
        self.raw(id)
    }

    /// What is held, in the order in which it was begun.
    pub(crate) fn held(&self) -> impl Iterator<Item = Held> + '_ {
        self.streams.iter().map(|stream| Held {
            stream: stream.id,
            acked: stream.acked,
            last: stream.last,
            ended: stream.ended,
            waiting: stream.waiting(),
        })
    }

    /// Bytes of the segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.len() as u64 * self.bounds.segment
    }

    /// Bytes written since the directory was opened.
    pub(crate) fn written(&self) -> u64 {
        self.disk.written()
    }

    /// Pieces that could not be read.
    pub(crate) fn quarantined(&self) -> u64 {
        self.quarantined
    }
}
