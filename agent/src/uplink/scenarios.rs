//! What the uplink does in situations that deserve a name.

use headwater_proto::frame;
use headwater_proto::topic::Kind;

use super::model::{STREAM, World, settings};
use super::*;

/// A world whose relay has answered.
fn greeted() -> World {
    let mut world = World::new(settings(4, 1 << 20), usize::MAX);
    world.connect();
    world.speak(10);
    while !world.up.is_empty() {
        world.deliver_up();
    }
    world.deliver_down(0);
    assert!(world.uplink.is_up());
    world
}

fn data(world: &World) -> usize {
    world
        .up
        .iter()
        .filter(|publication| publication.kind == Kind::Data)
        .count()
}

#[test]
fn nothing_but_hello_and_status_is_sent_until_the_relay_answers() {
    let mut world = World::new(settings(4, 1 << 20), usize::MAX);
    world.append(10, 1, 0);
    world.connect();
    world.speak(10);
    let kinds: Vec<_> = world.up.iter().map(|publication| publication.kind).collect();
    assert_eq!(kinds, [Kind::Hello, Kind::Status]);
    assert!(
        world
            .up
            .iter()
            .all(|publication| publication.retained() && publication.at_least_once())
    );
    // The answer to the hello of an earlier connection opens nothing.
    let stale = frame::seal_control(&pb::Ack {
        session: 99,
        ..Default::default()
    });
    world.uplink.acknowledged(world.now, &stale, &mut world.journal);
    assert!(!world.uplink.is_up());
    // Unanswered, hello is repeated, ever less often.
    let mut hellos = 0;
    for _ in 0..60 {
        world.now += Duration::from_secs(8);
        world.speak(10);
        hellos += world
            .up
            .drain(..)
            .filter(|publication| publication.kind == Kind::Hello)
            .count();
    }
    assert!((5..=15).contains(&hellos), "{hellos}");
}

#[test]
fn a_series_set_is_published_before_its_first_use_and_when_asked_for() {
    let mut world = greeted();
    world.append(10, 1, 0);
    world.append(10, 1, 0);
    world.speak(10);
    let kinds: Vec<_> = world.up.iter().map(|publication| publication.kind).collect();
    assert_eq!(kinds, [Kind::Series, Kind::Data, Kind::Data]);
    assert!(world.up[0].retained() && !world.up[1].retained() && !world.up[1].at_least_once());
    world.up.clear();
    let ask = |world: &mut World| {
        let hash = world.sets[0].hash();
        let ack = frame::seal_control(&pb::Ack {
            want_series: vec![hash],
            ..Default::default()
        });
        world.uplink.acknowledged(world.now, &ack, &mut world.journal);
        world.speak(10);
        let kinds = world.up.drain(..).map(|publication| publication.kind);
        kinds.filter(|kind| *kind != Kind::Status).collect::<Vec<_>>()
    };
    // What was asked just after it was published has crossed it: the batches alone are sent again.
    assert_eq!(ask(&mut world), [Kind::Data, Kind::Data]);
    world.now += Duration::from_secs(3);
    // The second time at one position, one batch at a time.
    assert_eq!(ask(&mut world), [Kind::Series, Kind::Data]);
}

#[test]
fn wishes_to_go_back_that_cross_what_is_sent_again_are_put_off() {
    let mut world = greeted();
    for _ in 0..4 {
        world.append(10, 1, 0);
    }
    world.speak(10);
    world.up.clear();
    let back = frame::seal_control(&pb::Ack {
        go_back: true,
        ..Default::default()
    });
    for _ in 0..4 {
        world.uplink.acknowledged(world.now, &back, &mut world.journal);
        world.speak(10);
    }
    assert_eq!(data(&world), 4, "sent again once, not once for each wish");
    world.up.clear();
    world.now += Duration::from_secs(2);
    world.speak(10);
    assert_eq!(
        data(&world),
        1,
        "the wish that was put off: one batch at a time now"
    );
    let counters = world.uplink.counters();
    assert_eq!((counters.sent, counters.resent), (9, 5));
}

#[test]
fn after_a_timeout_one_batch_is_in_flight_until_something_is_acknowledged() {
    let mut world = greeted();
    for _ in 0..20 {
        world.append(10, 1, 0);
    }
    world.speak(10);
    assert_eq!(data(&world), 4);
    world.up.clear();
    world.now += Duration::from_secs(8);
    world.speak(10);
    assert_eq!(data(&world), 1);
    // The relay is silent for an hour.
    let before = world.data_sent;
    for _ in 0..3600 {
        world.now += Duration::from_secs(1);
        world.speak(10);
    }
    assert!(
        world.data_sent - before <= 60,
        "{} batches into the void",
        world.data_sent - before
    );
    world.settle();
    world.check();
}

#[test]
fn what_waits_is_told_while_it_waits_and_once_when_it_no_longer_does() {
    let mut world = greeted();
    let statuses = |world: &mut World| {
        let status = |publication: Publication| {
            (publication.kind == Kind::Status).then(|| {
                let status: pb::Status = frame::open_control("status", &publication.payload).unwrap();
                status.waiting.unwrap().batches
            })
        };
        world.up.drain(..).filter_map(status).collect::<Vec<_>>()
    };
    for _ in 0..10 {
        world.append(10, 3, 0);
    }
    let mut told = Vec::new();
    for _ in 0..70 {
        world.now += Duration::from_millis(100);
        world.speak(10);
        told.extend(statuses(&mut world));
    }
    assert_eq!(
        told,
        [10],
        "told when it is new, at most every 2 s, and not again while nothing changes"
    );
    world.settle();
    world.now += Duration::from_secs(2);
    world.up.clear();
    world.speak(10);
    assert_eq!(statuses(&mut world), [0]);
    // An ordinary batch that is acknowledged soon is nothing to speak of.
    for _ in 0..20 {
        world.append(10, 3, 0);
        world.speak(10);
        assert_eq!(statuses(&mut world), Vec::<u64>::new());
        let position = pb::StreamPosition {
            stream: STREAM,
            seq: world.appended.len() as u64,
        };
        let ack = frame::seal_control(&pb::Ack {
            positions: vec![position],
            ..Default::default()
        });
        world.uplink.acknowledged(world.now, &ack, &mut world.journal);
        world.now += Duration::from_secs(1);
        world.speak(10);
        assert_eq!(statuses(&mut world), Vec::<u64>::new());
    }
}

#[test]
fn positions_of_an_answer_to_hello_spare_what_kafka_already_has() {
    let mut world = greeted();
    for _ in 0..3 {
        world.append(10, 1, 0);
    }
    world.speak(10);
    while !world.up.is_empty() {
        world.deliver_up();
    }
    // All three are in Kafka; the acknowledgements are lost with the connection.
    world.connect();
    world.settle();
    assert_eq!(world.data_sent, 3);
    world.check();
}

#[test]
fn a_clean_stop_says_offline_and_sends_no_data_any_more() {
    let mut world = greeted();
    world.append(10, 1, 0);
    world.uplink.stop(&world.journal);
    let publication = world.uplink.next(world.now, &mut world.journal).unwrap();
    let status: pb::Status = frame::open_control("status", &publication.payload).unwrap();
    assert_eq!(
        (status.online, status.session, status.waiting.unwrap().batches),
        (false, world.session, 1)
    );
    assert!(publication.retained() && publication.at_least_once());
    assert_eq!(world.uplink.next(world.now, &mut world.journal), None);
    assert_eq!(world.uplink.deadline(), None);
}

#[test]
fn what_answers_the_hello_of_an_earlier_connection_moves_positions_but_nothing_back() {
    let mut world = greeted();
    for _ in 0..2 {
        world.append(10, 1, 0);
    }
    world.speak(10);
    world.up.clear();
    let positions = vec![pb::StreamPosition {
        stream: STREAM,
        seq: 1,
    }];
    let stale = pb::Ack {
        positions,
        go_back: true,
        session: world.session + 1,
        ..Default::default()
    };
    world
        .uplink
        .acknowledged(world.now, &frame::seal_control(&stale), &mut world.journal);
    world.speak(10);
    assert_eq!((data(&world), world.uplink.counters().delivered), (0, 1));
}
