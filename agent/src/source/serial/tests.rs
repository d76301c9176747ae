//! Without a line; `line` has the same over a pair of pseudo terminals, with the senders of `proto/examples/serial`.

mod line;

use headwater_foreign::{Format, Settings};
use headwater_proto::Value;
use headwater_proto::serial::{Frame, Full};
use proptest::prelude::*;

use super::metrics::Metrics;
use super::*;
use crate::clock::Clock;
use crate::config::Parity;

fn frames(bytes: &[u8]) -> Vec<Result<frames::Taken, String>> {
    let mut pieces = Pieces::new(0, 1024);
    let mut frames = Frames::new("");
    let mut out = Vec::new();
    let mut bytes = bytes;
    while let Some(piece) = pieces.take(&mut bytes) {
        out.push(match piece {
            Piece::Whole(bytes) => frames.take(bytes, 0),
            Piece::TooLong => Err("too long".into()),
        });
    }
    out
}

fn values(taken: &frames::Taken) -> Vec<(String, String, Value)> {
    let readings = taken.sample.readings.iter();
    let shown = readings.map(|reading| {
        let metric = &reading.metric;
        (metric.name.clone(), metric.unit.clone(), reading.value.clone())
    });
    shown.collect()
}

fn one(seq: u8, taken_ms: u32) -> Vec<u8> {
    let mut frame = Frame::<64>::new(seq, taken_ms, 0);
    frame.decimal("temp", "Cel", 2000 + i64::from(seq), 2).unwrap();
    frame.finish().to_vec()
}

#[derive(Clone, Debug)]
enum Sent {
    F32(f32),
    F64(f64),
    I64(i64),
    Bool(bool),
    Text(String),
    Decimal(i64, u8),
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        any::<f32>().prop_map(Sent::F32),
        any::<u64>().prop_map(|bits| Sent::F64(f64::from_bits(bits))),
        any::<i64>().prop_map(Sent::I64),
        any::<bool>().prop_map(Sent::Bool),
        "\\PC{0,40}".prop_map(Sent::Text),
        (any::<i64>(), 0u8..=18).prop_map(|(mantissa, digits)| Sent::Decimal(mantissa, digits)),
    ]
}

proptest! {
    #[test]
    fn what_is_put_into_a_frame_comes_out(seq: u8, taken_ms: u32, sent in prop::collection::vec(("[a-zäß ]{1,20}", "[A-Za-z/%]{0,6}", sent()), 0..20)) {
        let mut frame = Frame::<512>::new(seq, taken_ms, 0);
        let mut expected = Vec::new();
        for (number, (name, unit, value)) in sent.iter().enumerate() {
            let name = format!("{number}{name}");
            let (added, value) = match value {
                Sent::F32(value) => (frame.f32(&name, unit, *value), Some(Value::F64(crate::source::scale::widened(*value))).filter(|_| !value.is_nan())),
                Sent::F64(value) => (frame.f64(&name, unit, *value), Some(Value::F64(*value)).filter(|_| !value.is_nan())),
                Sent::I64(value) => (frame.i64(&name, unit, *value), Some(Value::I64(*value))),
                Sent::Bool(value) => (frame.bool(&name, unit, *value), Some(Value::Bool(*value))),
                Sent::Text(value) => (frame.text(&name, unit, value), Some(Value::String(value.clone()))),
                Sent::Decimal(mantissa, digits) => {
                    let text = format!("{mantissa}e-{digits}");
                    (frame.decimal(&name, unit, *mantissa, *digits), Some(Value::F64(text.parse().unwrap())))
                }
            };
            match (added, value) {
                (Ok(()), Some(value)) => expected.push((name, unit.clone(), value)),
                (Ok(()), None) | (Err(Full), _) => {}
            }
        }
        let bytes = frame.finish().to_vec();
        prop_assert_eq!(&bytes, &frame.finish());
        prop_assert!(frame.bool("late", "", true).is_err());
        prop_assert!(bytes.len() <= 512 && !bytes[1..bytes.len() - 1].contains(&0));
        let taken = frames(&bytes);
        prop_assert_eq!(taken.len(), 1);
        let taken = taken[0].as_ref().unwrap();
        prop_assert_eq!(values(taken), expected);
        prop_assert_eq!((taken.missing, &taken.refused), (0, &None));
    }

    #[test]
    fn whatever_comes_nothing_is_made_of_it(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(frames(&bytes).iter().all(Result::is_err));
    }
}

#[test]
fn a_reading_that_has_no_room_leaves_the_frame_as_it_was() {
    for room in 0..40 {
        let mut frame = Frame::<64>::new(1, 1000, 0);
        let long = "x".repeat(room);
        frame.text(&long, "", "").unwrap();
        let mut all = 1;
        while frame.i64("counter", "", 0x0100).is_ok() {
            all += 1;
        }
        assert_eq!(frame.readings(), all);
        let bytes = frame.finish();
        assert!(bytes.len() <= 64, "{}", bytes.len());
        let taken = frames(bytes).remove(0);
        // The empty name is none that a metric may have.
        let readings = usize::from(all) - usize::from(room == 0);
        assert_eq!(taken.unwrap().sample.readings.len(), readings);
    }
}

/// Every bit of a line with three frames flipped: what comes is what was sent, or nothing.
#[test]
fn a_flipped_bit_costs_its_frame_and_no_other() {
    let line: Vec<u8> = (1..=3).flat_map(|seq| one(seq, u32::from(seq) * 1000)).collect();
    let sent: Vec<_> = frames(&line)
        .into_iter()
        .map(|taken| values(&taken.unwrap()))
        .collect();
    assert_eq!(sent.len(), 3);
    for bit in 0..line.len() * 8 {
        let mut garbled = line.clone();
        garbled[bit / 8] ^= 1 << (bit % 8);
        let came: Vec<_> = frames(&garbled)
            .into_iter()
            .flatten()
            .map(|taken| values(&taken))
            .collect();
        assert!(came.len() >= 2, "bit {bit} costs {} frames", 3 - came.len());
        assert!(
            came.iter().all(|values| sent.contains(values)),
            "bit {bit}: {came:?}"
        );
    }
    for cut in 0..line.len() {
        let cut: Vec<u8> = [&line[..cut], &line].concat();
        let came = frames(&cut).into_iter().flatten().count();
        assert!(came >= 3, "after {} bytes of a torn frame {came} come", cut.len());
    }
}

#[test]
fn missing_frames_are_counted_and_a_restart_is_none() {
    let line: Vec<u8> = [
        one(254, 1000),
        one(255, 2000),
        one(0, 3000),
        one(3, 6000),
        one(0, 500),
        one(1, 1500),
    ]
    .concat();
    let missing: Vec<_> = frames(&line)
        .into_iter()
        .map(|taken| taken.unwrap().missing)
        .collect();
    assert_eq!(missing, [0, 0, 0, 2, 0, 0]);
    let without_timer: Vec<u8> = [one(7, 0), one(8, 0), one(0, 0), one(2, 0)].concat();
    let missing: Vec<_> = frames(&without_timer)
        .into_iter()
        .map(|taken| taken.unwrap().missing)
        .collect();
    assert_eq!(missing, [0, 0, 0, 1]);
}

#[test]
fn what_is_wrong_with_a_frame_is_said() {
    let stuffed = |payload: &[u8]| {
        let checksum = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(payload);
        let frame = [payload, &checksum.to_le_bytes()].concat();
        let mut out = vec![0; 2 * frame.len() + 2];
        let length = cobs::encode(&frame, &mut out);
        out.truncate(length);
        out
    };
    let say = |payload: &[u8]| {
        let taken = Frames::new("").take(&mut stuffed(payload), 0);
        taken
            .map(|taken| taken.refused)
            .map_or_else(|why| why, |refused| refused.unwrap_or_default())
    };
    for (payload, part) in [
        (&[][..], "head of a serial frame"),
        (&[2, 0, 0, 0], "version 2 is not known"),
        (&[1, 0, 0, 0], ""),
        (&[1, 0, 0xFF], "head of a serial frame"),
        (&[1, 0, 0, 0, 1, b't', 0, 9, 1], "reading 1 of a serial frame"),
        (&[1, 0, 0, 0, 1, b't', 0, 3, 1, 5], "reading 2 of a serial frame"),
        (
            &[1, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F],
            "reading 1 of a serial frame",
        ),
        (&[1, 0, 0, 0, 0, 0, 3, 1], "it is empty"),
        (&[1, 0, 0, 0, 1, 7, 0, 3, 1], "control characters"),
        (&[1, 0, 0, 0, 1, b't', 1, 7, 3, 1], "is no unit"),
    ] {
        let said = say(payload);
        assert!(
            said.contains(part) && said.is_empty() == part.is_empty(),
            "{payload:?}: {said}"
        );
    }
    assert!(Frames::new("").take(&mut [3, 1], 0).is_err());
    assert!(Frames::new("").take(&mut [1], 0).is_err());
}

#[test]
fn whoever_makes_up_names_is_bounded() {
    let mut metrics = Metrics::new("p.");
    let made = (0..3000)
        .filter(|number| metrics.get(&number.to_string(), "").is_ok())
        .count();
    assert_eq!(made, 1000);
    assert_eq!(metrics.get("7", "").unwrap().name, "p.7");
    assert!(
        metrics
            .get("3000", "")
            .unwrap_err()
            .contains("more than 1000 metrics")
    );
}

#[test]
fn settings_that_make_no_sense_are_refused_by_key() {
    let good = || SerialSource {
        path: "/dev/ttyUSB0".into(),
        ..Default::default()
    };
    assert!(Serial::open(&good()).is_ok());
    let lines = |map| SerialSource {
        format: SerialFormat::Lines,
        map,
        ..good()
    };
    assert!(Serial::open(&lines(Settings::default())).is_ok());
    let columns = Settings {
        format: Format::Columns,
        ..Default::default()
    };
    for (settings, part) in [
        (
            SerialSource {
                path: "ttyUSB0".into(),
                ..good()
            },
            "`path`: \"ttyUSB0\"",
        ),
        (SerialSource { baud: 0, ..good() }, "`baud`: 0"),
        (
            SerialSource {
                data_bits: 9,
                ..good()
            },
            "`data_bits`: 9",
        ),
        (
            SerialSource {
                data_bits: 7,
                ..good()
            },
            "`data_bits`: frames take 8",
        ),
        (
            SerialSource {
                stop_bits: 0,
                ..good()
            },
            "`stop_bits`: 0",
        ),
        (
            SerialSource {
                flow_control: FlowControl::Software,
                ..good()
            },
            "`flow_control`",
        ),
        (
            SerialSource {
                max_length: headwater_config::ByteSize::b(31),
                ..good()
            },
            "`max_length`: 31",
        ),
        (lines(columns), "`map`"),
        (
            SerialSource {
                prefix: "a.".into(),
                ..lines(Settings::default())
            },
            "`prefix`: it is for frames",
        ),
    ] {
        let error = Serial::open(&settings).err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
    }
    let text = "path = '/dev/ttyS0'\nparity = 'odd'\ndata_bits = 7\nflow_control = 'hardware'\nformat = 'lines'\nmap = { format = 'fields' }";
    let settings: SerialSource = toml::from_str(text).unwrap();
    assert_eq!(
        (settings.parity, settings.flow_control),
        (Parity::Odd, FlowControl::Hardware)
    );
    assert!(Serial::open(&settings).is_ok());
}
