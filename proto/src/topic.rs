//! MQTT topics: `hw1/{shard}/{device}/{kind}`.

use alloc::format;
use alloc::string::String;

use crate::shard::shard;

/// What a topic carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Frames of readings, agent → bridge.
    Data,
    /// `pb::Hello`, agent → bridge, retained.
    Hello,
    /// `pb::SeriesSet`, agent → bridge, retained.
    Series,
    /// `pb::Status`, agent → bridge, retained, and the Last Will.
    Status,
    /// `pb::Ack`, bridge → agent.
    Ack,
    /// `pb::Command`, bridge → agent.
    Command,
    /// `pb::Reply`, agent → bridge.
    Reply,
}

impl Kind {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Data, "data"),
        (Self::Hello, "hello"),
        (Self::Series, "series"),
        (Self::Status, "status"),
        (Self::Ack, "ack"),
        (Self::Command, "command"),
        (Self::Reply, "reply"),
    ];

    /// The last level of the topic.
    pub fn as_str(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// The topic of this kind for a device.
pub fn topic(device: &str, kind: Kind) -> String {
    format!("hw1/{}/{device}/{}", shard(device), kind.as_str())
}

/// The filter that covers one kind for all devices of a shard.
pub fn shard_filter(shard: u8, kind: Kind) -> String {
    format!("hw1/{shard}/+/{}", kind.as_str())
}

/// The filter that covers one kind for all devices.
pub fn filter(kind: Kind) -> String {
    format!("hw1/+/+/{}", kind.as_str())
}

/// The device and kind of a topic; `None` if it is not one of ours, the name is not allowed, or the shard is not
/// the device's.
pub fn parse(topic: &str) -> Option<(&str, Kind)> {
    let rest = topic.strip_prefix("hw1/")?;
    let (number, rest) = rest.split_once('/')?;
    let (device, kind) = rest.split_once('/')?;
    let (kind, _) = Kind::ALL.iter().find(|(_, name)| *name == kind)?;
    crate::name::check_device(device).ok()?;
    (number == format!("{}", shard(device))).then_some((device, *kind))
}
