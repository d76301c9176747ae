//! Whatever the model holds comes back bit for bit, through both encodings, compressed and not.

mod arbitrary;

use arbitrary::series_of;
use headwater_proto::frame::{Compression, Encoding, Frame, Sealer, seal};
use headwater_proto::{Batch, Body, Column, Error, Limits, Readings, SeriesSet, Values, protobuf};
use proptest::collection;
use proptest::prelude::*;

const FORMS: [(Encoding, Compression); 4] = [
    (Encoding::Protobuf, Compression::None),
    (Encoding::Protobuf, Compression::Deflate),
    (Encoding::Postcard, Compression::None),
    (Encoding::Postcard, Compression::Deflate),
];

/// Through a batch in Kafka and through a frame of every form.
fn goes_round(body: &Body) {
    let limits = Limits {
        frame_bytes: 4_000_000,
        body_bytes: 4_000_000,
        ..Limits::default()
    };
    let batch = Batch {
        device: "plant-7.gw".to_owned(),
        stream: u64::MAX - 1,
        seq: 1 << 40,
        body: body.clone(),
    };
    let bytes = protobuf::encode(&batch);
    assert_eq!(protobuf::decode(&bytes, &limits).as_ref(), Ok(&batch));

    let series = series_of(body);
    for (encoding, compression) in FORMS {
        let sealed = seal(body, &series, encoding, compression, &limits).expect("within the limits");
        let bytes = sealed.frame(7, u64::MAX);
        let frame = Frame::parse(&bytes, &limits).expect("our own frame");
        assert_eq!(
            (frame.short, frame.seq, frame.envelope),
            (7, u64::MAX, sealed.envelope)
        );
        let hash = frame.series_set().expect("a hash");
        assert_eq!(hash, sealed.series_set);
        let given = (hash != 0).then_some(&series);
        assert_eq!(
            frame.body(given, &limits).as_ref(),
            Ok(body),
            "{encoding:?} {compression:?}"
        );
        rewritten(&frame, &series, &limits, &batch);
    }
}

/// The dense form, and no other, is rewritten to what decodes to the same.
fn rewritten(frame: &Frame<'_>, series: &SeriesSet, limits: &Limits, batch: &Batch) {
    let is_dense = frame.envelope == 0x14;
    let Body::Readings(readings) = &batch.body else {
        let none = SeriesSet::new(Vec::new(), 0);
        let refused = Err(Error::UnknownSeriesSet { hash: 0 });
        let expected = if is_dense { refused } else { Ok(None) };
        assert_eq!(frame.rewrite(&none, limits, ("a", 1, 1)), expected);
        return;
    };
    let name = (&*batch.device, batch.stream, batch.seq);
    let rewritten = frame.rewrite(series, limits, name).expect("as it is decoded");
    assert_eq!(rewritten.is_some(), is_dense);
    let Some(rewritten) = rewritten else { return };
    assert_eq!(
        (rewritten.readings, rewritten.newest_us),
        (
            readings.len() as u64,
            readings.times.iter().flatten().max().copied()
        )
    );
    assert_eq!(protobuf::decode(&rewritten.value, limits).as_ref(), Ok(batch));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_was_sealed_before(bodies in collection::vec(arbitrary::body(), 1..6)) {
        let mut sealer = Sealer::default();
        for body in &bodies {
            follows(&mut sealer, body, &series_of(body));
        }
    }

    /// Columns of one set that are much the same for a few batches and then something else, so that what is remembered
    /// meets what it suits and what it does not.
    #[test]
    fn columns_that_change(parts in collection::vec((0..200usize, 1..60usize).prop_flat_map(|(length, rows)| {
        (columns(length), Just(rows))
    }), 1..6)) {
        let mut sealer = Sealer::default();
        for (columns, rows) in parts {
            for from in (0..columns[0].len().max(1)).step_by(rows) {
                let body = rows_of(&columns, from, rows);
                follows(&mut sealer, &body, &series_of(&body));
            }
        }
    }
}

/// Times, then two columns of doubles, one of integers and one of strings.
fn columns(length: usize) -> impl Strategy<Value = Vec<Values>> {
    let doubles = || arbitrary::doubles(length).prop_map(Values::F64).boxed();
    let integers = || arbitrary::integers(length).prop_map(Values::I64).boxed();
    let text = prop_oneof![Just("open".to_owned()), Just("shut".to_owned()), "[a-f]{3}"];
    let texts = collection::vec(text, length).prop_map(Values::String).boxed();
    vec![integers(), doubles(), doubles(), integers(), texts]
}

/// So many of their rows, as a batch.
fn rows_of(columns: &[Values], from: usize, rows: usize) -> Body {
    fn cut<T: Clone>(values: &[T], from: usize, rows: usize) -> Vec<T> {
        values.iter().skip(from).take(rows).cloned().collect()
    }
    let cut = |values: &Values| match values {
        Values::F64(values) => Values::F64(cut(values, from, rows)),
        Values::I64(values) => Values::I64(cut(values, from, rows)),
        Values::Bool(values) => Values::Bool(cut(values, from, rows)),
        Values::String(values) => Values::String(cut(values, from, rows)),
    };
    let mut columns = columns.iter().map(cut);
    let Some(Values::I64(times)) = columns.next() else {
        unreachable!("times come first");
    };
    let column = |(at, values)| Column {
        metric: format!("metric {at}"),
        unit: String::new(),
        times: 0,
        values,
        suspect: Vec::new(),
    };
    Body::Readings(Readings {
        times: vec![times],
        columns: columns.enumerate().map(column).collect(),
        ..Readings::default()
    })
}

/// Sealed after others, it decodes to itself.
fn follows(sealer: &mut Sealer, body: &Body, series: &SeriesSet) {
    let limits = Limits::default();
    for (encoding, compression) in FORMS {
        let sealed = sealer.seal(body, series, encoding, compression, &limits);
        let bytes = sealed.expect("within the limits").frame(1, 1);
        let frame = Frame::parse(&bytes, &limits).expect("our own frame");
        let hash = frame.series_set().expect("a hash");
        let given = (hash != 0).then_some(series);
        assert_eq!(frame.body(given, &limits).as_ref(), Ok(body), "{encoding:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_body(body in arbitrary::body()) {
        goes_round(&body);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn long_batches(body in arbitrary::readings(12_500).prop_map(Body::Readings)) {
        goes_round(&body);
    }
}
