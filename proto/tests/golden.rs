//! Golden files: a few batches in both encodings, so that no change of the wire format passes unseen, and so that
//! other implementations can be tried on them.
//!
//! `golden/NAME.json` says what is in the batch; `NAME.pb` is the batch as in Kafka; `NAME.frame` the frame of an
//! MQTT data message (dense form, stream's short number 3), `NAME.series` the `headwater.v1.SeriesSet` that it names.
//! After a change that is meant, and that old readers can live with: `HEADWATER_GOLDEN=write cargo test -p
//! headwater-proto --test golden`.

use std::path::{Path, PathBuf};

use headwater_proto::frame::{Compression, Encoding, Frame, seal};
use headwater_proto::{
    Batch, Body, Clock, Column, Limits, Loss, LossReason, Message, Readings, Series, SeriesSet, Values, pb,
    protobuf,
};
use serde_json::{Value, json};

const STREAM: u64 = 0xfedc_ba98_7654_3210;
const SHORT: u32 = 3;

fn column(metric: &str, unit: &str, times: u32, values: Values) -> Column {
    Column {
        metric: metric.to_owned(),
        unit: unit.to_owned(),
        times,
        values,
        suspect: Vec::new(),
    }
}

/// What an ordinary gateway sends: shared cadences with some jitter, every type, a suspect reading.
fn ordinary() -> Readings {
    let start = 1_700_000_000_000_000i64;
    let second: Vec<i64> = (0..20)
        .map(|i| start + i * 1_000_000 + if i == 7 { 4_000 } else { 0 })
        .collect();
    let minute: Vec<i64> = (0..3).map(|i| start + i * 60_000_000).collect();
    let wobble = |i: i64| (i * i * 7 + 3 * i) % 11 - 5;
    let mut columns = vec![
        column(
            "cabinet_temp_c",
            "Cel",
            0,
            Values::F64((0..20).map(|i| (500 + wobble(i) / 3) as f64 * 0.0625).collect()),
        ),
        column(
            "battery_v",
            "V",
            0,
            Values::F64((0..20).map(|i| (12_900 + 4 * wobble(i)) as f64 / 1e3).collect()),
        ),
        column(
            "feuchte_prozent_µ",
            "%",
            0,
            Values::F64((0..20).map(|i| (6_400 - wobble(i)) as f64 / 1e2).collect()),
        ),
        column(
            "pulses",
            "",
            0,
            Values::I64((0..20).map(|i| 1_000_000 + i * 25).collect()),
        ),
        column(
            "door_open",
            "",
            0,
            Values::Bool((0..20).map(|i| (5..9).contains(&i)).collect()),
        ),
        column(
            "mode",
            "",
            1,
            Values::String(["auto", "Handbetrieb – Tür", "auto"].map(str::to_owned).to_vec()),
        ),
        column("setpoint_c", "Cel", 1, Values::F64(vec![21.5; 3])),
    ];
    columns[1].suspect = vec![4, 17];
    Readings {
        times: vec![second, minute],
        columns,
        clock: Clock::Synchronised,
    }
}

/// Whatever may go wrong: bit patterns, extremes, times that repeat and go back, a metric of two types.
fn extremes() -> Readings {
    let f64s = vec![
        f64::from_bits(0x7ff8_0000_0000_0000),
        f64::from_bits(0x7ff0_0000_0000_0001),
        f64::from_bits(0xfff8_dead_beef_0001),
        f64::INFINITY,
        f64::NEG_INFINITY,
        -0.0,
        0.0,
        5e-324,
        -2.225_073_858_507_201e-308,
        f64::MAX,
        f64::MIN,
        std::f64::consts::PI,
    ];
    let mut mostly = vec![20.25; 12];
    mostly[3] = f64::NAN;
    mostly[4] = -0.0;
    mostly[8] = 20.250_000_000_000_004;
    let i64s = vec![
        i64::MIN,
        i64::MAX,
        0,
        -1,
        1,
        i64::MIN,
        i64::MIN + 1,
        i64::MAX - 1,
        7,
        7,
        -7,
        1 << 53,
    ];
    let times = vec![
        5,
        5,
        4,
        -3,
        i64::MAX,
        i64::MIN,
        0,
        0,
        1,
        2,
        3,
        1_700_000_000_000_001,
    ];
    Readings {
        times: vec![times, Vec::new()],
        columns: vec![
            column("odd", "", 0, Values::F64(f64s)),
            column("mostly", "Cel", 0, Values::F64(mostly)),
            column("odd", "", 0, Values::I64(i64s)),
            column("nothing", "", 1, Values::F64(Vec::new())),
        ],
        clock: Clock::Uncertain,
    }
}

/// Averages printed with 15 digits, singles widened to doubles, and plain noise.
fn fractions() -> Readings {
    let times = (0..24).map(|i| 1_452_533_400_000_000 + i * 600_000_000).collect();
    let wobble = |i: i64| (i * i * 31 + 17 * i) % 101;
    let printed = |i: i64| {
        format!("{:.14e}", (13_820 + wobble(i)) as f64 / 300.0)
            .parse()
            .expect("a number")
    };
    Readings {
        times: vec![times],
        columns: vec![
            column("rh", "%", 0, Values::F64((0..24).map(printed).collect())),
            column(
                "third",
                "",
                0,
                Values::F64((0..24).map(|i| wobble(i) as f64 / 3.0).collect()),
            ),
            column(
                "single",
                "A",
                0,
                Values::F64((0..24).map(|i| f64::from(wobble(i) as f32 / 10.0)).collect()),
            ),
            column(
                "noise",
                "",
                0,
                Values::F64((0..24).map(|i| (wobble(i) as f64 + 0.1).sqrt()).collect()),
            ),
        ],
        clock: Clock::Synchronised,
    }
}

fn batches() -> Vec<(&'static str, Batch)> {
    let batch = |seq, body| Batch {
        device: "plant-7.gw".to_owned(),
        stream: STREAM,
        seq,
        body,
    };
    let loss = Loss {
        through: 1_000,
        readings: 80_000,
        reason: LossReason::JournalFull,
    };
    vec![
        ("ordinary", batch(1, Body::Readings(ordinary()))),
        ("extremes", batch(2, Body::Readings(extremes()))),
        ("fractions", batch(3, Body::Readings(fractions()))),
        ("empty", batch(4, Body::Readings(Readings::default()))),
        ("loss", batch(1 << 35, Body::Loss(loss))),
    ]
}

/// i64 and u64 as decimal strings; doubles as numbers, those that JSON has not as `"0x…"`, their bits.
fn describe(batch: &Batch) -> Value {
    let mut out = json!({
        "device": batch.device, "stream": format!("{:016x}", batch.stream), "seq": batch.seq.to_string(),
    });
    match &batch.body {
        Body::Loss(loss) => {
            let (through, readings) = (loss.through.to_string(), loss.readings.to_string());
            out["loss"] =
                json!({ "through": through, "readings": readings, "reason": format!("{:?}", loss.reason) });
        }
        Body::Readings(readings) => {
            let strings = |values: &Vec<i64>| values.iter().map(i64::to_string).collect::<Vec<_>>();
            let double = |value: &f64| match value {
                value if value.is_finite() && value.to_bits() != (-0.0f64).to_bits() => json!(value),
                value => json!(format!("{:#018x}", value.to_bits())),
            };
            out["clock"] = json!(format!("{:?}", readings.clock));
            out["times"] = json!(readings.times.iter().map(strings).collect::<Vec<_>>());
            let columns = readings.columns.iter().map(|column| {
                let values = match &column.values {
                    Values::F64(values) => json!(values.iter().map(double).collect::<Vec<_>>()),
                    Values::I64(values) => json!(strings(values)),
                    Values::Bool(values) => json!(values),
                    Values::String(values) => json!(values),
                };
                json!({
                    "metric": column.metric, "unit": column.unit, "times": column.times,
                    "type": format!("{:?}", column.values.value_type()), "values": values, "suspect": column.suspect,
                })
            });
            out["columns"] = Value::Array(columns.collect());
        }
    }
    out
}

fn series_of(body: &Body) -> SeriesSet {
    let columns = match body {
        Body::Readings(readings) => readings.columns.as_slice(),
        Body::Loss(_) => &[],
    };
    let series = columns.iter().map(|column| Series {
        metric: column.metric.clone(),
        unit: column.unit.clone(),
        value_type: column.values.value_type(),
    });
    SeriesSet::new(series.collect(), 0)
}

fn golden(name: &str, extension: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
        .with_extension(extension)
}

/// Compares with the file, or writes it if that was asked for.
fn same(name: &str, extension: &str, found: &[u8]) {
    let path = golden(name, extension);
    if std::env::var_os("HEADWATER_GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&path, found).expect("a writable source tree");
    }
    let stored = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(
        stored == found,
        "{} differs: {} bytes stored, {} now",
        path.display(),
        stored.len(),
        found.len()
    );
}

#[test]
fn bytes_stay_as_they_are() {
    for (name, batch) in batches() {
        let mut text = serde_json::to_string_pretty(&describe(&batch)).expect("plain JSON");
        text.push('\n');
        same(name, "json", text.as_bytes());
        same(name, "pb", &protobuf::encode(&batch));
        let series = series_of(&batch.body);
        let sealed = seal(
            &batch.body,
            &series,
            Encoding::Postcard,
            Compression::None,
            &Limits::default(),
        );
        same(
            name,
            "frame",
            &sealed.expect("within the limits").frame(SHORT, batch.seq),
        );
        same(name, "series", &series.to_pb().encode_to_vec());
    }
}

#[test]
fn stored_bytes_are_read() {
    let limits = Limits::default();
    for (name, batch) in batches() {
        let stored = std::fs::read(golden(name, "pb")).expect("stored");
        assert_eq!(protobuf::decode(&stored, &limits).as_ref(), Ok(&batch), "{name}");

        let stored = std::fs::read(golden(name, "series")).expect("stored");
        let series = pb::SeriesSet::decode(stored.as_slice()).expect("a series set");
        let series = SeriesSet::from_pb(series, &limits).expect("one of ours");
        let stored = std::fs::read(golden(name, "frame")).expect("stored");
        let frame = Frame::parse(&stored, &limits).expect("a frame");
        assert_eq!((frame.short, frame.seq), (SHORT, batch.seq), "{name}");
        let given = frame
            .series_set()
            .map(|hash| (hash != 0).then_some(&series))
            .expect("a hash");
        assert_eq!(frame.body(given, &limits).as_ref(), Ok(&batch.body), "{name}");
    }
}
