//! A stream, as the pipeline's side knows it.

use std::collections::VecDeque;

use super::{Chain, Content, Extent, OVERHEAD, Record};

/// A stream.
pub(super) struct Known {
    pub(super) chain: Chain,
    /// The first number that is not acknowledged.
    pub(super) first: u64,
    /// The last number that is with the keeper.
    pub(super) kept: u64,
    /// It ended without a mark.
    pub(super) torn: bool,
    /// Whether the keeper has been told of it.
    pub(super) begun: bool,
    /// What was read back, in order, without a hole.
    pub(super) loaded: VecDeque<Record>,
    pub(super) loaded_bytes: usize,
    /// How often something of it had been given up when that was read.
    pub(super) changes: u64,
    /// The keeper has been asked for the record of this number.
    pub(super) loading: Option<u64>,
}

impl Known {
    pub(super) fn new(stream: u64, first: u64, next: u64) -> Self {
        Self {
            chain: Chain::new(stream, next),
            first,
            kept: next - 1,
            torn: false,
            begun: false,
            loaded: VecDeque::new(),
            loaded_bytes: 0,
            changes: 0,
            loading: None,
        }
    }

    pub(super) fn stream(&self) -> u64 {
        self.chain.stream()
    }

    pub(super) fn last(&self) -> u64 {
        self.chain.extent().last.max(self.kept)
    }

    /// Whether something that waits is with the keeper alone.
    pub(super) fn is_kept(&self) -> bool {
        self.first <= self.kept
    }

    pub(super) fn unload(&mut self, mut drop: impl FnMut(&Record) -> bool) {
        self.loaded.retain(|record| !drop(record));
        self.loaded_bytes = self.loaded.iter().map(cost).sum();
    }
}

pub(super) fn extent(known: &Known) -> Extent {
    Extent {
        stream: known.stream(),
        first: known.first,
        last: known.last().max(known.first - 1),
        durable: known.kept.max(known.first - 1),
        torn: known.torn,
    }
}

pub(super) fn cost(record: &Record) -> usize {
    let body = match &record.content {
        Content::Batch { sealed, .. } => sealed.body.len(),
        Content::Loss(_) => 0,
    };
    body + OVERHEAD
}
