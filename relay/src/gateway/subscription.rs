//! A subscription: what goes out next, and nothing more than a position behind it.
//!
//! Each kind is asked for its next frame only while the connection's window is open, and answers from what the hub has by
//! then. So a slow client costs what stands here: a cursor (ALL), or how far it has been told (LATEST, PRESENCE).

mod all;
mod latest;
mod presence;

use std::sync::Arc;
use std::time::Instant;

use headwater_proto::{Message as _, pb};
use pb::server_frame::Frame;

use super::catchup::Range;
use super::deflate::prepared::Prepared;
use super::hub::Hub;
use super::token::Grant;

pub use all::{All, Beginning};
pub use latest::Latest;
pub use presence::Presence;

/// A LATEST or PRESENCE frame is closed when it has grown to this many bytes.
pub const FRAME_BYTES: usize = 64 << 10;

/// How often a subscription that has caught up says so again, as its cursor moves on.
pub const CAUGHT_UP_EVERY: std::time::Duration = std::time::Duration::from_secs(5);

/// What a subscription wants done next.
#[derive(Debug)]
pub enum Turn {
    /// This counted frame is to go out.
    Frame(Counted),
    /// This frame, which does not count.
    Tell(Frame),
    /// This is to be read from Kafka, and handed to [`All::fetched`].
    Read(Range),
    /// Nothing came of this turn, but the next may.
    Again,
    /// Nothing, until something is new, or until then.
    Idle(Option<Instant>),
}

/// A counted frame.
#[derive(Clone, Debug)]
pub struct Counted {
    /// Its bytes.
    pub frame: Arc<Prepared>,
    /// What it carries.
    pub kind: Kind,
}

/// What a counted frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A record; `live_us`: the time of its newest reading, where it comes from the end of the log.
    Data {
        /// Had been made for somebody else before.
        shared: bool,
        /// Microseconds.
        live_us: Option<i64>,
    },
    /// A gap.
    Gap,
    /// Newest values, or presence.
    Merged,
}

impl Counted {
    fn of(frame: Frame, kind: Kind) -> Self {
        Self {
            frame: Arc::new(Prepared::new(encode(frame))),
            kind,
        }
    }
}

/// A frame's bytes.
pub fn encode(frame: Frame) -> Vec<u8> {
    pb::ServerFrame { frame: Some(frame) }.encode_to_vec()
}

/// One subscription.
#[derive(Debug)]
pub enum Subscription {
    /// Every batch.
    All(Box<All>),
    /// Newest values.
    Latest(Latest),
    /// The fleet.
    Presence(Presence),
}

impl Subscription {
    /// What it wants done next.
    pub fn poll(&mut self, now: Instant, hub: &Hub, grant: &Grant) -> Turn {
        match self {
            Self::All(all) => all.poll(now, hub, grant),
            Self::Latest(latest) => latest.poll(now, hub, grant),
            Self::Presence(presence) => presence.poll(now, hub, grant),
        }
    }

    /// As it is called in metrics.
    pub fn mode(&self) -> &'static str {
        match self {
            Self::All(_) => "all",
            Self::Latest(_) => "latest",
            Self::Presence(_) => "presence",
        }
    }
}
