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
    /// For each broker, the version to speak to it in, and whether the broker itself has said so.
    versions: Vec<(Version, bool)>,
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
            versions: vec![(version, false); address.brokers.len().max(1)],
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
        self.versions[self.current].0
    }

    /// Other waiting times from the next on.
    pub(crate) fn wait_by(&mut self, backoff: Backoff) {
        self.backoff = backoff;
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
        if self.protocol == Protocol::Auto && self.other_version(stood, cause) {
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

    /// Whether the same broker is to be tried at once in the other version. A broker that says that it does not know MQTT 5 is taken at its
    /// word. One that closes without an answer may do so for any reason: then 3.1.1 is tried once, and 5 again the next time.
    fn other_version(&mut self, stood: Option<Instant>, cause: Cause) -> bool {
        let (version, said) = &mut self.versions[self.current];
        match (*version, cause) {
            (Version::V5, Cause::Version) if stood.is_none() => (*version, *said) = (Version::V311, true),
            (Version::V5, Cause::Unanswered) => *version = Version::V311,
            (Version::V311, Cause::Version) => {
                (*version, *said) = (Version::V5, false);
                return false;
            }
            (Version::V311, _) if !*said => {
                *version = Version::V5;
                return false;
            }
            _ => return false,
        }
        true
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const SECOND: Duration = Duration::from_secs(1);

    fn rotation(brokers: usize, protocol: Protocol) -> Rotation {
        let settings = config::Uplink {
            broker: vec!["mqtt://a".to_string(); brokers].into(),
            protocol,
            return_after: 600 * SECOND,
            ..config::Uplink::default()
        };
        Rotation::new(
            &Address::new(&settings, "gw-01").unwrap(),
            Backoff::new(settings.backoff),
        )
    }

    #[test]
    fn a_round_tries_all_in_order_and_then_waits() {
        let now = Instant::now();
        let mut rotation = rotation(3, Protocol::V5);
        for bound in [1, 2, 4] {
            for (current, most) in [(0, 1), (1, 1), (2, bound)] {
                assert_eq!(rotation.current(), current);
                let at = rotation.closed(now, None, Cause::Failed, u64::MAX);
                assert_eq!(
                    at,
                    now + most * SECOND,
                    "after {current} in the round of {bound} s"
                );
            }
        }
        // One that stood is kept; when it is lost, the first is the first again.
        rotation.closed(now, None, Cause::Failed, 0);
        rotation.opened(now);
        assert_eq!(rotation.current(), 1);
        rotation.closed(now + 20 * SECOND, Some(now), Cause::Failed, 0);
        assert_eq!(rotation.current(), 0);
    }

    #[test]
    fn the_first_is_gone_back_to_when_it_answers_and_less_often_when_that_is_all_it_does() {
        let now = Instant::now();
        let mut rotation = rotation(2, Protocol::V5);
        rotation.opened(now);
        assert_eq!(rotation.look_at(), None);
        rotation.closed(now, Some(now), Cause::Failed, 0);
        rotation.closed(now, None, Cause::Failed, 0);
        let mut at = now;
        for minutes in [10, 20, 40] {
            rotation.opened(at);
            assert_eq!(rotation.look_at(), Some(at + minutes * 60 * SECOND));
            // It does not answer: the connection that stands is left alone.
            at += minutes * 60 * SECOND;
            assert!(!rotation.looked(at, false));
            assert_eq!(rotation.look_at(), Some(at + 600 * SECOND));
            assert!(rotation.looked(at, true));
            rotation.closed(at, Some(now), Cause::Wanted, 0);
            assert_eq!(rotation.current(), 0);
            // It does not take the connection after all.
            rotation.closed(at, None, Cause::Failed, 0);
            assert_eq!(rotation.current(), 1);
        }
        rotation.closed(at, Some(now), Cause::Failed, 0);
        rotation.opened(at);
        rotation.closed(at, Some(now), Cause::Failed, 0);
        rotation.closed(at, None, Cause::Failed, 0);
        rotation.opened(at);
        assert_eq!(
            rotation.look_at(),
            Some(at + 600 * SECOND),
            "it has taken one since"
        );
    }

    #[test]
    fn a_broker_that_knows_no_mqtt_5_is_spoken_to_in_3_1_1_at_once() {
        let now = Instant::now();
        let mut rotation = rotation(1, Protocol::Auto);
        assert_eq!(rotation.version(), Version::V5);
        assert_eq!(rotation.closed(now, None, Cause::Version, u64::MAX), now);
        assert_eq!(rotation.version(), Version::V311);
        rotation.opened(now);
        rotation.closed(now, Some(now), Cause::Failed, 0);
        assert_eq!(rotation.version(), Version::V311, "it has said so itself");
        // Had it been replaced by one that knows nothing else:
        rotation.closed(now, None, Cause::Version, 0);
        assert_eq!(rotation.version(), Version::V5);
    }

    #[test]
    fn one_that_closes_without_a_word_is_tried_in_3_1_1_once_and_in_5_again() {
        let now = Instant::now();
        let mut rotation = rotation(1, Protocol::Auto);
        assert_eq!(rotation.closed(now, None, Cause::Unanswered, u64::MAX), now);
        assert_eq!(rotation.version(), Version::V311);
        assert!(rotation.closed(now, None, Cause::Unanswered, u64::MAX) > now);
        assert_eq!(rotation.version(), Version::V5);
        rotation.closed(now, None, Cause::Unanswered, 0);
        rotation.opened(now);
        rotation.closed(now, Some(now), Cause::Failed, 0);
        assert_eq!(rotation.version(), Version::V5);
    }

    #[test]
    fn a_version_that_is_set_is_the_only_one() {
        let now = Instant::now();
        for (protocol, version) in [(Protocol::V5, Version::V5), (Protocol::V311, Version::V311)] {
            let mut rotation = rotation(1, protocol);
            for cause in [Cause::Version, Cause::Unanswered, Cause::Failed] {
                assert!(rotation.closed(now, None, cause, u64::MAX) > now);
                assert_eq!(rotation.version(), version);
            }
        }
    }
}
