//! What is to be told to each device, coalesced: at most one ack per device and interval, the first at once.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use headwater_proto::pb;

/// What the next ack to a device will say, beside positions, which are read when it is sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Note {
    /// Streams whose position it tells.
    pub streams: BTreeSet<u64>,
    /// Ask for hello.
    pub want_hello: bool,
    /// Ask for these series sets.
    pub want_series: BTreeSet<u32>,
    /// Refuse these for good.
    pub refusals: Vec<pb::Refusal>,
    /// Tell it to go back.
    pub go_back: bool,
    /// The session of the hello it answers, or 0.
    pub session: u64,
}

/// The notes of all devices, by the device's number.
#[derive(Debug)]
pub struct Acks {
    interval: Duration,
    notes: HashMap<u32, (Instant, Note)>,
    due: BTreeSet<(Instant, u32)>,
    sent: HashMap<u32, Instant>,
}

impl Acks {
    /// A device gets at most one ack per `interval`.
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            notes: HashMap::new(),
            due: BTreeSet::new(),
            sent: HashMap::new(),
        }
    }

    /// The note for a device, to add to; it becomes due at once or an interval after the last ack.
    pub fn note(&mut self, device: u32, now: Instant) -> &mut Note {
        let (due, sent, interval) = (&mut self.due, &self.sent, self.interval);
        let (_, note) = self.notes.entry(device).or_insert_with(|| {
            let at = sent.get(&device).map_or(now, |sent| now.max(*sent + interval));
            due.insert((at, device));
            (at, Note::default())
        });
        note
    }

    /// When the next ack is due.
    pub fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The next ack that is due.
    pub fn take(&mut self, now: Instant) -> Option<(u32, Note)> {
        let (at, device) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first();
        self.sent.insert(device, now);
        let (_, note) = self.notes.remove(&device)?;
        Some((device, note))
    }

    /// Nobody can be told anything: what was noted is forgotten. Agents ask again, or say hello.
    pub fn clear(&mut self) {
        self.notes.clear();
        self.due.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_goes_at_once_and_the_next_are_merged_until_the_interval_is_over() {
        let (start, ms) = (Instant::now(), Duration::from_millis(1));
        let mut acks = Acks::new(20 * ms);
        acks.note(7, start).streams.insert(1);
        let (device, note) = acks.take(start).unwrap();
        assert_eq!((device, note.streams.len()), (7, 1));
        acks.note(7, start + ms).streams.insert(1);
        acks.note(7, start + 2 * ms).streams.insert(2);
        acks.note(7, start + 3 * ms).go_back = true;
        assert_eq!(acks.take(start + 19 * ms), None);
        assert_eq!(acks.next(), Some(start + 20 * ms));
        let (_, note) = acks.take(start + 20 * ms).unwrap();
        assert!(note.go_back && note.streams.len() == 2);
        assert_eq!((acks.take(start + 99 * ms), acks.next()), (None, None));
    }

    #[test]
    fn one_device_does_not_hold_up_another() {
        let (start, ms) = (Instant::now(), Duration::from_millis(1));
        let mut acks = Acks::new(20 * ms);
        acks.note(1, start);
        acks.take(start);
        acks.note(1, start);
        acks.note(2, start + ms);
        assert_eq!(acks.take(start + ms).map(|(device, _)| device), Some(2));
    }
}
