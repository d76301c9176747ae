//! A subscription: what goes out next, and nothing more than a position behind it.
//!
//! Each kind is asked for its next frame only while the connection's window is open, and answers from what the hub has by
//! then. So a slow client costs what stands here: a cursor (ALL), how far it has been told (LATEST, PRESENCE), or a bounded number
//! of buckets (SERIES).

mod all;
pub(super) mod cursor;
mod latest;
mod presence;
mod series;

use std::sync::Arc;
use std::time::Instant;

use headwater_proto::{Message as _, pb};
use pb::server_frame::Frame;

use super::catchup::{self, Chunk, Range};
use super::deflate::prepared::Prepared;
use super::hub::Hub;
use super::token::Grant;

pub use all::All;
pub use cursor::Beginning;
pub use latest::Latest;
pub use presence::Presence;
pub use series::Series;

/// A LATEST, PRESENCE or SERIES frame is closed when it has grown to this many bytes, or earlier on a slow link.
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
    /// This is to be read from Kafka, and handed to [`Subscription::fetched`].
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
    /// A record.
    Data {
        /// Had been made for somebody else before.
        shared: bool,
        /// Where it comes from the end of the log.
        live: Option<Live>,
    },
    /// A gap.
    Gap,
    /// Newest values, presence, or buckets.
    Merged,
}

/// Times of a record that is sent as it comes, microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// Its arrival at the bridge.
    pub arrival_us: i64,
    /// Its newest reading, where it has any.
    pub newest_us: Option<i64>,
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
    /// Buckets of time.
    Series(Box<Series>),
}

impl Subscription {
    /// What it wants done next; a frame that can be of any size is closed when it has grown to `most` bytes.
    pub fn poll(&mut self, now: Instant, hub: &Hub, grant: &Grant, most: usize) -> Turn {
        let most = most.min(FRAME_BYTES);
        match self {
            Self::All(all) => all.poll(now, hub, grant, most),
            Self::Latest(latest) => latest.poll(now, hub, grant, most),
            Self::Presence(presence) => presence.poll(now, hub, grant, most),
            Self::Series(series) => series.poll(now, hub, grant, most),
        }
    }

    /// The token is another from here on: what was taken in and not told yet of devices that it does not allow is dropped, and devices that it
    /// allows beyond those of before are told of at once.
    pub fn change(&mut self, before: &Grant, fresh: &Grant) {
        if before.read_hash == fresh.read_hash {
            return;
        }
        match self {
            Self::Series(series) => series.narrow(fresh),
            Self::Latest(latest) => latest.look_again(),
            Self::Presence(presence) => presence.look_again(before),
            // It looks at the token as it makes a frame, and goes on from its cursor.
            Self::All(_) => {}
        }
    }

    /// The window is closed. Returns whether this is to be called again at once.
    pub fn closed(&mut self, hub: &Hub, grant: &Grant) -> bool {
        match self {
            Self::Series(series) => series.closed(hub, grant),
            Self::All(_) | Self::Latest(_) | Self::Presence(_) => false,
        }
    }

    /// The window has been closed for a while: what was read ahead is let go.
    pub fn let_go(&mut self) {
        match self {
            Self::All(all) => all.let_go(),
            Self::Series(series) => series.let_go(),
            Self::Latest(_) | Self::Presence(_) => {}
        }
    }

    /// What came of a read. Returns what the client is to be told.
    pub fn fetched(
        &mut self,
        now: Instant,
        range: Range,
        result: Result<Chunk, catchup::Error>,
    ) -> Option<Frame> {
        match self {
            Self::All(all) => all.fetched(now, range, result),
            Self::Series(series) => series.fetched(now, range, result),
            Self::Latest(_) | Self::Presence(_) => None,
        }
    }

    /// Where another gateway can go on from; `None`: it has to begin anew.
    pub fn cursor(&self) -> Option<pb::Cursor> {
        match self {
            Self::All(all) => all.cursor(),
            Self::Series(series) => Some(series.cursor()),
            Self::Latest(_) | Self::Presence(_) => None,
        }
    }

    /// As it is called in metrics.
    pub fn mode(&self) -> &'static str {
        match self {
            Self::All(_) => "all",
            Self::Latest(_) => "latest",
            Self::Presence(_) => "presence",
            Self::Series(_) => "series",
        }
    }
}

/// What a client was told last of how far it has come.
#[derive(Debug, Default)]
struct CaughtUp {
    told: Option<(Instant, Vec<i64>)>,
}

impl CaughtUp {
    /// All that there is has gone out, up to these positions: tells so, now and then.
    fn poll(&mut self, now: Instant, id: u32, positions: Vec<i64>) -> Turn {
        match &self.told {
            Some((_, told)) if *told == positions => return Turn::Idle(None),
            Some((at, _)) if now < *at + CAUGHT_UP_EVERY => return Turn::Idle(Some(*at + CAUGHT_UP_EVERY)),
            _ => {}
        }
        let cursor = Some(cursor::whole(&positions));
        self.told = Some((now, positions));
        Turn::Tell(Frame::CaughtUp(pb::CaughtUp { id, cursor }))
    }
}
