//! The least of a relay: it answers hello, takes batches in order, acknowledges, and keeps nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use headwater_proto::frame::{Frame, open_control, seal_control};
use headwater_proto::topic::{Kind, filter, parse, topic};
use headwater_proto::{Body, Limits, SeriesSet, pb};
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};

/// A running acknowledger; it ends when this is dropped.
pub(crate) struct Acknowledger {
    client: Client,
    counts: Arc<Counts>,
}

/// What was acknowledged.
#[derive(Debug, Default)]
struct Counts {
    readings: AtomicU64,
    frame_bytes: AtomicU64,
}

impl Drop for Acknowledger {
    fn drop(&mut self) {
        let _ = self.client.disconnect();
    }
}

#[derive(Default)]
struct Streams {
    /// By device and short number.
    ids: HashMap<(String, u32), u64>,
    sets: HashMap<u32, SeriesSet>,
    positions: HashMap<u64, u64>,
}

impl Acknowledger {
    /// Connects to the broker at `port`.
    pub(crate) fn start(port: u16) -> Result<Self> {
        let mut options = MqttOptions::new("headwater-bench", "127.0.0.1", port);
        options
            .set_max_packet_size(1 << 24, 1 << 24)
            .set_keep_alive(Duration::from_secs(30));
        let (client, mut connection) = Client::new(options, 10_000);
        let counts = Arc::new(Counts::default());
        let (publisher, counted) = (client.clone(), counts.clone());
        thread::Builder::new()
            .name("acknowledger".into())
            .spawn(move || {
                let mut streams = Streams::default();
                for event in connection.iter() {
                    match event {
                        Ok(Event::Incoming(Packet::ConnAck(_))) => {
                            for kind in [Kind::Hello, Kind::Series, Kind::Data] {
                                let _ = publisher.try_subscribe(filter(kind), QoS::AtMostOnce);
                            }
                        }
                        Ok(Event::Incoming(Packet::Publish(publish))) => {
                            let Some((device, kind)) = parse(&publish.topic) else {
                                continue;
                            };
                            if let Some(ack) = streams.receive(device, kind, &publish.payload, &counted) {
                                let payload = seal_control(&ack);
                                let _ = publisher.try_publish(
                                    topic(device, Kind::Ack),
                                    QoS::AtMostOnce,
                                    false,
                                    payload,
                                );
                            }
                        }
                        Ok(_) => {}
                        Err(_) => return,
                    }
                }
            })
            .context("no thread")?;
        Ok(Self { client, counts })
    }

    /// Readings that it has acknowledged.
    pub(crate) fn readings(&self) -> u64 {
        self.counts.readings.load(Ordering::Relaxed)
    }

    /// Bytes of the frames that it was sent.
    pub(crate) fn frame_bytes(&self) -> u64 {
        self.counts.frame_bytes.load(Ordering::Relaxed)
    }
}

impl Streams {
    fn receive(&mut self, device: &str, kind: Kind, payload: &[u8], counts: &Counts) -> Option<pb::Ack> {
        match kind {
            Kind::Hello => {
                let hello: pb::Hello = open_control("hello", payload).ok()?;
                for stream in &hello.streams {
                    self.ids.insert((device.into(), stream.short), stream.stream);
                    let position = self.positions.entry(stream.stream).or_default();
                    *position = (*position).max(stream.acked_seq);
                }
                let positions = hello.streams.iter().map(|stream| self.position(stream.stream));
                Some(pb::Ack {
                    positions: positions.collect(),
                    session: hello.session,
                    ..Default::default()
                })
            }
            Kind::Series => {
                let set =
                    SeriesSet::from_pb(open_control("series", payload).ok()?, &Limits::default()).ok()?;
                self.sets.insert(set.hash(), set);
                None
            }
            Kind::Data => {
                counts
                    .frame_bytes
                    .fetch_add(payload.len() as u64, Ordering::Relaxed);
                let limits = Limits::default();
                let frame = Frame::parse(payload, &limits).ok()?;
                let Some(&stream) = self.ids.get(&(device.to_string(), frame.short)) else {
                    return Some(pb::Ack {
                        want_hello: true,
                        ..Default::default()
                    });
                };
                let position = self.positions.entry(stream).or_default();
                let mut go_back = false;
                if frame.seq == *position + 1 {
                    // The peer stores whatever it gets; decoding shows that it could be read.
                    match frame
                        .body(self.sets.get(&frame.series_set().ok()?), &limits)
                        .ok()?
                    {
                        Body::Readings(body) => {
                            *position = frame.seq;
                            counts.readings.fetch_add(body.len() as u64, Ordering::Relaxed);
                        }
                        Body::Loss(loss) => *position = loss.through,
                    }
                } else {
                    go_back = frame.seq > *position;
                }
                Some(pb::Ack {
                    positions: vec![self.position(stream)],
                    go_back,
                    ..Default::default()
                })
            }
            _ => None,
        }
    }

    fn position(&self, stream: u64) -> pb::StreamPosition {
        pb::StreamPosition {
            stream,
            seq: self.positions.get(&stream).copied().unwrap_or(0),
        }
    }
}
