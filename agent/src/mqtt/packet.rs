//! The nine packets of MQTT that the agent speaks, in MQTT 5 and 3.1.1.
//!
//! Sources: MQTT 5.0 and MQTT 3.1.1, OASIS standards; the sections named are those of MQTT 5.0 where both have one. The two
//! differ in the packets read and written here by properties and by reason codes alone, so one code serves both.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::reason::Reason;

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

/// Properties (section 2.2.2.2): those that are written, and those that are looked at.
const SESSION_EXPIRY: u8 = 0x11;
const SERVER_KEEP_ALIVE: u8 = 0x13;
const REASON_STRING: u8 = 0x1f;
const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
const TOPIC_ALIAS: u8 = 0x23;
const MAXIMUM_PACKET_SIZE: u8 = 0x27;

/// Remaining lengths are of at most four bytes (section 1.5.5).
pub(crate) const LENGTH_MAX: usize = 268_435_455;

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
    #[error("a length of more than four bytes")]
    Length,
    #[error("a packet of type {0}, which no broker sends to this agent")]
    Type(u8),
    #[error("a {0} packet that ends too early")]
    Short(&'static str),
    #[error("a message of QoS {0}, where QoS 1 was the most asked for")]
    Qos(u8),
    #[error("a property {0:#04x}, which MQTT 5 does not have")]
    Property(u8),
}

/// CONNECT (section 3.1): a clean start, and no session that outlives the connection.
pub(crate) fn connect(out: &mut BytesMut, version: Version, connect: &Connect<'_>) {
    let mut body = BytesMut::new();
    string(&mut body, b"MQTT");
    let mut flags = 0b10;
    if connect.will.is_some() {
        flags |= 0b10_1100;
    }
    if connect.credentials.is_some() {
        flags |= 0b1100_0000;
    }
    body.put_u8(match version {
        Version::V5 => 5,
        Version::V311 => 4,
    });
    body.put_u8(flags);
    body.put_u16(connect.keep_alive);
    if version == Version::V5 {
        // The session's expiry is 0, and topic aliases from the broker are none, where they are not said.
        body.put_u8(5);
        body.put_u8(MAXIMUM_PACKET_SIZE);
        body.put_u32(connect.incoming_max);
    }
    string(&mut body, connect.client_id.as_bytes());
    if let Some((topic, payload)) = connect.will {
        if version == Version::V5 {
            body.put_u8(0);
        }
        string(&mut body, topic.as_bytes());
        string(&mut body, payload);
    }
    if let Some((user, password)) = connect.credentials {
        string(&mut body, user.as_bytes());
        string(&mut body, password.as_bytes());
    }
    packet(out, 0x10, &body, &[]);
}

/// SUBSCRIBE (section 3.8) to all of `topics`, at QoS 1.
pub(crate) fn subscribe(out: &mut BytesMut, version: Version, packet_id: u16, topics: &[String]) {
    let mut body = BytesMut::new();
    body.put_u16(packet_id);
    if version == Version::V5 {
        body.put_u8(0);
    }
    for topic in topics {
        string(&mut body, topic.as_bytes());
        body.put_u8(1);
    }
    packet(out, 0x82, &body, &[]);
}

/// PUBLISH (section 3.3).
pub(crate) fn publish(out: &mut BytesMut, version: Version, publish: &Publish<'_>) {
    let mut head = BytesMut::with_capacity(publish.topic.len() + 8);
    string(&mut head, publish.topic.as_bytes());
    if let Some(packet_id) = publish.packet_id {
        head.put_u16(packet_id);
    }
    if version == Version::V5 {
        match publish.alias {
            Some(alias) => {
                head.put_u8(3);
                head.put_u8(TOPIC_ALIAS);
                head.put_u16(alias);
            }
            None => head.put_u8(0),
        }
    }
    let flags = u8::from(publish.retain) | (u8::from(publish.packet_id.is_some()) << 1);
    packet(out, 0x30 | flags, &head, publish.payload);
}

/// PUBACK (section 3.4): taken.
pub(crate) fn confirm(out: &mut BytesMut, packet_id: u16) {
    packet(out, 0x40, &packet_id.to_be_bytes(), &[]);
}

/// PINGREQ (section 3.12).
pub(crate) fn ping(out: &mut BytesMut) {
    packet(out, 0xc0, &[], &[]);
}

/// DISCONNECT (section 3.14): in good order, the Last Will stays unsaid.
pub(crate) fn disconnect(out: &mut BytesMut) {
    packet(out, 0xe0, &[], &[]);
}

/// A string or a byte string (sections 1.5.4 and 1.5.6); MQTT has none longer than 64 KiB.
fn string(out: &mut BytesMut, bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(usize::from(u16::MAX))];
    out.put_u16(bytes.len() as u16);
    out.put_slice(bytes);
}

fn packet(out: &mut BytesMut, kind: u8, head: &[u8], payload: &[u8]) {
    let mut length = head.len() + payload.len();
    out.reserve(5 + length);
    out.put_u8(kind);
    loop {
        let more = length >> 7;
        out.put_u8((length & 0x7f) as u8 | if more > 0 { 0x80 } else { 0 });
        length = more;
        if length == 0 {
            break;
        }
    }
    out.put_slice(head);
    out.put_slice(payload);
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
    let Some((length, header)) = remaining_length(input.get(1..).unwrap_or_default())? else {
        return Ok(None);
    };
    if length > longest {
        return Err(Malformed::TooLong(length));
    }
    if input.len() < 1 + header + length {
        return Ok(None);
    }
    let mut bytes = input.split_to(1 + header + length).freeze();
    let first = bytes[0];
    bytes.advance(1 + header);
    parse(first, bytes, version).map(Some)
}

/// A variable byte integer (section 1.5.5) and how many bytes it takes; `None` while it is incomplete.
fn remaining_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    if bytes.len() < 4 {
        Ok(None)
    } else {
        Err(Malformed::Length)
    }
}

fn parse(first: u8, mut bytes: Bytes, version: Version) -> Result<Packet, Malformed> {
    match first >> 4 {
        2 => {
            let short = Malformed::Short("CONNACK");
            let (Ok(_), Ok(code)) = (bytes.try_get_u8(), bytes.try_get_u8()) else {
                return Err(short);
            };
            // A broker that knows nothing of MQTT 5 answers in the form of 3.1.1: without properties.
            if version == Version::V311 || bytes.is_empty() {
                return Ok(Packet::Connected(match code {
                    0 => Ok(Limits::default()),
                    code => Err(Reason::of_311(code)),
                }));
            }
            let properties = properties(&mut bytes, &short)?;
            Ok(Packet::Connected(match code {
                0 => Ok(properties.limits),
                code => Err(Reason::new(code, properties.text)),
            }))
        }
        3 => {
            let short = Malformed::Short("PUBLISH");
            let length = bytes.try_get_u16().map_err(|_| short.clone())?;
            let topic = take(&mut bytes, usize::from(length), &short)?;
            let packet_id = match (first >> 1) & 0b11 {
                0 => None,
                1 => Some(bytes.try_get_u16().map_err(|_| short.clone())?),
                qos => return Err(Malformed::Qos(qos)),
            };
            if version == Version::V5 {
                properties(&mut bytes, &short)?;
            }
            Ok(Packet::Message {
                topic,
                packet_id,
                payload: bytes,
            })
        }
        4 => {
            let short = Malformed::Short("PUBACK");
            bytes.try_get_u16().map_err(|_| short.clone())?;
            let reason = reason(&mut bytes, &short)?;
            Ok(Packet::Confirmed(reason.checked()))
        }
        9 => {
            let short = Malformed::Short("SUBACK");
            bytes.try_get_u16().map_err(|_| short.clone())?;
            let text = if version == Version::V5 {
                properties(&mut bytes, &short)?.text
            } else {
                None
            };
            let answers = bytes
                .iter()
                .map(|code| Reason::new(*code, text.clone()).checked());
            Ok(Packet::Subscribed(answers.collect()))
        }
        13 => Ok(Packet::Pong),
        14 => Ok(Packet::Disconnected(reason(
            &mut bytes,
            &Malformed::Short("DISCONNECT"),
        )?)),
        kind => Err(Malformed::Type(kind)),
    }
}

/// A reason code, which may be left out where it is 0, and properties, which may be left out where there are none.
fn reason(bytes: &mut Bytes, short: &Malformed) -> Result<Reason, Malformed> {
    let code = bytes.try_get_u8().unwrap_or(0);
    let text = if bytes.is_empty() {
        None
    } else {
        properties(bytes, short)?.text
    };
    Ok(Reason::new(code, text))
}

fn take(bytes: &mut Bytes, length: usize, short: &Malformed) -> Result<Bytes, Malformed> {
    if bytes.len() < length {
        return Err(short.clone());
    }
    Ok(bytes.split_to(length))
}

#[derive(Default)]
struct Properties {
    limits: Limits,
    text: Option<String>,
}

/// Takes the properties off `bytes`, and of them what the agent makes use of.
fn properties(bytes: &mut Bytes, short: &Malformed) -> Result<Properties, Malformed> {
    let (length, header) = remaining_length(bytes)?.ok_or_else(|| short.clone())?;
    bytes.advance(header);
    let mut bytes = take(bytes, length, short)?;
    let mut found = Properties::default();
    while bytes.has_remaining() {
        let id = bytes.get_u8();
        let length = match id {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
            SERVER_KEEP_ALIVE | 0x21 | TOPIC_ALIAS_MAXIMUM | TOPIC_ALIAS => 2,
            0x02 | SESSION_EXPIRY | 0x18 | MAXIMUM_PACKET_SIZE => 4,
            0x0b => remaining_length(&bytes)?.ok_or_else(|| short.clone())?.1,
            0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | REASON_STRING => {
                usize::from(bytes.try_get_u16().map_err(|_| short.clone())?)
            }
            0x26 => {
                let name = bytes.try_get_u16().map_err(|_| short.clone())?;
                take(&mut bytes, usize::from(name), short)?;
                usize::from(bytes.try_get_u16().map_err(|_| short.clone())?)
            }
            id => return Err(Malformed::Property(id)),
        };
        let mut value = take(&mut bytes, length, short)?;
        match id {
            SERVER_KEEP_ALIVE => found.limits.keep_alive = Some(value.get_u16()),
            TOPIC_ALIAS_MAXIMUM => found.limits.topic_alias_max = value.get_u16(),
            MAXIMUM_PACKET_SIZE => found.limits.packet_max = Some(value.get_u32()),
            REASON_STRING => found.text = Some(String::from_utf8_lossy(&value).into_owned()),
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
