//! `Subscribe`: what is wrong with it, where it starts, which kind it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_proto::pb;
use pb::server_frame::Frame;
use pb::start::At;

use super::{Session, State, Step, Ticket, Waiting};
use crate::gateway::catchup;
use crate::gateway::filter::{self, Filter, Globs};
use crate::gateway::subscription::{All, Beginning, Latest, Presence, Subscription};

/// The interval of LATEST and PRESENCE where none is said.
const INTERVAL: Duration = Duration::from_millis(250);

/// A subscription that waits for the offsets of its time.
#[derive(Debug)]
pub(super) struct Pending {
    devices: Globs,
    filter: Arc<Filter>,
    time_us: i64,
    asked: bool,
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
        let devices = Globs::or_all(&subscribe.devices).map_err(|error| refused(&error))?;
        self.allowed(&subscribe.devices)?;
        let interval = match subscribe.interval_ms {
            0 => INTERVAL,
            given => Duration::from_millis(given.into()),
        };
        let mode = subscribe.mode();
        let at = subscribe
            .start
            .and_then(|start| start.at)
            .unwrap_or(At::Now(true));
        match mode {
            pb::Mode::Unspecified => return bad("mode is missing: ALL, LATEST or PRESENCE"),
            pb::Mode::Series => {
                let why = "mode SERIES is not served by this version of the gateway; use ALL".to_string();
                return Err((pb::ErrorCode::Unsupported, why));
            }
            pb::Mode::All => return self.all(id, devices, &subscribe.metrics, at),
            pb::Mode::Latest => {
                let snapshot = match at {
                    At::Now(_) => false,
                    At::Snapshot(_) => true,
                    At::TimeUs(_) | At::Cursor(_) => return bad("LATEST starts now or with a snapshot"),
                };
                let metrics = Globs::or_all(&subscribe.metrics).map_err(|error| refused(&error))?;
                let latest = Latest::new(id, devices, metrics, interval, snapshot, now, &self.hub);
                self.add(id, Waiting::Open(Subscription::Latest(latest)));
            }
            pb::Mode::Presence => {
                let presence = Presence::new(id, devices, interval, now, &self.hub);
                self.add(id, Waiting::Open(Subscription::Presence(presence)));
            }
        }
        self.answers.push_back(Frame::Subscribed(pb::Subscribed {
            id,
            filter: 0,
            cursor: None,
        }));
        Ok(())
    }

    /// A plain name that the token does not allow is refused; a glob is narrowed in silence.
    fn allowed(&self, devices: &[String]) -> Result<(), Refusal> {
        let State::Open { grant, .. } = &self.state else {
            return Ok(());
        };
        let plain = |name: &&String| !name.contains(['*', '?', '[', '{', '\\']);
        match devices
            .iter()
            .filter(plain)
            .find(|name| !grant.read.matches(name))
        {
            Some(name) => {
                let why = format!("the token does not allow device {name:?} (claim hw.read)");
                Err((pb::ErrorCode::Forbidden, why))
            }
            None => Ok(()),
        }
    }

    fn all(&mut self, id: u32, devices: Globs, metrics: &[String], at: At) -> Result<(), Refusal> {
        let filter = self.filter(id, metrics)?;
        let log = self.hub.log();
        let end = log.end();
        let mut beginning = Beginning {
            cursor: end,
            ..Beginning::default()
        };
        match at {
            At::Now(_) => {}
            At::Snapshot(_) => beginning.snapshot = true,
            At::Cursor(cursor) => {
                for position in cursor.positions {
                    let partitions = beginning.cursor.len();
                    let known = beginning.cursor.get_mut(position.partition as usize);
                    *known.filter(|_| position.offset >= 0).ok_or_else(|| {
                        let pb::PartitionOffset { partition, offset } = position;
                        let why =
                            format!("cursor: partition {partition}, offset {offset}; there are {partitions}");
                        (pb::ErrorCode::BadRequest, why)
                    })? = position.offset;
                }
            }
            At::TimeUs(time_us) => {
                // Before 1970 nothing arrived.
                let time_us = time_us.max(0);
                let found: Option<Vec<i64>> = (0..log.partitions())
                    .map(|partition| log.at_time(partition, time_us))
                    .collect();
                let Some(found) = found else {
                    drop(log);
                    let pending = Pending {
                        devices,
                        filter,
                        time_us,
                        asked: false,
                    };
                    self.add(id, Waiting::Resolving(Box::new(pending)));
                    return Ok(());
                };
                (beginning.cursor, beginning.not_before_us) = (found, Some(time_us));
            }
        }
        drop(log);
        self.start(id, devices, filter, beginning);
        Ok(())
    }

    /// The first copy of this filter that no other ALL subscription of this connection has.
    fn filter(&self, id: u32, metrics: &[String]) -> Result<Arc<Filter>, Refusal> {
        let taken = |filter: &Filter| {
            self.subscriptions
                .iter()
                .any(|(&other, entry)| match &entry.subscription {
                    _ if other == id => false,
                    Waiting::Resolving(pending) => pending.filter.number == filter.number,
                    Waiting::Open(Subscription::All(all)) => all.filter() == filter.number,
                    Waiting::Open(_) => false,
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

    fn start(&mut self, id: u32, devices: Globs, filter: Arc<Filter>, beginning: Beginning) {
        let number = filter.number;
        let all = All::new(id, devices, filter, beginning, &self.hub);
        let cursor = Some(all.cursor());
        self.add(id, Waiting::Open(Subscription::All(Box::new(all))));
        self.answers.push_back(Frame::Subscribed(pb::Subscribed {
            id,
            filter: number,
            cursor,
        }));
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
    pub fn resolved(&mut self, ticket: Ticket, result: Result<Vec<i64>, catchup::Error>) {
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
        let Waiting::Resolving(pending) = entry.subscription else {
            return;
        };
        match result {
            Ok(cursor) => {
                let beginning = Beginning {
                    cursor,
                    not_before_us: Some(pending.time_us),
                    snapshot: false,
                };
                self.start(ticket.id, pending.devices, pending.filter, beginning);
            }
            Err(error) => {
                let message = format!("{error}; subscribe again");
                self.error(ticket.id, pb::ErrorCode::Unavailable, message);
            }
        }
    }
}

fn refused(error: &filter::Error) -> Refusal {
    let code = if error.is_limit() {
        pb::ErrorCode::Limit
    } else {
        pb::ErrorCode::BadRequest
    };
    (code, error.to_string())
}
