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

mod append;
mod drain;
mod recover;
mod sizes;
mod walk;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use super::disk::{Disk, is_damage};
use super::format::{self, BLOCK, Batch, Found, Item, Ledger, LossItem};
use super::ledger::Stream;
use super::segment::Segment;
use super::sent::Sent;
use super::unfinished::Unfinished;
use super::{Content, Record, Waiting};

use sizes::Sizes;
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

/// What is written, and removed at once, to see whether anything can be.
const PROBE: &str = "probe";

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
    sizes: Sizes,
    /// Bytes of all of them.
    bytes: u64,
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
    sent: Sent,
    /// Segments with pieces that cannot be read, and how many.
    suspect: BTreeMap<u64, u64>,
    /// Of segments that are there, the writes at their ends that were not finished.
    unfinished: Vec<Unfinished>,
    /// How many of those were found by this store.
    found_unfinished: u64,
    /// The newest segment that was left where it is, or set aside.
    left: u64,
    /// Those of which nothing could be used.
    useless: Vec<u64>,
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
            sizes: Sizes::default(),
            bytes: 0,
            streams: Vec::new(),
            current: None,
            tail: None,
            cache: VecDeque::new(),
            dirty: BTreeSet::new(),
            reading: BTreeMap::new(),
            acking: BTreeMap::new(),
            sent: Sent::default(),
            suspect: BTreeMap::new(),
            unfinished: Vec::new(),
            found_unfinished: 0,
            left: 0,
            useless: Vec::new(),
            quarantined: 0,
        };
        let files = store.disk.files()?;
        let mut segments: Vec<u64> = files.iter().filter_map(|name| format::segment(name)).collect();
        drop(files);
        segments.sort_unstable();
        if let (Some(&first), Some(&last)) = (segments.first(), segments.last()) {
            let (least, most) = (store.size(first)?, store.size(last)?);
            store.measure(&segments, least, most)?;
        }
        store.recover()?;
        Ok(store)
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
    }

    /// What is sent keeps its numbers.
    pub(super) fn heed(&mut self, sent: Sent) {
        self.sent = sent;
    }

    fn size(&mut self, id: u64) -> io::Result<u64> {
        match self.disk.size(&format::name(id)) {
            // It is left out when it is read.
            Err(error) if is_damage(&error) => Ok(0),
            size => size,
        }
    }

    /// Adds segments whose first and last have these sizes. The size changes with a setting, so that ends which are equal stand for what is
    /// between them, and opening asks for few of thousands.
    fn measure(&mut self, segments: &[u64], first: u64, last: u64) -> io::Result<()> {
        if first == last || segments.len() < 3 {
            for (at, &id) in segments.iter().enumerate() {
                self.add(id, if at == 0 { first } else { last });
            }
            return Ok(());
        }
        let (before, after) = segments.split_at(segments.len() / 2);
        let end = self.size(before[before.len() - 1])?;
        self.measure(before, first, end)?;
        let begin = self.size(after[0])?;
        self.measure(after, begin, last)
    }

    /// A segment, newer than all others.
    fn add(&mut self, id: u64, size: u64) {
        self.segments.push_back(id);
        self.sizes.note(id, size);
        self.bytes += size;
    }

    /// A segment is there no more.
    fn strike(&mut self, id: u64) {
        if let Ok(at) = self.segments.binary_search(&id) {
            self.segments.remove(at);
            self.bytes -= self.sizes.of(id);
        }
        self.cache.retain(|(cached, _)| *cached != id);
        self.unfinished.retain(|unfinished| unfinished.segment != id);
    }

    fn put_aside(&mut self, id: u64) -> io::Result<()> {
        self.disk.set_aside(&format::name(id))?;
        self.leave(id);
        Ok(())
    }

    /// A segment is not used any more; its number is not used again.
    fn leave(&mut self, id: u64) {
        if self.tail.as_ref().is_some_and(|tail| tail.id == id) {
            self.tail = None;
        }
        self.strike(id);
        self.suspect.remove(&id);
        self.left = self.left.max(id);
        if self.useless.len() < STREAMS {
            self.useless.push(id);
        }
    }

    /// Whether something can be written, durably.
    fn probe(&mut self) -> io::Result<()> {
        self.disk.create(PROBE, BLOCK as u64)?;
        self.disk.remove(PROBE)?;
        self.disk.sync_names()
    }

    /// The segments, in order.
    pub(crate) fn segments(&self) -> Vec<u64> {
        self.segments.iter().copied().collect()
    }

    /// Segments of which nothing can be used, as far as that was found.
    pub(crate) fn useless(&self) -> &[u64] {
        &self.useless
    }

    /// What a segment holds; the store's own view of a chain leaves out what it knows to be stale.
    pub(crate) fn look(&mut self, id: u64) -> io::Result<Arc<Segment>> {
        self.raw(id, false)
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
        self.bytes
    }

    /// Bytes written since the directory was opened.
    pub(crate) fn written(&self) -> u64 {
        self.disk.written()
    }

    /// Segments whose last write was found unfinished.
    pub(crate) fn unfinished(&self) -> u64 {
        self.found_unfinished
    }

    /// Whether these numbers were in a write that was not finished: they were never promised.
    pub(crate) fn was_unfinished(&self, stream: u64, first: u64, last: u64) -> bool {
        (self.unfinished.iter()).any(|unfinished| unfinished.has_hole(stream, first, last))
    }

    /// Pieces that could not be read.
    pub(crate) fn quarantined(&self) -> u64 {
        self.quarantined
    }
}
