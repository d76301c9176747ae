//! Answers on their way to Kafka, and the position with them.

use std::collections::VecDeque;
use std::sync::Arc;

use super::answer::{self, Answer};
use super::position::Position;
use super::{Batch, Commands};

/// Answers that are written together.
pub(super) const TOGETHER: usize = 256;
/// Bytes of answers that are written together.
const TOGETHER_BYTES: usize = 1 << 20;

impl Commands {
    /// The next answers to write; then call [`Commands::written`] with the outcome.
    pub fn answers(&mut self) -> Option<Batch> {
        if self.stopped || !self.writing.is_empty() || self.ready.is_empty() {
            return None;
        }
        let mut bytes = 0;
        while let Some(answer) = self.ready.front()
            && self.writing.len() < TOGETHER
            && (self.writing.is_empty() || bytes + answer.size() <= TOGETHER_BYTES)
        {
            bytes += answer.size();
            self.writing.extend(self.ready.pop_front());
        }
        let position = self.position();
        Some(Batch {
            partition: self.partition,
            term: self.term,
            answers: self.writing.clone(),
            offset: position.offset(),
            metadata: position.metadata(&self.shared.writer),
        })
    }

    /// Whether the answers on their way are in Kafka. If not they are written again, unless [`Commands::committed`] says otherwise before.
    pub fn written(&mut self, stored: bool) {
        let answers = std::mem::take(&mut self.writing);
        if stored {
            answers.iter().for_each(|answer| self.count(answer));
        } else {
            answers
                .into_iter()
                .rev()
                .for_each(|answer| self.ready.push_front(answer));
        }
    }

    /// What Kafka holds as our position, now that nothing of ours is on its way: an answer may be there of which nobody has told us.
    pub fn committed(&mut self, position: &Position) {
        let is_open = |offset| offset >= position.next || position.open.contains(&offset);
        let (ready, known) = std::mem::take(&mut self.ready)
            .into_iter()
            .partition(|answer| is_open(answer.offset));
        self.ready = ready;
        let known: VecDeque<Arc<Answer>> = known;
        known.iter().for_each(|answer| self.count(answer));
    }

    fn count(&self, answer: &Answer) {
        match &answer.kind {
            answer::Kind::Reply(status) => self.shared.metrics.reply(*status),
            answer::Kind::DeadLetter(_) => drop(self.shared.metrics.dead_letters.inc()),
        }
    }

    /// What is answered once the answers on their way are in Kafka, and no more.
    pub(super) fn position(&self) -> Position {
        let ready = self.ready.iter().map(|answer| answer.offset);
        let open = self.open.keys().chain(&self.left.open).copied().chain(ready);
        Position {
            open: open.collect(),
            next: self.next.max(self.left.next),
        }
    }
}
