//! What is written of a command: its reply, or a dead letter where the record was none.

use bytes::Bytes;
use headwater_proto::Message as _;
use headwater_proto::pb::{Reply, ReplyStatus};

use super::request::Held;
use crate::bridge::budget::Budget;

/// The longest output of a reply, bytes: beyond what an agent sends, and far below what Kafka takes.
const OUTPUT: usize = 256 * 1024;
/// What an answer takes beside its bytes.
const OVERHEAD: usize = 128;

/// An answer to the command at an offset.
#[derive(Debug)]
pub struct Answer {
    /// The command's offset.
    pub offset: i64,
    /// The record's key: the device.
    pub key: String,
    /// The record's value.
    pub value: Bytes,
    /// Which record it is.
    pub kind: Kind,
    /// Its bytes.
    _held: Held,
}

/// Which record an answer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A `headwater.v1.Reply`.
    Reply(ReplyStatus),
    /// A dead letter: what was read, and why it is no command.
    DeadLetter(String),
}

impl Answer {
    /// A reply.
    pub fn reply(offset: i64, mut reply: Reply, budget: &Budget) -> Self {
        if reply.output.len() > OUTPUT {
            reply.output.truncate(reply.output.floor_char_boundary(OUTPUT));
            reply.output.push_str("… (cut)");
        }
        let value: Bytes = reply.encode_to_vec().into();
        Self {
            offset,
            kind: Kind::Reply(reply.status()),
            _held: Held::new(budget, value.len() + reply.device.len() + OVERHEAD),
            key: reply.device,
            value,
        }
    }

    /// A dead letter.
    pub fn dead_letter(offset: i64, key: String, value: Bytes, reason: String, budget: &Budget) -> Self {
        Self {
            offset,
            _held: Held::new(budget, value.len() + key.len() + OVERHEAD),
            key,
            value,
            kind: Kind::DeadLetter(reason),
        }
    }

    /// Bytes of the record.
    pub fn size(&self) -> usize {
        self.key.len() + self.value.len()
    }
}
