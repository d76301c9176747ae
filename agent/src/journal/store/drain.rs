//! Reading back, forgetting, and letting segments go.

use std::io;

use headwater_proto::{Loss, LossReason};

use super::walk::{Place, Step, What, reason};
use super::{Content, Disk, Found, Item, Record, Store, Stream, format, is_damage};
use crate::journal::Forgotten;
use crate::journal::ledger::Gone;
use crate::journal::segment::Segment;

impl<D: Disk> Store<D> {
    /// Records of a stream from `seq` on, about `budget` bytes of them, one at least if there is one; and how often something of the stream
    /// had been given up by then.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn load(&mut self, id: u64, seq: u64, budget: usize) -> io::Result<(Vec<Record>, u64)> {
        loop {
            let changes = self.sent.changes(id);
            let records = self.records(id, seq, budget)?;
            // What turned out to be unreadable may have become one with what stands before it.
            if self.sent.changes(id) == changes {
                return Ok((records, changes));
            }
            self.reading.remove(&id);
        }
    }

    fn records(&mut self, id: u64, seq: u64, budget: usize) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        let Some(stream) = self.streams.iter().find(|stream| stream.id == id).cloned() else {
            return Ok(records);
        };
        let mut place = match self.reading.get(&id) {
            Some(place) if place.seq == seq => *place,
            _ => stream.front(),
        };
        while place.seq < seq {
            let Some(step) = self.step(&stream, &mut place)? else {
                return Ok(records);
            };
            if step.through >= seq {
                // A part of it was sent when it was several; the rest tells of them all.
                records.push(Record {
                    seq,
                    through: step.through,
                    content: Content::Loss(Loss {
                        through: step.through,
                        readings: step.after - step.before,
                        reason: reason(&step.what),
                    }),
                });
            }
        }
        let mut bytes = 0;
        let mut open: Option<(u64, D::File)> = None;
        while bytes < budget {
            let Some(step) = self.step(&stream, &mut place)? else {
                break;
            };
            let content = match step.what {
                What::Entry(segment, entry) if entry.loss.is_none() => {
                    let file = match open.take() {
                        Some((id, file)) if id == segment => file,
                        _ => self.disk.open(&format::name(segment), false)?.0,
                    };
                    let mut record = vec![0; entry.length as usize];
                    let read = self.disk.read_at(&file, u64::from(entry.offset), &mut record);
                    open = Some((segment, file));
                    let parsed = self.segment(segment)?;
                    match read.map(|_| format::get(&record, segment, entry.offset as usize)) {
                        Ok(Found::Item(Item::Batch(batch), _)) => batch_content(&parsed, batch),
                        // It could be read before.
                        _ => None,
                    }
                }
                _ => None,
            };
            let content = content.unwrap_or_else(|| {
                Content::Loss(Loss {
                    through: step.through,
                    readings: step.after - step.before,
                    reason: reason(&step.what),
                })
            });
            bytes += match &content {
                Content::Batch { sealed, .. } => sealed.body.len() + 64,
                Content::Loss(_) => 64,
            };
            if let (Content::Loss(_), What::Entry(_, entry)) = (&content, step.what)
                && entry.loss.is_none()
            {
                self.lose(id, &step, LossReason::Corrupt);
            }
            records.push(Record {
                seq: step.seq,
                through: step.through,
                content,
            });
        }
        self.reading.insert(id, place);
        Ok(records)
    }

    /// The relay has acknowledged everything through a number.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn forget(&mut self, id: u64, through: u64) -> io::Result<Forgotten> {
        let mut forgotten = Forgotten::default();
        let Some(known) = self.streams.iter().position(|stream| stream.id == id) else {
            return Ok(forgotten);
        };
        let mut stream = self.streams[known].clone();
        let front = stream.front();
        let mut place = match self.acking.get(&id) {
            Some(place) if place.seq == front.seq && place.before == front.before => *place,
            _ => front,
        };
        let through = through.min(stream.last);
        while stream.acked < through {
            let before = place;
            let Some(step) = self.step(&stream, &mut place)? else {
                break;
            };
            if step.through > through {
                // How many of its readings the acknowledged part held is not known: they count with the rest.
                stream.acked = through;
                place = Place {
                    seq: through + 1,
                    ..before
                };
                break;
            }
            let all = step.after - step.before;
            match step.what {
                What::Entry(_, entry) if entry.loss.is_none() => {
                    let delivered = entry.readings.min(all);
                    forgotten.delivered += delivered;
                    forgotten.lost += all - delivered;
                    stream.bytes = stream.bytes.saturating_sub(u64::from(entry.bytes));
                }
                what => {
                    forgotten.lost += all;
                    if !matches!(what, What::Missing) {
                        stream.uncount(&step);
                    }
                }
            }
            (stream.acked, stream.acked_readings) = (step.through, step.after);
        }
        stream.gone.retain(|gone| gone.through > stream.acked);
        stream.home = place.segment.min(stream.end);
        if stream.is_drained() {
            stream.drain();
        } else if let Ok(segment) = self.segment(stream.home) {
            let rest = segment.entries.get(place.at..).unwrap_or_default();
            let next = rest
                .iter()
                .find(|entry| entry.stream == id && entry.seq > stream.acked);
            stream.oldest_us = next.and_then(|entry| entry.oldest_us).unwrap_or(stream.oldest_us);
        }
        self.acking.insert(id, place);
        self.streams[known] = stream;
        self.dirty.insert(id);
        self.prune();
        Ok(forgotten)
    }

    /// Puts a loss record in the place of a batch; `false` if there is no such batch.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn give_up(&mut self, id: u64, seq: u64, why: LossReason) -> io::Result<bool> {
        let Some(stream) = self.streams.iter().find(|stream| stream.id == id).cloned() else {
            return Ok(false);
        };
        let mut place = stream.front();
        while let Some(step) = self.step(&stream, &mut place)? {
            if step.seq >= seq {
                let is_batch = matches!(step.what, What::Entry(_, entry) if entry.loss.is_none());
                if step.seq == seq && is_batch {
                    self.lose(id, &step, why);
                    return Ok(true);
                }
                break;
            }
        }
        Ok(false)
    }

    /// Puts a loss record in the place of one record.
    fn lose(&mut self, id: u64, step: &Step, reason: LossReason) {
        let sent = self.sent.give_up(id);
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == id) {
            for gone in &mut stream.gone {
                gone.sent |= gone.seq <= sent;
            }
            stream.uncount(step);
            stream.give_up(Gone {
                seq: step.seq,
                through: step.through,
                before: step.before,
                readings: step.after - step.before,
                reason,
                sent: step.seq <= sent,
            });
            self.dirty.insert(id);
        }
    }

    /// Gives up everything that waits in the oldest segment, unless it is the newest too; returns whether that was so. The segment goes with
    /// [`Store::retire`].
    pub(super) fn drop_oldest(&mut self, why: LossReason) -> io::Result<bool> {
        let is_needed = |id: &u64| self.streams.iter().any(|stream| stream.needs(*id));
        // Those that nobody needs go with it.
        let Some(at) = self.segments.iter().position(is_needed) else {
            return Ok(false);
        };
        if at + 1 >= self.segments.len() {
            return Ok(false);
        }
        let (segment, next) = (self.segments[at], self.segments[at + 1]);
        let mut given_up = 0;
        for known in 0..self.streams.len() {
            if !self.streams[known].needs(segment) {
                continue;
            }
            let stream = self.streams[known].clone();
            let mut place = stream.front();
            let mut steps: Vec<Step> = Vec::new();
            let mut here = 0;
            while let Some(step) = self.step(&stream, &mut place)? {
                match step.what {
                    What::Entry(id, _) if id > segment => break,
                    What::Entry(..) => here = steps.len() + 1,
                    What::Missing if place.segment > segment => break,
                    _ => {}
                }
                steps.push(step);
            }
            for step in &steps[..here] {
                given_up += step.after - step.before;
                match step.what {
                    What::Gone(_) => {}
                    _ => self.lose(stream.id, step, why),
                }
            }
            self.streams[known].home = next.min(self.streams[known].end);
            if self.streams[known].home == segment {
                self.streams[known].home = next;
                self.streams[known].end = self.streams[known].end.max(next);
            }
            self.dirty.insert(stream.id);
        }
        log::warn!(
            "journal segment {} makes way with {given_up} readings ({why:?}); loss records stand in their place",
            format::name(segment)
        );
        Ok(true)
    }

    /// Gives up what is too old, as of the time `now_us`.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn expire(&mut self, now_us: i64) -> io::Result<()> {
        let Some(age) = self.bounds.age_us else {
            return Ok(());
        };
        let mut some = false;
        while let Some(oldest) = self.segments.iter().copied().find(|id| {
            let needs = |stream: &Stream| stream.needs(*id);
            self.streams.iter().any(needs)
        }) {
            let newest = self.segment(oldest)?.newest_us();
            let old = newest.is_some_and(|newest| newest < now_us.saturating_sub(age));
            if !old || !self.drop_oldest(LossReason::Retention)? {
                break;
            }
            some = true;
        }
        if some { self.retire() } else { Ok(()) }
    }

    /// Whether [`Store::retire`] has something to do.
    pub(crate) fn has_dead(&self) -> bool {
        self.segments.iter().any(|id| self.is_dead(*id))
    }

    fn is_dead(&self, id: u64) -> bool {
        self.segments.back() != Some(&id) && !self.streams.iter().any(|stream| stream.needs(id))
    }

    /// Removes the segments of which nothing waits, after the medium knows that.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn retire(&mut self) -> io::Result<()> {
        if !self.has_dead() {
            return Ok(());
        }
        if !self.dirty.is_empty() {
            self.write(&[], &[])?;
        }
        let dead: Vec<u64> = self
            .segments
            .iter()
            .copied()
            .filter(|id| self.is_dead(*id))
            .collect();
        for id in dead {
            match self.suspect.contains_key(&id) {
                true => self.put_aside(id)?,
                false => match self.disk.remove(&format::name(id)) {
                    Err(error) if is_damage(&error) => self.leave(id),
                    removed => {
                        removed?;
                        self.strike(id);
                    }
                },
            }
        }
        self.disk.sync_names()
    }
}

impl Stream {
    /// A record that was counted as waiting is no longer, or as something else.
    fn uncount(&mut self, step: &Step) {
        let (loss, bytes) = match step.what {
            What::Entry(_, entry) => (entry.loss.is_some(), entry.bytes),
            What::Gone(_) => (true, 0),
            What::Missing => (false, 0),
        };
        self.bytes = self.bytes.saturating_sub(u64::from(bytes));
        if loss {
            self.lost = self.lost.saturating_sub(step.after - step.before);
            self.covered = self.covered.saturating_sub(step.through - step.seq);
        }
    }
}

fn batch_content(segment: &Segment, batch: format::Batch) -> Option<Content> {
    let hash = batch.sealed.series_set;
    let series = segment.sets.iter().find(|set| set.hash() == hash)?.clone();
    Some(Content::Batch {
        sealed: batch.sealed,
        series,
        clock: batch.clock,
    })
}
