//! The journal on flash: what the pipeline sees of it. What is new is in memory; what is older than `sync_after` is with the
//! [`Keeper`](super::keeper::Keeper), which is asked, and answers later.
//!
//! Each record is counted in one place: in memory, until the keeper says that it is written, and then there. A record that is being
//! written does not change, and what is acknowledged of it meanwhile is forgotten when the answer is there.
//!
//! When flash cannot be written this is the journal in memory. When it cannot be read either, what stands on it alone is left out of
//! [`Journal::streams`] until it can, and if that holds up the current stream a new one begins, so that live data goes on.

mod answers;
mod known;
mod writing;

use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_proto::LossReason;
use tokio::sync::Notify;

use super::chain::{Chain, OVERHEAD};
use super::keeper::{Answer, Asked, Request, Response, State};
use super::sent::Sent;
use super::{Content, Entry, Extent, Figures, Forgotten, Journal, JournalMode, Read, Record, Waiting};

use known::{Known, extent};

/// Streams that are listed at a time: a relay takes in only so many.
const LISTED: usize = 32;
/// What is read back and not acknowledged may take so much memory, beside what is needed next.
const READ_AHEAD: usize = 192 * 1024;

/// The way to the keeper.
pub(super) trait Port: Send {
    /// Asks. Answers come in the order of what was asked.
    fn ask(&mut self, request: Request);

    /// An answer, if there is one.
    fn answer(&mut self) -> Option<Response>;
}

/// What flash may be used for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Bytes that may be held in memory.
    pub(crate) memory: usize,
    /// How long a record waits for its acknowledgement before it is written; `None`: for ever.
    pub(crate) sync_after: Option<Duration>,
    /// What waits to be written is written when it is as much as this.
    pub(crate) write_at: usize,
}

/// The journal on flash.
pub(crate) struct Flash {
    port: Box<dyn Port>,
    sent: Sent,
    terms: Terms,
    /// In the order in which they were begun; the current one is the last.
    streams: Vec<Known>,
    state: State,
    writing: bool,
    beginning: bool,
    closing: bool,
    closed: bool,
    /// At the end the keeper was asked to try once more.
    trying: bool,
    /// What is forgotten and was not told yet.
    forgotten: Forgotten,
    found: u64,
    opened: bool,
    /// Draws the id of a stream that has to begin.
    draw: Box<dyn FnMut() -> u64 + Send>,
    woken: Arc<Notify>,
}

impl Flash {
    /// A journal whose current stream is `stream`.
    pub(super) fn with(
        stream: u64,
        terms: Terms,
        port: Box<dyn Port>,
        woken: Arc<Notify>,
        sent: Sent,
        draw: Box<dyn FnMut() -> u64 + Send>,
    ) -> Self {
        Self {
            port,
            sent,
            terms,
            streams: vec![Known::new(stream, 1, 1)],
            state: State {
                fault: Some(crate::stats::JournalFault::Opening),
                ..State::default()
            },
            writing: false,
            beginning: false,
            closing: false,
            closed: false,
            trying: false,
            forgotten: Forgotten::default(),
            found: 0,
            opened: false,
            draw,
            woken,
        }
    }

    /// Whether nothing is asked of the keeper, and nothing has to be.
    pub(super) fn is_at_rest(&self) -> bool {
        let begun = self.terms.sync_after.is_none() || self.streams.iter().all(|known| known.begun);
        let forgotten = self.state.held.iter().all(|held| {
            let known = self.streams.iter().find(|known| known.stream() == held.stream);
            known.is_none_or(|known| (known.first - 1).min(known.kept) <= held.acked)
        });
        !self.writing && !self.beginning && forgotten && (begun || self.state.fault.is_some())
    }

    fn current(&mut self) -> &mut Known {
        self.streams.last_mut().expect("there is always a current stream")
    }

    fn known(&mut self, stream: u64) -> Option<&mut Known> {
        self.streams.iter_mut().find(|known| known.stream() == stream)
    }

    fn cost(&self) -> usize {
        self.streams.iter().map(|known| known.chain.cost()).sum()
    }

    /// Begins a stream of its own for live data, if the current one waits for what cannot be read.
    fn sidestep(&mut self) {
        let readable = self.state.readable;
        if !readable && self.current().is_kept() && !self.closing {
            let stream = (self.draw)();
            log::warn!("what waits on flash cannot be read now; new readings go on in stream {stream:016x}");
            self.open_stream(stream);
        }
    }
}

impl Journal for Flash {
    fn streams(&self) -> Vec<Extent> {
        let (current, earlier) = self
            .streams
            .split_last()
            .expect("there is always a current stream");
        let mut extents: Vec<Extent> = earlier
            .iter()
            .filter(|known| known.first <= known.last() || known.torn)
            .filter(|known| self.state.readable || !known.is_kept())
            .take(LISTED - 1)
            .map(extent)
            .collect();
        extents.push(extent(current));
        extents
    }

    fn open_stream(&mut self, stream: u64) {
        self.streams.push(Known::new(stream, 1, 1));
    }

    fn append(&mut self, entry: Entry) -> u64 {
        let seq = self.current().chain.append(entry);
        while self.cost() > self.terms.memory
            && self.streams.iter_mut().any(|known| known.chain.lose_oldest())
        {}
        seq
    }

    fn read(&mut self, stream: u64, seq: u64) -> Read {
        let readable = self.state.readable;
        let Some(known) = self.streams.iter_mut().find(|known| known.stream() == stream) else {
            return Read::None;
        };
        if let Some(record) = known.chain.read(seq) {
            return Read::Record(record);
        }
        if seq < known.first || seq > known.kept {
            return Read::None;
        }
        let at = known.loaded.partition_point(|record| record.seq < seq);
        let found = known.loaded.get(at).filter(|record| record.seq == seq).cloned();
        let next = match &found {
            None => Some(seq),
            // Half of it is left: time to ask for more.
            Some(_) if at * 2 >= known.loaded.len() && known.loaded_bytes < READ_AHEAD => {
                known.loaded.back().map(|last| last.through + 1)
            }
            Some(_) => None,
        };
        if let Some(next) = next.filter(|next| *next <= known.kept)
            && known.loading.is_none()
            && readable
        {
            known.loading = Some(next);
            self.port.ask(Request::Load { stream, seq: next });
        }
        found.map_or(Read::Loading, Read::Record)
    }

    fn sent(&mut self, stream: u64, seq: u64) -> bool {
        let Some(known) = self.streams.iter_mut().find(|known| known.stream() == stream) else {
            return false;
        };
        let read_back = seq <= known.kept;
        let may = self.sent.send(stream, seq, read_back.then_some(known.changes));
        match may {
            true => known.chain.sent(seq),
            false => {
                let through = self.sent.through(stream);
                known.unload(|record| record.seq > through);
                known.loading = Some(seq);
                self.port.ask(Request::Load { stream, seq });
            }
        }
        may
    }

    fn forget(&mut self, stream: u64, through: u64) -> Forgotten {
        let Some(known) = self.known(stream) else {
            return Forgotten::default();
        };
        known.first = known.first.max(through + 1);
        let first = known.first;
        known.unload(|record| record.through < first);
        let forgotten = match known.chain.is_pinned() {
            true => Forgotten::default(),
            false => known.chain.forget(through),
        };
        self.forget_kept(stream, through);
        self.take_up();
        forgotten
    }

    fn give_up(&mut self, stream: u64, seq: u64, reason: LossReason) -> bool {
        let Some(known) = self.known(stream) else {
            return false;
        };
        let in_memory = known.chain.give_up(seq, reason);
        let kept = (known.first..=known.kept).contains(&seq) || known.chain.is_pinned();
        if kept {
            // Loss records before it that were never sent become one with it.
            known.unload(|_| true);
            known.loading = None;
            self.port.ask(Request::GiveUp { stream, seq, reason });
        }
        in_memory || kept
    }

    fn told(&mut self) {
        let torn = |known: &Known| known.torn && known.first > known.last();
        if self.streams.iter().any(torn) {
            self.port.ask(Request::Told);
        }
    }

    fn waiting(&self) -> Waiting {
        let kept = self.state.held.iter().map(|held| held.waiting);
        let held = self.streams.iter().map(|known| known.chain.waiting());
        kept.chain(held).fold(Waiting::default(), Waiting::and)
    }

    fn tick(&mut self, now: Instant) -> Forgotten {
        while let Some(response) = self.port.answer() {
            self.take(response);
        }
        for known in &mut self.streams {
            known.chain.stamp(now);
        }
        self.sidestep();
        self.write(now);
        std::mem::take(&mut self.forgotten)
    }

    fn deadline(&self) -> Option<Instant> {
        self.can_write().then(|| self.due()).flatten()
    }

    fn woken(&self) -> Arc<Notify> {
        self.woken.clone()
    }

    fn figures(&self) -> Figures {
        let loaded: usize = self.streams.iter().map(|known| known.loaded_bytes).sum();
        let held = self.streams.iter().map(|known| known.chain.waiting());
        Figures {
            unwritten: held.fold(Waiting::default(), Waiting::and),
            mode: match (self.terms.sync_after, self.state.fault) {
                (None, _) => JournalMode::Memory,
                (Some(_), None) => JournalMode::Flash,
                (Some(_), Some(_)) => JournalMode::Fallback,
            },
            fault: self.state.fault,
            memory_bytes: (self.cost() + loaded) as u64,
            flash_bytes: self.state.bytes,
            flash_written: self.state.written,
            quarantined: self.state.quarantined,
            unfinished: self.state.unfinished,
            found: self.found,
        }
    }

    fn close(&mut self) {
        self.closing = true;
        if self.state.fault.is_some() && self.terms.sync_after.is_some() {
            // What kept it from being written may be over.
            self.trying = true;
            self.port.ask(Request::Again);
        }
    }

    fn is_closed(&self) -> bool {
        let hopeless = self.state.fault.is_some() && !self.writing && !self.trying;
        self.closed || self.terms.sync_after.is_none() || hopeless
    }
}
