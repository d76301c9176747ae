//! Which broker is next, and when. Pure: time and random numbers are arguments.
//!
//! - A round tries the brokers in their order, the first first, with at most `backoff.min` between two; after a round that reached none, the backoff's
//!   waiting time passes.
//! - A broker that was reached is kept for as long as its connection stands. When that is lost, a new round begins.
//! - Who stands with another than the first looks after `return_after` whether the first answers (TCP and TLS, without MQTT: in a
//!   cluster a second connection under the same client id would end this one), and goes back only if it does. If the first then
//!   does not take the connection after all, the next look comes twice as late, up to [`RETURN_MAX`].

use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::link::Address;
use crate::config::Protocol;
use crate::mqtt::{Cause, Version};

/// The longest time between two looks at the first broker, as a multiple of `return_after`.
const RETURN_MAX: u32 = 16;

/// The brokers' turns.
#[derive(Debug)]
pub(crate) struct Rotation {
    backoff: Backoff,
    /// The pause between two brokers of a round is at most this.
    between: Duration,
    return_after: Duration,
    /// The multiple of `return_after` that the next look comes after.
    patience: u32,
    protocol: Protocol,
    /// For each broker, the version that it is thought to speak.
    versions: Vec<Version>,
    current: usize,
    /// When the first broker is to be looked at.
    look_at: Option<Instant>,
}

impl Rotation {
    /// The first broker's turn is now.
    pub(crate) fn new(address: &Address, backoff: Backoff) -> Self {
        let version = match address.protocol {
            Protocol::Auto | Protocol::V5 => Version::V5,
            Protocol::V311 => Version::V311,
        };
        Self {
            between: backoff.min(),
            backoff,
            return_after: address.return_after,
            patience: 1,
            protocol: address.protocol,
            versions: vec![version; address.brokers.len().max(1)],
            current: 0,
            look_at: None,
        }
    }

    /// The broker whose turn it is.
    pub(crate) fn current(&self) -> usize {
        self.current
    }

    /// What it is spoken to in.
    pub(crate) fn version(&self) -> Version {
        self.versions[self.current]
    }

    /// The connection stands.
    pub(crate) fn opened(&mut self, now: Instant) {
        if self.current == 0 {
            self.patience = 1;
        } else {
            self.look_at = Some(now + self.return_after * self.patience);
        }
    }

    /// The connection, which stood since `stood`, or was never made, is over. Returns when the next is to be made.
    pub(crate) fn closed(
        &mut self,
        now: Instant,
        stood: Option<Instant>,
        cause: Cause,
        random: u64,
    ) -> Instant {
        self.look_at = None;
        if stood.is_none() && self.other_version(cause) {
            return now;
        }
        match (cause, stood) {
            (Cause::Renewed, Some(_)) => return now,
            (_, Some(_)) => self.current = 0,
            (_, None) => {
                self.current = (self.current + 1) % self.versions.len();
                if self.current != 0 {
                    return now + self.between.mul_f64(random as f64 / u64::MAX as f64);
                }
            }
        }
        self.backoff.next(now, stood, random)
    }

    /// Whether the same broker is to be tried at once in the other version. One that says nothing of versions and closes may do so for any
    /// reason: then 3.1.1 is tried once, and if that fares no better, the next attempt is with 5 again.
    fn other_version(&mut self, cause: Cause) -> bool {
        if self.protocol != Protocol::Auto || !matches!(cause, Cause::Version | Cause::Unanswered) {
            return false;
        }
        let version = &mut self.versions[self.current];
        let first = *version == Version::V5;
        *version = if first { Version::V311 } else { Version::V5 };
        first
    }

    /// When to look at the first broker.
    pub(crate) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// The first broker has been looked at. Returns whether to go back to it: then the connection is to be ended, and the next is to it.
    pub(crate) fn looked(&mut self, now: Instant, answers: bool) -> bool {
        if answers {
            // Taken back in `opened`, if it takes the connection too.
            self.patience = (self.patience * 2).min(RETURN_MAX);
        }
        self.look_at = (!answers).then(|| now + self.return_after);
        answers
    }
}
