//! Whatever happens to the link, the relay and the process, in any order: nothing is lost, nothing repeated, and everything ends.

use headwater_proto::{frame, pb};
use proptest::prelude::*;

use super::model::{World, settings};
use super::*;

#[derive(Clone, Debug)]
enum Step {
    Append {
        length: usize,
        readings: u64,
        set: usize,
    },
    Speak(usize),
    DeliverUp,
    LoseUp,
    DeliverDown,
    LoseDown,
    RepeatDown,
    SwapDown(usize),
    Wait(u64),
    Connect,
    Disconnect,
    RestartBridge,
    Kill,
    Slow(u32),
    Allow(Allowance),
    Refuse(u64),
    /// An acknowledgement that cannot be: of another stream, or beyond what was sent.
    Bogus {
        /// `None`: the current one.
        stream: Option<u64>,
        ahead: u64,
    },
    Garbage(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..400, 0u64..20, 0usize..3).prop_map(|(length, readings, set)| Step::Append { length, readings, set }),
        8 => (1usize..6).prop_map(Step::Speak),
        12 => Just(Step::DeliverUp),
        2 => Just(Step::LoseUp),
        12 => Just(Step::DeliverDown),
        2 => Just(Step::LoseDown),
        1 => Just(Step::RepeatDown),
        1 => (0usize..8).prop_map(Step::SwapDown),
        4 => (0u64..20_000).prop_map(Step::Wait),
        1 => Just(Step::Connect),
        1 => Just(Step::Disconnect),
        1 => Just(Step::RestartBridge),
        1 => Just(Step::Kill),
        2 => (1u32..8).prop_map(Step::Slow),
        1 => prop_oneof![2 => Just(Allowance::All), 1 => Just(Allowance::Live), 1 => Just(Allowance::Spent)].prop_map(Step::Allow),
        1 => (1u64..40).prop_map(Step::Refuse),
        1 => (prop_oneof![Just(None), any::<u64>().prop_map(Some)], 1u64..100).prop_map(|(stream, ahead)| Step::Bogus { stream, ahead }),
        1 => prop::collection::vec(any::<u8>(), 0..20).prop_map(Step::Garbage),
    ]
}

fn run(world: &mut World, steps: Vec<Step>) {
    world.connect();
    for step in steps {
        match step {
            Step::Append {
                length,
                readings,
                set,
            } => world.append(length, readings, set),
            Step::Speak(most) => world.speak(most),
            Step::DeliverUp => world.deliver_up(),
            Step::LoseUp => drop(world.up.pop_front()),
            Step::DeliverDown => world.deliver_down(0),
            Step::LoseDown => drop(world.down.pop_front()),
            Step::RepeatDown => world.down.extend(world.down.front().cloned()),
            Step::SwapDown(at) => world.deliver_down(at),
            Step::Wait(milliseconds) => {
                world.now += Duration::from_millis(milliseconds);
                world.uplink.tick(world.now, &world.journal);
            }
            Step::Connect => world.connect(),
            Step::Disconnect => world.disconnect(),
            Step::RestartBridge => world.bridge.restart(),
            Step::Kill => world.kill(),
            Step::Slow(reads) => world.journal.loading = reads,
            Step::Allow(allowance) => world.uplink.allow(world.now, allowance),
            Step::Refuse(seq) => drop(world.bridge.refuse.insert(seq)),
            Step::Bogus { stream, ahead } => {
                let seq = world.uplink.streams.last().unwrap().highest_sent() + ahead;
                let stream = stream.unwrap_or(world.current().stream);
                let before = (world.journal.waiting(), world.uplink.counters());
                let positions = vec![pb::StreamPosition { stream, seq }];
                let ack = frame::seal_control(&pb::Ack {
                    positions,
                    ..Default::default()
                });
                world.uplink.acknowledged(world.now, &ack, &mut world.journal);
                assert_eq!(world.journal.waiting(), before.0, "it made the journal forget");
                assert_eq!(world.uplink.counters().ignored, before.1.ignored + 1);
            }
            Step::Garbage(bytes) => {
                let before = world.journal.waiting();
                if frame::open_control::<pb::Ack>("ack", &bytes).is_err() {
                    world.uplink.acknowledged(world.now, &bytes, &mut world.journal);
                    assert_eq!(world.journal.waiting(), before);
                }
            }
        }
        world.check_window();
    }
    world.settle();
    world.check();
}

/// All ways to drain.
fn drains(batches: usize, bytes: u64) -> impl Strategy<Value = config::Uplink> {
    let mode = prop_oneof![Just(config::Drain::InOrder), Just(config::Drain::LiveFirst)];
    let rate = prop_oneof![Just(None), (200u64..20_000).prop_map(Some)];
    (mode, rate, 0u64..3, 1u64..30).prop_map(move |(drain, rate, jitter, after)| config::Uplink {
        drain,
        drain_rate: rate.map(headwater_config::ByteSize::b),
        drain_jitter: Duration::from_secs(jitter),
        drain_after: Duration::from_secs(after),
        ..settings(batches, bytes)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..Default::default() })]

    /// With room for everything nothing is lost but what the relay refuses.
    #[test]
    fn nothing_is_lost_and_order_is_kept(
        steps in prop::collection::vec(step(), 0..250),
        settings in (1usize..8, 1024u64..4096).prop_flat_map(|(batches, bytes)| drains(batches, bytes)),
        listed in prop_oneof![Just(2), Just(5), Just(usize::MAX)],
    ) {
        let mut world = World::new(settings, usize::MAX);
        world.journal.listed = listed;
        run(&mut world, steps);
        for (_, seq, through, content) in &world.bridge.kafka.records {
            if content.is_err() {
                for seq in *seq..=*through {
                    prop_assert!(world.bridge.refuse.contains(&seq), "{seq} was lost");
                }
            }
        }
    }

    /// With a journal that overflows, also while batches are in flight, the chain still has no holes and every loss is told.
    #[test]
    fn an_overflow_leaves_no_hole(
        steps in prop::collection::vec(step(), 0..250),
        settings in (1usize..8).prop_flat_map(|batches| drains(batches, 2048)),
        bound in 1024usize..4096,
    ) {
        run(&mut World::new(settings, bound), steps);
    }
}
