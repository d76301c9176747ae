//! What the uplink does after outages, under a rate, under a budget, and with relays that ask without end.

use headwater_config::ByteSize;
use headwater_proto::frame::{self, Frame};
use headwater_proto::topic::Kind;
use headwater_proto::{Limits, pb};

use super::model::{World, settings};
use super::outage::SEALED_MAX;
use super::*;

pub(super) fn world(drain: config::Drain, rate: Option<u64>) -> World {
    let settings = config::Uplink {
        drain,
        drain_rate: rate.map(ByteSize::b),
        drain_after: Duration::from_secs(30),
        ..settings(8, 1 << 20)
    };
    World::new(settings, usize::MAX)
}

/// Messages go to and fro until there are none.
fn exchange(world: &mut World) {
    for _ in 0..200 {
        world.speak(20);
        while !world.up.is_empty() {
            world.deliver_up();
        }
        while !world.down.is_empty() {
            world.deliver_down(0);
        }
    }
}

/// The short numbers of what is on its way up; the rest is thrown away.
fn shorts(world: &mut World) -> Vec<u32> {
    let data = world
        .up
        .drain(..)
        .filter(|publication| publication.kind == Kind::Data);
    data.map(|publication| {
        Frame::parse(&publication.payload, &Limits::default())
            .unwrap()
            .short
    })
    .collect()
}

pub(super) fn answer(world: &mut World, ack: &pb::Ack) {
    let ack = frame::seal_control(ack);
    world.uplink.acknowledged(world.now, &ack, &mut world.journal);
}

#[test]
fn live_data_goes_beside_the_backlog_and_before_it() {
    let mut world = world(config::Drain::LiveFirst, None);
    for _ in 0..100 {
        world.append(50, 1, 0);
    }
    world.connect();
    assert_eq!(
        world.journal.streams().len(),
        2,
        "the backlog is a stream of its own"
    );
    world.speak(20);
    while !world.up.is_empty() {
        world.deliver_up();
    }
    world.deliver_down(0);
    world.append(50, 1, 0);
    world.append(50, 1, 0);
    let live = world.uplink.streams[1].short();
    world.speak(20);
    let sent = shorts(&mut world);
    assert_eq!(sent[..2], [live, live]);
    // The backlog has half of the window, and no more of it however long nothing is acknowledged.
    assert_eq!(sent.len(), 2 + 4);
    world.append(50, 1, 0);
    world.speak(20);
    assert_eq!(shorts(&mut world), [live]);
    world.settle();
    world.check();
    assert_eq!(world.uplink.counters().sealed, 1);
    assert_eq!(world.journal.streams().len(), 1);
}

#[test]
fn neither_live_data_nor_the_backlog_starves_on_a_link_that_is_too_slow_for_both() {
    let mut world = world(config::Drain::LiveFirst, None);
    for _ in 0..300 {
        world.append(50, 1, 0);
    }
    world.connect();
    exchange_some(&mut world, 4);
    let backlog = world.journal.streams()[0];
    for round in 0..200 {
        // Live data comes as fast as the link takes messages.
        world.append(50, 1, 0);
        world.append(50, 1, 0);
        exchange_some(&mut world, 2);
        let current = world.current();
        let waits = current.last + 1 - current.first;
        assert!(waits <= 210, "{waits} live batches wait in round {round}");
    }
    let left = world.journal.streams()[0];
    assert!(left.first > backlog.first + 50, "{left:?} of {backlog:?}");
    world.settle();
    world.check();
}

/// So many messages go up, and all answers come down.
fn exchange_some(world: &mut World, messages: usize) {
    world.speak(8);
    for _ in 0..messages {
        world.deliver_up();
    }
    while !world.down.is_empty() {
        world.deliver_down(0);
    }
}

#[test]
fn a_link_that_flaps_opens_few_streams() {
    let mut world = world(config::Drain::LiveFirst, None);
    for _ in 0..200 {
        for _ in 0..20 {
            world.append(10, 1, 0);
        }
        world.now += Duration::from_secs(60);
        world.connect();
        world.speak(3);
        world.disconnect();
    }
    assert_eq!(world.uplink.counters().sealed as usize, SEALED_MAX);
    assert_eq!(world.journal.streams().len(), SEALED_MAX + 1);
    world.settle();
    world.check();
}

#[test]
fn a_short_break_is_no_outage() {
    let mut world = world(config::Drain::LiveFirst, None);
    world.connect();
    exchange(&mut world);
    for _ in 0..5 {
        world.now += Duration::from_secs(20);
        world.append(10, 1, 0);
        world.disconnect();
        world.append(10, 1, 0);
        world.connect();
        exchange(&mut world);
    }
    // Hours without readings are none either.
    world.now += Duration::from_secs(20_000);
    world.append(10, 1, 0);
    world.connect();
    exchange(&mut world);
    assert_eq!(world.uplink.counters().sealed, 0);
    world.check();
}

#[test]
fn a_relay_that_was_away_while_the_broker_stood_is_an_outage_too() {
    for answered_before in [false, true] {
        let mut world = world(config::Drain::LiveFirst, None);
        world.connect();
        if answered_before {
            exchange(&mut world);
        }
        for _ in 0..60 {
            world.now += Duration::from_secs(10);
            world.append(10, 1, 0);
            world.speak(20);
            world.up.clear();
        }
        // The relay is back, and answers what it finds: the last hello, or the next batch.
        world.settle();
        assert_eq!(world.uplink.counters().sealed, 1, "{answered_before}");
        world.check();
    }
}

#[test]
fn a_backlog_keeps_to_its_rate_and_live_data_pays_none() {
    for drain in [config::Drain::LiveFirst, config::Drain::InOrder] {
        let mut world = world(drain, Some(1000));
        for _ in 0..100 {
            world.append(1000, 1, 0);
        }
        world.connect();
        exchange(&mut world);
        let start = world.now;
        let mut bytes = 0;
        let mut live_after = None;
        while world.journal.waiting().batches > 0 {
            world.now += Duration::from_secs(1);
            if world.now < start + Duration::from_secs(60) {
                world.append(1000, 1, 0);
            }
            let before = world.journal.waiting().bytes;
            exchange(&mut world);
            bytes += before - world.journal.waiting().bytes;
            let seconds = (world.now - start).as_secs();
            let current = world.current();
            if current.first > current.last && live_after.is_none() {
                live_after = Some(seconds);
            }
            assert!(seconds < 300, "{drain:?}: not drained after {seconds} s");
        }
        let seconds = (world.now - start).as_secs();
        assert!(seconds >= 100, "{drain:?}: {bytes} bytes in {seconds} s");
        match drain {
            // Live data goes at once.
            config::Drain::LiveFirst => assert_eq!(live_after, Some(1)),
            // It waits for its turn, and then catches up at full speed.
            config::Drain::InOrder => assert!((100..130).contains(&live_after.unwrap()), "{live_after:?}"),
        }
        world.check();
    }
}

#[test]
fn a_stream_whose_last_batches_got_lost_is_sent_again_although_another_flows() {
    let mut world = world(config::Drain::LiveFirst, None);
    for _ in 0..20 {
        world.append(10, 1, 0);
    }
    world.connect();
    while world.journal.streams().len() > 1 && world.journal.streams()[0].first < 17 {
        exchange_some(&mut world, 1);
    }
    // The rest of the backlog is lost on its way, and nothing behind it shows the gap.
    world.speak(20);
    world.up.clear();
    for _ in 0..20 {
        world.now += Duration::from_secs(1);
        world.append(10, 1, 0);
        exchange(&mut world);
    }
    assert_eq!(world.journal.waiting().batches, 0);
    world.check();
}

#[test]
fn a_relay_that_asks_without_end_gets_ever_less() {
    let asks = [
        pb::Ack {
            go_back: true,
            ..Default::default()
        },
        pb::Ack {
            want_hello: true,
            ..Default::default()
        },
    ];
    for ask in asks {
        let mut world = world(config::Drain::InOrder, None);
        for _ in 0..8 {
            world.append(10, 1, 0);
        }
        world.connect();
        let hours = 2;
        let mut published = 0;
        for _ in 0..hours * 3600 * 10 {
            world.now += Duration::from_millis(100);
            world.speak(20);
            for publication in std::mem::take(&mut world.up) {
                published += 1;
                if publication.kind == Kind::Hello {
                    let session = world.session;
                    answer(
                        &mut world,
                        &pb::Ack {
                            session,
                            ..Default::default()
                        },
                    );
                }
            }
            answer(&mut world, &ask);
        }
        // At most what a second's pause, eightfold, makes; and the first window.
        assert!(
            published < hours * 3600 / 16 * 11,
            "{published} messages in {hours} h for {ask:?}"
        );
        world.settle();
        world.check();
    }
}

#[test]
fn a_relay_that_asks_for_a_series_set_without_end_gets_it_ever_less_often() {
    let mut world = world(config::Drain::InOrder, None);
    world.append(10, 1, 0);
    world.connect();
    world.speak(20);
    let (session, hash) = (world.session, world.sets[0].hash());
    answer(
        &mut world,
        &pb::Ack {
            session,
            ..Default::default()
        },
    );
    let mut published = 0;
    for _ in 0..3600 {
        world.now += Duration::from_secs(1);
        world.speak(20);
        let sets = world
            .up
            .drain(..)
            .filter(|publication| publication.kind == Kind::Series);
        published += sets.count();
        answer(
            &mut world,
            &pb::Ack {
                want_series: vec![hash],
                ..Default::default()
            },
        );
    }
    assert!((100..=240).contains(&published), "{published} in an hour");
    world.settle();
    world.check();
}

#[test]
fn a_budget_that_is_short_stops_the_backlog_and_one_that_is_spent_nearly_all() {
    let mut world = world(config::Drain::LiveFirst, None);
    for _ in 0..100 {
        world.append(10, 1, 0);
    }
    world.connect();
    world.uplink.allow(world.now, Allowance::Live);
    exchange(&mut world);
    for _ in 0..10 {
        world.append(10, 1, 0);
    }
    exchange(&mut world);
    let waiting = |world: &World| world.journal.waiting().batches;
    assert_eq!(waiting(&world), 100, "live data alone went");
    world.uplink.allow(world.now, Allowance::Spent);
    let mut data = 0;
    let mut others = 0;
    for _ in 0..24 * 360 {
        world.now += Duration::from_secs(10);
        world.append(10, 1, 0);
        world.speak(20);
        let (sent, told): (Vec<_>, Vec<_>) = world.up.iter().partition(|p| p.kind == Kind::Data);
        (data, others) = (data + sent.len(), others + told.len());
        while !world.up.is_empty() {
            world.deliver_up();
        }
        while !world.down.is_empty() {
            world.deliver_down(0);
        }
    }
    assert!(
        (23..=24).contains(&data) && others <= 30,
        "{data} batches and {others} others in a day"
    );
    world.uplink.allow(world.now, Allowance::All);
    world.settle();
    world.check();
}
