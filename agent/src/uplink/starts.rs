//! What the uplink makes of streams that earlier starts left, and of other boxes that use the device's name.

use headwater_proto::frame;
use headwater_proto::pb;
use headwater_proto::topic::Kind;

use super::model::STREAM;
use super::outages::{answer, world};
use super::*;

#[test]
fn a_crash_loop_leaves_many_streams_and_few_hellos() {
    for drain in [config::Drain::InOrder, config::Drain::LiveFirst] {
        let mut world = world(drain, None);
        world.journal.listed = 32;
        for _ in 0..500 {
            world.append(10, 1, 0);
            world.kill();
        }
        world.append(10, 1, 0);
        world.connect();
        let mut hellos = 0;
        while world.journal.waiting().batches > 0 {
            world.speak(20);
            while let Some(publication) = world.up.front() {
                if publication.kind == Kind::Hello {
                    hellos += 1;
                    let hello: pb::Hello = frame::open_control("hello", &publication.payload).unwrap();
                    assert!(hello.streams.len() <= 32 && publication.payload.len() < 2000);
                }
                world.deliver_up();
            }
            while !world.down.is_empty() {
                world.deliver_down(0);
            }
        }
        assert!(hellos < 30, "{hellos} hellos");
        world.check();
    }
}

#[test]
fn what_the_relay_has_of_an_earlier_start_is_not_sent_again_though_it_is_more_than_the_journal_knew() {
    let mut world = world(config::Drain::InOrder, None);
    for _ in 0..10 {
        world.append(10, 1, 0);
    }
    world.kill();
    world.connect();
    world.speak(20);
    let session = world.session;
    let positions = vec![pb::StreamPosition {
        stream: STREAM,
        seq: 17,
    }];
    answer(
        &mut world,
        &pb::Ack {
            positions,
            session,
            ..Default::default()
        },
    );
    assert_eq!(world.journal.waiting().batches, 0);
    assert_eq!(world.uplink.counters().ignored, 0);
}

#[test]
fn beyond_the_end_of_a_stream_that_ended_cleanly_the_relay_can_know_nothing() {
    let mut world = world(config::Drain::InOrder, None);
    world.journal.clean = true;
    for _ in 0..10 {
        world.append(10, 1, 0);
    }
    world.kill();
    world.connect();
    world.speak(20);
    let beyond = |session, boxes| pb::Ack {
        positions: vec![pb::StreamPosition {
            stream: STREAM,
            seq: 17,
        }],
        session,
        boxes,
        ..Default::default()
    };
    let session = world.session;
    for (ignored, session) in [(1, session), (2, 0)] {
        answer(&mut world, &beyond(session, Vec::new()));
        assert_eq!(world.journal.waiting().batches, 10, "it made the journal forget");
        assert_eq!(world.uplink.counters().ignored, ignored);
    }
    // Another box that has a copy of this journal may have gone on with the stream.
    let twin = pb::Box {
        process: 7,
        ..Default::default()
    };
    answer(&mut world, &beyond(0, vec![twin]));
    assert_eq!(world.journal.waiting().batches, 0);
    assert_eq!(world.uplink.counters().ignored, 2);
}

#[test]
fn other_boxes_are_counted_while_the_relay_speaks_of_them() {
    let mut world = world(config::Drain::InOrder, None);
    world.connect();
    let own = world.uplink.agent.process;
    assert_ne!(own, 0);
    let named = |process| pb::Box {
        process,
        hostname: "twin".into(),
        ..Default::default()
    };
    let boxes = vec![named(own), named(own ^ 1)];
    answer(
        &mut world,
        &pb::Ack {
            boxes: boxes.clone(),
            ..Default::default()
        },
    );
    let known = world.uplink.other_boxes(world.now);
    assert_eq!(known, [named(own ^ 1)]);
    // What is said to the other box is no mistake now.
    let positions = vec![pb::StreamPosition { stream: 99, seq: 4 }];
    answer(
        &mut world,
        &pb::Ack {
            positions,
            ..Default::default()
        },
    );
    assert_eq!(world.uplink.counters().ignored, 0);
    assert!(
        world
            .uplink
            .other_boxes(world.now + Duration::from_secs(601))
            .is_empty()
    );
    // A reload keeps the process' number.
    let settings = world.settings.clone();
    world
        .uplink
        .reload(world.now, &settings, pb::AgentInfo::default());
    assert_eq!(world.uplink.agent.process, own);
}
