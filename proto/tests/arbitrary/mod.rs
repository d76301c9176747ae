//! Bodies of every kind that the model allows, for the property tests.

use headwater_proto::{Body, Clock, Column, Loss, LossReason, Readings, Series, SeriesSet, Values};
use proptest::collection::vec;
use proptest::prelude::*;

/// The set that names the columns of a body, in their order.
pub(crate) fn series_of(body: &Body) -> SeriesSet {
    let columns = match body {
        Body::Readings(readings) => readings.columns.as_slice(),
        Body::Loss(_) => &[],
    };
    let mut series: Vec<Series> = Vec::new();
    for column in columns {
        let entry = Series {
            metric: column.metric.clone(),
            unit: column.unit.clone(),
            value_type: column.values.value_type(),
        };
        if !series.contains(&entry) {
            series.push(entry);
        }
    }
    SeriesSet::new(series, 0)
}

pub(crate) fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        9 => readings(300).prop_map(Body::Readings),
        1 => loss().prop_map(Body::Loss),
    ]
}

fn loss() -> impl Strategy<Value = Loss> {
    let reason = prop_oneof![
        Just(LossReason::JournalFull),
        Just(LossReason::Corrupt),
        Just(LossReason::Retention),
        Just(LossReason::Refused),
    ];
    (any::<u64>(), any::<u64>(), reason).prop_map(|(through, readings, reason)| Loss {
        through,
        readings,
        reason,
    })
}

pub(crate) fn readings(longest: usize) -> impl Strategy<Value = Readings> {
    let clock = prop_oneof![Just(Clock::Synchronised), Just(Clock::Uncertain)];
    (vec(times(longest), 0..4), clock).prop_flat_map(|(times, clock)| {
        let lengths: Vec<usize> = times.iter().map(Vec::len).collect();
        let most = if lengths.is_empty() { 0 } else { 8 };
        vec((any::<prop::sample::Index>(), metric(), unit()), 0..=most)
            .prop_flat_map(move |heads| {
                let lengths = lengths.clone();
                heads
                    .into_iter()
                    .map(|(at, metric, unit)| {
                        let times = at.index(lengths.len());
                        column(metric, unit, times as u32, lengths[times])
                    })
                    .collect::<Vec<_>>()
            })
            .prop_map(move |columns| Readings {
                times: times.clone(),
                columns,
                clock,
            })
    })
}

fn metric() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("temp".to_owned()),
        Just("läufer-temperatur".to_owned()),
        "[a-zα-ω温度🌡 ./]{1,12}"
    ]
}

fn unit() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), Just("Cel".to_owned()), Just("µV".to_owned())]
}

fn times(longest: usize) -> impl Strategy<Value = Vec<i64>> {
    let length = prop_oneof![0..4usize, 0..=longest];
    let start = prop_oneof![Just(1_700_000_000_000_000i64), Just(0), any::<i64>()];
    let step = prop_oneof![Just(1_000_000i64), Just(300_000_000), Just(1), Just(0), -5..5i64];
    (length, start, step).prop_flat_map(|(length, start, step)| {
        let jitter = prop_oneof![
            20 => Just(0i64),
            2 => (-4..5i64).prop_map(|ms| ms * 1000),
            1 => Just(i64::MIN),
            1 => any::<i64>(),
        ];
        vec(jitter, length).prop_map(move |jitters| {
            let mut now = start;
            jitters
                .iter()
                .map(|jitter| {
                    now = now.wrapping_add(step).wrapping_add(*jitter);
                    now
                })
                .collect()
        })
    })
}

fn column(metric: String, unit: String, times: u32, length: usize) -> impl Strategy<Value = Column> {
    let suspect = prop_oneof![
        4 => Just(Vec::new()).boxed(),
        1 => prop::collection::btree_set(0..length.max(1) as u32, 0..=length.min(5))
            .prop_map(move |set| set.into_iter().filter(|at| (*at as usize) < length).collect()).boxed(),
    ];
    (values(length), suspect).prop_map(move |(values, suspect)| Column {
        metric: metric.clone(),
        unit: unit.clone(),
        times,
        values,
        suspect,
    })
}

pub(crate) fn values(length: usize) -> BoxedStrategy<Values> {
    prop_oneof![
        6 => doubles(length).prop_map(Values::F64),
        2 => integers(length).prop_map(Values::I64),
        1 => prop_oneof![vec(any::<bool>(), length), any::<bool>().prop_map(move |b| vec![b; length])]
            .prop_map(Values::Bool),
        1 => vec(prop_oneof![Just("open".to_owned()), Just("shut".to_owned()), "\\PC{0,8}"], length)
            .prop_map(Values::String),
    ]
    .boxed()
}

/// Doubles as sensors give them, and as nobody expects them; now and then the second among the first.
pub(crate) fn doubles(length: usize) -> BoxedStrategy<Vec<f64>> {
    let odd = prop_oneof![
        any::<u64>().prop_map(f64::from_bits),
        Just(f64::NAN),
        Just(f64::from_bits(0x7ff0_0000_0000_0001)),
        Just(f64::from_bits(0xfff8_0000_dead_beef)),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(-0.0),
        Just(5e-324),
        Just(-1.5e-310),
        Just(f64::MAX),
        Just(f64::MIN),
        Just(74.935_881_999_999_98),
        Just(9_007_199_254_740_993.0),
        Just(-9_007_199_254_740_992.0),
    ];
    let walk = |step: BoxedStrategy<i64>, to: fn(i64) -> f64| {
        (-40_000..40_000i64, vec(step, length)).prop_map(move |(start, steps)| {
            let mut at = start;
            steps
                .into_iter()
                .map(|step| {
                    at += step;
                    to(at)
                })
                .collect::<Vec<f64>>()
        })
    };
    let clean = prop_oneof![
        walk((-9..9i64).boxed(), |m| m as f64 / 100.0),
        walk((-900..900i64).boxed(), |m| m as f64 / 1e7),
        walk((-3..3i64).boxed(), |m| m as f64 * 0.0625),
        walk((-9..9i64).boxed(), |m| m as f64 / 3.0),
        walk((-9..9i64).boxed(), |m| format!("{:.14e}", m as f64 / 300.0)
            .parse()
            .unwrap_or(0.0)),
        walk((-9..9i64).boxed(), |m| format!("{:.14e}", m as f64 / 900.0)
            .parse()
            .unwrap_or(0.0)),
        walk((-9..9i64).boxed(), |m| f64::from((m as f64 / 10.0) as f32)),
        walk((-9..9i64).boxed(), |m| (m as f64 / 1e4).sin()),
        walk(Just(0).boxed(), |m| m as f64),
        walk(prop_oneof![30 => Just(0i64), 1 => -9..9i64].boxed(), |m| m as f64
            / 2.0),
        vec(-1e3..1e3f64, length),
        vec(any::<u64>().prop_map(f64::from_bits), length),
    ];
    prop_oneof![
        3 => clean.clone(),
        2 => (clean, vec((any::<prop::sample::Index>(), odd), 0..6)).prop_map(|(mut values, odd)| {
            if !values.is_empty() {
                for (at, value) in odd {
                    let at = at.index(values.len());
                    values[at] = value;
                }
            }
            values
        }),
    ]
    .boxed()
}

pub(crate) fn integers(length: usize) -> BoxedStrategy<Vec<i64>> {
    let extreme = prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(0), any::<i64>()];
    prop_oneof![
        vec(-100..100i64, length),
        vec((0..50i64).prop_map(|n| n * 4096), length),
        (any::<i64>(), -3..9i64).prop_map(move |(start, step)| (0..length as i64)
            .map(|i| start.wrapping_add(i.wrapping_mul(step)))
            .collect()),
        vec(prop_oneof![20 => -9..9i64, 1 => extreme.clone()], length),
        vec(extreme, length),
    ]
    .boxed()
}
