//! `headwater-bench agent`: memory and CPU time of the agent as a process, beside Telegraf doing the same job in the same run, and
//! with a backlog draining.

pub(crate) mod acknowledger;
mod binary;
pub(crate) mod broker;
pub(crate) mod process;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use acknowledger::Acknowledger;
use binary::Binary;
use broker::Broker;
use process::{Process, Usage};

/// What an agent with TLS, journal and 8 sensors may keep in memory.
const STEADY_KIB: u64 = 4 * 1024;
/// The same while a backlog drains.
const DRAINING_KIB: u64 = 6 * 1024;
/// Bytes of the stripped program for aarch64.
const PROGRAM_BYTES: u64 = 3 << 20;
/// Telegraf's memory and CPU time are at least so many times the agent's.
const TELEGRAF_TIMES: f64 = 10.0;
/// After a start, before anything is counted: starting is not the job.
const SETTLE: Duration = Duration::from_secs(15);

/// What to measure.
#[derive(Debug)]
pub struct Plan {
    /// The agent's program.
    pub agent: PathBuf,
    /// Telegraf's programs; none: it is left out, and said so.
    pub telegraf: Vec<PathBuf>,
    /// The same agent's program for aarch64, whose size is told; it is not run.
    pub aarch64: Option<PathBuf>,
    /// How long each steady part is watched.
    pub watch: Duration,
    /// Bytes of the backlog; 0: that part is left out.
    pub backlog: u64,
}

/// A promise that is not kept.
pub type Shortfall = String;

/// Measures, prints a table, and returns the promises that are not kept.
///
/// # Errors
/// What keeps it from measuring: a program that is missing, a broker that does not start, an agent that does not deliver.
pub fn run(plan: &Plan) -> Result<Vec<Shortfall>> {
    let mut shortfalls = Vec::new();
    println!("agent: {} ({})", plan.agent.display(), Binary::read(&plan.agent)?);
    match &plan.aarch64 {
        Some(path) => shortfalls.extend(size(path)?),
        None => println!("size for aarch64: not measured; give its program by --aarch64"),
    }
    let work = tempfile::tempdir().context("no directory for temporary files")?;
    let broker = Broker::start(work.path())?;
    println!(
        "{:<58} {:>9} {:>9} {:>14}",
        "", "RSS KiB", "peak KiB", "CPU ms/minute"
    );

    let sensors = Job {
        name: "8 sensors at 1 Hz, TLS, journal",
        source: "[[source]]\ntype = \"simulated\"\ninterval = \"1s\"\nsensors = 8\n",
        tls: true,
    };
    let usage = sensors.watch(plan, &broker, work.path())?;
    if usage.rss_kib > STEADY_KIB {
        shortfalls.push(format!("{}: {} KiB of {STEADY_KIB}", sensors.name, usage.rss_kib));
    }

    let system = Job {
        name: "this machine's figures every 10 s, MQTT without TLS",
        source: "[[source]]\ntype = \"system\"\ninterval = \"10s\"\n",
        tls: false,
    };
    let ours = system.watch(plan, &broker, work.path())?;
    for telegraf in &plan.telegraf {
        let config = work.path().join("telegraf.conf");
        fs::write(&config, telegraf_config(broker.port))?;
        let process = Process::start(
            std::process::Command::new(telegraf).arg("--config").arg(&config),
            &work.path().join("telegraf.log"),
        )?;
        std::thread::sleep(SETTLE);
        let theirs = process.watch(plan.watch)?;
        let name = format!("the same by {}", telegraf.display());
        print(&name, &theirs);
        let (memory, cpu) = (
            theirs.rss_kib as f64 / ours.rss_kib as f64,
            theirs.cpu_ms_per_minute / ours.cpu_ms_per_minute,
        );
        println!("{:<58} {memory:>8.1}× {:>9} {cpu:>13.1}×", "    times ours", "");
        for (what, times) in [("memory", memory), ("CPU time", cpu)] {
            if times < TELEGRAF_TIMES {
                shortfalls.push(format!("{name}: {times:.1} × our {what}, not {TELEGRAF_TIMES} ×"));
            }
        }
    }
    if plan.telegraf.is_empty() {
        println!("Telegraf: not measured; give its program by --telegraf (bench/telegraf builds it)");
    }
    if plan.backlog > 0 {
        drain(plan, &broker, work.path(), &mut shortfalls)?;
    }
    Ok(shortfalls)
}

/// Tells the size of the program for aarch64.
fn size(path: &Path) -> Result<Option<Shortfall>> {
    let binary = Binary::read(path)?;
    println!("for aarch64: {} ({binary})", path.display());
    ensure!(
        binary.machine == "aarch64" && binary.is_stripped,
        "--aarch64 {}: it is no stripped program for aarch64",
        path.display()
    );
    let over = binary.bytes > PROGRAM_BYTES;
    Ok(over.then(|| {
        format!(
            "the program for aarch64: {} bytes of {PROGRAM_BYTES}",
            binary.bytes
        )
    }))
}

fn print(name: &str, usage: &Usage) {
    println!(
        "{name:<58} {:>9} {:>9} {:>14.1}",
        usage.rss_kib, usage.peak_kib, usage.cpu_ms_per_minute
    );
}

/// A steady job of the agent.
struct Job {
    name: &'static str,
    source: &'static str,
    tls: bool,
}

impl Job {
    fn watch(&self, plan: &Plan, broker: &Broker, work: &Path) -> Result<Usage> {
        let acknowledger = Acknowledger::start(broker.port)?;
        let config = agent_config(broker, work, self.tls, self.source, "");
        let process = start_agent(plan, work, &config)?;
        std::thread::sleep(SETTLE);
        let before = acknowledger.readings();
        let usage = process.watch(plan.watch)?;
        let readings = acknowledger.readings() - before;
        ensure!(
            readings > 0,
            "{}: nothing arrived; the agent's log is {}",
            self.name,
            process.log().display()
        );
        print(self.name, &usage);
        let cpu_us = usage.cpu_ms_per_minute * 1000.0 * plan.watch.as_secs_f64() / 60.0;
        println!(
            "    {readings} readings, {:.1} µs of CPU time each",
            cpu_us / readings as f64
        );
        Ok(usage)
    }
}

/// Fills a journal with the broker away, then lets it drain, and watches the agent's memory.
fn drain(plan: &Plan, broker: &Broker, work: &Path, shortfalls: &mut Vec<Shortfall>) -> Result<()> {
    let trace = work.join("noise.csv");
    write_noise(&trace)?;
    let source = format!(
        "[[source]]\ntype = \"replay\"\npath = \"{}\"\nspeed = \"max\"\n",
        trace.display()
    );
    let journal = "[journal]\nmax_bytes = \"4 GiB\"\n";
    let away = agent_config(&Broker::absent()?, work, false, &source, journal);
    let state = work.join("state/journal");
    let begun = Instant::now();
    let process = start_agent(plan, work, &away)?;
    while held(&state) < plan.backlog {
        ensure!(
            begun.elapsed() < Duration::from_secs(1800),
            "the journal holds {} bytes after half an hour",
            held(&state)
        );
        std::thread::sleep(Duration::from_millis(200));
        process.usage()?;
    }
    let filling = process.stop()?;
    let bytes = held(&state);
    println!(
        "a backlog of {:.0} MiB was written in {:.0} s, peak {} KiB",
        bytes as f64 / 1_048_576.0,
        begun.elapsed().as_secs_f64(),
        filling.peak_kib
    );
    let acknowledger = Acknowledger::start(broker.port)?;
    let quiet = "[[source]]\ntype = \"simulated\"\ninterval = \"1s\"\nsensors = 8\n";
    let config = agent_config(broker, work, true, quiet, journal);
    let begun = Instant::now();
    let process = start_agent(plan, work, &config)?;
    let mut peak = 0;
    while held(&state) > plan.backlog / 50 {
        peak = peak.max(process.usage()?.rss_kib);
        ensure!(
            begun.elapsed() < Duration::from_secs(3600),
            "{} bytes are left after an hour",
            held(&state)
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    let seconds = begun.elapsed().as_secs_f64();
    let usage = process.stop()?;
    println!(
        "{:<58} {peak:>9} {:>9} {:>14.1}",
        "it drains over TLS", usage.peak_kib, usage.cpu_ms_per_minute
    );
    let readings = acknowledger.readings() as f64;
    println!(
        "    {:.0} MiB in {seconds:.0} s: {:.1} MiB/s, {:.2} M readings/s, {:.2} µs of CPU time each",
        bytes as f64 / 1_048_576.0,
        bytes as f64 / 1_048_576.0 / seconds,
        readings / seconds / 1e6,
        usage.cpu_ms_per_minute * 1000.0 * seconds / 60.0 / readings
    );
    if usage.peak_kib > DRAINING_KIB {
        shortfalls.push(format!("draining: {} KiB of {DRAINING_KIB}", usage.peak_kib));
    }
    Ok(())
}

/// Numbers that no codec makes small, so that a backlog of bytes is soon there.
fn write_noise(path: &Path) -> Result<()> {
    let mut out = std::io::BufWriter::new(fs::File::create(path)?);
    writeln!(out, "time_ms,a,b,c,d,e,f,g,h")?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for row in 0..50_000_u64 {
        write!(out, "{}", 1_700_000_000_000 + row * 1000)?;
        for _ in 0..8 {
            // xorshift64: any noise does.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            write!(out, ",{:e}", (state >> 11) as f64 * 1e-7)?;
        }
        writeln!(out)?;
    }
    Ok(out.flush()?)
}

/// Bytes in the journal's files.
fn held(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .filter(fs::Metadata::is_file)
        .map(|metadata| metadata.len())
        .sum()
}

fn start_agent(plan: &Plan, work: &Path, config: &str) -> Result<Process> {
    let file = work.join("agent.toml");
    fs::write(&file, config)?;
    Process::start(
        std::process::Command::new(&plan.agent)
            .args(["run", "--config"])
            .arg(&file)
            .env("RUST_LOG", "warn"),
        &work.join("agent.log"),
    )
}

fn agent_config(broker: &Broker, work: &Path, tls: bool, source: &str, more: &str) -> String {
    let (url, section) = if tls {
        (
            format!("mqtts://localhost:{}", broker.tls_port),
            format!("[uplink.tls]\nca_file = \"{}\"\n", broker.ca.display()),
        )
    } else {
        (format!("mqtt://127.0.0.1:{}", broker.port), String::new())
    };
    format!(
        "device = \"bench\"\nstate_dir = \"{}\"\n[uplink]\nbroker = \"{url}\"\n{section}{more}{source}",
        work.join("state").display()
    )
}

/// The figures that the agent's `system` source takes, by Telegraf's plugins for them, at the same interval to the same broker.
fn telegraf_config(port: u16) -> String {
    let mut out = String::from("[agent]\n  interval = \"10s\"\n  flush_interval = \"10s\"\n  quiet = true\n");
    out.push_str("[[inputs.cpu]]\n  percpu = false\n  totalcpu = true\n");
    for input in ["mem", "swap", "system", "disk", "net", "temp"] {
        out.push_str(&format!("[[inputs.{input}]]\n"));
    }
    out.push_str(&format!(
        "[[outputs.mqtt]]\n  servers = [\"tcp://127.0.0.1:{port}\"]\n  topic = \"telegraf/bench\"\n  \
         layout = \"batch\"\n  data_format = \"influx\"\n"
    ));
    out
}
