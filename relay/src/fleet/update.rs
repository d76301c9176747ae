//! `headwater-relay fleet update`: a signed release, to a share of the agents.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use headwater_proto::pb::{self, ReplyStatus};
use headwater_proto::{Message as _, shard};
use serde_json::Value;

use super::Error;
use super::rollout::{Pace, Rollout, Send, Stage, is_among};
use super::roster::{self, Agent};
use crate::bridge::commands::request::LONGEST;
use crate::bridge::device::Now;
use crate::gateway::filter::Globs;
use crate::kafka::KafkaSettings;
use crate::kafka::delivery::Sender;
use crate::kafka::replies::{GRACE, Look, Replies};
use crate::mqtt::random;
use crate::release::signature_of;

/// How long one look for replies takes.
const LOOK: Duration = Duration::from_millis(100);

/// What to install where.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The release's manifest, as `headwater-relay release manifest` writes it. Its signature is read from beside it: the same name and `.minisig`.
    #[arg(long, value_name = "FILE")]
    pub manifest: PathBuf,
    /// Where agents find the manifest's files: <https://releases.example/agent/0.2.0>
    #[arg(long, value_name = "URL")]
    pub url: String,
    /// The share of the agents that are meant, in percent: always the same ones for a version, and among those of any larger share.
    #[arg(long, default_value = "100")]
    pub percent: f64,
    /// Agents that are meant at all: a glob; may be repeated. Default: all.
    #[arg(long, value_name = "GLOB")]
    pub device: Vec<String>,
    /// So many are under way at a time.
    #[arg(long, value_name = "NUMBER", default_value = "20")]
    pub at_once: usize,
    /// With more failures than this nothing more is sent: failed now or before, refused, or taken and not heard of again.
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    pub failures: usize,
    /// Also an older version, another program of the same version, or one that has failed. It has to be signed all the same.
    #[arg(long)]
    pub force: bool,
    /// How long a device that is away has, to come back and take the command.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// How often a device is asked how it goes.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub every: Duration,
    /// How long a device may take in all; then it is overdue.
    #[arg(long, value_name = "TIME", default_value = "2h", value_parser = humantime::parse_duration)]
    pub within: Duration,
    /// Say who is meant, and send nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Who sends it, for the agents' logs. Default: $USER.
    #[arg(long, value_name = "NAME")]
    pub issuer: Option<String>,
}

/// A manifest and its signature, as they are sent.
struct Release {
    version: String,
    manifest: String,
    signature: String,
    targets: Vec<String>,
}

impl Release {
    fn read(path: &Path) -> Result<Self, Error> {
        let text = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|error| Error::Argument(format!("{}: {error}", path.display())))
        };
        let manifest = text(path)?;
        let read: Value = serde_json::from_str(&manifest).unwrap_or_default();
        let (Some(version), Some(files)) = (read["version"].as_str(), read["files"].as_object()) else {
            let path = path.display();
            return Err(Error::Argument(format!(
                "{path} is no manifest; `headwater-relay release manifest` writes one"
            )));
        };
        Ok(Self {
            version: version.into(),
            targets: files.keys().cloned().collect(),
            signature: text(&signature_of(path))?,
            manifest,
        })
    }
}

/// Installs it, and tells what comes of it; returns whether every device that was meant has it. Blocks.
pub(super) fn run(options: &Options, kafka: &KafkaSettings) -> Result<bool, Error> {
    kafka.check()?;
    let argument = |why: String| Err(Error::Argument(why));
    if !(0.0..=100.0).contains(&options.percent) {
        return argument(format!("--percent {}: it is not in 0..=100", options.percent));
    }
    if options.at_once == 0 {
        return argument("--at-once 0: nobody would ever be told; give at least 1".into());
    }
    if options.within.is_zero() {
        return argument("--within 0s: every device would be overdue at once".into());
    }
    if !["http://", "https://"]
        .iter()
        .any(|scheme| options.url.starts_with(scheme))
    {
        return argument(format!(
            "--url {:?}: devices download by http:// or https://",
            options.url
        ));
    }
    let globs =
        Globs::or_all(&options.device).map_err(|error| Error::Argument(format!("--device: {error}")))?;
    let release = Release::read(&options.manifest)?;
    let mut replies = Replies::open(kafka, 0)?;
    let partitions = replies.partitions(kafka, &kafka.topics().commands)?;
    let mut out = std::io::stdout().lock();
    let agents = roster::agents(kafka, partitions)?;
    let all = agents.len();
    let mut meant = agents;
    meant.retain(|agent| globs.matches(&agent.device));
    if meant.is_empty() {
        let why = match (all, options.device.join(", ")) {
            (0, _) => "Kafka knows no agent yet; a bridge writes down each that has said hello".into(),
            (_, names) => format!("--device {names}: none of the {all} agents has such a name"),
        };
        return Err(Error::Argument(why));
    }
    meant.retain(|agent| is_among(&agent.device, &release.version, options.percent));
    let chosen = meant.len();
    meant.retain(|agent| agent.version != release.version || options.force);
    let already = chosen - meant.len();
    writeln!(
        out,
        "{}: {chosen} of {all} agents are meant, {already} of them run it already",
        release.version
    )?;
    // What a release has nothing for would be refused, and count as a failure.
    let (meant, others): (Vec<Agent>, Vec<Agent>) = meant
        .into_iter()
        .partition(|agent| release.targets.contains(&agent.target));
    for agent in &others {
        writeln!(
            out,
            "{:<24} left out: the release has nothing for {}",
            agent.device, agent.target
        )?;
    }
    if options.dry_run {
        for agent in &meant {
            let there = if agent.online { "on line" } else { "away" };
            writeln!(out, "{:<24} {} {there}", agent.device, agent.version)?;
        }
        return Ok(true);
    }
    let pace = Pace {
        at_once: options.at_once,
        failures: options.failures,
        every: options.every,
        within: options.within,
    };
    let rollout = Rollout::new(
        &release.version,
        meant.into_iter().map(|agent| agent.device),
        pace,
    );
    let desk = Desk {
        kafka,
        partitions,
        sender: Sender::new(kafka)?,
        options,
        release,
        open: HashMap::new(),
    };
    let rollout = desk.follow(rollout, &mut replies, &mut out)?;
    summary(&rollout, &mut out)?;
    Ok(others.is_empty() && rollout.stages().all(|(_, stage)| *stage == Stage::Updated))
}

/// What is sent, and what waits for a reply.
struct Desk<'a> {
    kafka: &'a KafkaSettings,
    partitions: u32,
    sender: Sender,
    options: &'a Options,
    release: Release,
    /// By the command's id: what it was, and until when a reply can come.
    open: HashMap<String, (Send, Instant)>,
}

impl Desk<'_> {
    fn follow(
        mut self,
        mut rollout: Rollout,
        replies: &mut Replies,
        out: &mut impl Write,
    ) -> Result<Rollout, Error> {
        let mut told = false;
        while !rollout.is_over() {
            for send in rollout.next(Instant::now()) {
                self.send(send)?;
            }
            if let Look::Reply(reply) = replies.look(LOOK)
                && let Some((send, _)) = self.open.remove(&reply.id)
            {
                say(&mut rollout, &send, reply.status(), &reply.output, out)?;
            }
            let now = Instant::now();
            for (_, (send, _)) in self.open.extract_if(|_, (_, until)| now >= *until) {
                let why = "no bridge replied; does one run?";
                say(&mut rollout, &send, ReplyStatus::Expired, why, out)?;
            }
            if rollout.is_stopped() && !told {
                told = true;
                let allowed = self.options.failures;
                writeln!(out, "more than {allowed} have failed: nothing more is sent")?;
            }
        }
        Ok(rollout)
    }

    fn send(&mut self, send: Send) -> Result<(), Error> {
        let (device, arguments, timeout) = match &send {
            Send::Update(device) => {
                let mut arguments = vec![
                    self.release.manifest.clone(),
                    self.release.signature.clone(),
                    self.options.url.clone(),
                ];
                if self.options.force {
                    arguments.push("--force".into());
                }
                (device, arguments, self.options.timeout)
            }
            Send::Question(device) => (device, Vec::new(), self.options.every),
        };
        let now = Now::read().us;
        let command = pb::Command {
            id: format!("{:08x}{:08x}", random(), random()),
            device: device.clone(),
            name: "update".into(),
            arguments,
            expires_us: now.saturating_add(i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX)),
            issuer: self
                .options
                .issuer
                .clone()
                .or_else(|| std::env::var("USER").ok())
                .unwrap_or_default(),
            issued_us: now,
        };
        if command.encoded_len() >= LONGEST {
            return Err(Error::Argument(format!(
                "the manifest is too long: a command has at most {LONGEST} bytes"
            )));
        }
        let partition = shard::partition(device, self.partitions);
        let topic = self.kafka.topics().commands;
        // One that Kafka does not take has no reply, which tells it.
        drop(
            self.sender
                .send(&topic, Some(partition), device, &command.encode_to_vec()),
        );
        self.open
            .insert(command.id, (send, Instant::now() + timeout + GRACE));
        Ok(())
    }
}

/// Takes a reply in, and says what has changed.
fn say(
    rollout: &mut Rollout,
    send: &Send,
    status: ReplyStatus,
    output: &str,
    out: &mut impl Write,
) -> Result<(), Error> {
    if rollout.reply(Instant::now(), send, status, output) {
        let (Send::Update(device) | Send::Question(device)) = send;
        if let Some((_, stage)) = rollout.stages().find(|(name, _)| name == device) {
            writeln!(out, "{device:<24} {}", line(stage))?;
        }
    }
    Ok(())
}

fn line(stage: &Stage) -> String {
    match stage.why() {
        "" => stage.word().into(),
        why => format!("{}: {why}", stage.word()),
    }
}

fn summary(rollout: &Rollout, out: &mut impl Write) -> Result<(), Error> {
    writeln!(out, "\n{:<24} outcome", "device")?;
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for (device, stage) in rollout.stages() {
        writeln!(out, "{device:<24} {}", line(stage))?;
        match counts.iter_mut().find(|(word, _)| *word == stage.word()) {
            Some((_, count)) => *count += 1,
            None => counts.push((stage.word(), 1)),
        }
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(word, count)| format!("{count} {word}"))
        .collect();
    writeln!(
        out,
        "{}",
        if counts.is_empty() {
            "nothing to do".into()
        } else {
            counts.join(", ")
        }
    )?;
    Ok(())
}
