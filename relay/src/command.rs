//! `headwater-relay command`: one command to a device through Kafka, and its reply.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use headwater_proto::pb::{Command, Reply, ReplyStatus};
use headwater_proto::{Message as _, shard};
use rdkafka::error::KafkaError;
use serde_json::json;

use crate::bridge::commands::request::LONGEST;
use crate::bridge::device::Now;
use crate::kafka::delivery::Sender;
use crate::kafka::replies::{GRACE, Look, Replies};
use crate::kafka::{self, KafkaSettings};
use crate::mqtt::random;

/// How long one look for a reply takes.
const LOOK: Duration = Duration::from_millis(100);

/// What to send.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The device.
    pub device: String,
    /// The command: ping, status, flush, set, config, restart, update, exec.
    pub name: String,
    /// Its arguments, as in `set batch.age 10s`, `config get`, `exec NAME`; what begins with `-` and is no number comes last, after `--`.
    // Not allow_hyphen_values: the options that follow would be arguments too.
    #[arg(allow_negative_numbers = true)]
    pub arguments: Vec<String>,
    /// A file whose text is the last argument: `config apply --file agent.toml`.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// How long the device has: one that is off line gets the command when it comes back within this time (bridge.commands.longest_wait is the most).
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// The command's id. Sending one again under its id is harmless. Default: a random one.
    #[arg(long)]
    pub id: Option<String>,
    /// Who sends it, for the agent's log. Default: $USER.
    #[arg(long, value_name = "NAME")]
    pub issuer: Option<String>,
    /// Write the command and do not wait for the reply.
    #[arg(long)]
    pub no_wait: bool,
    /// Print the reply as a JSON object.
    #[arg(long)]
    pub json: bool,
}

/// What can go wrong before there is a reply. Each message is whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Kafka, or what is set of it.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
    /// What was given makes no command.
    #[error("{0}")]
    Argument(String),
    /// Kafka did not take the command.
    #[error("the command is not in {topic}: {why}")]
    NotWritten {
        /// The topic.
        topic: String,
        /// What Kafka says.
        why: KafkaError,
    },
    /// No reply came.
    #[error(
        "no reply to command {id} within {waited}: is a bridge running? Its metric headwater_bridge_commands_total counts the commands it reads. \
         It is not known whether the command was carried out; with --id {id} it can be sent once more without harm"
    )]
    Silence {
        /// The command's id.
        id: String,
        /// How long was waited.
        waited: humantime::Duration,
    },
    /// Standard output is closed.
    #[error("standard output: {0}")]
    Output(#[from] std::io::Error),
}

/// Sends a command, waits for its reply and prints it. Returns whether the device has carried it out. Blocks.
///
/// # Errors
/// [`Error`].
pub fn run(options: &Options, kafka: &KafkaSettings) -> Result<bool, Error> {
    kafka.check()?;
    let command = command(options)?;
    let mut replies = Replies::open(kafka, 0)?;
    let partitions = replies.partitions(kafka, &kafka.topics().commands)?;
    write(kafka, partitions, &command)?;
    let mut out = std::io::stdout().lock();
    if options.no_wait {
        if options.json {
            writeln!(out, "{}", json!({ "id": command.id, "device": command.device }))?;
        } else {
            writeln!(out, "{}", command.id)?;
        }
        return Ok(true);
    }
    let Some(reply) = reply_of(&mut replies, &command, options.timeout + GRACE) else {
        return Err(Error::Silence {
            id: command.id,
            waited: (options.timeout + GRACE).into(),
        });
    };
    let status = word(reply.status());
    if options.json {
        let reply = json!({
            "id": reply.id,
            "device": reply.device,
            "status": status,
            "output": reply.output,
            "replied_us": reply.replied_us,
        });
        writeln!(out, "{reply}")?;
    } else if reply.status() == ReplyStatus::Ok {
        writeln!(out, "{}", reply.output)?;
    } else {
        writeln!(out, "{status}: {}", reply.output)?;
    }
    Ok(reply.status() == ReplyStatus::Ok)
}

fn command(options: &Options) -> Result<Command, Error> {
    let wrong = |why: String| Err(Error::Argument(why));
    if let Err(error) = headwater_proto::name::check_device(&options.device) {
        return wrong(error.to_string());
    }
    let id = match &options.id {
        Some(id) if (1..=64).contains(&id.len()) => id.clone(),
        Some(id) => return wrong(format!("--id has {} bytes, and may have 1 to 64", id.len())),
        None => format!("{:08x}{:08x}", random(), random()),
    };
    let mut arguments = options.arguments.clone();
    if let Some(path) = &options.file {
        arguments.push(text(path)?);
    }
    let now = Now::read().us;
    let timeout = i64::try_from(options.timeout.as_micros()).unwrap_or(i64::MAX);
    let command = Command {
        id,
        device: options.device.clone(),
        name: options.name.clone(),
        arguments,
        expires_us: now.saturating_add(timeout),
        issuer: options
            .issuer
            .clone()
            .or_else(|| std::env::var("USER").ok())
            .unwrap_or_default(),
        issued_us: now,
    };
    if command.encoded_len() >= LONGEST {
        let length = command.encoded_len();
        return wrong(format!(
            "the command has {length} bytes, and an agent takes {LONGEST}"
        ));
    }
    Ok(command)
}

fn text(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path)
        .map_err(|error| Error::Argument(format!("--file {}: {error}", path.display())))
}

/// A status as it is printed.
fn word(status: ReplyStatus) -> &'static str {
    match status {
        ReplyStatus::Unspecified => "unspecified",
        ReplyStatus::Ok => "ok",
        ReplyStatus::Failed => "failed",
        ReplyStatus::Expired => "expired",
        ReplyStatus::UnknownDevice => "unknown device",
        ReplyStatus::UnknownCommand => "unknown command",
        ReplyStatus::Refused => "refused",
    }
}

/// The reply to this command, if it comes within this time.
fn reply_of(replies: &mut Replies, command: &Command, within: Duration) -> Option<Reply> {
    let until = Instant::now() + within;
    while Instant::now() < until {
        if let Look::Reply(reply) = replies.look(LOOK)
            && reply.id == command.id
            && reply.device == command.device
        {
            return Some(reply);
        }
    }
    None
}

fn write(kafka: &KafkaSettings, partitions: u32, command: &Command) -> Result<(), Error> {
    let topic = kafka.topics().commands;
    if !partitions.is_power_of_two() || partitions > shard::SHARDS {
        let why = format!("has {partitions} partitions; a bridge works with a power of two up to 256");
        return Err(kafka::Error::Topic { topic, why }.into());
    }
    let partition = shard::partition(&command.device, partitions);
    let sender = Sender::new(kafka)?;
    let delivery = sender.send(&topic, Some(partition), &command.device, &command.encode_to_vec());
    // It is reported in the end, at the latest after kafka.timeout.
    let outcome = delivery.blocking_recv().unwrap_or(Err(KafkaError::Canceled));
    outcome.map_err(|why| Error::NotWritten { topic, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(device: &str, arguments: &[&str]) -> Options {
        Options {
            device: device.into(),
            name: "set".into(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            file: None,
            timeout: Duration::from_secs(5),
            id: None,
            issuer: Some("tester".into()),
            no_wait: false,
            json: false,
        }
    }

    #[test]
    fn what_is_given_becomes_a_command() {
        let given = command(&options("pump-1", &["batch.age", "10s"])).unwrap();
        assert_eq!((given.name.as_str(), given.issuer.as_str()), ("set", "tester"));
        assert_eq!(given.arguments, ["batch.age", "10s"]);
        assert_eq!(given.expires_us - given.issued_us, 5_000_000);
        assert_eq!(given.id.len(), 16);
        assert_ne!(command(&options("pump-1", &[])).unwrap().id, given.id);
    }

    #[test]
    fn what_no_agent_would_take_is_refused_here() {
        let why = |options: &Options| command(options).unwrap_err().to_string();
        assert!(why(&options("a b", &[])).contains("a b"));
        assert!(why(&options("a", &["x".repeat(LONGEST).as_str()])).contains("131072"));
        let mut long = options("a", &[]);
        long.id = Some("x".repeat(65));
        assert!(why(&long).contains("65 bytes"));
        let mut absent = options("a", &[]);
        absent.file = Some("/nowhere/agent.toml".into());
        assert!(why(&absent).contains("/nowhere/agent.toml"));
    }
}
