//! What each server and its subscribers say to each other, as far as counting and timing need it.
//!
//! A frame that reaches a thousand subscribers is the same bytes a thousand times (but with the Node pattern, whose frames depend on the
//! ones before), so it is inflated and decoded once a thread and remembered by its hash: the subscribers' own cost stays small.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use anyhow::{Context as _, Result, ensure};
use flate2::{Decompress, FlushDecompress};
use headwater_proto::pb;
use prost::Message as _;

use super::wire::Frame;

/// Frames remembered a thread.
const REMEMBERED: usize = 8192;

/// A server under measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// headwater-relay gateway.
    Headwater,
    /// Centrifugo.
    Centrifugo,
    /// Node, `ws` and `kafkajs`.
    Node,
}

/// What a frame holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    /// Numbers of the batches in it.
    pub(super) batches: Vec<u64>,
    /// Decoded bytes, where the frame counts in the window.
    pub(super) counted: Option<usize>,
    /// The subscription stands.
    pub(super) subscribed: bool,
    /// To be answered with this.
    pub(super) answer: Option<&'static [u8]>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Numbered {
    #[prost(uint64, tag = "3")]
    seq: u64,
}

// Of centrifugal/protocol, client.proto.

#[derive(Clone, PartialEq, prost::Message)]
struct Command {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(message, optional, tag = "4")]
    connect: Option<ConnectRequest>,
    #[prost(message, optional, tag = "5")]
    subscribe: Option<SubscribeRequest>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ConnectRequest {
    #[prost(string, tag = "4")]
    name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SubscribeRequest {
    #[prost(string, tag = "1")]
    channel: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Reply {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(message, optional, tag = "2")]
    error: Option<Refusal>,
    #[prost(message, optional, tag = "4")]
    push: Option<Push>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Refusal {
    #[prost(string, tag = "2")]
    message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Push {
    #[prost(message, optional, tag = "4")]
    publication: Option<Publication>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Publication {
    #[prost(bytes = "vec", tag = "4")]
    data: Vec<u8>,
}

/// The channel that Centrifugo's batches are published to.
pub(super) const CHANNEL: &str = "telemetry";

impl Kind {
    /// Path and subprotocol of the request.
    pub(super) fn request(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Headwater => ("/v1/live", Some("headwater.v1")),
            Self::Centrifugo => ("/connection/websocket", Some("centrifuge-protobuf")),
            Self::Node => ("/", None),
        }
    }

    /// What a subscriber says at first.
    pub(super) fn greeting(self) -> Vec<Vec<u8>> {
        match self {
            Self::Headwater => {
                let hello = pb::client_frame::Frame::Hello(pb::ClientHello {
                    client: "headwater-bench".into(),
                    ..Default::default()
                });
                let subscribe = pb::client_frame::Frame::Subscribe(pb::Subscribe {
                    id: 1,
                    mode: pb::Mode::All.into(),
                    ..Default::default()
                });
                let encode = |frame| pb::ClientFrame { frame: Some(frame) }.encode_to_vec();
                vec![encode(hello), encode(subscribe)]
            }
            Self::Centrifugo => {
                let connect = Command {
                    id: 1,
                    connect: Some(ConnectRequest {
                        name: "headwater-bench".into(),
                    }),
                    subscribe: None,
                };
                let subscribe = Command {
                    id: 2,
                    connect: None,
                    subscribe: Some(SubscribeRequest {
                        channel: CHANNEL.into(),
                    }),
                };
                vec![
                    connect.encode_length_delimited_to_vec(),
                    subscribe.encode_length_delimited_to_vec(),
                ]
            }
            Self::Node => Vec::new(),
        }
    }
}

/// An acknowledgement of ours.
pub(super) fn ack(frames_total: u64, bytes_total: u64) -> Vec<u8> {
    let frame = pb::client_frame::Frame::Ack(pb::ClientAck {
        frames_total,
        bytes_total,
        window: None,
    });
    pb::ClientFrame { frame: Some(frame) }.encode_to_vec()
}

struct Remembered {
    state: RandomState,
    /// Older frames are forgotten a half at a time.
    halves: [HashMap<u64, Heard>; 2],
    inflater: Decompress,
}

thread_local! {
    static REMEMBER: RefCell<Remembered> = RefCell::new(Remembered {
        state: RandomState::new(),
        halves: [HashMap::new(), HashMap::new()],
        inflater: Decompress::new(false),
    });
}

/// What a frame of ours or Centrifugo's holds.
pub(super) fn hear(kind: Kind, frame: &Frame<'_>) -> Result<Heard> {
    REMEMBER.with_borrow_mut(|remember| {
        let key = remember
            .state
            .hash_one((kind == Kind::Headwater, frame.deflated, frame.payload));
        if let Some(heard) = remember.halves.iter().find_map(|half| half.get(&key)) {
            return Ok(heard.clone());
        }
        let inflated;
        let message = if frame.deflated {
            remember.inflater.reset(false);
            inflated = inflate(&mut remember.inflater, frame.payload)?;
            &inflated[..]
        } else {
            frame.payload
        };
        let heard = match kind {
            Kind::Headwater => headwater(message)?,
            Kind::Centrifugo => centrifugo(message)?,
            Kind::Node => Heard::default(),
        };
        if remember.halves[0].len() >= REMEMBERED / 2 {
            remember.halves.swap(0, 1);
            remember.halves[0].clear();
        }
        remember.halves[0].insert(key, heard.clone());
        Ok(heard)
    })
}

fn headwater(message: &[u8]) -> Result<Heard> {
    use pb::server_frame::Frame;
    let frame = pb::ServerFrame::decode(message)?
        .frame
        .context("an empty frame")?;
    Ok(match frame {
        Frame::Data(data) => Heard {
            batches: vec![Numbered::decode(&data.batch[..])?.seq],
            counted: Some(message.len()),
            ..Heard::default()
        },
        Frame::Gap(gap) => anyhow::bail!("a gap: {gap:?}"),
        Frame::Error(error) => anyhow::bail!("{}", error.message),
        Frame::Subscribed(_) => Heard {
            subscribed: true,
            ..Heard::default()
        },
        _ => Heard::default(),
    })
}

fn centrifugo(mut message: &[u8]) -> Result<Heard> {
    let mut heard = Heard::default();
    while !message.is_empty() {
        let reply = Reply::decode_length_delimited(&mut message)?;
        ensure!(reply.error.is_none(), "{:?}", reply.error);
        heard.subscribed |= reply.id == 2;
        if let Some(publication) = reply.push.as_ref().and_then(|push| push.publication.as_ref()) {
            heard.batches.push(Numbered::decode(&publication.data[..])?.seq);
        } else if reply.id == 0 && reply.push.is_none() {
            // Its ping, and the pong: an empty command.
            heard.answer = Some(&[0]);
        }
    }
    Ok(heard)
}

/// The number in a message of the Node pattern, inflated with what came before on the same connection.
pub(super) fn node(inflater: &mut Decompress, frame: &Frame<'_>) -> Result<u64> {
    let message = match frame.deflated {
        true => inflate(inflater, frame.payload)?,
        false => frame.payload.to_vec(),
    };
    let text = std::str::from_utf8(&message)?;
    let (_, after) = text.split_once("\"seq\":").context("a message without seq")?;
    let digits = after.split(|c: char| !c.is_ascii_digit()).next();
    Ok(digits.unwrap_or_default().parse()?)
}

/// Inflates one message.
fn inflate(inflater: &mut Decompress, payload: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(payload.len() * 8 + 256);
    for mut part in [payload, &[0x00, 0x00, 0xff, 0xff]] {
        loop {
            let before = inflater.total_in();
            inflater.decompress_vec(part, &mut out, FlushDecompress::Sync)?;
            part = &part[(inflater.total_in() - before) as usize..];
            if out.len() < out.capacity() {
                break;
            }
            out.reserve(out.len());
        }
    }
    Ok(out)
}
