//! The servers, each set up for this job as its documents say, and all else as it comes.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;

use super::Plan;
use super::protocol::{CHANNEL, Kind};
use crate::agent::process::Process;
use crate::bridge::kafka::Kafka;

/// Partitions of the topics.
pub(super) const PARTITIONS: u32 = 8;

/// A server that runs.
pub(super) struct Server {
    pub(super) process: Process,
    pub(super) address: SocketAddr,
    /// The topic that it reads.
    pub(super) topic: String,
}

impl Server {
    /// Starts it on a topic of its own.
    pub(super) fn start(kind: Kind, plan: &Plan, work: &Path, kafka: &Kafka, run: &str) -> Result<Self> {
        let name = format!("{kind:?}-{run}").to_lowercase();
        let log = work.join(format!("{name}.log"));
        let port = free_port()?;
        let (mut command, topic) = match kind {
            Kind::Headwater => {
                let config = work.join(format!("{name}.toml"));
                let text = format!(
                    "[admin]\nlisten = \"127.0.0.1:0\"\n[gateway]\nlisten = \"127.0.0.1:{port}\"\n[gateway.limits]\nconnections = 20000\n\
                     [kafka]\nbootstrap = \"{}\"\nprefix = \"{name}\"\npartitions = {PARTITIONS}\n",
                    kafka.bootstrap
                );
                fs::write(&config, text)?;
                let mut command = Command::new(&plan.relay);
                command.arg("gateway").arg("--config").arg(config);
                (command, format!("{name}.telemetry"))
            }
            Kind::Centrifugo => {
                kafka.create(&name, PARTITIONS as i32)?;
                let config = work.join(format!("{name}.json"));
                let text = serde_json::json!({
                    "address": "127.0.0.1",
                    "port": port.to_string(),
                    "allow_anonymous_connect_without_token": true,
                    "allow_subscribe_for_client": true,
                    "allow_subscribe_for_anonymous": true,
                    "websocket_compression": true,
                    "consumers": [{
                        "name": "readings",
                        "type": "kafka",
                        "kafka": { "brokers": [kafka.bootstrap], "topics": [name], "consumer_group": name },
                    }],
                });
                fs::write(&config, text.to_string())?;
                let program = plan.centrifugo.as_ref().context("no --centrifugo")?;
                let mut command = Command::new(program);
                command.arg("--config").arg(config);
                (command, name.clone())
            }
            Kind::Node => {
                kafka.create(&name, PARTITIONS as i32)?;
                let folder = plan.node.as_ref().context("no --node")?;
                let mut command = Command::new("node");
                command
                    .arg(folder.join("server.js"))
                    .args([&kafka.bootstrap, &name, &port.to_string()]);
                (command, name.clone())
            }
        };
        let process = Process::start(&mut command, &log)?;
        let server = Self {
            process,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            topic,
        };
        server
            .await_port()
            .with_context(|| format!("{kind:?} said:\n{}", server.said()))?;
        Ok(server)
    }

    fn await_port(&self) -> Result<()> {
        let begun = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            ensure!(begun.elapsed() < Duration::from_secs(60), "it does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// What it has printed.
    pub(super) fn said(&self) -> String {
        let text = fs::read_to_string(self.process.log()).unwrap_or_default();
        let from = text.floor_char_boundary(text.len().saturating_sub(4000));
        text[from..].to_string()
    }

    /// Proportional set size, KiB.
    pub(super) fn pss_kib(&self) -> Result<u64> {
        let path = PathBuf::from(format!("/proc/{}/smaps_rollup", self.process.id()));
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        number
            .and_then(|number| number.parse().ok())
            .context("smaps_rollup has no Pss")
    }
}

/// The form in which a server's records hold a batch.
pub(super) fn record(kind: Kind, batch: &headwater_proto::Batch, json: &str) -> Vec<u8> {
    match kind {
        Kind::Headwater => headwater_proto::protobuf::encode(batch),
        Kind::Centrifugo => {
            let data = BASE64.encode(headwater_proto::protobuf::encode(batch));
            format!(r#"{{"method":"publish","payload":{{"channel":"{CHANNEL}","b64data":"{data}"}}}}"#)
                .into_bytes()
        }
        Kind::Node => json
            .replacen('{', &format!("{{\"seq\":{},", batch.seq), 1)
            .into_bytes(),
    }
}

/// A port below those that the kernel gives to outgoing connections.
fn free_port() -> Result<u16> {
    for _ in 0..100 {
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        let port = 20_000 + (random % 12_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between 20000 and 32000 on 127.0.0.1")
}
