//! `headwater-bench link`: bytes per reading at the broker's socket, all in, by a network of our own that counts between the agent and
//! Mosquitto. Headers of TCP and IP are not in it; TLS is a line of its own.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::agent::Shortfall;
use crate::agent::acknowledger::Acknowledger;
use crate::agent::broker::Broker;
use crate::agent::process::Process;

/// The promise: bytes towards the broker per reading, MQTT and topic included, TLS not.
const UP: f64 = 3.0;
/// Sensors of the trace; a batch is 10 s of them at 1 Hz.
const METRICS: u64 = 8;
const BATCH: u64 = 10 * METRICS;

/// What to measure.
#[derive(Debug)]
pub struct Plan {
    /// The agent's program.
    pub agent: PathBuf,
    /// A trace of 8 metrics at 1 Hz.
    pub trace: PathBuf,
    /// Batches that are counted.
    pub batches: u64,
    /// How many times faster than its own speed the trace is replayed; the bytes are the same as long as no keep-alive passes between two
    /// batches.
    pub speed: f64,
}

/// Measures, prints a table, and returns the promises that are not kept.
///
/// # Errors
/// What keeps it from measuring: a program that is missing, a broker that does not start, an agent that does not deliver.
pub fn run(plan: &Plan) -> Result<Vec<Shortfall>> {
    let work = tempfile::tempdir().context("no directory for temporary files")?;
    let broker = Broker::start(work.path())?;
    let readings = plan.batches * BATCH;
    println!(
        "{readings} readings of {} in batches of {BATCH} (10 s), bytes per reading at the socket",
        plan.trace.display()
    );
    println!(
        "{:<22} {:>8} {:>8} {:>8} {:>8} {:>26}",
        "", "up", "payload", "down", "both", "to connect: up / down, B"
    );
    let mut shortfalls = Vec::new();
    for (protocol, tls) in [("5", false), ("3.1.1", false), ("5", true), ("3.1.1", true)] {
        let name = format!("MQTT {protocol}{}", if tls { ", TLS" } else { "" });
        let row = measure(plan, &broker, work.path(), protocol, tls).with_context(|| name.clone())?;
        let per = |bytes: u64| bytes as f64 / row.readings as f64;
        println!(
            "{name:<22} {:>8.3} {:>8.3} {:>8.3} {:>8.3} {:>26}",
            per(row.up),
            per(row.payload),
            per(row.down),
            per(row.up + row.down),
            format!("{} / {}", row.connect_up, row.connect_down)
        );
        if !tls && per(row.up) > UP {
            shortfalls.push(format!("{name}: {:.3} bytes per reading of {UP}", per(row.up)));
        }
    }
    Ok(shortfalls)
}

struct Row {
    readings: u64,
    up: u64,
    down: u64,
    payload: u64,
    connect_up: u64,
    connect_down: u64,
}

/// Counts from the first acknowledged batch on; what came before is the price of connecting, hello and series set included.
fn measure(plan: &Plan, broker: &Broker, work: &Path, protocol: &str, tls: bool) -> Result<Row> {
    let acknowledger = Acknowledger::start(broker.port)?;
    let counts = Arc::new(Counts::default());
    let port = network(if tls { broker.tls_port } else { broker.port }, counts.clone())?;
    let scheme = if tls { "mqtts" } else { "mqtt" };
    let authority = match tls {
        true => format!("[uplink.tls]\nca_file = \"{}\"\n", broker.ca.display()),
        false => String::new(),
    };
    let text = format!(
        "device = \"gw-01\"\n[health]\ninterval = \"0s\"\n[batch]\nreadings = {BATCH}\nage = \"1h\"\n\
         [uplink]\nbroker = \"{scheme}://localhost:{port}\"\nprotocol = \"{protocol}\"\n{authority}\
         [[source]]\ntype = \"replay\"\npath = \"{}\"\nspeed = {:?}\n",
        fs::canonicalize(&plan.trace)?.display(),
        plan.speed
    );
    let config = work.join("agent.toml");
    fs::write(&config, text)?;
    let process = Process::start(
        Command::new(&plan.agent).arg("run").arg("--config").arg(&config),
        &work.join("agent.log"),
    )?;
    let reach = |readings: u64| -> Result<()> {
        let begun = Instant::now();
        let expected = Duration::from_secs_f64((readings / METRICS) as f64 / plan.speed);
        while acknowledger.readings() < readings {
            process.usage()?;
            ensure!(
                begun.elapsed() < expected * 2 + Duration::from_secs(30),
                "{} of {readings} readings arrived:\n{}",
                acknowledger.readings(),
                fs::read_to_string(process.log()).unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(1));
        }
        // The acknowledgement is on its way back.
        thread::sleep(Duration::from_millis(20));
        Ok(())
    };
    reach(BATCH)?;
    let (first, connect_up, connect_down) = (acknowledger.readings(), counts.up(), counts.down());
    let payload = acknowledger.frame_bytes();
    reach(first + plan.batches * BATCH)?;
    Ok(Row {
        readings: acknowledger.readings() - first,
        up: counts.up() - connect_up,
        down: counts.down() - connect_down,
        payload: acknowledger.frame_bytes() - payload,
        connect_up,
        connect_down,
    })
}

#[derive(Debug, Default)]
struct Counts {
    up: AtomicU64,
    down: AtomicU64,
}

impl Counts {
    fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }
}

/// Carries connections to `port`, and counts; it ends with this process.
fn network(port: u16, counts: Arc<Counts>) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let own = listener.local_addr()?.port();
    thread::spawn(move || {
        for agent in listener.incoming().flatten() {
            let Ok(broker) = TcpStream::connect(("127.0.0.1", port)) else {
                continue;
            };
            for socket in [&agent, &broker] {
                let _ = socket.set_nodelay(true);
            }
            if let (Ok(from), Ok(to)) = (agent.try_clone(), broker.try_clone()) {
                let counts = counts.clone();
                thread::spawn(move || carry(from, to, &counts.up));
            }
            let counts = counts.clone();
            thread::spawn(move || carry(broker, agent, &counts.down));
        }
    });
    Ok(own)
}

fn carry(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        count.fetch_add(length as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    for socket in [from, to] {
        let _ = socket.shutdown(Shutdown::Both);
    }
}
