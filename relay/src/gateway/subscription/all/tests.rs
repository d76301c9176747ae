use super::*;
use std::time::Duration;

use crate::gateway::catchup::CatchUp;
use crate::gateway::filter::Filters;
use crate::gateway::metrics::Metrics;
use crate::gateway::record::tests::{batch, record};
use crate::gateway::settings::GatewaySettings;
use crate::gateway::subscription::FRAME_BYTES;
use crate::gateway::token::Keys;
use crate::kafka::KafkaSettings;

/// Two partitions, Kafka out of reach.
pub(in crate::gateway::subscription) fn hub() -> Hub {
    let settings = GatewaySettings::default();
    let kafka = KafkaSettings {
        bootstrap: "127.0.0.1:1".into(),
        ..KafkaSettings::default()
    };
    let catch_up = CatchUp::start(&kafka, 1, &headwater_proto::Limits::default()).unwrap();
    let keys = Keys::load(&[], &settings.tokens).unwrap();
    let metrics = Metrics::new(&mut prometheus_client::registry::Registry::default());
    Hub::new(settings, keys, metrics, catch_up, 2)
}

fn append(hub: &Hub, partition: u32, offset: i64) {
    let ledger = Arc::clone(hub.log().ledger());
    hub.log_mut()
        .append(record(partition, offset, &batch("gw", 1, 5), &ledger));
}

fn all(hub: &Hub, cursor: &[i64]) -> (All, Grant) {
    let beginning = Beginning {
        positions: cursor.to_vec(),
        ..Beginning::default()
    };
    let all = All::new(
        1,
        Globs::All,
        Filters::default().get(&[], 0).unwrap(),
        beginning,
        hub,
    );
    (all, hub.keys.check(None).unwrap())
}

fn gap(turn: Turn) -> pb::Gap {
    let Turn::Frame(counted) = turn else {
        panic!("{turn:?}")
    };
    let frame: pb::ServerFrame = headwater_proto::Message::decode(counted.frame.plain()).unwrap();
    let Some(Frame::Gap(gap)) = frame.frame else {
        panic!("{frame:?}")
    };
    gap
}

/// How long after a failed read the next is tried.
const RETRY: Duration = Duration::from_secs(1);

/// As a driver does, but for the turns that come to nothing.
fn next(all: &mut All, now: Instant, hub: &Hub, grant: &Grant) -> Turn {
    loop {
        match all.poll(now, hub, grant, FRAME_BYTES) {
            Turn::Again => {}
            turn => return turn,
        }
    }
}

#[test]
fn a_topic_made_anew_while_it_is_watched_is_a_reset() {
    let (hub, now) = (hub(), Instant::now());
    hub.log_mut().begin(0, 100);
    append(&hub, 0, 100);
    let (mut all, grant) = all(&hub, &[101, 0]);
    assert!(matches!(
        next(&mut all, now, &hub, &grant),
        Turn::Tell(Frame::CaughtUp(_))
    ));
    append(&hub, 0, 0);
    append(&hub, 0, 1);
    let gap = gap(next(&mut all, now, &hub, &grant));
    assert_eq!((gap.partition, gap.from_offset, gap.to_offset), (0, 101, 0));
    assert_eq!(gap.reason(), pb::GapReason::Reset);
    for _ in 0..2 {
        assert!(matches!(next(&mut all, now, &hub, &grant), Turn::Frame(_)));
    }
    assert!(
        matches!(next(&mut all, now, &hub, &grant), Turn::Idle(Some(_))),
        "caught up is told again later"
    );
    assert_eq!(all.cursor().unwrap().positions[0].offset, 2);
}

#[test]
fn a_read_that_fails_is_told_once_and_tried_again() {
    let (hub, now) = (hub(), Instant::now());
    hub.log_mut().begin(1, 10);
    let (mut all, grant) = all(&hub, &[0, 4]);
    let range = Range {
        partition: 1,
        from: 4,
        until: 10,
    };
    for round in 0..3 {
        let now = now + RETRY * round;
        let Turn::Read(asked) = next(&mut all, now, &hub, &grant) else {
            panic!()
        };
        assert_eq!(asked, range);
        assert!(
            matches!(next(&mut all, now, &hub, &grant), Turn::Idle(_)),
            "one read at a time"
        );
        let told = all.fetched(now, range, Err(catchup::Error::Stopping));
        assert_eq!(matches!(told, Some(Frame::Error(_))), round == 0);
        assert!(matches!(next(&mut all, now, &hub, &grant), Turn::Idle(Some(at)) if at == now + RETRY));
    }
}

#[test]
fn what_is_let_go_is_read_again() {
    let (hub, now) = (hub(), Instant::now());
    hub.log_mut().begin(1, 10);
    let (mut all, grant) = all(&hub, &[0, 4]);
    let range = Range {
        partition: 1,
        from: 4,
        until: 10,
    };
    let records: Vec<_> = [4, 5, 9]
        .map(|offset| Arc::new(record(1, offset, &batch("gw", 1, 5), &Arc::default())))
        .into();
    let chunk = Chunk {
        low: 0,
        high: 10,
        records,
        next: 10,
    };
    assert!(matches!(next(&mut all, now, &hub, &grant), Turn::Read(asked) if asked == range));
    all.fetched(now, range, Ok(chunk.clone()));
    assert!(matches!(next(&mut all, now, &hub, &grant), Turn::Frame(_)));
    all.let_go();
    let rest = Range { from: 5, ..range };
    assert!(matches!(next(&mut all, now, &hub, &grant), Turn::Read(asked) if asked == rest));
    all.fetched(
        now,
        rest,
        Ok(Chunk {
            records: chunk.records[1..].to_vec(),
            ..chunk
        }),
    );
    for _ in 0..2 {
        assert!(matches!(next(&mut all, now, &hub, &grant), Turn::Frame(_)));
    }
    assert!(matches!(
        next(&mut all, now, &hub, &grant),
        Turn::Tell(Frame::CaughtUp(_))
    ));
}

#[test]
fn a_gap_and_what_lies_behind_it_come_in_order() {
    let (hub, now) = (hub(), Instant::now());
    hub.log_mut().begin(1, 10);
    let (mut all, grant) = all(&hub, &[0, 4]);
    let Turn::Read(range) = next(&mut all, now, &hub, &grant) else {
        panic!()
    };
    let records = vec![Arc::new(record(1, 8, &batch("gw", 1, 5), &Arc::default()))];
    all.fetched(
        now,
        range,
        Ok(Chunk {
            low: 7,
            high: 10,
            records,
            next: 10,
        }),
    );
    let gap = gap(next(&mut all, now, &hub, &grant));
    assert_eq!(
        (gap.from_offset, gap.to_offset, gap.reason()),
        (4, 7, pb::GapReason::Retention)
    );
    assert!(matches!(next(&mut all, now, &hub, &grant), Turn::Frame(_)));
    assert_eq!(all.cursor().unwrap().positions[1].offset, 9);
}
