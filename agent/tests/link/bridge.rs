//! A small relay of the tests' own, scripted: it takes batches in order, keeps what it took, and acknowledges, unless it is
//! told to lose, to be silent or to forget.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headwater_proto::frame::{Frame, open_control, seal_control};
use headwater_proto::topic::{Kind, filter, parse, topic};
use headwater_proto::{Body, Limits, Readings, SeriesSet, pb};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tokio::task::JoinHandle;

/// What it is told to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    /// Every n-th data frame is lost on its way in; 0: none.
    pub(crate) lose_every: u64,
    /// Nothing is acknowledged.
    pub(crate) silent: bool,
    /// This batch is refused for good.
    pub(crate) refuse: Option<u64>,
}

/// What it knows and has.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) script: Script,
    shorts: HashMap<(String, u32), u64>,
    sets: HashMap<(String, u32), SeriesSet>,
    /// Lasting, as Kafka is: by device and stream.
    positions: BTreeMap<(String, u64), u64>,
    /// What was taken, in order: device, stream, seq, body.
    pub(crate) taken: Vec<(String, u64, u64, Body)>,
    /// Every status, in order.
    pub(crate) statuses: Vec<(String, pb::Status)>,
    pub(crate) hellos: Vec<(String, pb::Hello)>,
    /// Of each first data frame after a hello: the position in its stream before it, and its seq.
    pub(crate) firsts: Vec<(u64, u64)>,
    /// Devices that said hello and have sent nothing since.
    greeted: BTreeSet<String>,
    frames: u64,
    pub(crate) frame_bytes: u64,
}

#[derive(Clone, Default)]
pub(crate) struct Bridge {
    state: Arc<Mutex<State>>,
}

/// Ends the bridge's task when dropped.
pub(crate) struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Bridge {
    pub(crate) fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    /// Everything but what was taken is forgotten, as when a relay is killed and started again.
    pub(crate) fn forget(&self) {
        self.state(|state| {
            state.shorts.clear();
            state.sets.clear();
        });
    }

    /// Runs until the result is dropped; connects again whenever the broker is gone.
    pub(crate) fn run(&self, port: u16) -> Running {
        let bridge = self.clone();
        Running(tokio::spawn(async move {
            let mut options = MqttOptions::new("bridge", "127.0.0.1", port);
            options
                .set_max_packet_size(1 << 24, 1 << 24)
                .set_keep_alive(Duration::from_secs(5));
            let (client, mut eventloop) = AsyncClient::new(options, 10_000);
            loop {
                match eventloop.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        for kind in [Kind::Hello, Kind::Series, Kind::Status, Kind::Data] {
                            client.try_subscribe(filter(kind), QoS::AtLeastOnce).unwrap();
                        }
                    }
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let (device, kind) =
                            parse(&publish.topic).unwrap_or_else(|| panic!("{}", publish.topic));
                        assert_eq!(publish.qos == QoS::AtMostOnce, kind == Kind::Data);
                        let ack = bridge.state(|state| state.receive(device, kind, &publish.payload));
                        if let Some(ack) = ack {
                            let topic = topic(device, Kind::Ack);
                            client
                                .try_publish(topic, QoS::AtLeastOnce, false, seal_control(&ack))
                                .unwrap();
                        }
                    }
                    Ok(_) => {}
                    Err(_) => {
                        eventloop.state.events.clear();
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        }))
    }

    /// The readings taken of one metric, in order: time and value as text.
    pub(crate) fn readings(&self, metric: &str) -> Vec<(i64, String)> {
        self.state(|state| {
            let mut out = Vec::new();
            for (.., body) in &state.taken {
                if let Body::Readings(readings) = body {
                    out.extend(readings_of(readings, metric));
                }
            }
            out
        })
    }

    /// The metrics of which readings were taken.
    pub(crate) fn metrics(&self) -> BTreeSet<String> {
        self.state(|state| {
            let bodies = state.taken.iter().filter_map(|(.., body)| match body {
                Body::Readings(readings) => Some(&readings.columns),
                Body::Loss(_) => None,
            });
            bodies.flatten().map(|column| column.metric.clone()).collect()
        })
    }

    /// Each stream's chain has no hole and nothing twice; returns readings taken and readings told as lost.
    pub(crate) fn check_chains(&self) -> (u64, u64) {
        self.state(|state| {
            let mut next: HashMap<(String, u64), u64> = HashMap::new();
            let (mut taken, mut lost) = (0, 0);
            for (device, stream, seq, body) in &state.taken {
                let next = next.entry((device.clone(), *stream)).or_insert(1);
                assert_eq!(seq, next, "stream {stream:016x} of {device}");
                *next = seq + 1;
                match body {
                    Body::Readings(readings) => taken += readings.len() as u64,
                    Body::Loss(loss) => {
                        lost += loss.readings;
                        *next = loss.through + 1;
                    }
                }
            }
            (taken, lost)
        })
    }
}

pub(crate) fn readings_of(readings: &Readings, metric: &str) -> Vec<(i64, String)> {
    use headwater_proto::Values;
    let mut out = Vec::new();
    for column in readings.columns.iter().filter(|column| column.metric == metric) {
        let times = &readings.times[column.times as usize];
        let values: Vec<String> = match &column.values {
            Values::F64(values) => values.iter().map(ToString::to_string).collect(),
            Values::I64(values) => values.iter().map(ToString::to_string).collect(),
            Values::Bool(values) => values.iter().map(ToString::to_string).collect(),
            Values::String(values) => values.clone(),
        };
        out.extend(times.iter().copied().zip(values));
    }
    out
}

impl State {
    fn receive(&mut self, device: &str, kind: Kind, payload: &[u8]) -> Option<pb::Ack> {
        let device = device.to_string();
        let ack = match kind {
            Kind::Hello => {
                let hello: pb::Hello = open_control("hello", payload).unwrap();
                self.shorts.retain(|(name, _), _| *name != device);
                for stream in &hello.streams {
                    self.shorts.insert((device.clone(), stream.short), stream.stream);
                    let position = self.positions.entry((device.clone(), stream.stream)).or_insert(0);
                    *position = (*position).max(stream.acked_seq);
                }
                let session = hello.session;
                self.greeted.insert(device.clone());
                self.hellos.push((device.clone(), hello));
                pb::Ack {
                    session,
                    ..Default::default()
                }
            }
            Kind::Series => {
                let set =
                    SeriesSet::from_pb(open_control("series", payload).unwrap(), &Limits::default()).unwrap();
                self.sets.insert((device, set.hash()), set);
                return None;
            }
            Kind::Status => {
                self.statuses
                    .push((device, open_control("status", payload).unwrap()));
                return None;
            }
            Kind::Data => {
                self.frames += 1;
                self.frame_bytes += payload.len() as u64;
                if self.script.lose_every > 0 && self.frames.is_multiple_of(self.script.lose_every) {
                    return None;
                }
                self.data(&device, payload)
            }
            _ => return None,
        };
        if self.script.silent {
            return None;
        }
        let mine = self.positions.iter().filter(|((name, _), _)| *name == device);
        let positions = mine
            .map(|((_, stream), seq)| pb::StreamPosition {
                stream: *stream,
                seq: *seq,
            })
            .collect();
        Some(pb::Ack { positions, ..ack })
    }

    fn data(&mut self, device: &str, payload: &[u8]) -> pb::Ack {
        let limits = Limits::default();
        let frame = Frame::parse(payload, &limits).unwrap();
        let Some(stream) = self.shorts.get(&(device.to_string(), frame.short)).copied() else {
            return pb::Ack {
                want_hello: true,
                ..Default::default()
            };
        };
        let position = self.positions.entry((device.to_string(), stream)).or_insert(0);
        if self.greeted.remove(device) {
            self.firsts.push((*position, frame.seq));
        }
        if frame.seq <= *position {
            return pb::Ack::default();
        }
        if frame.seq > *position + 1 {
            return pb::Ack {
                go_back: true,
                ..Default::default()
            };
        }
        if self.script.refuse == Some(frame.seq) {
            self.script.refuse = None;
            let refusals = vec![pb::Refusal {
                stream,
                seq: frame.seq,
                reason: "scripted".into(),
            }];
            return pb::Ack {
                refusals,
                ..Default::default()
            };
        }
        let hash = frame.series_set().unwrap();
        let set = self.sets.get(&(device.to_string(), hash));
        if hash != 0 && set.is_none() {
            return pb::Ack {
                want_series: vec![hash],
                ..Default::default()
            };
        }
        let body = frame.body(set, &limits).unwrap();
        *position = match &body {
            Body::Readings(_) => frame.seq,
            Body::Loss(loss) => loss.through,
        };
        self.taken.push((device.to_string(), stream, frame.seq, body));
        pb::Ack::default()
    }
}
