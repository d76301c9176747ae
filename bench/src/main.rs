//! `headwater-bench`: measurements beside named peers.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use headwater_bench::{agent, bridge, fanout, flash, link, table, trace};

/// Measurements beside named peers. For readings per second: cargo bench -p headwater-bench.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bytes per reading of JSON, protobuf rows, Sparkplug B, pco and Headwater's forms.
    Encode {
        /// CSV files: time_ms, then a column per metric. Without any: the traces of the repository.
        files: Vec<PathBuf>,
        /// Rows of the file per batch; may be given several times [default: 10, 60 and 480].
        #[arg(long)]
        rows: Vec<usize>,
        /// Fail if a promise about sizes is not kept.
        #[arg(long)]
        check: bool,
    },
    /// Bytes per reading at the broker's socket: MQTT 5 and 3.1.1, with TLS and without.
    Link {
        /// The agent's program.
        #[arg(long, default_value = "target/release/headwater-agent")]
        agent: PathBuf,
        /// A trace of 8 metrics at 1 Hz.
        #[arg(long, default_value = "bench/data/sensors-1hz.csv")]
        trace: PathBuf,
        /// Batches of 10 s that are counted.
        #[arg(long, default_value_t = 120)]
        batches: u64,
        /// How many times faster than its own speed the trace is replayed.
        #[arg(long, default_value_t = 60.0)]
        speed: f64,
        /// Fail if a promise is not kept.
        #[arg(long)]
        check: bool,
    },
    /// What a day costs the flash, at a loop device with ext4 (as root), and what opening a journal of 2 GiB costs.
    Flash {
        /// A trace of 8 metrics at 1 Hz.
        #[arg(long, default_value = "bench/data/sensors-1hz.csv")]
        trace: PathBuf,
        /// Hours that are simulated; 0: none.
        #[arg(long, default_value_t = 24)]
        hours: u64,
        /// A directory with 4.5 GiB of room, to measure opening in.
        #[arg(long)]
        opening: Option<PathBuf>,
        /// Open the journal in this state directory and tell what that took.
        #[arg(long, hide = true)]
        open: Option<PathBuf>,
        /// Fail if a promise is not kept.
        #[arg(long)]
        check: bool,
    },
    /// CPU time of the bridge between Mosquitto and Kafka, beside Telegraf, Redpanda Connect and librdkafka's producer alone; memory with
    /// all devices.
    Bridge {
        /// The relay's program.
        #[arg(long, default_value = "target/release/headwater-relay")]
        relay: PathBuf,
        /// Telegraf's program (bench/telegraf builds it).
        #[arg(long)]
        telegraf: Option<PathBuf>,
        /// Redpanda Connect's program (bench/connect builds it).
        #[arg(long)]
        connect: Option<PathBuf>,
        /// A trace of 8 metrics at 1 Hz.
        #[arg(long, default_value = "bench/data/sensors-1hz.csv")]
        trace: PathBuf,
        /// Devices of the fleet whose memory is measured; 0: none.
        #[arg(long, default_value_t = 10_000)]
        devices: usize,
        /// Seconds that each part is watched.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
        /// Fail if a promise is not kept.
        #[arg(long)]
        check: bool,
    },
    /// From Kafka to many subscribers: CPU time, bytes, latency and memory of the gateway, beside Centrifugo and the pattern of most tutorials
    /// (Node, `ws`, `kafkajs`). Ten thousand subscribers need `ulimit -n` at 12,000 or more.
    Fanout {
        /// The relay's program.
        #[arg(long, default_value = "target/release/headwater-relay")]
        relay: PathBuf,
        /// Centrifugo's program (bench/centrifugo builds it).
        #[arg(long)]
        centrifugo: Option<PathBuf>,
        /// The Node pattern's folder: bench/node-ws after `npm install --no-save` in it.
        #[arg(long)]
        node: Option<PathBuf>,
        /// A trace of 8 metrics at 1 Hz.
        #[arg(long, default_value = "bench/data/sensors-1hz.csv")]
        trace: PathBuf,
        /// Rows of the trace in a batch.
        #[arg(long, default_value_t = 60)]
        rows: usize,
        /// Numbers of subscribers.
        #[arg(long, value_delimiter = ',', default_value = "1,100,1000,10000")]
        subscribers: Vec<usize>,
        /// Seconds that each part is watched.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Leave out 1,000 batches/s to 100 subscribers, and the subscribers that never acknowledge.
        #[arg(long)]
        table_only: bool,
        /// Measure the subscribers that never acknowledge, or never read, and nothing else.
        #[arg(long, conflicts_with = "table_only")]
        mute_only: bool,
        /// Fail if a promise is not kept.
        #[arg(long)]
        check: bool,
    },
    /// Memory and CPU time of the agent, beside Telegraf doing the same job.
    Agent {
        /// The agent's program, as it ships (cargo build --profile dist -p headwater-agent).
        #[arg(long, default_value = "target/dist/headwater-agent")]
        agent: PathBuf,
        /// The stripped program for aarch64, whose size is told; it is not run.
        #[arg(long)]
        aarch64: Option<PathBuf>,
        /// Telegraf's program (bench/telegraf builds it); may be given several times.
        #[arg(long)]
        telegraf: Vec<PathBuf>,
        /// Seconds that each steady part is watched.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// MiB of the backlog that is drained; 0: none.
        #[arg(long, default_value_t = 1024)]
        backlog: u64,
        /// Fail if a promise is not kept.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> Result<ExitCode> {
    let (shortfalls, check) = match Arguments::parse().command {
        Command::Encode { files, rows, check } => (encode(files, rows)?, check),
        Command::Flash { open: Some(dir), .. } => {
            flash::open(&dir)?;
            (Vec::new(), false)
        }
        Command::Flash {
            trace,
            hours,
            opening,
            open: None,
            check,
        } => {
            let mut shortfalls = Vec::new();
            if hours > 0 {
                let trace = &trace;
                shortfalls.extend(flash::wear(&flash::Plan { trace, hours })?);
            }
            if let Some(dir) = opening {
                shortfalls.extend(flash::opening(&dir)?);
            }
            (shortfalls, check)
        }
        Command::Link {
            agent,
            trace,
            batches,
            speed,
            check,
        } => {
            let plan = link::Plan {
                agent,
                trace,
                batches,
                speed,
            };
            (link::run(&plan)?, check)
        }
        Command::Bridge {
            relay,
            telegraf,
            connect,
            trace,
            devices,
            seconds,
            check,
        } => {
            let plan = bridge::Plan {
                relay,
                telegraf,
                connect,
                trace,
                devices,
                watch: Duration::from_secs(seconds),
            };
            (bridge::run(&plan)?, check)
        }
        Command::Fanout {
            relay,
            centrifugo,
            node,
            trace,
            rows,
            subscribers,
            seconds,
            table_only,
            mute_only,
            check,
        } => {
            let parts = match (table_only, mute_only) {
                (true, _) => fanout::Parts::Table,
                (_, true) => fanout::Parts::Mute,
                _ => fanout::Parts::All,
            };
            let plan = fanout::Plan {
                relay,
                centrifugo,
                node,
                trace,
                rows,
                subscribers,
                watch: Duration::from_secs(seconds),
                parts,
            };
            (fanout::run(&plan)?, check)
        }
        Command::Agent {
            agent,
            aarch64,
            telegraf,
            seconds,
            backlog,
            check,
        } => {
            let plan = agent::Plan {
                agent,
                aarch64,
                telegraf,
                watch: Duration::from_secs(seconds),
                backlog: backlog << 20,
            };
            (agent::run(&plan)?, check)
        }
    };
    for shortfall in &shortfalls {
        println!("over: {shortfall}");
    }
    Ok(if check && !shortfalls.is_empty() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn encode(mut files: Vec<PathBuf>, mut rows: Vec<usize>) -> Result<Vec<String>> {
    if files.is_empty() {
        files = trace::own()?;
    }
    if rows.is_empty() {
        rows = vec![10, 60, 480];
    }
    if rows.contains(&0) {
        bail!("--rows 0: a batch has at least one row");
    }
    let mut shortfalls = Vec::new();
    for rows in rows {
        let all = files
            .iter()
            .map(|file| table::of(file, rows))
            .collect::<Result<Vec<_>>>()?;
        table::print(&all);
        shortfalls.extend(all.iter().flat_map(table::Totals::shortfalls));
    }
    Ok(shortfalls)
}
