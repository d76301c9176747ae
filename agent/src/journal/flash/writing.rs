//! What is written, and when.

use std::sync::Arc;
use std::time::Instant;

use headwater_proto::SeriesSet;

use super::{Content, Flash, Request};

impl Flash {
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

    pub(super) fn can_write(&self) -> bool {
        self.opened
            && self.state.fault.is_none()
            && !self.writing
            && !self.beginning
            && self.terms.sync_after.is_some()
    }

    /// When something is to be written.
    pub(super) fn due(&self) -> Option<Instant> {
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

    pub(super) fn write(&mut self, now: Instant) {
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
        self.writing = true;
        self.port.ask(Request::Write { records, sets });
    }
}
