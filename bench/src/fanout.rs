//! `headwater-bench fanout`: readings from Kafka to many subscribers by our gateway, by Centrifugo and by the plain pattern of most tutorials (Node
//! with `ws` and `kafkajs`), in one run on one machine, with the same readings.
//!
//! Every subscriber wants everything. One in ten (from 100 on) is slow: it takes 10 KiB a second. Each server is started anew for each number
//! of subscribers, and is measured in three ways: connected and quiet (memory); at a slow pace, 10,000 deliveries a second at most (latency from
//! before Kafka to a subscriber, CPU time); and as fast as its quick subscribers take it (CPU time, bytes). CPU time is that of the server's process,
//! user and system; the clients are one process, this one.

mod crowd;
mod load;
mod protocol;
mod server;
mod wire;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::bridge::kafka::Kafka;
use crowd::{Crowd, Manner};
use load::{Load, Pace, Publisher};
pub use protocol::Kind;
use server::Server;

/// Our readings per CPU-second at a thousand subscribers are at least so many times a peer's.
const TIMES: [(Kind, f64); 2] = [(Kind::Centrifugo, 5.0), (Kind::Node, 20.0)];
/// A quiet connection, KiB.
const QUIET_KIB: f64 = 12.0;
/// Deliveries a second at the slow pace.
const SLOW_PACE: u64 = 10_000;
/// The pace that latency is promised for: batches a second, subscribers.
const PROMISED: (u32, usize) = (1_000, 100);

/// Beside subscribers that never acknowledge: batches a second, quick subscribers, the others.
const MUTE: (u32, usize, usize) = (100, 100, 100);
/// What one of them may cost: a share of a window, what the kernel holds for it, a quiet connection. KiB.
const MUTE_KIB: f64 = 256.0;
/// p99 of the quick ones may be so many times what it is without them, and so many milliseconds more.
const MUTE_LATENCY: (f64, f64) = (2.0, 10.0);

/// What to measure.
#[derive(Debug)]
pub struct Plan {
    /// The relay's program.
    pub relay: PathBuf,
    /// Centrifugo's program.
    pub centrifugo: Option<PathBuf>,
    /// The folder of the Node pattern.
    pub node: Option<PathBuf>,
    /// A trace of 8 metrics.
    pub trace: PathBuf,
    /// Its rows in a batch.
    pub rows: usize,
    /// Numbers of subscribers.
    pub subscribers: Vec<usize>,
    /// How long each part is watched.
    pub watch: Duration,
    /// What to leave out.
    pub parts: Parts,
}

/// Which parts are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// All.
    All,
    /// What depends on the number of subscribers.
    Table,
    /// Subscribers that never acknowledge, or never read.
    Mute,
}

/// A promise that is not kept.
pub type Shortfall = String;

/// What a server made of a number of subscribers.
#[derive(Debug, Default)]
struct Row {
    /// Deliveries a second, flat out.
    deliveries: f64,
    /// Readings per CPU-second, flat out and at the slow pace.
    readings: (f64, f64),
    /// Bytes a reading, flat out.
    bytes: f64,
    /// At the slow pace, milliseconds.
    latency: Option<(f64, f64)>,
    /// KiB a connection, quiet and after all.
    memory: (f64, f64),
    /// Deliveries that never came, and connections that were ended, quick and slow ones.
    missing: u64,
    ended: (u64, u64),
}

/// Measures, prints a table, and returns the promises that are not kept.
///
/// # Errors
/// What keeps it from measuring: a program that is missing, a server that does not start, what does not arrive.
pub fn run(plan: &Plan) -> Result<Vec<Shortfall>> {
    let work = tempfile::tempdir().context("no directory for temporary files")?;
    let kafka = Kafka::start(work.path())?;
    let load = Load::new(&plan.trace, plan.rows)?;
    let mut bench = Bench {
        plan,
        work: work.path(),
        kafka: &kafka,
        load: &load,
        shortfalls: Vec::new(),
    };
    let busy = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "{} readings a batch; load of the machine before: {busy}",
        load.readings
    );
    if plan.parts == Parts::Mute {
        bench.mute();
        return Ok(bench.shortfalls);
    }
    println!(
        "{:>11} {:<11} {:>11} {:>12} {:>12} {:>9} {:>15} {:>15}  ",
        "", "", "deliveries", "readings", "readings", "bytes", "p50/p99", "KiB/connection"
    );
    println!(
        "{:>11} {:<11} {:>11} {:>12} {:>12} {:>9} {:>15} {:>15}  ",
        "subscribers", "", "/s", "/CPU-s", "/CPU-s, slow", "a reading", "ms, slow", "quiet/after"
    );
    for &count in &plan.subscribers {
        bench.row(count);
    }
    if plan.parts == Parts::All {
        bench.promised();
        bench.mute();
    }
    Ok(bench.shortfalls)
}

struct Bench<'a> {
    plan: &'a Plan,
    work: &'a std::path::Path,
    kafka: &'a Kafka,
    load: &'a Load,
    shortfalls: Vec<Shortfall>,
}

impl Bench<'_> {
    fn kinds(&self) -> Vec<Kind> {
        let mut kinds = vec![Kind::Headwater];
        kinds.extend(self.plan.centrifugo.as_ref().map(|_| Kind::Centrifugo));
        kinds.extend(self.plan.node.as_ref().map(|_| Kind::Node));
        kinds
    }

    /// All servers with one number of subscribers.
    fn row(&mut self, count: usize) {
        let mut ours = None;
        for kind in self.kinds() {
            let row = match self.measure(kind, count) {
                Ok(row) => row,
                Err(error) => {
                    println!("{count:>11} {:<11} not measured: {error:#}", format!("{kind:?}"));
                    if kind == Kind::Headwater {
                        self.shortfalls
                            .push(format!("{count} subscribers were not served"));
                    }
                    continue;
                }
            };
            let (p50, p99) = row.latency.unwrap_or_default();
            let mut notes = String::new();
            if row.missing > 0 || row.ended != (0, 0) {
                let (quick, slow) = row.ended;
                notes = format!(
                    "{} deliveries missing; ended: {quick} quick, {slow} slow",
                    row.missing
                );
            }
            let memory = match count {
                0..100 => "-".into(),
                _ => format!("{:.1} / {:.1}", row.memory.0, row.memory.1),
            };
            println!(
                "{count:>11} {:<11} {:>11.0} {:>12.0} {:>12.0} {:>9.3} {:>15} {memory:>15}  {notes}",
                format!("{kind:?}"),
                row.deliveries,
                row.readings.0,
                row.readings.1,
                row.bytes,
                format!("{p50:.1} / {p99:.1}"),
            );
            match &ours {
                None if kind == Kind::Headwater => {
                    if count >= 1000 && row.memory.0 > QUIET_KIB {
                        let kib = row.memory.0;
                        self.shortfalls.push(format!(
                            "{kib:.1} KiB a quiet connection at {count}, not {QUIET_KIB}"
                        ));
                    }
                    if row.missing > 0 || row.ended != (0, 0) {
                        self.shortfalls.push(format!("{count} subscribers: {notes}"));
                    }
                    ours = Some(row);
                }
                None => {}
                Some(ours) => {
                    let flat = ours.readings.0 / row.readings.0;
                    let slow = ours.readings.1 / row.readings.1;
                    println!("{:>11} {:<11} {flat:>24.1}× {slow:>11.1}×", "", "  by us");
                    let promised = TIMES
                        .iter()
                        .find(|(peer, _)| *peer == kind)
                        .map_or(0.0, |(_, times)| *times);
                    if count == 1000 && flat < promised {
                        self.shortfalls
                            .push(format!("{flat:.1} × {kind:?} at {count}, not {promised} ×"));
                    }
                }
            }
        }
    }

    fn measure(&self, kind: Kind, count: usize) -> Result<Row> {
        let server = Server::start(kind, self.plan, self.work, self.kafka, &count.to_string())?;
        self.with(&server, kind, count)
            .with_context(|| format!("{kind:?} said:\n{}", server.said()))
    }

    fn with(&self, server: &Server, kind: Kind, count: usize) -> Result<Row> {
        let mut crowd = Crowd::new()?;
        // One connection of every kind of work first: what that makes once is no connection's.
        self.ready(server, kind, &mut crowd)?;
        let mut publisher = Publisher::new(self.load, kind, &server.topic, self.kafka)?;
        publisher.begin(&crowd)?;
        drop(crowd);
        std::thread::sleep(Duration::from_secs(1));
        let empty = server.pss_kib()?;
        let slow = count / 10;
        let mut crowd = Crowd::new()?;
        crowd.join(
            kind,
            server.address,
            &[(Manner::Quick, count - slow), (Manner::Slow, slow)],
        )?;
        std::thread::sleep(Duration::from_secs(2));
        let each = |kib: u64| kib.saturating_sub(empty) as f64 / count as f64;
        let mut row = Row {
            memory: (each(server.pss_kib()?), 0.0),
            ..Row::default()
        };
        let missed = publisher.begin(&crowd)?;
        let counts = crowd.counts.clone();
        let delivered = || counts.quick.load(Ordering::Relaxed) + counts.others.load(Ordering::Relaxed);
        let per_cpu = |before: (u64, Duration)| -> Result<f64> {
            let cpu = server.process.cpu()?.saturating_sub(before.1).as_secs_f64();
            Ok(((delivered() - before.0) * self.load.readings) as f64 / cpu)
        };
        counts.timing.store(true, Ordering::Relaxed);
        counts.latency();
        let before = (delivered(), server.process.cpu()?);
        let every = Duration::from_secs(1) * count as u32 / SLOW_PACE as u32;
        let every = every.max(Duration::from_millis(10));
        publisher.run(&crowd, Pace::Every(every), self.plan.watch, missed)?;
        row.missing += publisher.settle(&crowd, missed);
        row.readings.1 = per_cpu(before)?;
        row.latency = counts.latency();
        counts.timing.store(false, Ordering::Relaxed);
        let underway = Pace::Underway(if count >= 10_000 { 8 } else { 32 });
        publisher.run(&crowd, underway, self.plan.watch / 4, missed)?;
        let wire = counts.wire.load(Ordering::Relaxed);
        let (before, begun) = ((delivered(), server.process.cpu()?), Instant::now());
        publisher.run(&crowd, underway, self.plan.watch, missed)?;
        row.readings.0 = per_cpu(before)?;
        let came = delivered() - before.0;
        row.deliveries = came as f64 / begun.elapsed().as_secs_f64();
        row.bytes = (counts.wire.load(Ordering::Relaxed) - wire) as f64 / (came * self.load.readings) as f64;
        row.missing = publisher.settle(&crowd, missed);
        row.memory.1 = each(server.pss_kib()?);
        row.ended = (
            counts.lost_quick.load(Ordering::Relaxed),
            counts.lost_others.load(Ordering::Relaxed),
        );
        Ok(row)
    }

    /// Until the live channel is open.
    fn ready(&self, server: &Server, kind: Kind, crowd: &mut Crowd) -> Result<()> {
        let begun = Instant::now();
        loop {
            match crowd.join(kind, server.address, &[(Manner::Quick, 1)]) {
                Ok(()) => return Ok(()),
                Err(error) if begun.elapsed() > Duration::from_secs(60) => return Err(error),
                Err(_) => {
                    std::thread::sleep(Duration::from_millis(200));
                    *crowd = Crowd::new()?;
                }
            }
        }
    }

    /// A pace with a crowd; what the quick ones saw, and what the server took.
    fn paced(&self, kind: Kind, run: &str, per_s: u32, parts: &[(Manner, usize)]) -> Result<Paced> {
        let server = Server::start(kind, self.plan, self.work, self.kafka, run)?;
        let mut crowd = Crowd::new()?;
        self.ready(&server, kind, &mut crowd)?;
        let mut publisher = Publisher::new(self.load, kind, &server.topic, self.kafka)?;
        publisher.begin(&crowd)?;
        crowd = Crowd::new()?;
        crowd.join(kind, server.address, parts)?;
        let missed = publisher.begin(&crowd)?;
        let pace = Pace::Every(Duration::from_secs(1) / per_s);
        publisher.run(&crowd, pace, self.plan.watch / 4, missed)?;
        publisher.settle(&crowd, missed);
        crowd.counts.latency();
        crowd.counts.timing.store(true, Ordering::Relaxed);
        let (cpu, begun) = (server.process.cpu()?, Instant::now());
        publisher.run(&crowd, pace, self.plan.watch, missed)?;
        let cpu = server.process.cpu()?.saturating_sub(cpu).as_secs_f64() / begun.elapsed().as_secs_f64();
        let missing = publisher.settle(&crowd, missed);
        let latency = crowd.counts.latency().context("nothing was timed")?;
        Ok(Paced {
            latency,
            cpu,
            missing,
            peak_kib: server.process.usage()?.peak_kib,
            ended: crowd.counts.lost_quick.load(Ordering::Relaxed),
        })
    }

    /// Latency at the pace that is promised.
    fn promised(&mut self) {
        let (per_s, count) = PROMISED;
        println!("{per_s} batches/s to {count} subscribers, all quick:");
        let mut ours = None;
        for kind in self.kinds() {
            let paced = match self.paced(kind, "promised", per_s, &[(Manner::Quick, count)]) {
                Ok(paced) => paced,
                Err(error) => {
                    println!("  {kind:?}: not measured: {error:#}");
                    continue;
                }
            };
            println!("  {:<11} {paced}", format!("{kind:?}"));
            match ours {
                None if kind == Kind::Headwater => ours = Some(paced.latency.1),
                Some(ours) if kind == Kind::Centrifugo && ours > paced.latency.1 => {
                    let theirs = paced.latency.1;
                    self.shortfalls.push(format!(
                        "p99 {ours:.1} ms at {per_s} batches/s, Centrifugo's is {theirs:.1} ms"
                    ));
                }
                _ => {}
            }
        }
    }

    /// What subscribers that never acknowledge, or never read, cost us and the others.
    fn mute(&mut self) {
        let (per_s, quick, others) = MUTE;
        println!(
            "{per_s} batches/s to {quick} quick subscribers of ours, and beside them {others} that acknowledge nothing, or read nothing:"
        );
        let mut alone: Option<Paced> = None;
        for (name, manner, count) in [
            ("none", Manner::Mute, 0),
            ("mute", Manner::Mute, others),
            ("deaf", Manner::Deaf, others),
        ] {
            let parts = [(Manner::Quick, quick), (manner, count)];
            let paced = match self.paced(Kind::Headwater, name, per_s, &parts) {
                Ok(paced) => paced,
                Err(error) => {
                    self.shortfalls
                        .push(format!("beside {count} {name} ones: {error:#}"));
                    continue;
                }
            };
            println!("  {name}: {paced}");
            if paced.missing > 0 || paced.ended > 0 {
                self.shortfalls
                    .push(format!("beside {count} {name} ones: {paced}"));
            }
            let Some(alone) = &alone else {
                alone = Some(paced);
                continue;
            };
            let kib = paced.peak_kib.saturating_sub(alone.peak_kib) as f64 / count as f64;
            println!("  {name}: {kib:.0} KiB each");
            if kib > MUTE_KIB {
                self.shortfalls
                    .push(format!("{kib:.0} KiB for each {name} subscriber, not {MUTE_KIB}"));
            }
            let (p99, bound) = (paced.latency.1, alone.latency.1 * MUTE_LATENCY.0 + MUTE_LATENCY.1);
            if p99 > bound {
                self.shortfalls.push(format!(
                    "p99 {p99:.1} ms beside {count} {name} ones, {:.1} ms without them",
                    alone.latency.1
                ));
            }
        }
    }
}

/// What a pace made of a server.
#[derive(Debug)]
struct Paced {
    latency: (f64, f64),
    cpu: f64,
    missing: u64,
    peak_kib: u64,
    ended: u64,
}

impl std::fmt::Display for Paced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "p50 {:.1} ms, p99 {:.1} ms; {:.0} % of a processor; peak RSS {} KiB; {} deliveries missing, {} connections ended",
            self.latency.0,
            self.latency.1,
            self.cpu * 100.0,
            self.peak_kib,
            self.missing,
            self.ended
        )
    }
}
