//! Going along a stream's chain.

use std::io;
use std::sync::Arc;

use headwater_proto::LossReason;

use super::{BLOCK, Disk, Found, Segment, Store, Stream, format, is_damage};
use crate::journal::format::Item;
use crate::journal::ledger::Gone;
use crate::journal::segment::Entry;
use crate::journal::unfinished::{self, Unfinished};

/// Segments whose list of entries is kept.
const CACHED: usize = 3;

/// Where in a chain one is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The next number.
    pub(super) seq: u64,
    /// Readings of the stream before it.
    pub(super) before: u64,
    /// The segment in which it stands, or an earlier one.
    pub(super) segment: u64,
    /// The entry of that segment at which to look on.
    pub(super) at: usize,
}

/// One record of a chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) seq: u64,
    pub(super) through: u64,
    /// Readings of the stream before it, and through it.
    pub(super) before: u64,
    pub(super) after: u64,
    pub(super) what: What,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// It stands in a segment.
    Entry(u64, Entry),
    /// It was given up.
    Gone(Gone),
    /// It cannot be read.
    Missing,
}

impl Stream {
    /// The place of its first record that waits.
    pub(super) fn front(&self) -> Place {
        Place {
            seq: self.acked + 1,
            before: self.acked_readings,
            segment: self.home,
            at: 0,
        }
    }

    /// It goes on to `last` now, with `readings` in all.
    pub(super) fn extend(&mut self, segment: u64, last: u64, readings: u64) {
        self.last = last;
        self.readings = self.readings.max(readings);
        self.end = self.end.max(segment);
    }
}

impl<D: Disk> Store<D> {
    /// The next record of a stream; `None` at its end.
    pub(super) fn step(&mut self, stream: &Stream, place: &mut Place) -> io::Result<Option<Step>> {
        let (seq, before) = (place.seq, place.before);
        if seq > stream.last {
            return Ok(None);
        }
        let gone = stream.gone.iter().find(|gone| gone.through >= seq).copied();
        let (through, after, what) = match gone {
            Some(gone) if gone.seq <= seq => (
                gone.through,
                gone.before.saturating_add(gone.readings),
                What::Gone(gone),
            ),
            _ => match self.find(stream, place)? {
                Some((segment, entry)) if entry.seq <= seq => (
                    entry.through,
                    entry.before.saturating_add(entry.readings),
                    What::Entry(segment, entry),
                ),
                found => {
                    // A hole, up to whatever comes next.
                    let next = found.map(|(_, entry)| (entry.seq, entry.before));
                    let gone = gone.map(|gone| (gone.seq, gone.before));
                    let end = (stream.last + 1, stream.readings);
                    let (next, after) = next.into_iter().chain(gone).chain([end]).min().unwrap_or(end);
                    (next - 1, after, What::Missing)
                }
            },
        };
        let (through, after) = (through.min(stream.last), after.max(before));
        (place.seq, place.before) = (through + 1, after);
        Ok(Some(Step {
            seq,
            through,
            before,
            after,
            what,
        }))
    }

    /// The first entry that ends at or behind the place.
    fn find(&mut self, stream: &Stream, place: &mut Place) -> io::Result<Option<(u64, Entry)>> {
        loop {
            let at = self.segments.partition_point(|id| *id < place.segment);
            let Some(id) = self.segments.get(at).copied().filter(|id| *id <= stream.end) else {
                return Ok(None);
            };
            if id != place.segment {
                (place.segment, place.at) = (id, 0);
            }
            let segment = self.segment(id)?;
            let rest = segment.entries.get(place.at..).unwrap_or_default();
            let is_next = |entry: &Entry| {
                entry.stream == stream.id && entry.through >= place.seq && entry.seq <= stream.last
            };
            match rest.iter().position(is_next) {
                Some(more) => {
                    place.at += more;
                    return Ok(Some((id, rest[more])));
                }
                None => (place.segment, place.at) = (id + 1, 0),
            }
        }
    }

    /// What a segment holds.
    pub(super) fn segment(&mut self, id: u64) -> io::Result<Arc<Segment>> {
        if let Some(at) = self.cache.iter().position(|(cached, _)| *cached == id)
            && let Some(found) = self.cache.remove(at)
        {
            self.cache.push_back(found.clone());
            return Ok(found.1);
        }
        let mut segment = self.raw(id, false)?;
        if segment.unreadable {
            return Ok(segment);
        }
        let at = self.segments.partition_point(|other| *other <= id);
        if let Some(next) = self.segments.get(at).copied()
            && let Some(ledger) = self.first_ledger(next)?
            && let Some(segment) = Arc::get_mut(&mut segment)
        {
            segment.cut(&ledger);
        }
        while self.cache.len() >= CACHED {
            self.cache.pop_front();
        }
        self.cache.push_back((id, segment.clone()));
        Ok(segment)
    }

    /// What a segment holds, what was never confirmed among it. In the one that is the `newest` at the start, the last write may turn out not to be
    /// finished.
    pub(super) fn raw(&mut self, id: u64, newest: bool) -> io::Result<Arc<Segment>> {
        let (file, size) = match self.disk.open(&format::name(id), false) {
            Err(error) if is_damage(&error) => return self.unreadable(id, &error),
            opened => opened?,
        };
        let mut bytes = vec![0; size as usize];
        if self.disk.read_at(&file, 0, &mut bytes).is_err()
            && let Err(error) = self.read_blocks(&file, &mut bytes)
        {
            return self.unreadable(id, &error);
        }
        let mut segment = Segment::read(id, &bytes);
        if segment.unfinished > 0 {
            let (from, sum) = (segment.last_write as u64, segment.sum);
            let is_it = |known: &Unfinished| (known.segment, known.from, known.sum) == (id, from, sum);
            if !self.unfinished.iter().any(is_it) {
                match newest {
                    true => self.find_unfinished(id, from, sum),
                    false => segment.is_finished(),
                }
            }
        }
        let damaged = segment.bad - segment.unfinished;
        let known = self.suspect.get(&id).copied().unwrap_or(0);
        if damaged > known {
            log::error!(
                "{damaged} piece(s) of journal segment {} cannot be read; what they held is reported as lost",
                format::name(id)
            );
            self.quarantined += damaged - known;
            self.suspect.insert(id, damaged);
        }
        Ok(Arc::new(segment))
    }

    fn find_unfinished(&mut self, segment: u64, from: u64, sum: u32) {
        log::info!(
            "the last write to journal segment {} was not finished, so nothing of it had been promised; what can be read of it is kept",
            format::name(segment)
        );
        self.found_unfinished += 1;
        if self.unfinished.len() >= unfinished::MOST {
            self.unfinished.remove(0);
        }
        let holes = Vec::new();
        self.unfinished.push(Unfinished {
            segment,
            from,
            sum,
            holes,
        });
    }

    /// Reads what can be read of a file; the rest becomes bytes that are no record.
    fn read_blocks(&mut self, file: &D::File, bytes: &mut [u8]) -> io::Result<()> {
        let mut failed = Ok(());
        let mut some = false;
        for (number, block) in bytes.chunks_mut(BLOCK).enumerate() {
            match self.disk.read_at(file, (number * BLOCK) as u64, block) {
                Ok(_) => some = true,
                Err(error) => {
                    block.fill(0xff);
                    failed = Err(error);
                }
            }
        }
        if some { Ok(()) } else { failed }
    }

    /// Nothing of a segment can be read. If it can be moved aside, durably, or another file can be written, the medium works, and it is this
    /// file that is bad. If not, it may be the medium, which may come back.
    fn unreadable(&mut self, id: u64, error: &io::Error) -> io::Result<Arc<Segment>> {
        let place = match self.put_aside(id) {
            Err(moving) if is_damage(&moving) => {
                self.probe()?;
                self.leave(id);
                "It cannot be moved either, and stays where it is until fsck repairs the file system"
            }
            moved => moved.map(|()| "It is set aside in the folder `quarantine`")?,
        };
        log::error!(
            "journal segment {} cannot be read: {error}. {place}; what it held is reported as lost",
            format::name(id)
        );
        self.quarantined += 1;
        // What ledgers in it told is not on the medium any more.
        self.dirty.extend(self.streams.iter().map(|stream| stream.id));
        Ok(Arc::new(Segment {
            unreadable: true,
            ..Segment::default()
        }))
    }

    /// The ledger that a segment begins with, if it can be read.
    fn first_ledger(&mut self, id: u64) -> io::Result<Option<format::Ledger>> {
        let (file, size) = match self.disk.open(&format::name(id), false) {
            Err(error) if is_damage(&error) => return Ok(None),
            opened => opened?,
        };
        let mut length = BLOCK.min(size as usize);
        loop {
            let mut bytes = vec![0; length];
            let read = self.disk.read_at(&file, 0, &mut bytes);
            match format::get(&bytes, id, 0) {
                Found::Item(Item::Ledger(ledger), _) if read.is_ok() && ledger.complete => {
                    return Ok(Some(ledger));
                }
                _ if length as u64 == size => return Ok(None),
                // It may be longer than this.
                _ => length = size as usize,
            }
        }
    }
}

/// The reason that a loss record gives.
pub(super) fn reason(what: &What) -> LossReason {
    match what {
        What::Entry(_, entry) => entry.loss.unwrap_or(LossReason::Corrupt),
        What::Gone(gone) => gone.reason,
        What::Missing => LossReason::Corrupt,
    }
}
