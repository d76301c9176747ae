//! Whatever bytes come: no panic, and nothing beyond the limits.
#![allow(
    clippy::unwrap_used,
    reason = "in the tests' own parts too, a panic is the report"
)]

use headwater_foreign::{Format, Mapping, Settings, Type};
use headwater_proto::{Value, name};
use proptest::prelude::*;

fn mapping(format: Format) -> Mapping {
    let settings = Settings {
        format,
        name: (format == Format::Value).then(|| "{topic}".into()),
        time: matches!(format, Format::Json | Format::JsonLines).then(|| "/time".into()),
        max_readings: 20,
        columns: vec!["a".into(), String::new(), "é".into()],
        form: "a{a} {}:{é}".into(),
        value_type: Some(Type::Auto),
        ..Settings::default()
    };
    Mapping::new(&settings, true).unwrap()
}

fn check(format: Format, topic: &str, payload: &[u8]) {
    let mapped = mapping(format).map(topic, payload);
    assert!(mapped.readings.len() <= 20);
    assert_eq!(mapped.refused > 0, mapped.refusal.is_some());
    assert!(mapped.untimed <= mapped.readings.len() as u64);
    if let Some(refusal) = mapped.refusal {
        let text = refusal.to_string();
        assert!(text.len() < 1000, "{text}");
    }
    for reading in mapped.readings {
        name::check_metric(&reading.metric).unwrap();
        if let Value::String(text) = reading.value {
            assert!(text.len() <= 4096);
        }
    }
}

const FORMATS: [Format; 8] = [
    Format::Json,
    Format::JsonLines,
    Format::Influx,
    Format::Pairs,
    Format::Fields,
    Format::Columns,
    Format::Form,
    Format::Value,
];

/// Text of the characters that mean something to one of the formats.
fn grammar() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"",
            "\\",
            " ",
            "\n",
            "\r",
            "=",
            "#",
            "-",
            "+",
            ".",
            "e",
            "0",
            "1",
            "9",
            "i",
            "u",
            "t",
            "f",
            "a",
            "null",
            "true",
            "é",
            "\u{1F321}",
            "\0",
            "\\n",
            "\\\"",
            "\\ud800",
            "time",
            "1700000000",
        ]),
        0..60,
    )
    .prop_map(|parts| parts.concat())
}

/// JSON of any shape.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        ".{0,12}".prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map(".{0,20}", inner, 0..6)
                .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn any_bytes(payload in prop::collection::vec(any::<u8>(), 0..200), topic in ".{0,30}") {
        for format in FORMATS {
            check(format, &topic, &payload);
        }
    }

    #[test]
    fn almost_the_grammar(payload in grammar(), topic in "[a-z/]{0,20}") {
        for format in FORMATS {
            check(format, &topic, payload.as_bytes());
        }
    }

    #[test]
    fn json_of_any_shape(document in json(), topic in "[a-z/]{0,20}") {
        check(Format::Json, &topic, document.to_string().as_bytes());
    }

    /// What a program prints of a double is that double again, in every format.
    #[test]
    fn doubles_come_bit_for_bit(number in any::<f64>().prop_filter("JSON has no others", |number| number.is_finite())) {
        for (format, payload) in [
            (Format::Json, format!("{{\"v\":{number:?}}}")),
            (Format::Influx, format!("v v={number}")),
            (Format::Pairs, format!("v {number:e}")),
            (Format::Fields, format!("v={number:e}, w=1")),
            (Format::Columns, format!("{number}, , 1\r\n")),
            (Format::Form, format!("a{number} x:1")),
            (Format::Value, format!("{number:?}\n")),
        ] {
            let mapped = mapping(format).map("t", payload.as_bytes());
            let Some(Value::F64(read)) = mapped.readings.first().map(|reading| reading.value.clone()) else {
                panic!("{payload}: {mapped:?}");
            };
            prop_assert_eq!(read.to_bits(), number.to_bits(), "{}", payload);
        }
    }
}
