//! `headwater-bench bridge`: what carrying readings from MQTT into Kafka costs, beside Telegraf and Redpanda Connect doing the same, and
//! beside the limit: librdkafka's producer with the same records and nothing before it.
//!
//! Real Apache Kafka and Mosquitto on this machine. What is compared is CPU time of the process in the middle, user and system, since the
//! machine's two others take the rest of it; what comes out is counted by a reader of the topic.

mod fleet;
pub(crate) mod kafka;
mod peers;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headwater_proto::frame::{Compression, Encoding, Sealed, Sealer};
use headwater_proto::{Body, Limits, SeriesSet};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::agent::broker::Broker;
use crate::agent::process::Process;
use crate::trace::{self, Trace};
use fleet::{Fleet, Pace, Published};
use kafka::{Kafka, Watch};
use peers::{Peer, Publisher};

/// Rows of the trace in a batch: of 8 metrics, 480 readings.
const ROWS: usize = 60;
/// Different batches that are sent in turn.
const BATCHES: usize = 64;
/// Devices while it is about speed.
const DEVICES: usize = 200;
/// Peers' readings per CPU-second, with batches, are at most our so-manyth.
const BATCHED_TIMES: f64 = 10.0;
/// The same of messages with one reading.
const SINGLE_TIMES: f64 = 2.0;
/// Our messages per CPU-second are at least so much of the producer's alone.
const OF_LIMIT: f64 = 0.6;
/// Resident memory with the whole fleet, KiB.
const RSS_KIB: u64 = 64 * 1024;
/// Before anything is counted.
const SETTLE: Duration = Duration::from_secs(4);

/// What to measure.
#[derive(Debug)]
pub struct Plan {
    /// The relay's program.
    pub relay: PathBuf,
    /// Telegraf's program.
    pub telegraf: Option<PathBuf>,
    /// Redpanda Connect's program.
    pub connect: Option<PathBuf>,
    /// A trace of 8 metrics.
    pub trace: PathBuf,
    /// Devices of the fleet whose memory is measured.
    pub devices: usize,
    /// How long each part is watched.
    pub watch: Duration,
}

/// A promise that is not kept.
pub type Shortfall = String;

/// What carrying cost.
struct Cost {
    /// Messages per second and per CPU-second.
    messages: (f64, f64),
    /// Readings per CPU-second.
    readings: f64,
    /// Bytes of a record's value.
    record: f64,
    rss_kib: u64,
    /// From publish to Kafka's reader at a slow pace: the middle one, and the slowest of a hundred.
    latency: (Duration, Duration),
}

/// The same readings in each form.
struct Load {
    set: SeriesSet,
    /// Ours.
    bodies: Arc<Vec<Sealed>>,
    /// The peers': topic and lines.
    lines: Vec<(String, Vec<u8>)>,
    readings: u64,
    /// Lines of a message.
    rows: u64,
}

/// Measures, prints a table, and returns the promises that are not kept.
///
/// # Errors
/// What keeps it from measuring: a program that is missing, a server that does not start, what does not arrive.
pub fn run(plan: &Plan) -> Result<Vec<Shortfall>> {
    let work = tempfile::tempdir().context("no directory for temporary files")?;
    let kafka = Kafka::start(work.path())?;
    let broker = Broker::start(work.path())?;
    let trace = trace::read(&plan.trace)?;
    let one = trace.first_metric();
    let mut shortfalls = Vec::new();
    let mut relay = Relay::start(plan, work.path(), &broker, &kafka)?;
    println!(
        "{:<44} {:>9} {:>11} {:>13} {:>8} {:>8} {:>15}",
        "", "messages", "messages", "readings", "bytes", "peak RSS", "publish to Kafka"
    );
    println!(
        "{:<44} {:>9} {:>11} {:>13} {:>8} {:>8} {:>15}",
        "", "/s", "/CPU-s", "/CPU-s", "a record", "KiB", "p50/p99 ms"
    );
    for (form, rows, times) in [
        (format!("batches of {ROWS} rows"), ROWS, BATCHED_TIMES),
        ("one reading a message".to_string(), 1, SINGLE_TIMES),
    ] {
        let load = Load::new(if rows == 1 { &one } else { &trace }, rows)?;
        let ours = relay.carry(plan, &broker, &kafka, &load, rows)?;
        ours.print(&format!("{form}: headwater-relay"));
        let foreign = if rows == 1 {
            let foreign = carry(
                Peer::Foreign,
                &plan.relay,
                plan,
                work.path(),
                &broker,
                &kafka,
                &load,
            )?;
            foreign.print(&format!("{form}: headwater-relay, lines"));
            Some(foreign)
        } else {
            None
        };
        for (peer, program) in [(Peer::Telegraf, &plan.telegraf), (Peer::Connect, &plan.connect)] {
            let Some(program) = program else {
                println!("{form}: {peer:?}: not measured; give its program");
                continue;
            };
            let theirs = carry(peer, program, plan, work.path(), &broker, &kafka, &load)?;
            theirs.print(&format!("{form}: {peer:?}"));
            let ratio = match rows {
                1 => ours.messages.1 / theirs.messages.1,
                _ => ours.readings / theirs.readings,
            };
            println!("{:<44} {ratio:>21.1} times as much by the relay", "");
            // Where messages are compared it is the same bytes that count.
            let judged = match &foreign {
                Some(foreign) => {
                    let ratio = foreign.messages.1 / theirs.messages.1;
                    println!(
                        "{:<44} {ratio:>21.1} times as much by the relay, of the same bytes",
                        ""
                    );
                    ratio
                }
                None => ratio,
            };
            if judged < times {
                shortfalls.push(format!("{form}: {judged:.1} × {peer:?}, not {times} ×"));
            }
        }
    }
    let load = Load::new(&trace, ROWS)?;
    let limit = limit(plan, &kafka)?;
    let ours = relay.carry(plan, &broker, &kafka, &load, ROWS + 1)?;
    let of_limit = ours.messages.1 / limit;
    println!(
        "the relay's own records by librdkafka's producer alone: {limit:.0} messages/CPU-s; the relay, once more: {:.0}, {:.0} % of it",
        ours.messages.1,
        of_limit * 100.0
    );
    if of_limit < OF_LIMIT {
        shortfalls.push(format!("{:.0} % of the producer's limit", of_limit * 100.0));
    }
    drop(relay);
    if plan.devices > 0 {
        let rss = whole_fleet(plan, work.path(), &broker, &kafka, &load)?;
        if rss > RSS_KIB {
            shortfalls.push(format!("{rss} KiB with {} devices, of {RSS_KIB}", plan.devices));
        }
    }
    Ok(shortfalls)
}

impl Load {
    fn new(trace: &Trace, rows: usize) -> Result<Self> {
        let set = trace.series();
        let mut sealer = Sealer::default();
        let (mut bodies, mut lines) = (Vec::new(), Vec::new());
        for (at, rows) in trace.rows.chunks_exact(rows).take(BATCHES).enumerate() {
            let body = Body::Readings(trace::readings(&trace.metrics, rows));
            let sealed = sealer.seal(
                &body,
                &set,
                Encoding::Postcard,
                Compression::None,
                &Limits::default(),
            )?;
            bodies.push(sealed);
            let device = format!("gw-{}", at % DEVICES);
            let text = peers::lines(trace, rows, &device);
            lines.push((format!("{device}/lines"), text.into_bytes()));
        }
        ensure!(!bodies.is_empty(), "the trace has less than {rows} rows");
        let readings = trace::count(&trace.rows[..rows]) as u64;
        Ok(Self {
            set,
            bodies: Arc::new(bodies),
            lines,
            readings,
            rows: rows as u64,
        })
    }
}

struct Relay {
    process: Process,
}

impl Relay {
    fn start(plan: &Plan, work: &Path, broker: &Broker, kafka: &Kafka) -> Result<Self> {
        let config = work.join("relay.toml");
        let text = format!(
            "[admin]\nlisten = \"127.0.0.1:0\"\n[kafka]\nbootstrap = \"{}\"\nprefix = \"bench\"\n[mqtt]\nbroker = \"mqtt://127.0.0.1:{}\"\n",
            kafka.bootstrap, broker.port
        );
        std::fs::write(&config, text)?;
        let process = Process::start(
            Command::new(&plan.relay)
                .arg("bridge")
                .arg("--config")
                .arg(&config),
            &work.join("relay.log"),
        )?;
        Ok(Self { process })
    }

    /// The load at full speed, then at a slow pace.
    fn carry(
        &mut self,
        plan: &Plan,
        broker: &Broker,
        kafka: &Kafka,
        load: &Load,
        run: usize,
    ) -> Result<Cost> {
        let start = |kind: &str, devices, pace: &Pace| {
            let prefix = format!("{kind}-{run}");
            Fleet::start(broker.port, &prefix, devices, &load.set, &load.bodies, pace)
        };
        let fleet = start("gw", DEVICES, &Pace::Full)?;
        fleet.greeted().with_context(|| self.log())?;
        let watch = Watch::start(kafka, "bench.telemetry")?;
        thread::sleep(SETTLE);
        let before = (
            watch.records(),
            watch.bytes(),
            self.process.cpu()?,
            Instant::now(),
        );
        thread::sleep(plan.watch);
        let cost = Cost::between(
            &before,
            &watch,
            self.process.cpu()?,
            load.readings,
            1,
            &self.process,
        )?;
        ensure!(
            fleet.refused() == 0,
            "the relay refused {} batches",
            fleet.refused()
        );
        drop(fleet);
        let published = Published::default();
        let fleet = start(
            "slow",
            20,
            &Pace::Every(Duration::from_millis(100), published.clone()),
        )?;
        fleet.greeted()?;
        thread::sleep(SETTLE);
        watch.mark();
        thread::sleep(plan.watch / 2);
        drop(fleet);
        thread::sleep(Duration::from_secs(1));
        let published = published.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Cost {
            latency: latency(&published, &watch.marks())?,
            ..cost
        })
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.process.log()).unwrap_or_default()
    }
}

/// The same by a peer.
fn carry(
    peer: Peer,
    program: &Path,
    plan: &Plan,
    work: &Path,
    broker: &Broker,
    kafka: &Kafka,
    load: &Load,
) -> Result<Cost> {
    let into = format!("{peer:?}-{}", load.rows).to_lowercase();
    kafka.create(&peer.topic(&into), 8)?;
    let watch = match peer {
        Peer::Telegraf | Peer::Connect => Watch::start(kafka, &peer.topic(&into))?,
        Peer::Foreign => Watch::of_batches(kafka, &peer.topic(&into))?,
    };
    let process = peer.start(
        program,
        work,
        broker.port,
        &kafka.bootstrap,
        &format!("{into}/#"),
        &into,
    )?;
    thread::sleep(SETTLE);
    let messages: Vec<_> = load
        .lines
        .iter()
        .map(|(topic, text)| (format!("{into}/{topic}"), text.clone()))
        .collect();
    let records = match peer {
        Peer::Telegraf => load.rows,
        Peer::Connect => 1,
        Peer::Foreign => load.readings,
    };
    let publisher = Publisher::start(broker.port, &format!("bench-{into}"));
    let mut published = 0;
    let told = |error: anyhow::Error| {
        let log = std::fs::read_to_string(process.log()).unwrap_or_default();
        error.context(format!("{peer:?} said:\n{log}"))
    };
    publisher
        .flood(&messages, records, SETTLE, &watch, &mut published)
        .map_err(told)?;
    let before = (watch.records(), watch.bytes(), process.cpu()?, Instant::now());
    publisher
        .flood(&messages, records, plan.watch, &watch, &mut published)
        .map_err(told)?;
    let cost = Cost::between(&before, &watch, process.cpu()?, load.readings, records, &process)?;
    watch.mark();
    let at: Published = Arc::new(Mutex::new(HashMap::new()));
    let begun = Instant::now();
    for number in 0.. {
        let due = Duration::from_millis(5) * number as u32;
        if due > plan.watch / 2 {
            break;
        }
        thread::sleep(due.saturating_sub(begun.elapsed()));
        let (topic, text) = &messages[number as usize % messages.len()];
        let text = peers::numbered(std::str::from_utf8(text)?, number);
        at.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((String::new(), number), Instant::now());
        publisher.publish(topic, text.into_bytes())?;
    }
    thread::sleep(Duration::from_secs(2));
    let at = at.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Cost {
        latency: latency(&at, &watch.marks())?,
        ..cost
    })
}

impl Cost {
    fn between(
        before: &(u64, u64, Duration, Instant),
        watch: &Watch,
        cpu: Duration,
        readings: u64,
        records: u64,
        process: &Process,
    ) -> Result<Self> {
        let came = (watch.records() - before.0) as f64;
        ensure!(came > 0.0, "nothing came into Kafka");
        let messages = came / records as f64;
        let cpu = cpu.saturating_sub(before.2).as_secs_f64();
        Ok(Self {
            messages: (messages / before.3.elapsed().as_secs_f64(), messages / cpu),
            readings: messages * readings as f64 / cpu,
            record: (watch.bytes() - before.1) as f64 / came,
            rss_kib: process.usage()?.peak_kib,
            latency: Default::default(),
        })
    }

    fn print(&self, name: &str) {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        println!(
            "{name:<44} {:>9.0} {:>11.0} {:>13.0} {:>8.0} {:>8} {:>15}",
            self.messages.0,
            self.messages.1,
            self.readings,
            self.record,
            self.rss_kib,
            format!("{:.1} / {:.1}", ms(self.latency.0), ms(self.latency.1))
        );
    }
}

/// The middle one, and the slowest of a hundred, of those that were published while marks were taken.
fn latency(
    published: &HashMap<(String, u64), Instant>,
    came: &HashMap<(String, u64), Instant>,
) -> Result<(Duration, Duration)> {
    let mut times: Vec<Duration> = came
        .iter()
        .filter_map(|(mark, at)| Some(at.saturating_duration_since(*published.get(mark)?)))
        .collect();
    times.sort();
    ensure!(times.len() >= 100, "only {} messages were followed", times.len());
    Ok((times[times.len() / 2], times[times.len() * 99 / 100]))
}

/// Messages per CPU-second of librdkafka's producer with what the relay has written, and nothing else to do.
fn limit(plan: &Plan, kafka: &Kafka) -> Result<f64> {
    let stored = kafka::read(kafka, "bench.telemetry", 20_000)?;
    kafka.create("limit", 8)?;
    let producer: BaseProducer = kafka
        .client()
        .set("enable.idempotence", "true")
        .set("linger.ms", "2")
        .set("compression.type", "lz4")
        .create()?;
    let own = || -> Result<Duration> { crate::agent::process::cpu(std::process::id()) };
    let mut sent = 0_u64;
    let mut send = |time: Duration| -> Result<u64> {
        let begun = Instant::now();
        let before = sent;
        while begun.elapsed() < time {
            let stored = &stored[sent as usize % stored.len()];
            let mut record = BaseRecord::to("limit")
                .key(&stored.key)
                .payload(&stored.value)
                .headers(stored.headers.clone());
            // A full queue has it wait, as the relay waits.
            while let Err((_, again)) = producer.send(record) {
                producer.poll(Duration::from_millis(1));
                record = again;
            }
            sent += 1;
            if sent.is_multiple_of(64) {
                producer.poll(Duration::ZERO);
            }
        }
        producer.flush(Duration::from_secs(30))?;
        Ok(sent - before)
    };
    send(SETTLE)?;
    let before = own()?;
    let messages = send(plan.watch)?;
    Ok(messages as f64 / own()?.saturating_sub(before).as_secs_f64())
}

/// Memory of a bridge with all its devices there, each with a batch every ten seconds.
fn whole_fleet(plan: &Plan, work: &Path, broker: &Broker, kafka: &Kafka, load: &Load) -> Result<u64> {
    let relay = Relay::start(plan, work, broker, kafka)?;
    let begun = Instant::now();
    let published = Published::default();
    let pace = Pace::Every(Duration::from_secs(10), published);
    let fleet = Fleet::start(broker.port, "all", plan.devices, &load.set, &load.bodies, &pace)?;
    fleet.greeted().with_context(|| relay.log())?;
    let greeted = begun.elapsed();
    thread::sleep(plan.watch.max(Duration::from_secs(30)));
    let usage = relay.process.usage()?;
    println!(
        "{} devices, a batch every 10 s: all hellos answered {:.1} s after the bridge was started; {} KiB resident, {} at most",
        plan.devices,
        greeted.as_secs_f64(),
        usage.rss_kib,
        usage.peak_kib
    );
    Ok(usage.rss_kib)
}
