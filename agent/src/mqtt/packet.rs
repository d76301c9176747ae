//! The packets of MQTT 5 and 3.1.1 that the agent speaks, by rumqttc's codecs, behind one set of types: for the agent the two versions
//! differ in properties and in reason codes alone. Sections named are those of MQTT 5.0 (OASIS).

use std::fmt;

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::PacketType;

use super::reason::Reason;

/// MQTT 3.1.1.
mod v4 {
    pub(super) use rumqttc::mqttbytes::v4::*;
    pub(super) use rumqttc::mqttbytes::{Error, FixedHeader, QoS, check};
}

/// MQTT 5.
mod v5 {
    pub(super) use rumqttc::v5::mqttbytes::v5::*;
    pub(super) use rumqttc::v5::mqttbytes::{Error, QoS};
}

/// The version of MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// MQTT 5.
    V5,
    /// MQTT 3.1.1.
    V311,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V5 => "5",
            Self::V311 => "3.1.1",
        })
    }
}

/// Remaining lengths are of at most four bytes (section 1.5.5).
pub(crate) const LENGTH_MAX: usize = 268_435_455;

/// What the codecs cannot write; the session lets nothing near it through.
const TOO_LARGE: &str = "only packets of more than 256 MiB cannot be written";

/// What CONNECT says.
#[derive(Clone, Debug)]
pub(crate) struct Connect<'a> {
    pub(crate) client_id: &'a str,
    /// User and password.
    pub(crate) credentials: Option<(&'a str, &'a str)>,
    /// Seconds.
    pub(crate) keep_alive: u16,
    /// Topic and payload of the Last Will: QoS 1, retained.
    pub(crate) will: Option<(&'a str, &'a [u8])>,
    /// The largest packet the broker may send (MQTT 5 only).
    pub(crate) incoming_max: u32,
}

/// A message to publish.
#[derive(Clone, Debug)]
pub(crate) struct Publish<'a> {
    /// May be empty where `alias` has been introduced.
    pub(crate) topic: &'a str,
    /// A topic alias (MQTT 5 only).
    pub(crate) alias: Option<u16>,
    /// At QoS 1, its packet id; `None`: QoS 0.
    pub(crate) packet_id: Option<u16>,
    pub(crate) retain: bool,
    pub(crate) payload: &'a [u8],
}

/// What the broker says in CONNACK, as far as it binds the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Highest topic alias; 0: none.
    pub(crate) topic_alias_max: u16,
    /// The keep-alive that holds in place of the agent's, seconds.
    pub(crate) keep_alive: Option<u16>,
    /// The largest packet it takes.
    pub(crate) packet_max: Option<u32>,
}

/// A packet received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    /// CONNACK.
    Connected(Result<Limits, Reason>),
    /// PUBLISH.
    Message {
        topic: Bytes,
        /// Of QoS 1: it is to be confirmed.
        packet_id: Option<u16>,
        payload: Bytes,
        retained: bool,
    },
    /// PUBACK.
    Confirmed(Result<(), Reason>),
    /// SUBACK: an answer for each topic.
    Subscribed(Vec<Result<(), Reason>>),
    /// PINGRESP.
    Pong,
    /// DISCONNECT (MQTT 5 only).
    Disconnected(Reason),
}

/// What was received is not MQTT as the agent speaks it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("a packet of {0} bytes, more than this agent takes")]
    TooLong(usize),
    #[error("a packet of type {0:?}, which no broker sends to this agent")]
    Type(PacketType),
    #[error("a message of QoS 2, where QoS 1 was the most asked for")]
    Qos,
    #[error("what is not MQTT: {0}")]
    Packet(String),
}

impl From<v4::Error> for Malformed {
    fn from(error: v4::Error) -> Self {
        match error {
            v4::Error::PayloadSizeLimitExceeded(length) => Self::TooLong(length),
            error => Self::Packet(error.to_string()),
        }
    }
}

impl From<v5::Error> for Malformed {
    fn from(error: v5::Error) -> Self {
        Self::Packet(error.to_string())
    }
}

/// CONNECT (section 3.1): a clean start, and no session that outlives the connection.
pub(crate) fn connect(out: &mut BytesMut, version: Version, connect: &Connect<'_>) {
    let written = match version {
        Version::V5 => {
            let will = connect.will.map(|(topic, payload)| v5::LastWill {
                topic: Bytes::copy_from_slice(topic.as_bytes()),
                message: Bytes::copy_from_slice(payload),
                qos: v5::QoS::AtLeastOnce,
                retain: true,
                properties: None,
            });
            let login = connect.credentials.map(|(user, password)| v5::Login {
                username: user.into(),
                password: password.into(),
            });
            let connect = v5::Connect {
                keep_alive: connect.keep_alive,
                client_id: connect.client_id.into(),
                clean_start: true,
                // The session's expiry is 0, and topic aliases from the broker are none, where they are not said.
                properties: Some(v5::ConnectProperties {
                    max_packet_size: Some(connect.incoming_max),
                    ..v5::ConnectProperties::new()
                }),
            };
            v5::Packet::Connect(connect, will, login).write(out, None).ok()
        }
        Version::V311 => {
            let mut packet = v4::Connect::new(connect.client_id);
            packet.keep_alive = connect.keep_alive;
            packet.last_will = connect.will.map(|(topic, payload)| v4::LastWill {
                topic: topic.into(),
                message: Bytes::copy_from_slice(payload),
                qos: v4::QoS::AtLeastOnce,
                retain: true,
            });
            if let Some((user, password)) = connect.credentials {
                packet.set_login(user, password);
            }
            packet.write(out).ok()
        }
    };
    debug_assert!(written.is_some(), "{TOO_LARGE}");
}

/// SUBSCRIBE (section 3.8) to all of `topics`, at QoS 1.
pub(crate) fn subscribe(out: &mut BytesMut, version: Version, packet_id: u16, topics: &[String]) {
    let written = match version {
        Version::V5 => {
            let filters = topics
                .iter()
                .map(|topic| v5::Filter::new(topic, v5::QoS::AtLeastOnce));
            let mut subscribe = v5::Subscribe::new_many(filters, None);
            subscribe.pkid = packet_id;
            subscribe.write(out).ok()
        }
        Version::V311 => {
            let filters = topics
                .iter()
                .map(|topic| v4::SubscribeFilter::new(topic.clone(), v4::QoS::AtLeastOnce));
            let mut subscribe = v4::Subscribe::new_many(filters);
            subscribe.pkid = packet_id;
            subscribe.write(out).ok()
        }
    };
    debug_assert!(written.is_some(), "{TOO_LARGE}");
}

/// PUBLISH (section 3.3).
pub(crate) fn publish(out: &mut BytesMut, version: Version, publish: &Publish<'_>) {
    let payload = Bytes::copy_from_slice(publish.payload);
    let pkid = publish.packet_id.unwrap_or(0);
    let written = match version {
        Version::V5 => v5::Publish {
            qos: if pkid > 0 {
                v5::QoS::AtLeastOnce
            } else {
                v5::QoS::AtMostOnce
            },
            retain: publish.retain,
            topic: Bytes::copy_from_slice(publish.topic.as_bytes()),
            pkid,
            payload,
            properties: publish.alias.map(|alias| v5::PublishProperties {
                topic_alias: Some(alias),
                ..v5::PublishProperties::default()
            }),
            dup: false,
        }
        .write(out)
        .ok(),
        Version::V311 => v4::Publish {
            qos: if pkid > 0 {
                v4::QoS::AtLeastOnce
            } else {
                v4::QoS::AtMostOnce
            },
            retain: publish.retain,
            topic: publish.topic.into(),
            pkid,
            payload,
            dup: false,
        }
        .write(out)
        .ok(),
    };
    debug_assert!(written.is_some(), "{TOO_LARGE}");
}

/// PUBACK (section 3.4): taken. In its shortest form, which is the same in both versions.
pub(crate) fn confirm(out: &mut BytesMut, packet_id: u16) {
    let written = v4::PubAck::new(packet_id).write(out);
    debug_assert!(written.is_ok(), "{TOO_LARGE}");
}

/// PINGREQ (section 3.12), the same in both versions.
pub(crate) fn ping(out: &mut BytesMut) {
    let written = v4::PingReq.write(out);
    debug_assert!(written.is_ok(), "{TOO_LARGE}");
}

/// DISCONNECT (section 3.14): in good order, the Last Will stays unsaid. In its shortest form, which is the same in both versions.
pub(crate) fn disconnect(out: &mut BytesMut) {
    let written = v4::Disconnect.write(out);
    debug_assert!(written.is_ok(), "{TOO_LARGE}");
}

/// Whether an answer to CONNECT may begin so: with CONNACK, or with DISCONNECT.
pub(crate) fn is_answer(first: u8) -> bool {
    matches!(first, 0x20 | 0xe0)
}

/// Takes the next packet off `input`; `None` while it is incomplete.
///
/// # Errors
/// [`Malformed`]; the connection is of no use any more.
pub(crate) fn read(
    input: &mut BytesMut,
    version: Version,
    longest: usize,
) -> Result<Option<Packet>, Malformed> {
    let header = match v4::check(input.iter(), longest) {
        Err(v4::Error::InsufficientBytes(_)) => return Ok(None),
        header => header?,
    };
    let kind = header.packet_type()?;
    let length_bytes = 1 + input[1..].iter().take_while(|byte| **byte >= 0x80).count();
    let frame = input.split_to(header.frame_length()).freeze();
    match version {
        Version::V5 => read_5(kind, frame, length_bytes),
        Version::V311 => read_311(kind, frame, length_bytes),
    }
    .map(Some)
}

fn read_5(kind: PacketType, frame: Bytes, length_bytes: usize) -> Result<Packet, Malformed> {
    // The codec has names for reason codes; told apart, they are here by their numbers.
    let body = frame.slice(1 + length_bytes..);
    let header = v5::FixedHeader::new(frame[0], length_bytes, body.len());
    Ok(match kind {
        PacketType::ConnAck if body.len() > 2 => {
            let properties = v5::ConnAck::read(header, frame)?.properties;
            Packet::Connected(match (body[1], properties) {
                (0, None) => Ok(Limits::default()),
                (0, Some(found)) => Ok(Limits {
                    topic_alias_max: found.topic_alias_max.unwrap_or(0),
                    keep_alive: found.server_keep_alive,
                    packet_max: found.max_packet_size,
                }),
                (code, found) => Err(Reason::new(code, found.and_then(|found| found.reason_string))),
            })
        }
        // A broker that knows nothing of MQTT 5 answers in the form of 3.1.1: without properties.
        PacketType::ConnAck => read_311(kind, frame, length_bytes)?,
        PacketType::Publish => {
            let publish = v5::Publish::read(header, frame)?;
            if publish.qos == v5::QoS::ExactlyOnce {
                return Err(Malformed::Qos);
            }
            Packet::Message {
                topic: publish.topic,
                packet_id: (publish.pkid > 0).then_some(publish.pkid),
                payload: publish.payload,
                retained: publish.retain,
            }
        }
        PacketType::PubAck => {
            let text = v5::PubAck::read(header, frame)?
                .properties
                .and_then(|found| found.reason_string);
            Packet::Confirmed(Reason::new(body.get(2).copied().unwrap_or(0), text).checked())
        }
        PacketType::SubAck => {
            let ack = v5::SubAck::read(header, frame)?;
            let text = ack.properties.and_then(|found| found.reason_string);
            let codes = body.slice(body.len() - ack.return_codes.len()..);
            Packet::Subscribed(answers(&codes, &text))
        }
        PacketType::PingResp => Packet::Pong,
        PacketType::Disconnect if body.is_empty() => Packet::Disconnected(Reason::new(0, None)),
        PacketType::Disconnect => {
            let properties = v5::Disconnect::read(header, frame)?.properties;
            Packet::Disconnected(Reason::new(
                body[0],
                properties.and_then(|found| found.reason_string),
            ))
        }
        kind => return Err(Malformed::Type(kind)),
    })
}

fn read_311(kind: PacketType, frame: Bytes, length_bytes: usize) -> Result<Packet, Malformed> {
    let body = frame.slice(1 + length_bytes..);
    let header = v4::FixedHeader::new(frame[0], length_bytes, body.len());
    Ok(match kind {
        PacketType::ConnAck => {
            v4::ConnAck::read(header, frame)?;
            Packet::Connected(match body[1] {
                0 => Ok(Limits::default()),
                code => Err(Reason::of_311(code)),
            })
        }
        PacketType::Publish => {
            let publish = v4::Publish::read(header, frame)?;
            if publish.qos == v4::QoS::ExactlyOnce {
                return Err(Malformed::Qos);
            }
            Packet::Message {
                topic: publish.topic.into(),
                packet_id: (publish.pkid > 0).then_some(publish.pkid),
                payload: publish.payload,
                retained: publish.retain,
            }
        }
        PacketType::PubAck => {
            v4::PubAck::read(header, frame)?;
            Packet::Confirmed(Ok(()))
        }
        PacketType::SubAck => {
            let ack = v4::SubAck::read(header, frame)?;
            let codes = body.slice(body.len() - ack.return_codes.len()..);
            Packet::Subscribed(answers(&codes, &None))
        }
        PacketType::PingResp => Packet::Pong,
        kind => return Err(Malformed::Type(kind)),
    })
}

fn answers(codes: &[u8], text: &Option<String>) -> Vec<Result<(), Reason>> {
    let answer = |code: &u8| Reason::new(*code, text.clone()).checked();
    codes.iter().map(answer).collect()
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
