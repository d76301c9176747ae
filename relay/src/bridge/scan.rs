//! What an earlier bridge left in Kafka, folded record by record: states and checkpoint of `headwater.devices`, then the
//! telemetry from the checkpoint on, by its headers.

use std::collections::{BTreeMap, HashMap};

use headwater_proto::{Limits, Message as _, pb};

use super::record::Name;

/// The key of the checkpoint among the devices' states; no device can be called so.
pub const CHECKPOINT: &str = ".checkpoint";

/// The fold over one partition.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// States, by device.
    pub states: BTreeMap<String, pb::DeviceState>,
    /// The offset that all states are complete up to.
    pub checkpoint: i64,
    /// Whether anybody has ever left a checkpoint.
    pub begun: bool,
    /// Devices whose states stand in another partition, from before there were so many.
    pub adopted: Vec<String>,
    /// The end of the partition's telemetry.
    pub next_offset: i64,
    positions: HashMap<(String, u64), u64>,
    newest: HashMap<String, i64>,
    losses: Vec<(String, i64, u64)>,
}

/// What a scan adds to a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addition {
    /// Positions, by stream.
    pub positions: Vec<(u64, u64)>,
    /// The newest record: offset + 1.
    pub newest: i64,
    /// Loss records: offset and readings.
    pub losses: Vec<(i64, u64)>,
}

impl Scan {
    /// A record of the devices topic. `value` is `None` for a deleted one. What cannot be decoded is left out: the
    /// agents' hello, and the telemetry itself, make it good.
    pub fn state(&mut self, key: &str, value: Option<&[u8]>) {
        match value.map(pb::DeviceState::decode) {
            None => {
                self.states.remove(key);
            }
            Some(Ok(state)) if key == CHECKPOINT => {
                self.begun = true;
                self.checkpoint = state
                    .checkpoint
                    .map_or(0, |checkpoint| checkpoint.telemetry_offset);
            }
            // Its bridge keeps it. If an agent had this name before, that is over.
            Some(Ok(state)) if state.foreign.is_some() => {
                self.states.remove(key);
            }
            Some(Ok(state)) if state.device == key => {
                self.states.insert(key.to_string(), state);
            }
            Some(_) => tracing::warn!(device = key, "a device state cannot be decoded; left out"),
        }
    }

    /// A record of telemetry; `name` is what its headers say.
    pub fn telemetry(&mut self, offset: i64, device: &str, name: Name, value: &[u8], limits: &Limits) {
        self.next_offset = self.next_offset.max(offset + 1);
        let position = self
            .positions
            .entry((device.to_string(), name.stream))
            .or_default();
        *position = (*position).max(name.through);
        self.newest.insert(device.to_string(), offset + 1);
        if name.loss {
            let lost_readings = match headwater_proto::protobuf::decode(value, limits).map(|batch| batch.body)
            {
                Ok(headwater_proto::Body::Loss(loss)) => loss.readings,
                _ => 0,
            };
            self.losses.push((device.to_string(), offset, lost_readings));
        }
    }

    /// Takes over from the scan of another partition the devices that are this one's since partitions were added.
    pub fn adopt(&mut self, mut other: Self, is_ours: impl Fn(&str) -> bool) {
        let mut states = std::mem::take(&mut other.states);
        for (device, addition) in other.additions() {
            let state = states.entry(device.clone()).or_insert_with(|| pb::DeviceState {
                device,
                ..Default::default()
            });
            let known = state.newest_offset_plus_1;
            let unknown = addition.losses.iter().filter(|(offset, _)| *offset >= known);
            let lost: u64 = unknown.map(|(_, readings)| readings).sum();
            state.lost_readings = state.lost_readings.saturating_add(lost);
            for (stream, seq) in addition.positions {
                match state.positions.iter_mut().find(|at| at.stream == stream) {
                    Some(at) => at.seq = at.seq.max(seq),
                    None => state.positions.push(pb::StreamPosition { stream, seq }),
                }
            }
        }
        for (device, mut state) in states {
            if is_ours(&device) && !self.states.contains_key(&device) {
                // An offset of the other partition means nothing here.
                state.newest_offset_plus_1 = 0;
                self.adopted.push(device.clone());
                self.states.insert(device, state);
            }
        }
    }

    /// What the telemetry adds to each device.
    pub fn additions(self) -> BTreeMap<String, Addition> {
        let mut additions: BTreeMap<String, Addition> = BTreeMap::new();
        for ((device, stream), position) in self.positions {
            additions
                .entry(device)
                .or_default()
                .positions
                .push((stream, position));
        }
        for (device, newest) in self.newest {
            additions.entry(device).or_default().newest = newest;
        }
        for (device, offset, lost_readings) in self.losses {
            additions
                .entry(device)
                .or_default()
                .losses
                .push((offset, lost_readings));
        }
        additions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_state_of_a_device_counts_and_deleted_ones_are_gone() {
        let state = |device: &str, lost_readings| {
            pb::DeviceState {
                device: device.into(),
                lost_readings,
                ..Default::default()
            }
            .encode_to_vec()
        };
        let mut scan = Scan::default();
        scan.state("a", Some(&state("a", 1)));
        scan.state("b", Some(&state("b", 1)));
        scan.state("a", Some(&state("a", 2)));
        scan.state("b", None);
        scan.state("c", Some(b"\xff\xff"));
        scan.state("d", Some(&state("another", 1)));
        let foreign = pb::DeviceState {
            device: "e".into(),
            foreign: Some(pb::Foreign::default()),
            ..Default::default()
        };
        scan.state("e", Some(&foreign.encode_to_vec()));
        assert_eq!(scan.states.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(scan.states["a"].lost_readings, 2);
    }

    #[test]
    fn devices_whose_partition_is_new_are_adopted_with_all_that_is_known() {
        let name = |seq| Name {
            stream: 7,
            seq,
            through: seq,
            loss: false,
        };
        let state = |device: &str, seq| {
            pb::DeviceState {
                device: device.into(),
                newest_offset_plus_1: 4,
                positions: vec![pb::StreamPosition { stream: 7, seq }],
                ..Default::default()
            }
            .encode_to_vec()
        };
        let limits = Limits::default();
        let mut before = Scan::default();
        for device in ["moved", "stays", "went on"] {
            before.state(device, Some(&state(device, 3)));
        }
        before.telemetry(4, "moved", name(4), &[], &limits);
        before.telemetry(5, "moved, and new", name(1), &[], &limits);
        let mut scan = Scan::default();
        scan.state("went on", Some(&state("went on", 9)));
        scan.adopt(before, |device| device != "stays");
        let at = |device: &str| scan.states[device].positions[0].seq;
        assert_eq!((at("moved"), at("moved, and new"), at("went on")), (4, 1, 9));
        assert_eq!(scan.states["moved"].newest_offset_plus_1, 0);
        assert_eq!(scan.adopted, ["moved", "moved, and new"]);
        assert!(!scan.states.contains_key("stays") && !scan.begun);
    }

    #[test]
    fn telemetry_adds_positions() {
        let mut scan = Scan::default();
        let limits = Limits::default();
        let name = |stream, seq| Name {
            stream,
            seq,
            through: seq,
            loss: false,
        };
        scan.telemetry(5, "a", name(1, 7), &[], &limits);
        scan.telemetry(6, "a", name(1, 8), &[], &limits);
        scan.telemetry(
            9,
            "a",
            Name {
                stream: 2,
                seq: 1,
                through: 4,
                loss: true,
            },
            &[],
            &limits,
        );
        assert_eq!(scan.next_offset, 10);
        let mut additions = scan.additions();
        additions.get_mut("a").unwrap().positions.sort_unstable();
        let expected = Addition {
            positions: vec![(1, 8), (2, 4)],
            newest: 10,
            losses: vec![(9, 0)],
        };
        assert_eq!(additions["a"], expected);
    }
}
