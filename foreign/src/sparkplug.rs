//! Sparkplug B (Eclipse Sparkplug 3.0.0): edge nodes that tell with a birth what they measure, and then send values under short numbers.
//!
//! [`Host`] is what the specification calls a host application's view: which nodes and devices are there, what their
//! aliases mean, whether a message is missing. It is pure: it says when a node is to be asked for a rebirth, and leaves the asking
//! to its caller.
//!
//! What a message gives is a reading each metric: integers of any width and DateTime (milliseconds) as integers, Float and Double as
//! doubles, String, Text and UUID as texts. DataSet, Template, Bytes, File and arrays have no place in a reading: they are left
//! out and counted. So are `bdSeq` and the controls of nodes and devices, which measure nothing (not counted), and what says that it is
//! null.

mod host;
mod metric;
mod topic;

pub use host::{Heard, Host, Options};
pub use topic::{Kind, Topic};

#[expect(
    unreachable_pub,
    clippy::enum_variant_names,
    reason = "generated; the comments and the names are the .proto file's"
)]
mod pb {
    include!(concat!(env!("OUT_DIR"), "/headwater.foreign.sparkplug.rs"));
}

use prost::Message as _;

/// What asks a node for its births: the payload of an NCMD, sent at `now_ms` (milliseconds since the Unix epoch).
pub fn rebirth(now_ms: u64) -> Vec<u8> {
    let metric = pb::Metric {
        name: Some("Node Control/Rebirth".into()),
        timestamp: Some(now_ms),
        datatype: Some(metric::BOOLEAN),
        value: Some(pb::metric::Value::BooleanValue(true)),
        ..pb::Metric::default()
    };
    let payload = pb::Payload {
        timestamp: Some(now_ms),
        metrics: vec![metric],
        seq: None,
    };
    payload.encode_to_vec()
}
