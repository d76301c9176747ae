//! Whatever the model holds comes back bit for bit, through both encodings, compressed and not.

mod arbitrary;

use arbitrary::series_of;
use headwater_proto::frame::{Compression, Encoding, Frame, Sealer, seal};
use headwater_proto::{Batch, Body, Limits, protobuf};
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
    assert_eq!(protobuf::decode(&bytes, &limits), Ok(batch));

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
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_sealed_before_makes_no_difference(bodies in proptest::collection::vec(arbitrary::body(), 1..6)) {
        let limits = Limits::default();
        let mut sealer = Sealer::default();
        for body in &bodies {
            let series = series_of(body);
            for (encoding, compression) in FORMS {
                let again = sealer.seal(body, &series, encoding, compression, &limits);
                assert_eq!(again, seal(body, &series, encoding, compression, &limits));
            }
        }
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
