//! Bytes from anyone: no panic, and never more memory than their length and the limits justify.

mod arbitrary;

use std::alloc::System;
use std::sync::{Mutex, MutexGuard, PoisonError};

use arbitrary::series_of;
use headwater_proto::frame::{Compression, Encoding, Frame, open_control, seal};
use headwater_proto::{
    Batch, Body, Column, Error, Limits, Readings, Series, SeriesSet, ValueType, Values, pb, protobuf,
};
use proptest::prelude::*;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The allocator counts for the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All that `run` asked for, freed again or not.
fn asked<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let region = Region::new(ALLOCATOR);
    let out = run();
    (out, region.change().bytes_allocated)
}

/// Small enough that whatever ignores them shows.
fn limits() -> Limits {
    Limits {
        readings: 2_000,
        columns: 50,
        frame_bytes: 20_000,
        body_bytes: 40_000,
        string_bytes: 20_000,
    }
}

/// The input 64 times over (a byte of a packed field becomes eight, vectors double, and the model stands beside the
/// message), each limit at its size in memory, and the inflater's window and tables.
fn justified(input: usize, limits: &Limits) -> usize {
    64 * input.min(limits.body_bytes)
        + limits.readings * 64
        + limits.columns * 1024
        + 2 * limits.string_bytes
        + 2 * limits.body_bytes
        + 64 * 1024
}

fn take(bytes: &[u8], series: &SeriesSet) {
    let limits = limits();
    let allowed = justified(bytes.len(), &limits);
    let (_, asked_for) = asked(|| protobuf::decode(bytes, &limits).is_ok());
    assert!(
        asked_for <= allowed,
        "protobuf: {asked_for} bytes for {} of input, {allowed} are justified",
        bytes.len()
    );
    let (_, asked_for) = asked(|| {
        let frame = Frame::parse(bytes, &limits)?;
        let hash = frame.series_set()?;
        frame.body((hash != 0).then_some(series), &limits)
    });
    assert!(
        asked_for <= allowed,
        "frame: {asked_for} bytes for {} of input, {allowed} are justified",
        bytes.len()
    );
    let (rewritten, asked_for) = asked(|| -> Result<_, Error> {
        let frame = Frame::parse(bytes, &limits)?;
        Ok((
            frame.rewrite(series, &limits, ("a", 1, 1))?,
            frame.body(Some(series), &limits),
        ))
    });
    assert!(
        asked_for <= 2 * allowed,
        "rewritten: {asked_for} bytes for {} of input, {allowed} are justified",
        bytes.len()
    );
    // What is rewritten is what is decoded, and nothing is that is not.
    if let Ok((Some(rewritten), body)) = rewritten {
        let batch = Batch {
            device: "a".to_owned(),
            stream: 1,
            seq: 1,
            body: body.expect("it was read to be rewritten"),
        };
        assert_eq!(protobuf::decode(&rewritten.value, &Limits::default()), Ok(batch));
    }
    let (_, asked_for) = asked(|| open_control::<pb::Hello>("hello", bytes).is_ok());
    assert!(
        asked_for <= allowed,
        "control: {asked_for} bytes for {} of input",
        bytes.len()
    );
}

fn every_type() -> SeriesSet {
    let types = [ValueType::F64, ValueType::I64, ValueType::Bool, ValueType::String];
    let series = types.map(|value_type| Series {
        metric: format!("{value_type:?}"),
        unit: String::new(),
        value_type,
    });
    SeriesSet::new(series.to_vec(), 0)
}

/// A frame's beginning that leads into the body: any encoding and compression, the right series set.
fn frame_around(envelope: u8, series: &SeriesSet, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x10 | envelope & 0x0f, 1, 1];
    bytes.extend(series.hash().to_le_bytes());
    bytes.extend(body);
    bytes
}

fn many_cases() -> ProptestConfig {
    ProptestConfig {
        cases: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

#[test]
fn random_bytes() {
    let _alone = alone();
    let series = every_type();
    proptest!(many_cases(), |(envelope in 0..8u8, body in prop::collection::vec(any::<u8>(), 0..200))| {
        take(&body, &series);
        take(&frame_around(envelope, &series, &body), &series);
        // Past the postcard frame, straight into the columns.
        let bits = &body[..body.len().min(127)];
        let mut dense = vec![0, bits.len() as u8];
        dense.extend(bits);
        take(&frame_around(4, &series, &dense), &series);
    });
}

#[test]
fn broken_frames() {
    let _alone = alone();
    let flips = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let cut = any::<prop::sample::Index>();
    proptest!(many_cases(), |(body in arbitrary::body(), form in 0..4usize, cut in cut, flips in flips)| {
        let series = series_of(&body);
        let encoding = [Encoding::Protobuf, Encoding::Postcard][form / 2];
        let compression = [Compression::None, Compression::Deflate][form % 2];
        let sealed = seal(&body, &series, encoding, compression, &Limits::default());
        let mut bytes = sealed.expect("within the limits").frame(1, 1);
        for (at, bits) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
        }
        take(&bytes, &series);
        bytes.truncate(cut.index(bytes.len() + 1));
        take(&bytes, &series);
        take(&bytes[bytes.len().min(7)..], &series);
    });
}

fn one(metric: &str, values: Values) -> Readings {
    let times = (0..values.len() as i64).collect();
    let column = Column {
        metric: metric.to_owned(),
        unit: String::new(),
        times: 0,
        values,
        suspect: Vec::new(),
    };
    Readings {
        times: vec![times],
        columns: vec![column],
        ..Readings::default()
    }
}

fn limit_of<T: std::fmt::Debug>(result: Result<T, Error>) -> &'static str {
    match result {
        Err(Error::Limit { what, actual, limit }) => {
            assert!(actual > limit);
            what
        }
        other => panic!("{other:?}"),
    }
}

/// Both ways, and in both encodings.
fn refused(readings: Readings, limits: &Limits, what: &str) {
    let wide = Limits {
        readings: 1 << 20,
        columns: 1 << 20,
        frame_bytes: 1 << 24,
        body_bytes: 1 << 24,
        string_bytes: 1 << 24,
    };
    let body = Body::Readings(readings);
    let series = series_of(&body);
    let batch = Batch {
        body: body.clone(),
        ..Batch::default()
    };
    for (encoding, compression) in [
        (Encoding::Protobuf, Compression::None),
        (Encoding::Protobuf, Compression::Deflate),
        (Encoding::Postcard, Compression::None),
        (Encoding::Postcard, Compression::Deflate),
    ] {
        assert_eq!(
            limit_of(seal(&body, &series, encoding, compression, limits)),
            what,
            "{encoding:?}"
        );
        let bytes = seal(&body, &series, encoding, compression, &wide)
            .expect("within wide limits")
            .frame(1, 1);
        let decoded = Frame::parse(&bytes, limits).and_then(|frame| frame.body(Some(&series), limits));
        assert_eq!(limit_of(decoded), what, "{encoding:?} {compression:?}");
    }
    if what != "frame_bytes" {
        assert_eq!(
            limit_of(protobuf::decode(&protobuf::encode(&batch), limits)),
            what
        );
    }
}

#[test]
fn limits_hold_both_ways() {
    let _alone = alone();
    let limits = limits();
    refused(one("x", Values::F64(vec![1.5; 2_001])), &limits, "readings");
    refused(one("x", Values::I64((0..2_001).collect())), &limits, "readings");
    let mut many = one("x", Values::Bool(vec![true]));
    many.columns = vec![many.columns[0].clone(); 51];
    refused(many, &limits, "columns");
    let mut many = one("x", Values::Bool(vec![true]));
    many.times = vec![many.times[0].clone(); 51];
    refused(many, &limits, "columns");
    refused(
        one("x", Values::String(vec!["0123456789".to_owned(); 2_000])),
        &Limits {
            string_bytes: 19_999,
            ..limits
        },
        "string_bytes",
    );
    let mut seed = 1u64;
    let noise = |_| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        f64::from_bits(seed)
    };
    let noise = one("x", Values::F64((0..1_500).map(noise).collect()));
    refused(
        noise.clone(),
        &Limits {
            frame_bytes: 11_000,
            ..limits.clone()
        },
        "frame_bytes",
    );
    refused(
        noise,
        &Limits {
            body_bytes: 11_000,
            ..limits
        },
        "body_bytes",
    );
}

#[test]
fn a_bomb_is_refused_while_it_inflates() {
    let _alone = alone();
    let series = every_type();
    let limits = limits();
    // A megabyte of zeros in a thousand bytes: what no sealer makes, and anyone can send.
    let body = miniz_oxide::deflate::compress_to_vec(&vec![0; 1 << 20], 9);
    for envelope in [0x01, 0x05] {
        let bytes = frame_around(envelope, &series, &body);
        let frame = Frame::parse(&bytes, &limits).expect("a small frame");
        let (result, asked_for) = asked(|| frame.body(Some(&series), &limits));
        assert_eq!(limit_of(result), "body_bytes");
        assert!(
            asked_for < limits.body_bytes * 3 + 64 * 1024,
            "{asked_for} bytes asked_for"
        );
    }
}

#[test]
fn empty_messages_are_counted_before_they_are_decoded() {
    let _alone = alone();
    let limits = Limits::default();
    // Two bytes each: an empty time column, an empty column.
    for field in [0x22, 0x2a] {
        let bytes = [field, 0].repeat(400_000);
        let (result, asked_for) = asked(|| protobuf::decode(&bytes, &limits));
        assert_eq!(limit_of(result), "columns");
        assert!(asked_for < 4096, "{asked_for} bytes asked_for");
    }
}

#[test]
fn errors_say_what_and_where() {
    let _alone = alone();
    let limits = limits();
    let readings = one("temp", Values::F64(vec![1.0, 2.0, 4.5]));
    let body = Body::Readings(readings.clone());
    let series = series_of(&body);
    let sealed =
        seal(&body, &series, Encoding::Postcard, Compression::None, &limits).expect("within the limits");
    let bytes = sealed.frame(1, 1);
    let error = |bytes: &[u8]| {
        let frame = Frame::parse(bytes, &limits).and_then(|frame| frame.body(Some(&series), &limits));
        frame.expect_err("broken").to_string()
    };
    let under = |envelope: u8| {
        let mut bytes = bytes.clone();
        bytes[0] = envelope;
        bytes
    };
    assert_eq!(error(&[]), "envelope is truncated at byte 0");
    assert!(error(&[0x20, 1, 1]).contains("version 2 is not known"));
    assert!(error(&under(0x18)).contains("encoding 2 is not known"));
    assert!(error(&under(0x16)).contains("compression 2 is not known"));
    assert!(error(&bytes[..5]).contains("series set is truncated"));
    assert!(error(&bytes[..bytes.len() - 1]).contains("postcard body is truncated"));
    let other = SeriesSet::new(Vec::new(), 3);
    let frame = Frame::parse(&bytes, &limits).expect("whole");
    assert_eq!(
        frame.body(Some(&other), &limits),
        Err(Error::UnknownSeriesSet { hash: series.hash() })
    );

    let missing =
        seal(&body, &other, Encoding::Postcard, Compression::None, &limits).expect_err("not in the set");
    assert!(
        missing
            .to_string()
            .starts_with("column 0 (temp) is malformed: F64 in unit \"\" is not in the series set")
    );
    let mut short = readings;
    short.times[0].pop();
    let short = seal(
        &Body::Readings(short),
        &series,
        Encoding::Protobuf,
        Compression::None,
        &limits,
    );
    assert_eq!(
        short.expect_err("uneven").to_string(),
        "column 0 (temp) is malformed: 3 values at 2 times"
    );
}
