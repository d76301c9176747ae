//! What the keeper's answers change.

use super::known::cost;
use super::{Answer, Asked, Entry, Flash, Journal, Known, LossReason, Request, Response};

impl Flash {
    pub(super) fn take(&mut self, Response { answer, state }: Response) {
        self.state = state;
        match answer {
            Answer::Opened => {
                self.trying = false;
                self.opened();
            }
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
            Answer::Loaded {
                stream,
                seq,
                records,
                changes,
            } => {
                if let Some(known) = self.known(stream)
                    && known.loading.take() == Some(seq)
                {
                    let next = known.loaded.back().map(|last| last.through + 1);
                    if next.is_some_and(|next| next != seq) || known.changes != changes {
                        known.unload(|_| true);
                    }
                    known.changes = changes;
                    known.loaded_bytes += records.iter().map(cost).sum::<usize>();
                    known.loaded.extend(records);
                }
            }
            Answer::Forgotten(more) => self.forgotten = self.forgotten.and(more),
            Answer::Done => {}
            Answer::Closed => self.closed = true,
            Answer::Failed(Asked::Write) => self.written(false),
            Answer::Failed(Asked::Again) => self.trying = false,
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
    pub(super) fn take_up(&mut self) {
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
        let streams = &self.streams;
        self.sent
            .retain(|stream| streams.iter().any(|known| known.stream() == stream));
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
    }

    /// The keeper forgets what it has of a stream through a number.
    pub(super) fn forget_kept(&mut self, stream: u64, through: u64) {
        let held = self.state.held.iter().find(|held| held.stream == stream);
        let kept = self.streams.iter().find(|known| known.stream() == stream);
        if let (Some(held), Some(known)) = (held, kept) {
            let through = through.min(known.kept);
            if through > held.acked {
                self.port.ask(Request::Forget { stream, through });
            }
        }
    }
}
