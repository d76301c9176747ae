//! Learning from the medium what is held, at the start and after an error.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::{Confirmed, Disk, Segment, Store, Stream, Tail, format};
use crate::journal::segment::Entry;

impl<D: Disk> Store<D> {
    /// Learns from the newest segment what is held; from earlier ones only if that one does not tell.
    pub(super) fn recover(&mut self) -> io::Result<()> {
        let mut found: Vec<(u64, Arc<Segment>)> = Vec::new();
        // Behind it there is nothing that was written, as far as can be told.
        let mut newest = true;
        for id in self.segments.clone().into_iter().rev() {
            let segment = self.raw(id, newest)?;
            if segment.unreadable {
                newest = false;
                continue;
            }
            if let Some(version) = segment.newer {
                log::error!(
                    "journal segment {} has format {version}, which a newer program wrote; this one knows {}. \
                     It is set aside, unharmed, in the folder `quarantine`",
                    format::name(id),
                    format::VERSION
                );
                self.quarantined += 1;
                self.put_aside(id)?;
                // It can be read, by another program.
                self.useless.pop();
                newest = false;
                continue;
            }
            if segment.is_blank() || (segment.entries.is_empty() && segment.ledgers.is_empty()) {
                // It was made, and nothing in it was ever promised; or nothing can be read any more.
                match segment.bad - segment.unfinished {
                    0 => {
                        self.disk.remove(&format::name(id))?;
                        self.strike(id);
                    }
                    _ => {
                        self.put_aside(id)?;
                        newest = false;
                    }
                }
                continue;
            }
            let complete = segment.first_ledger().is_some();
            // Where its first write was not finished, that before it may not have been, too.
            newest &= segment.unfinished > 0 && !complete;
            for unfinished in segment
                .first_ledger()
                .into_iter()
                .flat_map(|ledger| &ledger.unfinished)
            {
                if self.segments.binary_search(&unfinished.segment).is_ok() {
                    self.unfinished.push(unfinished.clone());
                }
            }
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
                    let mut cut = self.raw(id, false)?;
                    if let Some(segment) = Arc::get_mut(&mut cut) {
                        segment.cut(next);
                    }
                    self.replay(id, &cut);
                }
                None => {
                    let before = self.replay(id, &segment);
                    if at + 1 == found.len() {
                        let holes = self.holes(&segment, &before);
                        let mut ends = self.unfinished.iter_mut();
                        if let Some(end) = ends.find(|end| end.segment == id) {
                            end.holes = holes;
                        }
                    }
                }
            }
        }
        self.unfinished
            .sort_unstable_by_key(|unfinished| unfinished.segment);
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

    /// Takes in what a segment tells. Returns what it told of streams before its last write, if that was not finished: their last numbers.
    fn replay(&mut self, id: u64, segment: &Segment) -> Vec<(u64, u64)> {
        let mut before_last = None;
        let lasts = |streams: &[Stream]| -> Vec<(u64, u64)> {
            streams.iter().map(|stream| (stream.id, stream.last)).collect()
        };
        let is_late = |offset: usize| segment.unfinished > 0 && offset >= segment.last_write;
        let mut ledgers = segment.ledgers.iter().peekable();
        for at in 0..=segment.entries.len() {
            while let Some((_, offset, ledger)) = ledgers.next_if(|(before, ..)| *before <= at) {
                // A complete one is of before the write that it begins.
                if is_late(*offset) && !ledger.complete {
                    before_last.get_or_insert_with(|| lasts(&self.streams));
                }
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
                break;
            };
            if is_late(entry.offset as usize) {
                before_last.get_or_insert_with(|| lasts(&self.streams));
            }
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
        before_last.unwrap_or_default()
    }

    /// What is missing of a last write that was not finished, and stands before something that is there.
    fn holes(&self, segment: &Segment, before: &[(u64, u64)]) -> Vec<(u64, u64, u64)> {
        let mut holes = Vec::new();
        if segment.unfinished == 0 {
            return holes;
        }
        let late = |entry: &&Entry| entry.offset as usize >= segment.last_write;
        for stream in &self.streams {
            let known = before.iter().find(|(id, _)| *id == stream.id);
            let mut next = known.map_or(0, |(_, last)| *last).max(stream.acked) + 1;
            let entries = segment.entries.iter().filter(late);
            for entry in entries.filter(|entry| entry.stream == stream.id) {
                next = next.max(entry.acked + 1);
                if entry.seq > next {
                    holes.push((stream.id, next, entry.seq - 1));
                }
                next = next.max(entry.through + 1);
            }
            if stream.last >= next {
                holes.push((stream.id, next, stream.last));
            }
        }
        holes
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
}
