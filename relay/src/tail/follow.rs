//! Where the subscription stands, and what each frame says: pure.
//!
//! The position moves with what has *come*: everything that came is printed, and before another connection is opened. So a connection that
//! takes over begins with what has not come: no hole, no repeat.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use headwater_proto::{Batch, Limits, Message as _, pb, protobuf};
use pb::client_frame::Frame as ClientFrame;
use pb::server_frame::Frame;

use super::line::{Bucket, Line};
use crate::rows::row;

/// The one subscription's id.
pub(super) const ID: u32 = 1;

/// What a frame says.
#[derive(Debug, PartialEq)]
pub(super) enum Told {
    /// A counted frame, and what of it is to be printed.
    Lines(Vec<Line>),
    /// The token expires then, microseconds since the Unix epoch; 0: never.
    Expires(i64),
    /// It did not work for the moment: subscribe again.
    Again(String),
    /// The gateway is about to close; come back after this time.
    Goodbye(String, Duration),
    /// Good to know.
    Note(String),
    /// It will never work.
    Refused(String),
    /// Nothing of interest.
    Nothing,
}

/// The subscription over all its connections.
#[derive(Debug)]
pub(super) struct Follow {
    subscribe: pb::Subscribe,
    limits: Limits,
    /// Whether a connection has been welcomed.
    open: bool,
    /// Whether this connection's subscription stands.
    subscribed: bool,
    /// ALL and SERIES: the next offset of each partition.
    cursor: BTreeMap<u32, i64>,
    /// ALL from a time: what arrived before is left out, microseconds.
    not_before_us: i64,
    /// LATEST: the time of what was last printed of a device's metric, so that a snapshot does not repeat it.
    latest: HashMap<(String, String), i64>,
}

impl Follow {
    /// With what is to be subscribed to at first.
    pub(super) fn new(subscribe: pb::Subscribe) -> Self {
        let not_before_us = match subscribe.start.as_ref().and_then(|start| start.at.as_ref()) {
            Some(&pb::start::At::TimeUs(time_us)) => time_us,
            _ => i64::MIN,
        };
        Self {
            subscribe,
            limits: Limits::default(),
            open: false,
            subscribed: false,
            cursor: BTreeMap::new(),
            not_before_us,
            latest: HashMap::new(),
        }
    }

    /// Whether a gateway has ever taken the token and the subscription.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// What to subscribe to on a connection that begins.
    pub(super) fn begin(&mut self) -> ClientFrame {
        self.subscribed = false;
        let mut subscribe = self.subscribe.clone();
        if !self.cursor.is_empty() {
            let position = |(&partition, &offset)| pb::PartitionOffset { partition, offset };
            let positions = self.cursor.iter().map(position).collect();
            let at = Some(pb::start::At::Cursor(pb::Cursor { positions }));
            subscribe.start = Some(pb::Start { at });
        }
        ClientFrame::Subscribe(subscribe)
    }

    /// A frame of the gateway.
    pub(super) fn receive(&mut self, frame: Frame) -> Told {
        match frame {
            Frame::Welcome(welcome) => Told::Expires(welcome.token_expires_us),
            Frame::TokenAccepted(accepted) => Told::Expires(accepted.token_expires_us),
            Frame::Subscribed(subscribed) => {
                (self.open, self.subscribed) = (true, true);
                self.reach(subscribed.cursor.as_ref());
                Told::Nothing
            }
            Frame::CaughtUp(caught_up) => {
                self.reach(caught_up.cursor.as_ref());
                Told::Nothing
            }
            Frame::Data(data) => Told::Lines(self.data(&data)),
            Frame::Latest(latest) => Told::Lines(self.latest(&latest)),
            Frame::Series(series) => {
                self.reach(series.cursor.as_ref());
                Told::Lines(buckets(&series))
            }
            Frame::Gap(gap) => {
                self.cursor.insert(gap.partition, gap.to_offset);
                Told::Lines(vec![Line::Gap(gap)])
            }
            Frame::Presence(_) => Told::Lines(Vec::new()),
            Frame::Error(error) => self.error(error),
            Frame::Goodbye(goodbye) => {
                for stands in goodbye.cursors.iter().filter(|stands| stands.id == ID) {
                    self.reach(stands.cursor.as_ref());
                }
                let after = Duration::from_millis(goodbye.retry_after_ms.into());
                Told::Goodbye(goodbye.reason, after)
            }
            Frame::Reply(_) | Frame::Pong(_) | Frame::Coming(_) => Told::Nothing,
        }
    }

    fn reach(&mut self, cursor: Option<&pb::Cursor>) {
        // LATEST begins anew with the newest values.
        if self.subscribe.mode() != pb::Mode::Latest {
            for position in cursor.iter().flat_map(|cursor| &cursor.positions) {
                self.cursor.insert(position.partition, position.offset);
            }
        }
    }

    fn data(&mut self, data: &pb::Data) -> Vec<Line> {
        // A gateway that sends what we have had is none we know; to print it twice would be worse than to say nothing.
        let next = self.cursor.entry(data.partition).or_insert(i64::MIN);
        if data.offset < *next {
            return Vec::new();
        }
        *next = data.offset + 1;
        if data.arrival_us < self.not_before_us {
            return Vec::new();
        }
        match protobuf::decode(&data.batch, &self.limits) {
            Ok(batch) => lines(&batch, data.arrival_us),
            Err(error) => vec![Line::Unreadable {
                partition: data.partition,
                offset: data.offset,
                why: error.to_string(),
            }],
        }
    }

    fn latest(&mut self, latest: &pb::Latest) -> Vec<Line> {
        let mut out = Vec::new();
        for batch in &latest.batches {
            let Ok(batch) = protobuf::decode(&batch.encode_to_vec(), &self.limits) else {
                continue;
            };
            for reading in row::rows(&batch, 0) {
                let key = (reading.device.clone(), reading.metric.clone());
                let told = self.latest.entry(key).or_insert(i64::MIN);
                if reading.time_us > *told {
                    *told = reading.time_us;
                    out.push(Line::Reading(Box::new(reading)));
                }
            }
        }
        out
    }

    fn error(&mut self, error: pb::ServerError) -> Told {
        if error.code() != pb::ErrorCode::Unavailable {
            return Told::Refused(error.message);
        }
        // A subscription that stands tries again by itself.
        match self.subscribed {
            true => Told::Note(error.message),
            false => Told::Again(error.message),
        }
    }
}

/// A batch's readings in the order of their times.
fn lines(batch: &Batch, arrival_us: i64) -> Vec<Line> {
    let mut readings = row::rows(batch, arrival_us);
    readings.sort_by_key(|reading| reading.time_us);
    readings
        .into_iter()
        .map(|reading| Line::Reading(Box::new(reading)))
        .collect()
}

fn buckets(series: &pb::SeriesFrame) -> Vec<Line> {
    let mut out = Vec::new();
    for column in &series.columns {
        for (at, &number) in column.bucket.iter().enumerate() {
            let value = |values: &[f64]| values.get(at).copied().unwrap_or(f64::NAN);
            let since_us = i64::from(number).wrapping_mul(column.bucket_us);
            out.push(Line::Bucket(Box::new(Bucket {
                device: column.device.clone(),
                metric: column.metric.clone(),
                unit: column.unit.clone(),
                start_us: column.start_us.wrapping_add(since_us),
                bucket_us: column.bucket_us,
                min: value(&column.min),
                max: value(&column.max),
                last: value(&column.last),
                count: column.count.get(at).copied().unwrap_or(0),
            })));
        }
    }
    out.sort_by_key(|line| match line {
        Line::Bucket(bucket) => bucket.start_us,
        _ => 0,
    });
    for loss in &series.losses {
        out.push(Line::Reading(Box::new(pb::Reading {
            device: loss.device.clone(),
            metric: row::LOST.into(),
            time_us: loss.last_arrival_us,
            value: Some(pb::reading::Value::Int(
                i64::try_from(loss.readings).unwrap_or(i64::MAX),
            )),
            ..pb::Reading::default()
        })));
    }
    out
}

#[cfg(test)]
mod tests {
    use headwater_proto::{Body, Column, Loss, LossReason, Readings, Values};

    use super::*;

    fn follow(mode: pb::Mode, at: pb::start::At) -> Follow {
        Follow::new(pb::Subscribe {
            id: ID,
            mode: mode.into(),
            start: Some(pb::Start { at: Some(at) }),
            ..pb::Subscribe::default()
        })
    }

    fn batch(body: Body) -> Batch {
        Batch {
            device: "gw".into(),
            stream: 1,
            seq: 2,
            body,
        }
    }

    fn reading(time_us: i64, value: f64) -> Batch {
        batch(Body::Readings(Readings {
            times: vec![vec![time_us]],
            columns: vec![Column {
                metric: "temp".into(),
                unit: String::new(),
                times: 0,
                values: Values::F64(vec![value]),
                suspect: vec![],
            }],
            ..Readings::default()
        }))
    }

    fn data(partition: u32, offset: i64, arrival_us: i64, batch: &Batch) -> Frame {
        Frame::Data(pb::Data {
            filter: 0,
            partition,
            offset,
            arrival_us,
            batch: protobuf::encode(batch),
        })
    }

    fn count(told: &Told) -> usize {
        match told {
            Told::Lines(lines) => lines.len(),
            other => panic!("{other:?}"),
        }
    }

    fn start(frame: ClientFrame) -> pb::start::At {
        match frame {
            ClientFrame::Subscribe(subscribe) => subscribe.start.unwrap().at.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn cursor(positions: &[(u32, i64)]) -> pb::Cursor {
        let position = |&(partition, offset)| pb::PartitionOffset { partition, offset };
        pb::Cursor {
            positions: positions.iter().map(position).collect(),
        }
    }

    #[test]
    fn a_connection_goes_on_where_the_last_one_left_off_and_nothing_is_shown_twice() {
        let mut follow = follow(pb::Mode::All, pb::start::At::Now(true));
        assert_eq!(start(follow.begin()), pb::start::At::Now(true));
        assert!(!follow.is_open());
        follow.receive(Frame::Subscribed(pb::Subscribed {
            id: ID,
            filter: 0,
            cursor: Some(cursor(&[(0, 5), (1, 7)])),
        }));
        assert!(follow.is_open());
        assert_eq!(count(&follow.receive(data(0, 9, 1, &reading(1, 1.0)))), 1);
        let gap = pb::Gap {
            partition: 1,
            from_offset: 7,
            to_offset: 20,
            ..pb::Gap::default()
        };
        assert_eq!(count(&follow.receive(Frame::Gap(gap))), 1);
        let caught_up = pb::CaughtUp {
            id: ID,
            cursor: Some(cursor(&[(0, 11), (1, 20)])),
        };
        follow.receive(Frame::CaughtUp(caught_up));
        let at = pb::start::At::Cursor(cursor(&[(0, 11), (1, 20)]));
        assert_eq!(start(follow.begin()), at);
        assert_eq!(count(&follow.receive(data(0, 10, 1, &reading(1, 1.0)))), 0);
        assert_eq!(count(&follow.receive(data(0, 11, 1, &reading(1, 1.0)))), 1);
    }

    #[test]
    fn what_arrived_before_the_time_stays_out_after_a_reconnect_too() {
        let mut follow = follow(pb::Mode::All, pb::start::At::TimeUs(100));
        assert_eq!(count(&follow.receive(data(0, 1, 99, &reading(1, 1.0)))), 0);
        assert_eq!(count(&follow.receive(data(0, 2, 100, &reading(1, 1.0)))), 1);
    }

    #[test]
    fn a_loss_is_shown() {
        let mut follow = follow(pb::Mode::All, pb::start::At::Now(true));
        let loss = batch(Body::Loss(Loss {
            through: 9,
            readings: 77,
            reason: LossReason::JournalFull,
        }));
        match follow.receive(data(0, 1, 5, &loss)) {
            Told::Lines(lines) => match &lines[..] {
                [Line::Reading(row)] => {
                    assert_eq!((row.metric.as_str(), row.time_us), (row::LOST, 5));
                }
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_snapshot_repeats_nothing_that_was_shown() {
        let mut follow = follow(pb::Mode::Latest, pb::start::At::Snapshot(true));
        let frame = |time_us| {
            let batch = pb::Batch::decode(&protobuf::encode(&reading(time_us, 1.0))[..]).unwrap();
            Frame::Latest(pb::Latest {
                id: ID,
                batches: vec![batch],
                ..pb::Latest::default()
            })
        };
        assert_eq!(count(&follow.receive(frame(10))), 1);
        assert_eq!(start(follow.begin()), pb::start::At::Snapshot(true));
        assert_eq!(count(&follow.receive(frame(10))), 0);
        assert_eq!(count(&follow.receive(frame(11))), 1);
    }

    #[test]
    fn buckets_and_losses_are_told_with_their_times() {
        let series = pb::SeriesFrame {
            columns: vec![pb::SeriesColumn {
                start_us: 1000,
                bucket_us: 10,
                bucket: vec![0, 3],
                min: vec![1.0, 2.0],
                max: vec![3.0, 4.0],
                last: vec![2.0, 3.0],
                count: vec![5, 6],
                ..pb::SeriesColumn::default()
            }],
            losses: vec![pb::SeriesLoss {
                readings: 12,
                last_arrival_us: 9,
                ..pb::SeriesLoss::default()
            }],
            cursor: Some(cursor(&[(2, 8)])),
            ..pb::SeriesFrame::default()
        };
        let mut follow = follow(pb::Mode::Series, pb::start::At::TimeUs(5));
        let lines = match follow.receive(Frame::Series(series)) {
            Told::Lines(lines) => lines,
            other => panic!("{other:?}"),
        };
        assert_eq!(start(follow.begin()), pb::start::At::Cursor(cursor(&[(2, 8)])));
        match &lines[2] {
            Line::Reading(lost) => assert_eq!(lost.value, Some(pb::reading::Value::Int(12))),
            other => panic!("{other:?}"),
        }
        match &lines[1] {
            Line::Bucket(bucket) => assert_eq!(
                (bucket.start_us, bucket.min, bucket.max, bucket.last, bucket.count),
                (1030, 2.0, 4.0, 3.0, 6)
            ),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_unavailable_is_tried_again_and_what_is_wrong_ends_it() {
        let mut follow = follow(pb::Mode::All, pb::start::At::TimeUs(1));
        let error = |code: pb::ErrorCode| {
            Frame::Error(pb::ServerError {
                id: ID,
                code: code.into(),
                message: "why".into(),
                ..pb::ServerError::default()
            })
        };
        assert_eq!(
            follow.receive(error(pb::ErrorCode::Unavailable)),
            Told::Again("why".into())
        );
        follow.receive(Frame::Subscribed(pb::Subscribed::default()));
        assert_eq!(
            follow.receive(error(pb::ErrorCode::Unavailable)),
            Told::Note("why".into())
        );
        assert_eq!(
            follow.receive(error(pb::ErrorCode::Forbidden)),
            Told::Refused("why".into())
        );
    }
}
