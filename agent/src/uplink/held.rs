//! Batches whose times are not known to be right: they wait for that, bounded in time and in bytes, and then they are sent all the same.

use super::model::{World, settings};
use super::*;
use crate::clock::Clock;
use crate::config::Trust;

const SECOND: i64 = 1_000_000;
/// In 2096: later than this program was made.
const NOON: i64 = 4_000_000_000 * SECOND;
const HOLD: Duration = Duration::from_secs(300);

/// A box whose clock nobody vouches for.
struct Gateway {
    world: World,
    clock: Clock,
}

impl Gateway {
    fn new(bound: usize) -> Self {
        let settings = config::Clock {
            trust: Trust::Kernel,
            ..config::Clock::default()
        };
        let clock = Clock::fake(&settings, None, (20 * SECOND, NOON, false));
        let mut world = World::new(self::settings(4, 1 << 20), bound);
        world.epoch = clock.epoch();
        assert!(world.epoch.is_some());
        Self { world, clock }
    }

    /// Lets everything go to and fro until nothing moves; how many data messages were sent.
    fn exchange(&mut self) -> u64 {
        let before = self.world.data_sent as u64;
        self.world.uplink.clock(self.clock.standing(), HOLD);
        for _ in 0..50 {
            self.world.speak(20);
            while !self.world.up.is_empty() {
                self.world.deliver_up();
            }
            while !self.world.down.is_empty() {
                self.world.deliver_down(0);
            }
        }
        self.world.data_sent as u64 - before
    }

    fn wait(&mut self, time: Duration) {
        self.world.now += time;
        self.world.uplink.tick(self.world.now, &self.world.journal);
    }
}

#[test]
fn they_are_held_until_the_clock_is_known_and_no_longer_than_the_settings_say() {
    let mut unknown = Gateway::new(usize::MAX);
    // Without a relay the time does not count: who cannot send need not give up hope.
    unknown.world.append(10, 1, 0);
    unknown.wait(HOLD * 2);
    unknown.world.connect();
    for _ in 0..3 {
        unknown.world.append(10, 1, 0);
    }
    assert_eq!(unknown.exchange(), 0);
    assert!(unknown.world.uplink.is_up());
    unknown.wait(HOLD - Duration::from_secs(1));
    assert_eq!(unknown.exchange(), 0);
    let due = unknown.world.uplink.deadline().unwrap();
    assert!(
        due <= unknown.world.now + Duration::from_secs(1),
        "it wakes by itself"
    );
    // It never becomes known: better flagged than not at all.
    unknown.wait(Duration::from_secs(1));
    assert_eq!(unknown.exchange(), 4);
    // And from then on without delay, over connections too.
    unknown.world.append(10, 1, 0);
    unknown.world.connect();
    assert_eq!(unknown.exchange(), 1);
    assert_eq!(unknown.world.journal.waiting().batches, 0);
    assert_eq!(unknown.world.uplink.counters().lost, 0);
}

#[test]
fn those_of_a_time_that_is_known_do_not_wait_for_them() {
    let mut known = Gateway::new(usize::MAX);
    known.world.connect();
    known.world.append(10, 1, 0);
    // What is final goes past the stream before it, which waits.
    known.world.kill();
    known.world.epoch = None;
    known.world.append(10, 1, 0);
    known.world.connect();
    assert_eq!(known.exchange(), 1);
    assert_eq!(known.world.journal.waiting().batches, 1);
}

#[test]
fn while_they_are_held_the_journal_keeps_to_its_bound_and_what_makes_way_is_told() {
    let bound = 16 * 1024;
    let mut held = Gateway::new(bound);
    held.world.connect();
    assert_eq!(held.exchange(), 0);
    for _ in 0..1_000 {
        held.world.append(100, 5, 0);
        assert!(held.world.journal.waiting().bytes <= bound as u64);
    }
    let waiting = held.world.journal.waiting();
    assert_eq!(
        held.exchange(),
        1,
        "what was lost is told at once, and nothing else goes"
    );
    assert_eq!(held.world.uplink.counters().delivered, 0);
    assert!(waiting.lost > 0 && waiting.readings > 0);
    assert_eq!(waiting.readings + waiting.lost, 5_000);
    held.wait(HOLD);
    held.exchange();
    assert_eq!(held.world.journal.waiting().batches, 0);
    let counters = held.world.uplink.counters();
    assert_eq!(
        (counters.delivered, counters.lost),
        (waiting.readings, waiting.lost)
    );
}
