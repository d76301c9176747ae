//! Commands down to the devices of a partition, and their replies: what a record of `headwater.commands`, a device's sign of life, its reply
//! or the passing of time makes of them. Pure.
//!
//! - Each record gets one answer, in `headwater.replies` (or, if nobody could be answered, among the dead letters), written in one Kafka
//!   transaction with the [`Position`] that says so. Whoever takes the partition over goes on from there: what has no answer is sent once more
//!   under its id, and an agent that has carried it out already says the same again.
//! - A device gets one command at a time, in the order of the records. No device waits for another.
//! - A command waits for its device until its time is over. It is sent when the device is there, and again when the device says hello, when our
//!   connection to the broker is made anew, and, ever more seldom, when no reply comes.
//! - What is open is bounded: in number, since Kafka's metadata have to hold it, and in bytes. While devices answer, reading waits for them; if
//!   they are away, further commands are refused, and told so.

mod admission;
pub mod answer;
pub mod metrics;
pub mod position;
pub mod reader;
pub mod request;
mod writing;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_proto::frame::open_control;
use headwater_proto::pb::{Reply, ReplyStatus};
use headwater_proto::topic::{self, Kind};

use super::budget::Budget;
use super::device::Now;
use super::settings::CommandSettings;
use answer::Answer;
use metrics::Metrics;
use position::Position;
use request::{Held, Read};
use writing::TOGETHER;

/// So many commands of a partition are under way at a time.
const UNDER_WAY: usize = 64;
/// A device that does not reply within this time is waited for like one that is away.
const PATIENCE: Duration = Duration::from_secs(60);
/// When a command without a reply is sent again, for the first time; then after twice the time each.
const AGAIN: Duration = Duration::from_secs(15);
/// How often that is doubled.
const DOUBLINGS: u32 = 4;
/// How the reply ends to a command that a device was sent and never answered.
pub const MAY_HAVE_RUN: &str = "it may have been carried out";
/// Commands of which it is remembered that they were answered.
const REMEMBERED: usize = 256;

/// What all partitions of a bridge share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Their bounds.
    pub settings: CommandSettings,
    /// How many partitions there are.
    pub partitions: u32,
    /// Our name in the metadata of offsets.
    pub writer: Arc<str>,
    /// Bytes of commands and answers.
    pub bytes: Budget,
    /// What is counted.
    pub metrics: Metrics,
}

/// Answers to be written together, and the position with them.
#[derive(Debug)]
pub struct Batch {
    /// The partition.
    pub partition: u32,
    /// The term in which the commands were read.
    pub term: u64,
    /// The answers.
    pub answers: Vec<Arc<Answer>>,
    /// The offset to commit with them.
    pub offset: i64,
    /// Its metadata.
    pub metadata: String,
}

/// A command without an answer.
#[derive(Debug)]
struct Open {
    device: Arc<str>,
    id: Arc<str>,
    payload: Vec<u8>,
    deadline: Instant,
    read_at: Instant,
    /// How often it was sent.
    sent: u32,
    first_sent: Option<Instant>,
    /// When it is sent (again).
    due: Option<Instant>,
    _held: Held,
}

impl Open {
    /// Whether an answer can be expected soon, if the device is there.
    fn is_prompt(&self, now: Instant) -> bool {
        self.first_sent
            .is_none_or(|at| now.saturating_duration_since(at) < PATIENCE)
    }
}

/// The commands of a partition, in one term of owning it.
#[derive(Debug)]
pub struct Commands {
    shared: Shared,
    partition: u32,
    term: u64,
    /// What the last bridge left open, of which nothing was read yet, and from where on nothing is answered.
    left: Position,
    /// The offset after the last record that was looked at.
    next: i64,
    backlog: VecDeque<Read>,
    open: BTreeMap<i64, Open>,
    /// The open commands of each device, the oldest first.
    queues: HashMap<Arc<str>, VecDeque<i64>>,
    /// Answers to be written, and those on their way.
    ready: VecDeque<Arc<Answer>>,
    writing: Vec<Arc<Answer>>,
    /// Devices and ids of commands that were answered, hashed.
    answered: VecDeque<u64>,
    /// Whether the replies are subscribed, and what the broker had kept has come.
    listening: bool,
    stopped: bool,
}

impl Commands {
    /// Goes on from this position.
    pub fn new(shared: &Shared, partition: u32, term: u64, position: Position) -> Self {
        Self {
            shared: shared.clone(),
            partition,
            term,
            next: position.offset(),
            left: position,
            backlog: VecDeque::new(),
            open: BTreeMap::new(),
            queues: HashMap::new(),
            ready: VecDeque::new(),
            writing: Vec::new(),
            answered: VecDeque::new(),
            listening: false,
            stopped: false,
        }
    }

    /// A record was read.
    pub fn read(&mut self, read: Read) {
        self.backlog.push_back(read);
    }

    /// The device said hello: what it was sent before may not have reached it.
    pub fn hello(&mut self, device: &str, now: Instant) {
        if let Some(offset) = self.queues.get(device).and_then(VecDeque::front)
            && let Some(open) = self.open.get_mut(offset)
        {
            open.due = Some(now);
        }
    }

    /// Replies are subscribed, or no longer, and with them the devices' signs of life.
    pub fn listen(&mut self, listening: bool) {
        self.listening = listening;
        if !listening {
            self.open.values_mut().for_each(|open| open.due = None);
        }
    }

    /// The partition is about to be given up: nothing is sent or written any more.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Whether there is nothing to do, whatever time it is.
    pub fn is_idle(&self) -> bool {
        self.backlog.is_empty() && self.open.is_empty()
    }

    /// A device replied. `payload`: as it came, whole.
    pub fn reply(&mut self, now: Now, device: &str, payload: &[u8]) {
        let ignore = |reason| self.shared.metrics.ignore(reason);
        let mut reply: Reply = match open_control("reply", payload) {
            Ok(reply) => reply,
            Err(_) => return ignore("unreadable"),
        };
        if reply.status() == ReplyStatus::Unspecified || (!reply.device.is_empty() && reply.device != device)
        {
            return ignore("unreadable");
        }
        let queue = self.queues.get(device).map(VecDeque::iter).unwrap_or_default();
        let of_id = |offset: &&i64| self.open.get(offset).is_some_and(|open| *open.id == *reply.id);
        let Some(offset) = queue.copied().find(|offset| of_id(&offset)) else {
            let known = self.answered.contains(&hash(device, &reply.id));
            return ignore(if known { "late or repeated" } else { "unknown id" });
        };
        device.clone_into(&mut reply.device);
        if reply.replied_us == 0 {
            reply.replied_us = now.us;
        }
        if let Some(open) = self.close(offset) {
            let took = now.at.saturating_duration_since(open.read_at);
            self.shared.metrics.seconds.observe(took.as_secs_f64());
        }
        let answer = Answer::reply(offset, reply, &self.shared.bytes);
        self.ready.push_back(Arc::new(answer));
    }

    /// Goes on with whatever can go on. `presence`: whether a device is there; `None` for one that is not known. `publish`: puts a message on
    /// its way, and returns whether there was room.
    pub fn step(
        &mut self,
        now: Now,
        presence: impl Fn(&str) -> Option<bool>,
        mut publish: impl FnMut(String, &[u8]) -> bool,
    ) {
        if self.stopped || self.is_idle() {
            return;
        }
        self.expire(now, &presence);
        self.admit(now, &presence);
        if self.listening {
            self.send(now.at, &presence, &mut publish);
        }
    }

    fn expire(&mut self, now: Now, presence: &impl Fn(&str) -> Option<bool>) {
        let is_over = |(_, open): &(&i64, &Open)| open.deadline <= now.at;
        let over = self.open.iter().filter(is_over);
        // As it is before the first of them is taken out.
        let over: Vec<(i64, String)> = over
            .map(|(&offset, open)| (offset, self.why_expired(offset, open, presence)))
            .collect();
        for (offset, why) in over {
            if let Some(open) = self.close(offset) {
                self.answer(now, offset, &open.device, &open.id, ReplyStatus::Expired, why);
            }
        }
    }

    fn why_expired(&self, offset: i64, open: &Open, presence: &impl Fn(&str) -> Option<bool>) -> String {
        let first = self.queues.get(&open.device).and_then(VecDeque::front);
        if open.sent > 0 {
            let sent = open.sent;
            format!("sent {sent} times, and no reply came in time: {MAY_HAVE_RUN}")
        } else if let Some(first) = first.filter(|first| **first != offset) {
            format!("not sent: the command before it, at offset {first}, had no reply yet")
        } else if presence(&open.device) == Some(false) {
            "not sent: the device was not on line".to_string()
        } else {
            "not sent: the bridge had no connection to the MQTT broker, or too much to do".to_string()
        }
    }

    fn send(
        &mut self,
        now: Instant,
        presence: &impl Fn(&str) -> Option<bool>,
        publish: &mut impl FnMut(String, &[u8]) -> bool,
    ) {
        let mut under_way = 0;
        let mut due = BTreeSet::new();
        for (device, queue) in &self.queues {
            let Some((offset, open)) = queue.front().and_then(|offset| self.open.get_key_value(offset))
            else {
                continue;
            };
            if presence(device) != Some(true) {
                continue;
            }
            if open.due.is_none_or(|due| due <= now) {
                due.insert(*offset);
            } else if open.is_prompt(now) {
                under_way += 1;
            }
        }
        for offset in due {
            let full = self.ready.len() >= TOGETHER || self.shared.bytes.is_spent();
            if under_way >= UNDER_WAY || (full && under_way > 0) {
                return;
            }
            let Some(open) = self.open.get_mut(&offset) else {
                continue;
            };
            if !publish(topic::topic(&open.device, Kind::Command), &open.payload) {
                return;
            }
            under_way += 1;
            self.shared.metrics.sent.inc();
            if open.sent > 0 {
                self.shared.metrics.resent.inc();
            }
            open.first_sent.get_or_insert(now);
            open.due = Some(now + AGAIN * (1 << open.sent.min(DOUBLINGS)));
            open.sent = open.sent.saturating_add(1);
        }
    }

    /// Takes a command out.
    fn close(&mut self, offset: i64) -> Option<Open> {
        let open = self.open.remove(&offset)?;
        if let Some(queue) = self.queues.get_mut(&open.device) {
            queue.retain(|other| *other != offset);
            if queue.is_empty() {
                self.queues.remove(&open.device);
            }
        }
        if self.answered.len() >= REMEMBERED {
            self.answered.pop_front();
        }
        self.answered.push_back(hash(&open.device, &open.id));
        self.shared.metrics.open.dec();
        Some(open)
    }

    fn answer(&mut self, now: Now, offset: i64, device: &str, id: &str, status: ReplyStatus, output: String) {
        let reply = Reply {
            id: id.to_owned(),
            device: device.to_owned(),
            status: status.into(),
            output,
            replied_us: now.us,
        };
        let answer = Answer::reply(offset, reply, &self.shared.bytes);
        self.ready.push_back(Arc::new(answer));
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.shared.metrics.open.dec_by(self.open.len() as i64);
    }
}

fn hash(device: &str, id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (device, id).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
