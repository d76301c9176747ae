//! The journal on flash: what the pipeline sees of it. What is new is in memory; what is older than `sync_after` is with the
//! [`Keeper`](super::keeper::Keeper), which is asked, and answers later.
//!
//! Each record is counted in one place: in memory, until the keeper says that it is written, and then there. A record that is being
//! written does not change, and what is acknowledged of it meanwhile is forgotten when the answer is there.
//!
//! When flash cannot be written this is the journal in memory. When it cannot be read either, what stands on it alone is left out of
//! [`Journal::streams`] until it can, and if that holds up the current stream a new one begins, so that live data goes on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_proto::{LossReason, SeriesSet};
use tokio::sync::Notify;

use super::chain::{Chain, OVERHEAD};
use super::keeper::{Answer, Asked, Request, Response, State};
use super::{Content, Entry, Extent, Figures, Forgotten, Journal, JournalMode, Read, Record, Waiting};

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

/// A stream.
struct Known {
    chain: Chain,
    /// The first number that is not acknowledged.
    first: u64,
    /// The last number that is with the keeper.
    kept: u64,
    /// The last number that was sent.
    sent: u64,
    /// It ended without a mark.
    torn: bool,
    /// Whether the keeper has been told of it.
    begun: bool,
    /// What was read back, in order, without a hole.
    loaded: VecDeque<Record>,
    loaded_bytes: usize,
    /// The keeper has been asked for the record of this number.
    loading: Option<u64>,
}

impl Known {
    fn new(stream: u64, first: u64, next: u64) -> Self {
        Self {
            chain: Chain::new(stream, next),
            first,
            kept: next - 1,
            sent: 0,
            torn: false,
            begun: false,
            loaded: VecDeque::new(),
            loaded_bytes: 0,
            loading: None,
        }
    }

    fn stream(&self) -> u64 {
        self.chain.stream()
    }

    fn last(&self) -> u64 {
        self.chain.extent().last.max(self.kept)
    }

    /// Whether something that waits is with the keeper alone.
    fn is_kept(&self) -> bool {
        self.first <= self.kept
    }

    fn unload(&mut self, mut drop: impl FnMut(&Record) -> bool) {
        self.loaded.retain(|record| !drop(record));
        self.loaded_bytes = self.loaded.iter().map(cost).sum();
    }
}

/// The journal on flash.
pub(crate) struct Flash {
    port: Box<dyn Port>,
    terms: Terms,
    /// In the order in which they were begun; the current one is the last.
    streams: Vec<Known>,
    state: State,
    writing: bool,
    beginning: bool,
    closing: bool,
    closed: bool,
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
        draw: Box<dyn FnMut() -> u64 + Send>,
    ) -> Self {
        Self {
            port,
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

    fn take(&mut self, Response { answer, state }: Response) {
        self.state = state;
        match answer {
            Answer::Opened => self.opened(),
            Answer::Begun(stream, given_up) => {
                self.beginning = false;
                if let Some(known) = self.known(stream) {
                    known.begun = true;
                }
                if given_up > 0 {
                    self.append(Entry::Loss {
                        readings: given_up,
                        reason: LossReason::JournalFull,
                    });
                }
            }
            Answer::Written => self.written(true),
            Answer::Loaded { stream, seq, records } => {
                if let Some(known) = self.known(stream)
                    && known.loading.take() == Some(seq)
                {
                    let next = known.loaded.back().map(|last| last.through + 1);
                    if next.is_some_and(|next| next != seq) {
                        known.unload(|_| true);
                    }
                    known.loaded_bytes += records.iter().map(cost).sum::<usize>();
                    known.loaded.extend(records);
                }
            }
            Answer::Forgotten(more) => self.forgotten = self.forgotten.and(more),
            Answer::Done => {}
            Answer::Closed => self.closed = true,
            Answer::Failed(Asked::Write) => self.written(false),
            Answer::Failed(Asked::Begin) => self.beginning = false,
            Answer::Failed(_) => {
                for known in &mut self.streams {
                    known.loading = None;
                }
            }
        }
        self.take_up();
    }

    /// The store was opened: what earlier starts left is known now, and what was asked for in vain is asked for again.
    fn opened(&mut self) {
        if !self.opened {
            self.opened = true;
            let waiting = self.state.held.iter().map(|held| held.waiting);
            self.found = waiting.map(|waiting| waiting.readings + waiting.lost).sum();
        }
        for held in self.state.held.clone() {
            if let Some(known) = self.known(held.stream) {
                known.kept = held.last;
                let acked = known.first - 1;
                if acked > held.acked {
                    self.forget_kept(held.stream, acked);
                }
            }
        }
    }

    /// Makes the list of streams agree with what the keeper says.
    fn take_up(&mut self) {
        let current = self.current().stream();
        let held = &self.state.held;
        // Those of earlier starts come first.
        for (at, held) in held.iter().enumerate() {
            let found = self
                .streams
                .iter_mut()
                .find(|known| known.stream() == held.stream);
            match found {
                Some(known) => known.torn &= !held.ended,
                None if self.state.readable => {
                    let mut known = Known::new(held.stream, held.acked + 1, held.last + 1);
                    known.torn = !held.ended;
                    known.begun = true;
                    // They count as sent: their extents are as they are.
                    self.streams.insert(at.min(self.streams.len() - 1), known);
                }
                None => {}
            }
        }
        self.streams.retain(|known| {
            known.stream() == current
                || !known.chain.is_empty()
                || held.iter().any(|held| held.stream == known.stream())
        });
    }

    /// What was being written is, or is not.
    fn written(&mut self, written: bool) {
        if !std::mem::take(&mut self.writing) {
            return;
        }
        let mut acked = Vec::new();
        for known in &mut self.streams {
            if known.chain.is_pinned() {
                let pinned = known.chain.pinned();
                known.chain.unpin(written);
                if written {
                    known.kept = pinned;
                    acked.push((known.stream(), known.first - 1));
                }
                self.forgotten = self.forgotten.and(known.chain.forget(known.first - 1));
            }
        }
        for (stream, through) in acked {
            self.forget_kept(stream, through);
        }
        // What was read ahead may have made way meanwhile.
        for known in &mut self.streams {
            let sent = known.sent;
            known.unload(|record| record.seq > sent);
            known.loading = None;
        }
    }

    /// The keeper forgets what it has of a stream through a number.
    fn forget_kept(&mut self, stream: u64, through: u64) {
        let held = self.state.held.iter().find(|held| held.stream == stream);
        let kept = self.streams.iter().find(|known| known.stream() == stream);
        if let (Some(held), Some(known)) = (held, kept) {
            let through = through.min(known.kept);
            if through > held.acked {
                self.port.ask(Request::Forget { stream, through });
            }
        }
    }

    /// Since when the oldest record waits that is not being written.
    fn waits_since(&self) -> Option<Instant> {
        self.streams
            .iter()
            .filter_map(|known| known.chain.waits_since())
            .min()
    }

    fn unwritten_bytes(&self) -> usize {
        self.cost()
    }

    fn can_write(&self) -> bool {
        self.opened
            && self.state.fault.is_none()
            && !self.writing
            && !self.beginning
            && self.terms.sync_after.is_some()
    }

    /// When something is to be written.
    fn due(&self) -> Option<Instant> {
        let since = self.waits_since()?;
        let ended = self
            .streams
            .iter()
            .rev()
            .skip(1)
            .any(|known| !known.chain.is_empty());
        match self.closing || ended || self.unwritten_bytes() >= self.terms.write_at {
            true => Some(since),
            false => Some(since + self.terms.sync_after?),
        }
    }

    fn write(&mut self, now: Instant) {
        if !self.can_write() {
            return;
        }
        // A stream begins when those before it are written, so that the mark of their end is true.
        let beginning = self.streams.iter().position(|known| !known.begun);
        let ready = beginning.unwrap_or(self.streams.len());
        let empty = self.streams[..ready].iter().all(|known| known.chain.is_empty());
        if let Some(at) = beginning
            && empty
        {
            self.beginning = true;
            let stream = self.streams[at].stream();
            return self.port.ask(Request::Begin(stream));
        }
        if self.due().is_none_or(|due| now < due) {
            if self.closing && empty {
                self.beginning = true;
                self.port.ask(Request::Close);
            }
            return;
        }
        let mut records = Vec::new();
        let mut sets: Vec<Arc<SeriesSet>> = Vec::new();
        for known in &mut self.streams[..ready] {
            records.extend(known.chain.pin(self.terms.write_at));
        }
        for unwritten in &records {
            if let Content::Batch { series, .. } = &unwritten.record.content
                && !sets.iter().any(|set| set.hash() == series.hash())
            {
                sets.push(series.clone());
            }
        }
        let sent = self
            .streams
            .iter()
            .map(|known| (known.stream(), known.sent))
            .collect();
        self.writing = true;
        self.port.ask(Request::Write { records, sets, sent });
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

    fn sent(&mut self, stream: u64, seq: u64) {
        if let Some(known) = self.known(stream) {
            known.sent = known.sent.max(seq);
            known.chain.sent(seq);
        }
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
            let sent = known.sent;
            known.unload(|record| record.seq >= seq || record.seq > sent);
            known.loading = None;
            self.port.ask(Request::GiveUp {
                stream,
                seq,
                reason,
                sent,
            });
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
        Figures {
            mode: match self.state.fault {
                None => JournalMode::Flash,
                Some(_) => JournalMode::Fallback,
            },
            fault: self.state.fault,
            memory_bytes: (self.cost() + loaded) as u64,
            flash_bytes: self.state.bytes,
            flash_written: self.state.written,
            quarantined: self.state.quarantined,
            found: self.found,
        }
    }

    fn close(&mut self) {
        self.closing = true;
    }

    fn is_closed(&self) -> bool {
        let hopeless = self.opened && self.state.fault.is_some() && !self.writing;
        self.closed || self.terms.sync_after.is_none() || hopeless
    }
}

fn extent(known: &Known) -> Extent {
    Extent {
        stream: known.stream(),
        first: known.first,
        last: known.last().max(known.first - 1),
        torn: known.torn,
    }
}

fn cost(record: &Record) -> usize {
    let body = match &record.content {
        Content::Batch { sealed, .. } => sealed.body.len(),
        Content::Loss(_) => 0,
    };
    body + OVERHEAD
}
