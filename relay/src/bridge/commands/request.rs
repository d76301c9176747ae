//! A record of `headwater.commands`, and what it asks for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use headwater_proto::frame::seal_control;
use headwater_proto::pb::{Command, ReplyStatus};

use crate::bridge::budget::Budget;
use crate::bridge::device::Now;
use crate::bridge::settings::CommandSettings;

/// The longest id, bytes (command.proto).
pub const ID: usize = 64;
/// The longest command that an agent takes, bytes.
pub const LONGEST: usize = 128 * 1024;

/// Bytes that something holds of a budget; dropping it gives them back.
#[derive(Debug)]
pub struct Held {
    budget: Budget,
    bytes: usize,
}

impl Held {
    /// Takes them.
    pub fn new(budget: &Budget, bytes: usize) -> Self {
        budget.take(bytes);
        Self {
            budget: budget.clone(),
            bytes,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

/// One of the records of a partition that were read and are not looked at yet; dropping it makes room for the next.
#[derive(Debug)]
pub struct Queued(Arc<AtomicUsize>);

impl Queued {
    /// One more.
    pub fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A record of `headwater.commands`.
#[derive(Debug)]
pub struct Read {
    /// Its partition.
    pub partition: u32,
    /// The term in which it was read.
    pub term: u64,
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: String,
    /// When it was written, by its own word, microseconds since the Unix epoch.
    pub written_us: Option<i64>,
    /// What it holds; or why that is no command, and its bytes.
    pub content: Result<Command, (String, Bytes)>,
    /// Its bytes.
    pub held: Held,
    /// Its place among those not looked at yet.
    pub queued: Queued,
}

/// What a record asks for.
#[derive(Debug)]
pub enum Request {
    /// To have this carried out.
    Carry {
        /// By which device.
        device: Arc<str>,
        /// The command's id.
        id: Arc<str>,
        /// What the device is sent.
        payload: Vec<u8>,
        /// When it is given up.
        deadline: Instant,
    },
    /// Something that will not be done.
    Refuse {
        /// The key of the answer.
        device: String,
        /// The command's id.
        id: String,
        /// How it is answered.
        status: ReplyStatus,
        /// Why.
        why: String,
    },
    /// Nothing that could be answered, for this reason.
    Garbage(String),
}

/// Judges what can be judged by the record alone. `partition`: where it stands, of so many.
pub fn judge(
    key: &str,
    command: Command,
    written_us: Option<i64>,
    (partition, of): (u32, u32),
    settings: &CommandSettings,
    now: Now,
) -> Request {
    let mut command = command;
    if command.id.is_empty() || command.id.len() > ID {
        let length = command.id.len();
        return Request::Garbage(format!(
            "the command's id has {length} bytes, and may have 1 to {ID}"
        ));
    }
    if command.device.is_empty() {
        key.clone_into(&mut command.device);
    }
    let refuse = |command: Command, status, why| Request::Refuse {
        device: command.device,
        id: command.id,
        status,
        why,
    };
    if let Err(error) = headwater_proto::name::check_device(&command.device) {
        return refuse(command, ReplyStatus::Refused, error.to_string());
    }
    if !key.is_empty() && key != command.device {
        let why = format!("the record's key is {key:?}, not the device");
        return refuse(command, ReplyStatus::Refused, why);
    }
    let own = headwater_proto::shard::partition(&command.device, of);
    if own != partition {
        let why = format!(
            "the record stands in partition {partition} of {of}; commands of this device belong to {own}: use the device as key, and the \
             partitioner murmur2 (Java's default; in librdkafka `partitioner=murmur2_random`)"
        );
        return refuse(command, ReplyStatus::Refused, why);
    }
    // Whoever takes the partition over has to come to the same.
    let written_us = written_us.unwrap_or(now.us).min(now.us);
    let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    if command.expires_us == 0 {
        command.expires_us = written_us.saturating_add(micros(settings.expiry));
    }
    command.expires_us = command
        .expires_us
        .min(written_us.saturating_add(micros(settings.longest_wait)));
    let left = command.expires_us.saturating_sub(now.us);
    if left <= 0 {
        let late = Duration::from_micros(left.unsigned_abs());
        let why = format!(
            "it expired {:.1} s before it was read; it was not sent",
            late.as_secs_f64()
        );
        return refuse(command, ReplyStatus::Expired, why);
    }
    let payload = seal_control(&command);
    if payload.len() > LONGEST {
        let why = format!("it has {} bytes, and an agent takes {LONGEST}", payload.len());
        return refuse(command, ReplyStatus::Refused, why);
    }
    Request::Carry {
        deadline: now.at + Duration::from_micros(left.unsigned_abs()),
        device: command.device.into(),
        id: command.id.into(),
        payload,
    }
}
