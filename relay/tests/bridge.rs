//! The bridge between a real MQTT broker (rumqttd, on loopback) and librdkafka's in-process cluster.
#![cfg(feature = "demo")]
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use headwater_proto::topic::{Kind, topic};
use headwater_proto::{Body, pb};
use headwater_relay::bridge::settings::BridgeSettings;
use support::{Agent, World, readings};

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_sends_is_in_kafka_in_order_when_it_is_acknowledged() {
    let world = World::start().await;
    let _bridge = world.bridge();
    let mut agent = Agent::connect(&world, "pump-1").await;
    agent.hello(&[(0xa1, 1, 0)]).await;
    agent.await_hello_ack().await;
    for seq in 1..=50 {
        agent.send(1, seq, &readings(3)).await;
    }
    agent.await_position(0xa1, 50).await;
    let log = world.telemetry("pump-1");
    assert_eq!(
        log.iter().map(|batch| batch.seq).collect::<Vec<_>>(),
        (1..=50).collect::<Vec<_>>()
    );
    assert!(
        log.iter()
            .all(|batch| batch.stream == 0xa1 && batch.device == "pump-1")
    );
    assert!(log.iter().all(|batch| batch.body == readings(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_are_acknowledged_again_and_gaps_send_the_agent_back() {
    let world = World::start().await;
    let _bridge = world.bridge();
    let mut agent = Agent::connect(&world, "pump-1").await;
    agent.hello(&[(7, 1, 0)]).await;
    agent.await_hello_ack().await;
    agent.send(1, 1, &readings(1)).await;
    agent.await_position(7, 1).await;
    agent.send(1, 1, &readings(1)).await;
    agent.await_position(7, 1).await;
    agent.send(1, 3, &readings(1)).await;
    let ack = agent.await_ack(|ack| ack.go_back).await;
    assert_eq!(ack.positions, [pb::StreamPosition { stream: 7, seq: 1 }]);
    agent.send(1, 2, &readings(1)).await;
    agent.send(1, 3, &readings(1)).await;
    agent.await_position(7, 3).await;
    assert_eq!(world.telemetry("pump-1").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_streams_and_series_sets_are_asked_for() {
    let world = World::start().await;
    let _bridge = world.bridge();
    let mut agent = Agent::connect(&world, "pump-1").await;
    world.await_ready().await;
    agent.withhold_series = true;
    agent.send(9, 1, &readings(1)).await;
    agent.await_ack(|ack| ack.want_hello).await;
    agent.hello(&[(7, 9, 0)]).await;
    agent.await_hello_ack().await;
    agent.send(9, 1, &readings(1)).await;
    let ack = agent.await_ack(|ack| !ack.want_series.is_empty()).await;
    assert_eq!(ack.want_series, [support::series().hash()]);
    agent.withhold_series = false;
    agent.publish_series().await;
    agent.send(9, 1, &readings(1)).await;
    agent.await_position(7, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_was_killed_goes_on_where_kafka_is() {
    let world = World::start().await;
    let mut agent = Agent::connect(&world, "pump-1").await;
    let mut sent = 0;
    for round in 0..3u64 {
        // Killed in the middle of its work: the task is dropped, nothing is flushed.
        let bridge = world.bridge();
        if round == 0 {
            world.await_ready().await;
            agent.hello(&[(7, 1, 0)]).await;
        }
        // Later ones learn of the agent from the hello that the broker kept, and tell it to go on.
        let ack = agent.await_ack(|ack| ack.session == agent_session()).await;
        assert!(ack.go_back || round == 0);
        let from = ack.positions[0].seq;
        assert_eq!(from, sent, "round {round}");
        for seq in from + 1..=from + 20 {
            agent.send(1, seq, &readings(1)).await;
        }
        agent.await_position(7, from + 20).await;
        sent = from + 20;
        bridge.kill().await;
    }
    let seqs: Vec<u64> = world.telemetry("pump-1").iter().map(|batch| batch.seq).collect();
    assert_eq!(seqs, (1..=60).collect::<Vec<_>>());
}

fn agent_session() -> u64 {
    support::SESSION
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_payloads_are_refused_and_the_others_go_on() {
    let world = World::start().await;
    let _bridge = world.bridge();
    let mut good = Agent::connect(&world, "good").await;
    let mut bad = Agent::connect(&world, "bad").await;
    for agent in [&mut good, &mut bad] {
        agent.hello(&[(7, 1, 0)]).await;
        agent.await_hello_ack().await;
    }
    // No frame at all: counted, put to the dead letters, nothing to answer.
    bad.raw(&topic("bad", Kind::Data), b"\xff\xff\xff".to_vec()).await;
    bad.raw(&topic("bad", Kind::Data), Vec::new()).await;
    bad.raw(&topic("bad", Kind::Hello), b"\x10\xff\xff".to_vec())
        .await;
    // A wrong shard, a name that is none, a kind that is none.
    bad.raw("hw1/0/bad/data", vec![1]).await;
    bad.raw("hw1/0/b%20d/data", vec![1]).await;
    // A frame of the right stream and number whose body is garbage, then one cut short, then one too long.
    bad.send_bytes(vec![0x10, 1, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff])
        .await;
    let ack = bad.await_ack(|ack| !ack.refusals.is_empty()).await;
    assert_eq!((ack.refusals[0].stream, ack.refusals[0].seq), (7, 1));
    assert!(!ack.refusals[0].reason.is_empty());
    // The loss record in its place is accepted, and the stream goes on.
    bad.send(1, 1, &support::loss(1, 10)).await;
    bad.await_position(7, 1).await;
    let mut long = support::frame(1, 2, &readings(1));
    long.resize(300_000, 0);
    bad.send_bytes(long).await;
    let ack = bad
        .await_ack(|ack| ack.refusals.iter().any(|refusal| refusal.seq == 2))
        .await;
    assert!(
        ack.refusals[0].reason.contains("frame_bytes"),
        "{}",
        ack.refusals[0].reason
    );
    bad.send(1, 2, &support::loss(2, 5)).await;
    bad.await_position(7, 2).await;

    good.send(1, 1, &readings(2)).await;
    good.await_position(7, 1).await;
    assert_eq!(world.telemetry("good").len(), 1);
    let log = world.telemetry("bad");
    assert!(log.len() == 2 && log.iter().all(|batch| matches!(batch.body, Body::Loss(_))));

    let letters = world.dead_letters();
    let reasons: Vec<&str> = letters.iter().map(|letter| letter.reason.as_str()).collect();
    assert!(
        letters.iter().any(|letter| letter.payload == b"\xff\xff\xff"),
        "{reasons:?}"
    );
    assert!(
        letters.iter().any(|letter| letter.payload.len() == 300_000),
        "{reasons:?}"
    );
    assert!(
        letters
            .iter()
            .all(|letter| letter.topic.starts_with("hw1/") && !letter.reason.is_empty())
    );
    let metrics = world.monitor.metrics();
    for line in [
        r#"headwater_bridge_refusals_total{reason="topic"} 2"#,
        r#"headwater_bridge_refusals_total{reason="limit"} 1"#,
        r#"headwater_bridge_refusals_total{reason="malformed"} 1"#,
        r#"headwater_bridge_lost_readings_total 15"#,
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_kafka_delays_and_neither_loses_nor_repeats() {
    let world = World::start().await;
    let _bridge = world.bridge();
    let mut agent = Agent::connect(&world, "pump-1").await;
    agent.hello(&[(7, 1, 0)]).await;
    agent.await_hello_ack().await;
    agent.send(1, 1, &readings(1)).await;
    agent.await_position(7, 1).await;

    world.cluster.inner().broker_down(1).unwrap();
    for seq in 2..=10 {
        agent.send(1, seq, &readings(1)).await;
    }
    // The agent's timeout: it sends again what was not acknowledged.
    tokio::time::sleep(Duration::from_millis(500)).await;
    for seq in 2..=10 {
        agent.send(1, seq, &readings(1)).await;
    }
    world.await_not_ready("bridge kafka").await;
    world.cluster.inner().broker_up(1).unwrap();
    agent.await_position(7, 10).await;
    world.await_ready().await;
    let seqs: Vec<u64> = world.telemetry("pump-1").iter().map(|batch| batch.seq).collect();
    assert_eq!(seqs, (1..=10).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_kafka_fails_are_asked_for_again_in_order() {
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    let world = World::start().await;
    // No states meanwhile: they are produced too, and would take the errors that are meant for telemetry.
    let never = Duration::from_secs(3600);
    let settings = BridgeSettings {
        alone: true,
        state_interval: never,
        checkpoint_interval: never,
        ..Default::default()
    };
    let _bridge = world.bridge_with(settings);
    let mut agent = Agent::connect(&world, "pump-1").await;
    agent.hello(&[(7, 1, 0)]).await;
    agent.await_hello_ack().await;
    agent.send(1, 1, &readings(1)).await;
    agent.await_position(7, 1).await;
    world.await_state("pump-1", |state| state.online).await;
    world.cluster.inner().request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 2],
    );
    for seq in 2..=9 {
        agent.send(1, seq, &readings(1)).await;
    }
    let mut went_back = 0;
    loop {
        let ack = agent.await_ack(|ack| !ack.positions.is_empty()).await;
        let position = ack.positions[0].seq;
        if position == 9 {
            break;
        }
        if ack.go_back {
            went_back += 1;
            for seq in position + 1..=9 {
                agent.send(1, seq, &readings(1)).await;
            }
        }
    }
    assert!(went_back > 0);
    assert!(world.monitor.readiness().0, "{}", world.monitor.readiness().1);
    let seqs: Vec<u64> = world.telemetry("pump-1").iter().map(|batch| batch.seq).collect();
    assert_eq!(seqs, (1..=9).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn states_tell_presence_and_positions_and_a_stopped_bridge_leaves_a_checkpoint() {
    let world = World::start().await;
    let bridge = world.bridge();
    let mut agent = Agent::connect(&world, "pump-1").await;
    agent.hello(&[(7, 1, 0)]).await;
    agent.await_hello_ack().await;
    agent.send(1, 1, &readings(1)).await;
    agent.await_position(7, 1).await;
    let state = world.await_state("pump-1", |state| state.online).await;
    assert_eq!(state.session, support::SESSION);
    agent.vanish().await;
    let state = world.await_state("pump-1", |state| !state.online).await;
    assert!(state.since_us > 0 && state.last_seen_us > 0);
    bridge.stop().await;
    let state = world
        .await_state("pump-1", |state| state.newest_offset_plus_1 == 1)
        .await;
    assert_eq!(state.positions, [pb::StreamPosition { stream: 7, seq: 1 }]);
    let checkpoints = world.checkpoints();
    let partition = headwater_proto::shard::partition("pump-1", 4);
    assert_eq!(checkpoints[&partition], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_kafka_and_a_broker_that_refuses_are_said_and_waited_for() {
    let mut world = World::start().await;
    world.kafka.bootstrap = "127.0.0.1:1".into();
    world.kafka.timeout = Duration::from_millis(300);
    let bridge = world.bridge();
    world.await_not_ready("no answer from Kafka at 127.0.0.1:1").await;
    bridge.stop().await;

    let mut world = World::start().await;
    world.mqtt.broker = "mqtt://127.0.0.1:1".into();
    let bridge = world.bridge();
    world.await_not_ready("no connection to mqtt://127.0.0.1:1").await;
    bridge.stop().await;
}
