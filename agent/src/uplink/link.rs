//! The connection there is, or when there will be one.

use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::connection::{Address, Connection, Event};
use super::{Publication, Uplink};
use crate::journal::Journal;

/// The network takes nothing for this long although something waits for it: the connection is made anew.
pub(crate) const STALLED: Duration = Duration::from_secs(60);

/// The connection there is, or when there will be one.
pub(crate) struct Link {
    address: Address,
    backoff: Backoff,
    connection: Option<Connection>,
    pub(crate) connect_at: Option<Instant>,
    /// Drawn for each connection.
    pub(crate) session: u64,
    /// Since when it stands.
    open_since: Option<Instant>,
    /// When the network last took something, or was last idle.
    pub(crate) moved_at: Instant,
    pub(crate) reconnects: u64,
    pub(crate) sent_bytes: u64,
}

impl Link {
    pub(crate) fn new(address: Address, backoff: Backoff) -> Self {
        let now = Instant::now();
        Self {
            address,
            backoff,
            connection: None,
            connect_at: Some(now),
            session: 0,
            open_since: None,
            moved_at: now,
            reconnects: 0,
            sent_bytes: 0,
        }
    }

    /// Goes on with another address. Returns whether a connection had to be given up for it; then its Last Will speaks, and the
    /// next is made at once.
    pub(crate) fn reload(&mut self, now: Instant, address: Address, backoff: Backoff) -> bool {
        if self.address == address && self.connection.is_some() {
            return false;
        }
        self.address = address;
        self.backoff = backoff;
        self.connection = None;
        self.open_since = None;
        self.connect_at = Some(now);
        true
    }

    pub(crate) fn name(&self) -> String {
        format!("{}:{}", self.address.broker.host, self.address.broker.port)
    }

    pub(crate) fn open(&mut self, session: u64) {
        // 0 stands for "no session" in acknowledgements.
        self.session = session.max(1);
        self.connect_at = None;
        self.connection = Some(Connection::open(&self.address, Uplink::last_will(self.session)));
    }

    pub(crate) fn opened(&mut self, now: Instant) {
        log::info!("connected to {}", self.name());
        self.open_since = Some(now);
        self.moved_at = now;
    }

    pub(crate) fn closed(&mut self, now: Instant, random: u64) -> Duration {
        self.connection = None;
        let stood = self.open_since.take();
        self.reconnects += u64::from(stood.is_some());
        let at = self.backoff.next(now, stood, random);
        self.connect_at = Some(at);
        at - now
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open_since.is_some()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.is_open() && self.connection.as_ref().is_some_and(Connection::has_room)
    }

    pub(crate) fn is_stalled(&self, now: Instant) -> bool {
        self.is_open()
            && self.connection.as_ref().is_some_and(Connection::is_sending)
            && now >= self.moved_at + STALLED
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let sending = self.connection.as_ref().is_some_and(Connection::is_sending);
        self.connect_at
            .or_else(|| sending.then(|| self.moved_at + STALLED))
    }

    pub(crate) fn publish(&mut self, now: Instant, publication: Publication) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        if !connection.is_sending() {
            self.moved_at = now;
        }
        // If it is over, its last event says so, and everything is sent again on the next.
        self.sent_bytes += connection.publish(publication).unwrap_or(0);
    }

    /// What happens next; never, without a connection.
    pub(crate) async fn event(&mut self) -> Event {
        match &mut self.connection {
            Some(connection) => connection.event().await,
            None => std::future::pending().await,
        }
    }

    /// Sends what the uplink still has to say, waits until the broker has it, and disconnects.
    pub(crate) async fn goodbye(&mut self, uplink: &mut Uplink, journal: &mut dyn Journal) {
        let mut unconfirmed = 0u32;
        let mut disconnecting = false;
        while self.is_open() {
            while self.has_room()
                && let Some(publication) = uplink.next(Instant::now(), journal)
            {
                unconfirmed += u32::from(publication.at_least_once());
                self.publish(Instant::now(), publication);
            }
            if unconfirmed == 0 && !disconnecting {
                disconnecting = true;
                if let Some(connection) = &mut self.connection {
                    connection.disconnect();
                }
            }
            match self.event().await {
                Event::Confirmed => unconfirmed = unconfirmed.saturating_sub(1),
                Event::Closed(_) => return,
                _ => {}
            }
        }
    }
}
