//! What an outage is, and what becomes of the backlog that it leaves.

use std::time::Instant;

use super::budget::Allowance;
use super::{Uplink, config};
use crate::journal::{Extent, Journal};

/// Sealed streams that may wait, and streams altogether beside which another is sealed.
pub(super) const SEALED_MAX: usize = 8;
pub(super) const STREAMS_MAX: usize = 16;

impl Uplink {
    /// Whether what waits in the current stream is the backlog of an outage. `many`: also if it is just much.
    pub(super) fn is_outage(&self, now: Instant, journal: &dyn Journal, many: bool) -> bool {
        journal.streams().last().is_some_and(|current| {
            let held = (current.last + 1).saturating_sub(current.first);
            let quiet = self
                .quiet_since
                .is_some_and(|since| now >= since + self.drain_after);
            // Nor is it one while nothing may be sent.
            held > 0
                && self.allowance != Allowance::Spent
                && (quiet || (many && held > self.window.batches as u64))
        })
    }

    /// The link is back. After an outage what waits becomes the backlog. Returns whether there is a new stream, which the relay has to
    /// be told of.
    pub(super) fn begin_drain(&mut self, now: Instant, outage: bool, journal: &mut dyn Journal) -> bool {
        let extents = journal.streams();
        let holds = |extent: &&Extent| extent.last >= extent.first;
        let mut sealed = false;
        if let Some(current) = extents.last().filter(|_| outage) {
            self.sealed
                .retain(|id| extents.iter().filter(holds).any(|extent| extent.stream == *id));
            let found = self
                .streams
                .iter_mut()
                .find(|stream| stream.id() == current.stream);
            match (self.mode, found) {
                (config::Drain::InOrder, Some(stream)) => stream.mark_backlog(current.last),
                (config::Drain::LiveFirst, Some(_))
                    if self.sealed.len() < SEALED_MAX && extents.len() < STREAMS_MAX =>
                {
                    self.sealed.push(current.stream);
                    self.counters.sealed += 1;
                    journal.open_stream(self.random.draw());
                    self.follow(now, journal);
                    log::info!(
                        "after an outage: {} batches of stream {:016x} are sent beside live data",
                        current.last + 1 - current.first,
                        current.stream
                    );
                    sealed = true;
                }
                _ => {}
            }
        }
        let backlog = outage || extents.iter().rev().skip(1).any(|extent| holds(&extent));
        if backlog && (self.mode == config::Drain::LiveFirst || self.drain.has_rate()) {
            self.drain.begin(now, self.random.draw());
        }
        sealed
    }
}
