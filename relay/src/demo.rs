//! `headwater-relay demo`: everything in one process, for trying out. An embedded MQTT broker and an embedded Kafka (or real
//! ones), bridge, gateway, and agents whose links can be cut. Nothing is written to disk, and nothing is opened.

/// Prints a line. Whoever reads it may have gone (`| head`): that is no reason to end.
macro_rules! say {
    ($($line:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($line)*);
    }};
}

pub mod agents;
pub mod audit;
pub mod broker;
pub mod cluster;
pub mod controls;
pub mod link;

use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Monitor};
use crate::bridge::settings::BridgeSettings;
use crate::gateway::settings::GatewaySettings;
use crate::kafka::KafkaSettings;
use crate::mqtt::broker::Broker;
use crate::mqtt::{self, MqttSettings};
use crate::settings::{AdminSettings, LogFormat, LogSettings};
use crate::{bridge, gateway, kafka, serve};
use agents::Member;
use audit::Audit;
use cluster::Cluster;

/// The embedded Kafka keeps about 5 MB per partition in memory.
const PARTITIONS: u32 = 4;
/// More would measure this machine, not show Headwater.
const MOST_AGENTS: usize = 1000;
/// When the first line of progress is printed: by then all answer that are there.
const FIRST_WORD: Duration = Duration::from_secs(3);
/// How often a line of progress is printed.
const PROGRESS: Duration = Duration::from_secs(10);

/// What the demo is to be like.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How many agents: the first samples this machine, the second replays a trace, the others simulate sensors.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = agent_count)]
    pub agents: usize,
    /// The dashboard's port on 127.0.0.1; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub port: u16,
    /// Stop by itself after this long: 30s, 5m, 1h.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Use this Kafka instead of the embedded one; missing topics are created.
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka: Option<String>,
    /// Use this MQTT broker instead of the embedded one.
    #[arg(long, value_name = "URL")]
    pub mqtt: Option<String>,
    /// What is logged: off, error, warn, info, debug, or directives per module.
    #[arg(long, value_name = "LEVEL", default_value = "error,rumqttd=off")]
    pub log: String,
}

/// What ends the demo. Each message is whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The dashboard's port cannot be had.
    #[error("port {port} on 127.0.0.1 is taken, perhaps by another demo.{offer}")]
    Port {
        /// The port.
        port: u16,
        /// What to do instead.
        offer: String,
    },
    /// The dashboard's port is not ours to have.
    #[error("cannot listen on 127.0.0.1:{port}: {why}")]
    Listen {
        /// The port.
        port: u16,
        /// What the system says.
        why: std::io::Error,
    },
    /// Something the system should have.
    #[error("the system: {0}")]
    System(std::io::Error),
    /// The embedded broker.
    #[error("the embedded MQTT broker does not start: {0}")]
    Broker(std::io::Error),
    /// The embedded Kafka.
    #[error("the embedded Kafka does not start: {0}")]
    Cluster(rdkafka::error::KafkaError),
    /// An agent.
    #[error("agent {device}: {why}")]
    Agent {
        /// Its device.
        device: String,
        /// What is wrong.
        why: headwater_agent::Error,
    },
    /// Kafka or the MQTT broker never answered.
    #[error("nothing could be shown: {0}")]
    NeverReady(String),
    /// A part of the relay.
    #[error(transparent)]
    Serve(#[from] serve::Error),
    /// The bridge.
    #[error("bridge: {0}")]
    Bridge(bridge::Error),
    /// The gateway.
    #[error("gateway: {0}")]
    Gateway(gateway::Error),
    /// Kafka.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
}

/// Logging as the demo wants it: quiet, since the terminal belongs to its own lines.
pub fn log_settings(options: &Options) -> LogSettings {
    LogSettings {
        level: options.log.clone(),
        format: LogFormat::Text,
    }
}

fn of_mqtt(error: mqtt::Error) -> Error {
    Error::Bridge(error.into())
}

/// Runs until SIGINT, SIGTERM or the time is over.
///
/// # Errors
/// [`Error`].
pub async fn run(options: Options) -> Result<(), Error> {
    let dashboard = listen(&options).await?;
    let address = dashboard.local_addr().map_err(Error::System)?;

    let cluster = match &options.kafka {
        Some(_) => None,
        None => Some(Cluster::start(PARTITIONS).map_err(Error::Cluster)?),
    };
    let kafka = match (&cluster, &options.kafka) {
        (Some(cluster), _) => cluster.settings(),
        (None, bootstrap) => KafkaSettings {
            bootstrap: bootstrap.clone().unwrap_or_default(),
            ..KafkaSettings::default()
        },
    };
    let mqtt_url = match &options.mqtt {
        Some(url) => url.clone(),
        None => format!(
            "mqtt://{}",
            broker::start(options.agents * 2 + 100).map_err(Error::Broker)?
        ),
    };
    let Broker { host, port, tls } = Broker::parse(&mqtt_url, "mqtt").map_err(of_mqtt)?;
    if tls {
        return Err(of_mqtt(mqtt::Error::Broker {
            section: "mqtt".into(),
            address: mqtt_url,
            why: "the demo's agents speak no TLS; write mqtt://host:port".into(),
        }));
    }

    let monitor = Monitor::new();
    // The parts stop one after the other, so that what the agents still have gets through.
    let (agents_stop, relay_stop) = (CancellationToken::new(), CancellationToken::new());
    let mut relay: JoinSet<Result<(), Error>> = JoinSet::new();
    let any = AdminSettings {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
    };
    let admin = serve::bind("admin.listen", any.listen).await?;
    let admin_address = admin.local_addr().map_err(Error::System)?;
    let (of_admin, stop) = (monitor.clone(), relay_stop.clone());
    relay.spawn(async move { admin::serve(admin, of_admin, stop).await.map_err(Error::System) });

    let broker = MqttSettings {
        broker: mqtt_url.as_str().into(),
        ..MqttSettings::default()
    };
    // The embedded Kafka has no transactions; nor is there another bridge.
    let settings = BridgeSettings {
        alone: true,
        ..BridgeSettings::default()
    };
    let (of_bridge, of_kafka, stop) = (monitor.clone(), kafka.clone(), relay_stop.clone());
    relay.spawn(async move {
        bridge::run(settings, broker, Vec::new(), of_kafka, of_bridge, stop)
            .await
            .map_err(Error::Bridge)
    });

    let mut tasks = JoinSet::new();
    let members = agents::start(
        options.agents,
        &format!("{host}:{port}"),
        &mut tasks,
        &agents_stop,
    )
    .await?;

    let (of_gateway, of_kafka, stop) = (monitor.clone(), kafka.clone(), relay_stop.clone());
    // Who stops it waits for it.
    let settings = GatewaySettings {
        drain: Duration::ZERO,
        ..GatewaySettings::default()
    };
    let routes = controls::routes(members.clone());
    relay.spawn(async move {
        gateway::run(settings, of_kafka, of_gateway, routes, dashboard, stop)
            .await
            .map_err(Error::Gateway)
    });

    announce(&options, address, admin_address, &mqtt_url, &kafka);
    let mut result = attend(&options, &members, &monitor, &mut relay).await;

    say!("Stopping.");
    agents_stop.cancel();
    let patience = Duration::from_millis(1500);
    let _ = tokio::time::timeout(patience, async { while tasks.join_next().await.is_some() {} }).await;
    relay_stop.cancel();
    let patience = Duration::from_secs(3);
    let stopped = tokio::time::timeout(patience, async {
        while let Some(ended) = relay.join_next().await {
            if let (Ok(Err(error)), Ok(())) = (ended, &result) {
                result = Err(error);
            }
        }
    });
    let _ = stopped.await;
    if result.is_ok() {
        summary(&members, cluster.is_some(), &kafka, &monitor).await?;
    }
    result
}

/// What `/readyz` says of the parts that are not ready.
fn not_ready(reasons: &str) -> Vec<&str> {
    reasons
        .lines()
        .filter(|line| !line.is_empty() && !line.ends_with(": ready"))
        .collect()
}

/// Waits for the end, with a line of progress now and then.
async fn attend(
    options: &Options,
    members: &[Member],
    monitor: &Monitor,
    relay: &mut JoinSet<Result<(), Error>>,
) -> Result<(), Error> {
    let began = Instant::now();
    let mut progress = tokio::time::interval(PROGRESS);
    progress.reset_after(FIRST_WORD);
    let mut was_ready = false;
    let end = async {
        match options.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    let signal = serve::stop_signal();
    tokio::pin!(end, signal);
    loop {
        tokio::select! {
            () = &mut end => {
                let (ready, reasons) = monitor.readiness();
                return if ready || was_ready { Ok(()) } else { Err(Error::NeverReady(not_ready(&reasons).join("; "))) };
            }
            signal = &mut signal => {
                signal.map_err(Error::System)?;
                // The terminal has just printed ^C.
                if std::io::stdout().is_terminal() {
                    say!();
                }
                return Ok(());
            }
            Some(ended) = relay.join_next() => {
                return match ended {
                    Ok(result) => result,
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => Ok(()),
                };
            }
            _ = progress.tick() => {
                let elapsed = humantime::format_duration(Duration::from_secs(began.elapsed().as_secs()));
                let up = connected(members);
                say!("{elapsed:>8}  {up} of {} agents connected, {}", members.len(), totals(members));
                let (ready, reasons) = monitor.readiness();
                was_ready |= ready;
                for line in not_ready(&reasons) {
                    say!("          not ready: {line}");
                }
            }
        }
    }
}

fn connected(members: &[Member]) -> usize {
    members
        .iter()
        .filter(|member| member.handle.stats().connected)
        .count()
}

fn totals(members: &[Member]) -> String {
    let stats: Vec<_> = members.iter().map(|member| member.handle.stats()).collect();
    let sum = |field: fn(&headwater_agent::AgentStats) -> u64| stats.iter().map(field).sum::<u64>();
    format!(
        "{} readings sampled, {} in Kafka, {} waiting, {} lost",
        sum(|stats| stats.sampled_readings),
        sum(|stats| stats.acked_readings),
        sum(|stats| stats.waiting_readings),
        sum(|stats| stats.lost_readings),
    )
}

async fn summary(
    members: &[Member],
    embedded: bool,
    kafka: &KafkaSettings,
    monitor: &Monitor,
) -> Result<(), Error> {
    say!("{}.", totals(members));
    if !embedded {
        return Ok(());
    }
    let check = monitor.check("demo audit", "reading");
    let (kafka, stop) = (kafka.clone(), CancellationToken::new());
    // In case the embedded Kafka does not answer any more.
    let timer = stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(2)).await;
        timer.cancel();
    });
    let audit = tokio::task::spawn_blocking(move || audit::audit(&kafka, PARTITIONS, &check, &stop)).await;
    let audit = audit.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    if let Some(Audit {
        batches,
        repeated,
        missing,
    }) = audit
    {
        say!("Kafka read once more: {batches} batches, {repeated} repeated, {missing} missing.");
    }
    Ok(())
}

fn announce(options: &Options, dashboard: SocketAddr, admin: SocketAddr, mqtt: &str, kafka: &KafkaSettings) {
    say!("Headwater demo: from sensor to dashboard through Kafka, in one process.\n");
    say!("  Dashboard  http://{dashboard}/");
    say!("  Metrics    http://{admin}/metrics  (health: /healthz, /readyz)\n");
    let embedded = |real: bool| {
        if real {
            "yours"
        } else {
            "embedded, in memory, for trying out only"
        }
    };
    say!("  MQTT       {mqtt}  ({})", embedded(options.mqtt.is_some()));
    say!(
        "  Kafka      {}, topics {}.*  ({})",
        kafka.bootstrap,
        kafka.prefix,
        embedded(options.kafka.is_some())
    );
    let names: Vec<String> = (0..options.agents.min(3))
        .map(|number| agents::name(number).0)
        .collect();
    let more = if options.agents > 3 { ", …" } else { "" };
    say!("  Agents     {}: {}{more}\n", options.agents, names.join(", "));
    say!(
        "In the page, choose a device and cut its link: what it samples waits in the agent, then drains without a hole."
    );
    match options.duration {
        Some(duration) => say!(
            "It stops by itself after {}, or with Ctrl-C.\n",
            humantime::format_duration(duration)
        ),
        None => say!("Stop it with Ctrl-C.\n"),
    }
}

async fn listen(options: &Options) -> Result<TcpListener, Error> {
    let port = options.port;
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let mut offer = String::new();
            for other in port.saturating_add(1)..=port.saturating_add(100) {
                if TcpListener::bind((Ipv4Addr::LOCALHOST, other)).await.is_ok() {
                    offer = format!(" Port {other} is free:\n\n    {}\n", command(other));
                    break;
                }
            }
            Err(Error::Port { port, offer })
        }
        Err(why) => Err(Error::Listen { port, why }),
    }
}

/// The command that was given, with another port.
fn command(port: u16) -> String {
    let mut words = if std::env::var_os("CARGO").is_some() {
        vec!["cargo demo".to_string()]
    } else {
        let program = std::env::args()
            .next()
            .unwrap_or_else(|| "headwater-relay".into());
        vec![format!("{program} demo")]
    };
    let mut given = std::env::args().skip(2);
    while let Some(word) = given.next() {
        if word == "--port" {
            given.next();
        } else if !word.starts_with("--port=") {
            words.push(word);
        }
    }
    words.push(format!("--port {port}"));
    words.join(" ")
}

fn agent_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=MOST_AGENTS).contains(&count) => Ok(count),
        _ => Err(format!("give a number from 1 to {MOST_AGENTS}")),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) => Err("give more than nothing, such as 30s, 5m or 1h".into()),
        Err(error) => Err(format!("{error}; give a duration such as 30s, 5m or 1h")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_make_no_sense_say_what_would() {
        assert_eq!(agent_count("1000"), Ok(1000));
        for text in ["0", "1001", "-1", "many", "99999999999999999999"] {
            assert!(agent_count(text).unwrap_err().contains("1 to 1000"), "{text}");
        }
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        for text in ["0s", "soon", "", "-3s", "10"] {
            assert!(duration(text).unwrap_err().contains("such as 30s"), "{text}");
        }
    }
}
