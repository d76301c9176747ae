//! How large segments are: they have the size that was set when they were made.

/// The sizes of segments, as many entries as there are changes of it.
#[derive(Debug, Default)]
pub(super) struct Sizes(Vec<(u64, u64)>);

impl Sizes {
    /// A segment, newer than all others, has this size.
    pub(super) fn note(&mut self, id: u64, size: u64) {
        // One that failed to be made is made again.
        while self.0.pop_if(|(from, _)| *from >= id).is_some() {}
        if self.0.last().is_none_or(|(_, last)| *last != size) {
            self.0.push((id, size));
        }
    }

    /// The size of a segment that was noted.
    pub(super) fn of(&self, id: u64) -> u64 {
        let at = self.0.partition_point(|(from, _)| *from <= id);
        at.checked_sub(1).map_or(0, |at| self.0[at].1)
    }
}
