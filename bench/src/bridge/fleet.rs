//! Devices of our own kind under load: each sends as many batches as its window lets it, and counts one when it is acknowledged.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headwater_proto::frame::{Sealed, open_control, seal_control};
use headwater_proto::topic::{Kind, topic};
use headwater_proto::{SeriesSet, pb};
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};

/// MQTT connections: what they carry is theirs, and not the bridge's to pay for.
const CONNECTIONS: usize = 4;
/// Batches of one device that may be on their way.
const WINDOW: u64 = 8;
/// What is not acknowledged for this long is sent again: data travels at QoS 0.
const AGAIN: Duration = Duration::from_secs(2);

/// When each batch was published, by device and sequence number.
pub(super) type Published = Arc<Mutex<HashMap<(String, u64), Instant>>>;

/// How fast they send.
#[derive(Clone)]
pub(super) enum Pace {
    /// As fast as they are acknowledged.
    Full,
    /// A batch of each device this often; when each was published is noted.
    Every(Duration, Published),
}

/// A running fleet; it ends when this is dropped.
pub(super) struct Fleet {
    clients: Vec<Client>,
    counts: Arc<Counts>,
    devices: u64,
}

#[derive(Default)]
struct Counts {
    greeted: AtomicU64,
    refused: AtomicU64,
    ended: AtomicBool,
}

struct Device {
    name: String,
    stream: u64,
    greeted: bool,
    acked: u64,
    next: u64,
    since: Instant,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.counts.ended.store(true, Ordering::Relaxed);
        for client in &self.clients {
            let _ = client.try_disconnect();
        }
    }
}

impl Fleet {
    /// Connects `devices` devices, named after `prefix`, and has them say hello. Batch after batch, each sends `bodies` in turn.
    pub(super) fn start(
        port: u16,
        prefix: &str,
        devices: usize,
        set: &SeriesSet,
        bodies: &Arc<Vec<Sealed>>,
        pace: &Pace,
    ) -> Result<Self> {
        let counts = Arc::new(Counts::default());
        let each = devices.div_ceil(CONNECTIONS);
        let mut clients = Vec::new();
        for (number, first) in (0..devices).step_by(each).enumerate() {
            let members: Vec<Device> = (first..devices.min(first + each))
                .map(|at| Device {
                    name: format!("{prefix}-{at}"),
                    stream: (u64::from(std::process::id()) << 32) + at as u64 + 1,
                    greeted: false,
                    acked: 0,
                    next: 1,
                    since: Instant::now(),
                })
                .collect();
            let mut options = MqttOptions::new(format!("bench-{prefix}-{number}"), "127.0.0.1", port);
            options
                .set_max_packet_size(1 << 24, 1 << 24)
                .set_keep_alive(Duration::from_secs(60))
                .set_inflight(1000);
            let (client, mut connection) = Client::new(options, 2_000);
            clients.push(client.clone());
            let (acks, received) = sync_channel(100_000);
            let (set, bodies, pace, counted) = (set.clone(), bodies.clone(), pace.clone(), counts.clone());
            thread::spawn(move || drive(members, &client, &set, &bodies, &pace, &received, &counted));
            let counted = counts.clone();
            thread::spawn(move || {
                for event in connection.iter() {
                    if counted.ended.load(Ordering::Relaxed) || !take(event, &acks) {
                        return;
                    }
                }
            });
        }
        Ok(Self {
            clients,
            counts,
            devices: devices as u64,
        })
    }

    /// Waits until the bridge has answered every hello.
    pub(super) fn greeted(&self) -> Result<()> {
        let begun = Instant::now();
        while self.counts.greeted.load(Ordering::Relaxed) < self.devices {
            ensure!(
                begun.elapsed() < Duration::from_secs(120),
                "{} of {} devices had their hello answered",
                self.counts.greeted.load(Ordering::Relaxed),
                self.devices
            );
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Batches that the bridge refused.
    pub(super) fn refused(&self) -> u64 {
        self.counts.refused.load(Ordering::Relaxed)
    }
}

type Acked = (String, pb::Ack);

/// Hands acks on; `false`: nobody wants them any more.
fn take(event: Result<Event, rumqttc::ConnectionError>, acks: &SyncSender<Acked>) -> bool {
    let Ok(Event::Incoming(Packet::Publish(publish))) = event else {
        return event.is_ok();
    };
    let Some((name, Kind::Ack)) = headwater_proto::topic::parse(&publish.topic) else {
        return true;
    };
    let Ok(ack) = open_control("ack", &publish.payload) else {
        return true;
    };
    // One that does not fit is said again by the next.
    !matches!(
        acks.try_send((name.to_string(), ack)),
        Err(TrySendError::Disconnected(_))
    )
}

fn drive(
    mut devices: Vec<Device>,
    client: &Client,
    set: &SeriesSet,
    bodies: &[Sealed],
    pace: &Pace,
    acks: &Receiver<Acked>,
    counts: &Counts,
) {
    let at: HashMap<String, usize> = devices
        .iter()
        .map(|device| device.name.clone())
        .zip(0..)
        .collect();
    for device in &devices {
        if device.begin(client, set).is_err() {
            return;
        }
    }
    let mut looked = Instant::now();
    while !counts.ended.load(Ordering::Relaxed) {
        if let Ok((name, ack)) = acks.recv_timeout(Duration::from_millis(5))
            && let Some(&at) = at.get(&name)
        {
            let refused = devices[at].hear(&ack, counts);
            counts.refused.fetch_add(refused, Ordering::Relaxed);
            if matches!(pace, Pace::Full) && devices[at].fill(client, bodies, WINDOW, None).is_err() {
                return;
            }
        }
        if looked.elapsed() < Duration::from_millis(10) {
            continue;
        }
        looked = Instant::now();
        for device in &mut devices {
            let sent = match pace {
                Pace::Full if device.since.elapsed() > AGAIN => {
                    device.next = device.acked + 1;
                    device.since = looked;
                    device.fill(client, bodies, WINDOW, None)
                }
                Pace::Every(every, published) if device.greeted && device.since.elapsed() >= *every => {
                    device.since += *every;
                    device.fill(client, bodies, 1, Some(published))
                }
                _ => Ok(()),
            };
            if sent.is_err() {
                return;
            }
        }
    }
}

impl Device {
    /// The number that frames call its one stream by.
    const SHORT: u32 = 1;

    fn begin(&self, client: &Client, set: &SeriesSet) -> Result<()> {
        client.subscribe(topic(&self.name, Kind::Ack), QoS::AtMostOnce)?;
        let publish =
            |kind, payload| client.publish(topic(&self.name, kind), QoS::AtLeastOnce, true, payload);
        publish(Kind::Series, seal_control(&set.to_pb()))?;
        let hello = pb::Hello {
            session: self.stream,
            streams: vec![pb::HelloStream {
                stream: self.stream,
                short: Self::SHORT,
                first_seq: 1,
                last_seq: 0,
                acked_seq: 0,
                torn: false,
            }],
            agent: None,
        };
        publish(Kind::Hello, seal_control(&hello)).context("the connection has ended")
    }

    /// Takes an ack; returns how many batches it refuses.
    fn hear(&mut self, ack: &pb::Ack, counts: &Counts) -> u64 {
        if !self.greeted && ack.session == self.stream {
            self.greeted = true;
            self.since = Instant::now();
            counts.greeted.fetch_add(1, Ordering::Relaxed);
        }
        for position in ack.positions.iter().filter(|at| at.stream == self.stream) {
            if position.seq > self.acked {
                self.acked = position.seq;
                self.since = Instant::now();
            }
        }
        self.next = self.next.max(self.acked + 1);
        if ack.go_back {
            self.next = self.acked + 1;
        }
        ack.refusals.len() as u64
    }

    fn fill(
        &mut self,
        client: &Client,
        bodies: &[Sealed],
        window: u64,
        published: Option<&Published>,
    ) -> Result<()> {
        if !self.greeted {
            return Ok(());
        }
        while self.next <= self.acked + window {
            let body = &bodies[self.next as usize % bodies.len()];
            if let Some(published) = published {
                let mut published = published.lock().unwrap_or_else(PoisonError::into_inner);
                published.insert((self.name.clone(), self.next), Instant::now());
            }
            let payload = body.frame(Self::SHORT, self.next);
            client.publish(topic(&self.name, Kind::Data), QoS::AtMostOnce, false, payload)?;
            self.next += 1;
        }
        Ok(())
    }
}
