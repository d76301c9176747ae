//! The foreign devices of an entry: what each is called here, whether it is there, what of it is in Kafka. Pure.
//!
//! Their states go to `headwater.devices` as those of agents' devices do, but from here: the bridge that owns a partition leaves
//! them alone ([`Scan`](crate::bridge::scan::Scan)).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_proto::{Message as _, name, pb, shard};

use crate::bridge::checkpoint::{Entry, Ledger};
use crate::bridge::device::Now;

/// The devices of an entry.
#[derive(Debug)]
pub struct Roster {
    entry: String,
    partitions: u32,
    most: usize,
    devices: Vec<Device>,
    /// By what they are called there.
    sources: HashMap<Arc<str>, u32>,
    /// By what they are called here.
    names: HashMap<Arc<str>, u32>,
    ledger: Ledger,
}

#[derive(Debug)]
struct Device {
    name: Arc<str>,
    source: Arc<str>,
    partition: u32,
    online: bool,
    since_us: i64,
    last_seen_us: i64,
    /// The newest record of it in telemetry: offset + 1.
    newest: i64,
}

/// A state to write.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// The device's number here.
    pub device: u32,
    /// Its partition.
    pub partition: u32,
    /// The key.
    pub key: Arc<str>,
    /// A `headwater.v1.DeviceState`.
    pub value: Vec<u8>,
}

impl Roster {
    /// Nobody yet. A state is written `delay` after its first change.
    pub fn new(entry: &str, partitions: u32, most: usize, delay: Duration) -> Self {
        Self {
            entry: entry.to_owned(),
            partitions,
            most,
            devices: Vec::new(),
            sources: HashMap::new(),
            names: HashMap::new(),
            ledger: Ledger::new(delay),
        }
    }

    /// Takes in what an earlier run left, unless it is of another entry.
    pub fn restore(&mut self, state: &pb::DeviceState) {
        let Some(foreign) = state
            .foreign
            .as_ref()
            .filter(|foreign| foreign.entry == self.entry)
        else {
            return;
        };
        let Ok(number) = self.number(&foreign.source) else {
            return;
        };
        let device = &mut self.devices[number as usize];
        // A device that moved to another partition, since there are more, has two; that of its own is the later one.
        if *device.name != *state.device || device.last_seen_us > state.last_seen_us {
            return;
        }
        device.online = state.online;
        device.since_us = state.since_us;
        device.last_seen_us = state.last_seen_us;
        device.newest = state.newest_offset_plus_1;
    }

    /// The number of the device that is called so there.
    ///
    /// # Errors
    /// Why there can be none.
    pub fn number(&mut self, source: &str) -> Result<u32, String> {
        if let Some(&number) = self.sources.get(source) {
            return Ok(number);
        }
        let name: Arc<str> = named(source)?.into();
        if let Some(&other) = self.names.get(&name) {
            let other = &self.devices[other as usize].source;
            return Err(format!(
                "{source:?} and {other:?} would both be the device {name:?}; they would be mixed up"
            ));
        }
        if self.devices.len() >= self.most {
            return Err(format!(
                "{source:?} would be one device more than foreign.devices ({})",
                self.most
            ));
        }
        let number = self.devices.len() as u32;
        let source: Arc<str> = source.into();
        self.sources.insert(Arc::clone(&source), number);
        self.names.insert(Arc::clone(&name), number);
        self.devices.push(Device {
            partition: shard::partition(&name, self.partitions),
            name,
            source,
            online: false,
            since_us: 0,
            last_seen_us: 0,
            newest: 0,
        });
        Ok(number)
    }

    /// Its name here, and its partition.
    pub fn place(&self, number: u32) -> (Arc<str>, u32) {
        let device = &self.devices[number as usize];
        (Arc::clone(&device.name), device.partition)
    }

    /// Something came from it.
    pub fn heard(&mut self, number: u32, now: Now) {
        self.devices[number as usize].last_seen_us = now.us;
        self.presence(number, true, now);
    }

    /// It is there, or it is not.
    pub fn presence(&mut self, number: u32, online: bool, now: Now) {
        let device = &mut self.devices[number as usize];
        if device.online != online || device.since_us == 0 {
            device.online = online;
            device.since_us = now.us;
            self.ledger.changed_urgently(number);
        } else {
            self.ledger.changed(number, now.at);
        }
    }

    /// A record of it is in Kafka, at this offset.
    pub fn stored(&mut self, number: u32, offset: i64, now: Now) {
        let device = &mut self.devices[number as usize];
        device.newest = device.newest.max(offset + 1);
        self.ledger.changed(number, now.at);
    }

    /// Those of whom nothing was heard for `after` are taken as away.
    pub fn give_up(&mut self, now: Now, after: Duration) {
        let before = now.us - after.as_micros().min(i64::MAX as u128) as i64;
        for number in 0..self.devices.len() as u32 {
            let device = &self.devices[number as usize];
            if device.online && device.last_seen_us < before && device.since_us < before {
                self.presence(number, false, now);
            }
        }
    }

    /// What devices there are that are there, by what they are called there.
    pub fn online(&self) -> impl Iterator<Item = &str> {
        let online = self.devices.iter().filter(|device| device.online);
        online.map(|device| &*device.source)
    }

    /// The number of devices known.
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// The next state to write, if one is due. Call [`Roster::written`] with the outcome.
    pub fn next_state(&mut self, now: Instant) -> Option<State> {
        let Entry::State(number) = self.ledger.take(now)? else {
            return None;
        };
        let device = &self.devices[number as usize];
        let state = pb::DeviceState {
            device: device.name.to_string(),
            online: device.online,
            since_us: device.since_us,
            last_seen_us: device.last_seen_us,
            newest_offset_plus_1: device.newest,
            foreign: Some(pb::Foreign {
                entry: self.entry.clone(),
                source: device.source.to_string(),
            }),
            ..Default::default()
        };
        Some(State {
            device: number,
            partition: device.partition,
            key: Arc::clone(&device.name),
            value: state.encode_to_vec(),
        })
    }

    /// Whether a state is in Kafka.
    pub fn written(&mut self, number: u32, stored: bool, now: Instant) {
        if stored {
            self.ledger.confirmed();
        } else {
            self.ledger.failed(number, now);
        }
    }

    /// Whether every state is in Kafka.
    pub fn is_clean(&self) -> bool {
        self.ledger.is_clean()
    }
}

/// What a device may be called here: `:` stands for `/`, what else cannot stand in a name becomes `_`, and `x` is put before a name that would begin with that.
fn named(source: &str) -> Result<String, String> {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "._:-".contains(letter);
    let mut named: String = source
        .chars()
        .map(|letter| match letter {
            '/' => ':',
            letter if allowed(letter) => letter,
            _ => '_',
        })
        .collect();
    if named.starts_with(|first: char| !first.is_ascii_alphanumeric()) {
        named.insert(0, 'x');
    }
    name::check_device(&named).map_err(|error| error.to_string())?;
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn now() -> Now {
        Now::read()
    }

    fn later(now: Now, by: Duration) -> Now {
        Now {
            at: now.at + by,
            us: now.us + by.as_micros() as i64,
        }
    }

    fn states(roster: &mut Roster, now: Instant) -> Vec<pb::DeviceState> {
        std::iter::from_fn(|| {
            let state = roster.next_state(now)?;
            roster.written(state.device, true, now);
            Some(pb::DeviceState::decode(&state.value[..]).unwrap())
        })
        .collect()
    }

    #[test]
    fn what_cannot_stand_in_a_name_is_replaced_and_no_two_are_mixed_up() {
        let mut roster = Roster::new("e", 4, 3, SECOND);
        for (source, name) in [
            ("Küche/Fühler 1", "K_che:F_hler_1"),
            ("0x00158d", "0x00158d"),
            ("_x", "x_x"),
        ] {
            let number = roster.number(source).unwrap();
            assert_eq!(&*roster.place(number).0, name);
            assert_eq!(roster.number(source), Ok(number));
        }
        let error = roster.number("Kùche/Fùhler 1").unwrap_err();
        assert!(error.contains("mixed up"), "{error}");
        let error = roster.number("one more").unwrap_err();
        assert!(error.contains("foreign.devices (3)"), "{error}");
        for source in ["", &"x".repeat(129)] {
            assert!(roster.number(source).unwrap_err().contains("device"));
        }
    }

    #[test]
    fn who_is_heard_is_there_until_it_is_said_or_taken_to_be_away() {
        let (mut roster, start) = (Roster::new("e", 4, 9, SECOND), now());
        let number = roster.number("a").unwrap();
        roster.heard(number, start);
        let state = &states(&mut roster, start.at)[0];
        assert!(state.online && state.since_us == start.us && state.last_seen_us == start.us);
        assert_eq!(state.foreign.as_ref().unwrap().source, "a");
        roster.give_up(later(start, SECOND / 2), SECOND);
        assert!(states(&mut roster, start.at + SECOND).is_empty());
        let late = later(start, 2 * SECOND);
        roster.give_up(late, SECOND);
        let state = &states(&mut roster, late.at)[0];
        assert!(!state.online && state.since_us == late.us);
    }

    #[test]
    fn a_later_run_goes_on_from_what_an_earlier_one_left() {
        let (mut roster, start) = (Roster::new("e", 4, 9, SECOND), now());
        let number = roster.number("a b").unwrap();
        roster.heard(number, start);
        roster.stored(number, 41, start);
        let left = states(&mut roster, start.at + SECOND).pop().unwrap();
        let mut next = Roster::new("e", 4, 9, SECOND);
        next.restore(&left);
        let mut another = Roster::new("other", 4, 9, SECOND);
        another.restore(&left);
        assert!(another.is_empty());
        assert_eq!(next.online().collect::<Vec<_>>(), ["a b"]);
        let late = later(start, 2 * SECOND);
        next.stored(0, 3, late);
        let state = states(&mut next, late.at + SECOND).pop().unwrap();
        assert_eq!((state.newest_offset_plus_1, state.since_us), (42, start.us));
    }

    #[test]
    fn a_state_that_was_not_written_is_due_again() {
        let (mut roster, start) = (Roster::new("e", 4, 9, SECOND), now());
        let number = roster.number("a").unwrap();
        roster.heard(number, start);
        let state = roster.next_state(start.at).unwrap();
        roster.written(state.device, false, start.at);
        assert!(!roster.is_clean());
        assert_eq!(states(&mut roster, start.at + SECOND).len(), 1);
        assert!(roster.is_clean());
    }
}
