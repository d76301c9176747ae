use super::*;
use std::sync::Arc;

use headwater_proto::{Limits, Message as _};
use proptest::prelude::*;

use crate::gateway::record::tests::{batch, record};
use crate::gateway::subscription::FRAME_BYTES;
use crate::gateway::subscription::all::tests::hub;

/// A batch of five numbers in two buckets of a second: `door`, `hum` and `temp`.
fn append(hub: &Hub, partition: u32, offset: i64, at_us: i64) {
    let ledger = Arc::clone(hub.log().ledger());
    let batch = batch("gw", offset as u64 + 1, at_us);
    hub.log_mut().append(record(partition, offset, &batch, &ledger));
}

fn unreadable(hub: &Hub, partition: u32, offset: i64) {
    let ledger = Arc::clone(hub.log().ledger());
    let (record, _) = Record::new(
        (partition, offset, 0),
        b"gw",
        &[0xff; 9],
        &Limits::default(),
        &ledger,
    );
    hub.log_mut().append(record);
}

fn series(hub: &Hub, positions: &[i64], now: Instant) -> (Series, Grant) {
    let beginning = Beginning {
        positions: positions.to_vec(),
        ..Beginning::default()
    };
    let globs = (Globs::All, Globs::All);
    let held = Held::new(Arc::clone(&hub.held));
    let series = Series::new(1, globs, Duration::from_secs(1), beginning, now, (hub, held));
    (series, hub.keys.check(None).unwrap())
}

fn next(series: &mut Series, now: Instant, hub: &Hub, grant: &Grant) -> Turn {
    loop {
        match series.poll(now, hub, grant, FRAME_BYTES) {
            Turn::Again => {}
            turn => return turn,
        }
    }
}

fn decoded(counted: &Counted) -> Frame {
    let frame = pb::ServerFrame::decode(counted.frame.plain()).unwrap();
    frame.frame.unwrap()
}

fn frame(turn: Turn) -> pb::SeriesFrame {
    match turn {
        Turn::Frame(counted) => match decoded(&counted) {
            Frame::Series(series) => series,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn counts(frame: &pb::SeriesFrame) -> u32 {
    frame.columns.iter().flat_map(|column| &column.count).sum()
}

#[test]
fn history_comes_at_once_then_a_frame_a_second() {
    let (hub, now) = (hub(), Instant::now());
    for offset in 0..3 {
        append(&hub, 0, offset, offset * 1_000_000);
    }
    let (mut series, grant) = series(&hub, &[0, 0], now);
    let told = frame(next(&mut series, now, &hub, &grant));
    assert_eq!((counts(&told), told.merged, told.id), (15, 3, 1));
    assert_eq!(told.cursor, Some(cursor::message([(0, 3)])), "only what moved");
    assert!(told.columns.iter().all(|column| column.bucket_us == 1_000_000));
    let Turn::Tell(Frame::CaughtUp(caught_up)) = next(&mut series, now, &hub, &grant) else {
        panic!()
    };
    assert_eq!(caught_up.cursor, Some(cursor::whole(&[3, 0])));
    append(&hub, 1, 0, 5_000_000);
    let due = now + RAREST;
    assert!(matches!(next(&mut series, now, &hub, &grant), Turn::Idle(Some(at)) if at == due));
    append(&hub, 0, 3, 5_000_000);
    assert!(matches!(next(&mut series, now, &hub, &grant), Turn::Idle(Some(at)) if at == due));
    assert_eq!(
        series.cursor(),
        cursor::whole(&[3, 0]),
        "what is held has not gone out"
    );
    let told = frame(next(&mut series, due, &hub, &grant));
    assert_eq!((counts(&told), told.merged), (10, 2));
    assert_eq!(told.cursor, Some(cursor::message([(0, 4), (1, 1)])));
    assert!(matches!(
        next(&mut series, due, &hub, &grant),
        Turn::Idle(Some(_))
    ));
}

#[test]
fn while_the_window_is_closed_history_waits_and_what_is_live_widens() {
    let (hub, now) = (hub(), Instant::now());
    append(&hub, 0, 0, 0);
    let (mut series, grant) = series(&hub, &[0, 0], now);
    assert!(!series.closed(&hub, &grant));
    assert!(series.buckets.is_empty(), "history waits in the log");
    assert_eq!(counts(&frame(next(&mut series, now, &hub, &grant))), 5);
    assert!(matches!(next(&mut series, now, &hub, &grant), Turn::Tell(_)));
    for second in 1..=5000 {
        append(&hub, 0, second, second * 1_000_000);
        while series.closed(&hub, &grant) {}
    }
    assert!(series.buckets.held() < 64 << 10, "{}", series.buckets.held());
    let now = now + RAREST;
    let told = frame(next(&mut series, now, &hub, &grant));
    assert_eq!((counts(&told), told.merged), (25_000, 5000));
    for column in &told.columns {
        assert!(column.bucket.len() <= crate::gateway::buckets::COLUMN_BUCKETS);
        assert_eq!(column.bucket_us, 64_000_000);
    }
    append(&hub, 0, 5001, 5_001_000_000);
    let told = frame(next(&mut series, now + RAREST, &hub, &grant));
    assert_eq!(told.columns[0].bucket_us, 1_000_000, "as asked for again");
}

#[test]
fn what_was_before_a_gap_goes_out_before_it_with_the_cursor_of_before() {
    let (hub, now) = (hub(), Instant::now());
    append(&hub, 0, 0, 0);
    unreadable(&hub, 0, 1);
    append(&hub, 0, 2, 0);
    let (mut series, grant) = series(&hub, &[0, 0], now);
    let told = frame(next(&mut series, now, &hub, &grant));
    assert_eq!((told.merged, told.cursor), (1, Some(cursor::message([(0, 1)]))));
    let Turn::Frame(counted) = next(&mut series, now, &hub, &grant) else {
        panic!()
    };
    let Frame::Gap(gap) = decoded(&counted) else {
        panic!()
    };
    assert_eq!((gap.from_offset, gap.to_offset), (1, 2));
    let told = frame(next(&mut series, now, &hub, &grant));
    assert_eq!((told.merged, told.cursor), (1, Some(cursor::message([(0, 3)]))));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Append(u32, i64),
    Unreadable(u32),
    Open(u64),
    Closed,
    /// The connection breaks off; the client goes on at another gateway with what it was told.
    Break,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u32..2, -100i64..1000).prop_map(|(partition, second)| Step::Append(partition, second)),
        1 => (0u32..2).prop_map(Step::Unreadable),
        3 => (0u64..1500).prop_map(Step::Open),
        3 => Just(Step::Closed),
        1 => Just(Step::Break),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Every reading is in one frame, every gap is told once, wherever the connection breaks off.
    #[test]
    fn no_hole_and_no_repeat(steps in prop::collection::vec(step(), 0..80)) {
        let hub = hub();
        let mut now = Instant::now();
        let mut ends = [0i64; 2];
        let mut known = vec![0i64; 2];
        let (mut current, grant) = series(&hub, &known, now);
        let (mut readings, mut gaps, mut told, mut told_gaps) = (0, 0, 0, 0);

        let mut look = |turn: Turn, known: &mut Vec<i64>| {
            let moved = match turn {
                Turn::Frame(counted) => match decoded(&counted) {
                    Frame::Series(frame) => {
                        told += counts(&frame);
                        frame.cursor
                    }
                    Frame::Gap(gap) => {
                        told_gaps += 1;
                        assert_eq!(known[gap.partition as usize], gap.from_offset);
                        Some(cursor::message([(gap.partition as usize, gap.to_offset)]))
                    }
                    other => panic!("{other:?}"),
                },
                Turn::Tell(Frame::CaughtUp(caught_up)) => caught_up.cursor,
                Turn::Again => None,
                Turn::Idle(_) => return false,
                other => panic!("{other:?}"),
            };
            for position in moved.unwrap_or_default().positions {
                known[position.partition as usize] = position.offset;
            }
            true
        };
        for step in steps.into_iter().chain([Step::Open(2000), Step::Open(2000)]) {
            match step {
                Step::Append(partition, second) => {
                    append(&hub, partition, ends[partition as usize], second * 1_000_000);
                    ends[partition as usize] += 1;
                    readings += 5;
                }
                Step::Unreadable(partition) => {
                    unreadable(&hub, partition, ends[partition as usize]);
                    ends[partition as usize] += 1;
                    gaps += 1;
                }
                Step::Open(ms) => {
                    now += Duration::from_millis(ms);
                    while look(current.poll(now, &hub, &grant, FRAME_BYTES), &mut known) {}
                }
                Step::Closed => while current.closed(&hub, &grant) {},
                Step::Break => {
                    prop_assert_eq!(current.cursor(), cursor::whole(&known), "as Goodbye would say");
                    current = series(&hub, &known, now).0;
                }
            }
        }
        prop_assert_eq!((told, told_gaps), (readings, gaps));
        prop_assert_eq!(known, ends.to_vec());
    }
}
