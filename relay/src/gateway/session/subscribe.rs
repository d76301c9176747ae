//! `Subscribe`: what is wrong with it, where it starts, which kind it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_proto::pb;
use pb::server_frame::Frame;
use pb::start::At;

use super::parked::{self, Parked};
use super::{Session, State, Step, Ticket, Waiting};
use crate::gateway::budget::{self, Budget};
use crate::gateway::catchup;
use crate::gateway::filter::{self, Filter, Globs};
use crate::gateway::subscription::{All, Beginning, Latest, Presence, Series, Subscription, cursor};
use crate::gateway::watch::Watching;

/// The interval of LATEST and PRESENCE where none is said.
const INTERVAL: Duration = Duration::from_millis(250);
/// The bucket of SERIES where none is said.
const BUCKET: Duration = Duration::from_secs(1);

/// A subscription that waits for the offsets of its time.
#[derive(Debug)]
pub(super) struct Pending {
    wanted: Wanted,
    time_us: i64,
    asked: bool,
}

/// What is to be read from a cursor.
#[derive(Debug)]
struct Wanted {
    devices: Globs,
    /// The partitions in which they can be.
    watched: Option<Vec<u32>>,
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    All(Arc<Filter>),
    Series(Globs, Duration),
}

/// What a subscription holds of the connection and the hub while it lives.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) globs: usize,
    pub(super) watching: Watching,
}

type Refusal = (pb::ErrorCode, String);

impl Session {
    pub(super) fn subscribe(&mut self, subscribe: pb::Subscribe, now: Instant) {
        let id = subscribe.id;
        if let Err((code, message)) = self.open(subscribe, now) {
            self.error(id, code, message);
        }
    }

    fn open(&mut self, subscribe: pb::Subscribe, now: Instant) -> Result<(), Refusal> {
        let id = subscribe.id;
        let bad = |why: &str| Err((pb::ErrorCode::BadRequest, why.to_string()));
        if id == 0 {
            return bad("subscription id 0 is taken: choose 1 or more");
        }
        let limit = self.hub.settings.limits.subscriptions;
        if !self.subscriptions.contains_key(&id) && self.subscriptions.len() >= limit {
            return Err((
                pb::ErrorCode::Limit,
                format!("a connection may have {limit} subscriptions"),
            ));
        }
        let limit = self.hub.settings.limits.globs;
        let others = self.subscriptions.iter().filter(|&(&other, _)| other != id);
        let globs = others.map(|(_, entry)| entry.globs).sum::<usize>()
            + subscribe.devices.len()
            + subscribe.metrics.len();
        if globs > limit {
            let why =
                format!("the subscriptions of a connection may have {limit} globs together, not {globs}");
            return Err((pb::ErrorCode::Limit, why));
        }
        let devices = Globs::or_all(&subscribe.devices).map_err(|error| refused(&error))?;
        self.allowed(&subscribe.devices)?;
        let watched = filter::partitions(&subscribe.devices, self.hub.log().partitions());
        let held = Held {
            globs: subscribe.devices.len() + subscribe.metrics.len(),
            watching: self.hub.watches.watch(watched.as_deref()),
        };
        let interval = |default| match subscribe.interval_ms {
            0 => default,
            given => Duration::from_millis(given.into()),
        };
        if let Some(At::Cursor(cursor)) = subscribe.start.as_ref().and_then(|start| start.at.as_ref()) {
            // Here already, since what waits for its partitions is kept.
            placed(&mut self.hub.log().end(), &cursor.positions)?;
        }
        let mode = subscribe.mode();
        let at = subscribe
            .start
            .as_ref()
            .and_then(|start| start.at.clone())
            .unwrap_or(At::Now(true));
        match mode {
            pb::Mode::Unspecified => return bad("mode is missing: ALL, LATEST, SERIES or PRESENCE"),
            pb::Mode::All | pb::Mode::Series => {
                let mode = if mode == pb::Mode::All {
                    Mode::All(self.filter(id, &subscribe.metrics)?)
                } else {
                    if matches!(at, At::Snapshot(_)) {
                        return bad("SERIES starts now, at a time or at a cursor");
                    }
                    let metrics = Globs::or_all(&subscribe.metrics).map_err(|error| refused(&error))?;
                    Mode::Series(metrics, interval(BUCKET))
                };
                if !parked::may_begin(&subscribe, &held.watching) {
                    return self.park(held, subscribe, now);
                }
                let wanted = Wanted {
                    devices,
                    watched,
                    mode,
                };
                return self.read(id, held, wanted, at, now);
            }
            pb::Mode::Latest => {
                let snapshot = match at {
                    At::Now(_) => false,
                    At::Snapshot(_) => true,
                    At::TimeUs(_) | At::Cursor(_) => return bad("LATEST starts now or with a snapshot"),
                };
                let metrics = Globs::or_all(&subscribe.metrics).map_err(|error| refused(&error))?;
                if !parked::may_begin(&subscribe, &held.watching) {
                    return self.park(held, subscribe, now);
                }
                let budget = budget::Held::new(self.budget());
                // What it will hold is bounded by the devices there are: nobody is refused for what others hold.
                if budget.is_full() {
                    let why = "the subscriptions of this connection hold what they may (gateway.limits.held)";
                    return Err((pb::ErrorCode::Limit, why.into()));
                }
                let of_hub = (&*self.hub, budget);
                let latest = Latest::new(id, devices, metrics, interval(INTERVAL), snapshot, now, of_hub);
                self.add(id, held, Waiting::Open(Subscription::Latest(latest)));
            }
            pb::Mode::Presence => {
                // States are read of all partitions; rates follow.
                let presence = Presence::new(id, devices, interval(INTERVAL), now, &self.hub);
                self.add(id, held, Waiting::Open(Subscription::Presence(presence)));
            }
        }
        self.answers.push_back(Frame::Subscribed(pb::Subscribed {
            id,
            filter: 0,
            cursor: None,
        }));
        Ok(())
    }

    /// What the subscriptions of this connection may hold.
    fn budget(&mut self) -> Arc<Budget> {
        let (hub, most) = (&self.hub, self.hub.settings.limits.held.as_u64());
        let new = || {
            Budget::new(
                usize::try_from(most).unwrap_or(usize::MAX),
                Some(Arc::clone(&hub.held)),
            )
        };
        Arc::clone(self.held.get_or_insert_with(new))
    }

    /// A plain name that the token does not allow is refused; a glob is narrowed in silence.
    fn allowed(&self, devices: &[String]) -> Result<(), Refusal> {
        let State::Open { grant, .. } = &self.state else {
            return Ok(());
        };
        match devices
            .iter()
            .filter(|name| filter::is_plain(name))
            .find(|name| !grant.read.matches(name))
        {
            Some(name) => {
                let why = format!("the token does not allow device {name:?} (claim hw.read)");
                Err((pb::ErrorCode::Forbidden, why))
            }
            None => Ok(()),
        }
    }

    /// Until its partitions are read.
    fn park(&mut self, held: Held, subscribe: pb::Subscribe, now: Instant) -> Result<(), Refusal> {
        let id = subscribe.id;
        let parked = Parked::new(subscribe, now);
        self.add(id, held, Waiting::Parked(Box::new(parked)));
        Ok(())
    }

    fn read(&mut self, id: u32, held: Held, wanted: Wanted, at: At, now: Instant) -> Result<(), Refusal> {
        let log = self.hub.log();
        let end = log.end();
        let mut beginning = Beginning {
            positions: end,
            watched: wanted.watched.clone(),
            ..Beginning::default()
        };
        match at {
            At::Now(_) => {}
            At::Snapshot(_) => beginning.snapshot = true,
            At::Cursor(cursor) => {
                placed(&mut beginning.positions, &cursor.positions)?;
            }
            At::TimeUs(time_us) => {
                // Before 1970 nothing arrived.
                let time_us = time_us.max(0);
                let found: Option<Vec<i64>> = (0..log.partitions())
                    .map(|partition| match &wanted.watched {
                        Some(watched) if !watched.contains(&partition) => Some(log.next(partition)),
                        _ => log.at_time(partition, time_us),
                    })
                    .collect();
                let Some(found) = found else {
                    drop(log);
                    let pending = Pending {
                        wanted,
                        time_us,
                        asked: false,
                    };
                    self.add(id, held, Waiting::Resolving(Box::new(pending)));
                    return Ok(());
                };
                (beginning.positions, beginning.not_before_us) = (found, Some(time_us));
            }
        }
        drop(log);
        self.start(id, held, wanted, beginning, now);
        Ok(())
    }

    /// The first copy of this filter that no other ALL subscription of this connection has.
    fn filter(&self, id: u32, metrics: &[String]) -> Result<Arc<Filter>, Refusal> {
        let taken = |filter: &Filter| {
            self.subscriptions
                .iter()
                .any(|(&other, entry)| match &entry.subscription {
                    _ if other == id => false,
                    Waiting::Resolving(pending) => {
                        matches!(&pending.wanted.mode, Mode::All(other) if other.number == filter.number)
                    }
                    Waiting::Open(Subscription::All(all)) => all.filter() == filter.number,
                    Waiting::Open(_) | Waiting::Parked(_) => false,
                })
        };
        let mut copy = 0;
        loop {
            let filter = self
                .hub
                .filters
                .get(metrics, copy)
                .map_err(|error| refused(&error))?;
            if !taken(&filter) {
                return Ok(filter);
            }
            copy += 1;
        }
    }

    fn start(&mut self, id: u32, held: Held, wanted: Wanted, mut beginning: Beginning, now: Instant) {
        beginning.leave_out();
        let cursor = Some(cursor::whole(&beginning.positions));
        let (subscription, filter) = match wanted.mode {
            Mode::All(filter) => {
                let number = filter.number;
                let all = All::new(id, wanted.devices, filter, beginning, &self.hub);
                (Subscription::All(Box::new(all)), number)
            }
            Mode::Series(metrics, interval) => {
                let globs = (wanted.devices, metrics);
                let budget = budget::Held::new(self.budget());
                let of_hub = (&*self.hub, budget);
                let series = Series::new(id, globs, interval, beginning, now, of_hub);
                (Subscription::Series(Box::new(series)), 0)
            }
        };
        self.add(id, held, Waiting::Open(subscription));
        self.answers
            .push_back(Frame::Subscribed(pb::Subscribed { id, filter, cursor }));
    }

    /// A time whose offsets have not been asked for.
    pub(super) fn resolve(&mut self) -> Option<Step> {
        self.subscriptions
            .iter_mut()
            .find_map(|(&id, entry)| match &mut entry.subscription {
                Waiting::Resolving(pending) if !pending.asked => {
                    pending.asked = true;
                    Some(Step::Resolve(
                        Ticket {
                            id,
                            number: entry.number,
                        },
                        pending.time_us,
                    ))
                }
                _ => None,
            })
    }

    /// The offsets of a time.
    pub fn resolved(&mut self, ticket: Ticket, result: Result<Vec<i64>, catchup::Error>, now: Instant) {
        let current = self
            .subscriptions
            .get(&ticket.id)
            .is_some_and(|entry| entry.number == ticket.number);
        if !current {
            return;
        }
        let Some(entry) = self.subscriptions.remove(&ticket.id) else {
            return;
        };
        let held = Held {
            globs: entry.globs,
            watching: entry.watching,
        };
        let Waiting::Resolving(pending) = entry.subscription else {
            return;
        };
        match result {
            Ok(positions) => {
                let beginning = Beginning {
                    positions,
                    not_before_us: Some(pending.time_us),
                    snapshot: false,
                    watched: pending.wanted.watched.clone(),
                };
                self.start(ticket.id, held, pending.wanted, beginning, now);
            }
            Err(error) => {
                let message = format!("{error}; subscribe again");
                self.error(ticket.id, pb::ErrorCode::Unavailable, message);
            }
        }
    }
}

/// Puts a cursor's offsets in the places of their partitions, each of which it may name once.
fn placed(positions: &mut [i64], cursor: &[pb::PartitionOffset]) -> Result<(), Refusal> {
    let partitions = positions.len();
    if cursor.len() > partitions {
        let why = format!(
            "cursor: {} positions; there are {partitions} partitions",
            cursor.len()
        );
        return Err((pb::ErrorCode::BadRequest, why));
    }
    for &pb::PartitionOffset { partition, offset } in cursor {
        let known = positions.get_mut(partition as usize);
        *known.filter(|_| offset >= 0).ok_or_else(|| {
            let why = format!("cursor: partition {partition}, offset {offset}; there are {partitions}");
            (pb::ErrorCode::BadRequest, why)
        })? = offset;
    }
    Ok(())
}

fn refused(error: &filter::Error) -> Refusal {
    let code = if error.is_limit() {
        pb::ErrorCode::Limit
    } else {
        pb::ErrorCode::BadRequest
    };
    (code, error.to_string())
}
