use super::*;
use crate::config::{Aggregate, Deadband, Implausible};
use crate::source::Reading;
use headwater_proto::Value;
use proptest::prelude::*;
use std::time::Duration;

const SECOND: i64 = 1_000_000;

fn rule(pattern: &str) -> config::Metric {
    config::Metric {
        pattern: pattern.into(),
        ..config::Metric::default()
    }
}

/// Samples through rules: all that comes out, in order, and what was counted.
fn run(
    rules: &[config::Metric],
    factor: u32,
    readings: &[(i64, &str, Value)],
) -> (Vec<(i64, String, Reading)>, Counts) {
    let set = Arc::<RuleSet>::default();
    set.set(rules);
    let mut rules = Rules::new(set);
    let (mut out, mut counts) = (Vec::new(), Counts::default());
    let mut last_us = 0;
    let mut take = |samples: Vec<Sample>| {
        for sample in samples {
            let time_us = sample.time_us;
            out.extend(
                sample
                    .readings
                    .into_iter()
                    .map(|reading| (time_us, reading.metric.name.clone(), reading)),
            );
        }
    };
    for (time_us, name, value) in readings {
        let mut sample = Sample {
            time_us: *time_us,
            readings: vec![Reading::new(Metric::new(*name, "u"), value.clone())],
        };
        let mut closed = Vec::new();
        rules.take(&mut sample, factor, &mut counts, &mut closed);
        take(closed);
        take(vec![sample]);
        last_us = *time_us;
    }
    let mut closed = Vec::new();
    rules.finish(last_us + 1, &mut closed);
    take(closed);
    (out, counts)
}

fn values(out: &[(i64, String, Reading)]) -> Vec<(i64, f64)> {
    out.iter()
        .map(|(time_us, _, reading)| match reading.value {
            Value::F64(value) => (*time_us / SECOND, value),
            Value::I64(value) => (*time_us / SECOND, value as f64),
            ref other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn the_first_rule_that_matches_holds_and_what_matches_none_passes() {
    let rules = [
        config::Metric {
            rename: Some("kessel temp \u{1f525}".into()),
            unit: Some("Cel".into()),
            scale: 0.1,
            offset: -4.0,
            ..rule("boiler.t1")
        },
        config::Metric {
            scale: 1000.0,
            ..rule("boiler.*")
        },
    ];
    let (out, _) = run(
        &rules,
        1,
        &[
            (0, "boiler.t1", Value::I64(653)),
            (0, "boiler.t2", Value::F64(0.3)),
            (0, "other", Value::I64(653)),
            (0, "boiler.state", Value::String("on".into())),
        ],
    );
    let seen: Vec<_> = out
        .iter()
        .map(|(_, name, reading)| (name.as_str(), reading.metric.unit.as_str(), reading.value.clone()))
        .collect();
    assert_eq!(
        seen,
        [
            ("kessel temp \u{1f525}", "Cel", Value::F64(61.3)),
            ("boiler.t2", "u", Value::F64(300.0)),
            ("other", "u", Value::I64(653)),
            ("boiler.state", "u", Value::String("on".into())),
        ]
    );
}

#[test]
fn scaled_decimals_are_the_doubles_nearest_to_decimals() {
    let rules = [config::Metric {
        scale: 0.1,
        ..rule("*")
    }];
    let raw: Vec<_> = (-2_000..2_000).map(|raw| (raw, "m", Value::I64(raw))).collect();
    let (out, _) = run(&rules, 1, &raw);
    for (raw, _, reading) in out {
        let Value::F64(value) = reading.value else {
            panic!()
        };
        let text = format!(
            "{}{}.{}",
            if raw < 0 { "-" } else { "" },
            raw.abs() / 10,
            raw.abs() % 10
        );
        assert_eq!(value, text.parse::<f64>().unwrap(), "{text}");
    }
}

#[test]
fn absent_sensors_give_no_reading_and_what_is_not_plausible_is_flagged_or_dropped() {
    let rules = |implausible| {
        [config::Metric {
            absent: vec![65_535.0, -127.0],
            scale: 0.01,
            min: Some(-40.0),
            max: Some(125.0),
            implausible,
            ..rule("*")
        }]
    };
    let raw = [
        Value::I64(65_535),
        Value::F64(-127.0),
        Value::I64(2_150),
        Value::I64(12_501),
        Value::F64(f64::NAN),
        Value::String("offline".into()),
    ];
    let raw: Vec<_> = raw.into_iter().map(|value| (0, "t", value)).collect();
    let (out, counts) = run(&rules(Implausible::Flag), 1, &raw);
    let suspects: Vec<_> = out.iter().map(|(_, _, reading)| reading.suspect).collect();
    assert_eq!(suspects, [false, true, true, false]);
    assert_eq!((counts.absent, counts.implausible), (2, 2));
    assert_eq!(out[0].2.value, Value::F64(21.5));
    let (out, counts) = run(&rules(Implausible::Drop), 1, &raw);
    assert_eq!(out.len(), 2);
    assert_eq!((counts.absent, counts.implausible), (2, 2));
}

#[test]
fn an_interval_is_the_least_spacing() {
    let rules = [config::Metric {
        interval: Duration::from_secs(10),
        ..rule("*")
    }];
    let raw: Vec<_> = (0..35)
        .map(|second| (second * SECOND, "m", Value::I64(second)))
        .collect();
    let (out, counts) = run(&rules, 1, &raw);
    assert_eq!(values(&out), [(0, 0.0), (10, 10.0), (20, 20.0), (30, 30.0)]);
    assert_eq!(counts.spared, 31);
    // A clock that was set back by more than that is no reason for silence.
    let back = [(100, 0), (5, 1), (9, 2), (15, 3)].map(|(at, value)| (at * SECOND, "m", Value::I64(value)));
    assert_eq!(
        values(&run(&rules, 1, &back).0),
        [(100, 0.0), (5, 1.0), (15, 3.0)]
    );
}

#[test]
fn bands_are_absolute_or_relative_and_a_change_of_state_or_type_passes() {
    let rules = |deadband| {
        [config::Metric {
            deadband: Some(deadband),
            heartbeat: Duration::ZERO,
            ..rule("*")
        }]
    };
    let through = |deadband, raw: &[Value]| {
        let raw: Vec<_> = raw
            .iter()
            .zip(0..)
            .map(|(value, at)| (at, "m", value.clone()))
            .collect();
        let (out, _) = run(&rules(deadband), 1, &raw);
        out.into_iter().map(|(at, ..)| at).collect::<Vec<_>>()
    };
    let numbers = |raw: &[f64]| raw.iter().map(|value| Value::F64(*value)).collect::<Vec<_>>();
    // Each step is the band, or more than it by the noise of doubles.
    let steps = numbers(&[20.1, 20.2, 20.1, 20.2, 20.3, 20.31]);
    assert_eq!(through(Deadband::Absolute(0.1), &steps), [0, 4]);
    assert_eq!(
        through(Deadband::Percent(1.0), &numbers(&[200.0, 202.0, 202.1, 200.1])),
        [0, 2]
    );
    let nan = numbers(&[1.0, f64::NAN, f64::NAN, 1.0]);
    assert_eq!(through(Deadband::Absolute(10.0), &nan), [0, 1, 3]);
    let mixed = [
        Value::Bool(true),
        Value::Bool(true),
        Value::Bool(false),
        Value::String("a".into()),
        Value::String("a".into()),
        Value::I64(1),
    ];
    assert_eq!(through(Deadband::Absolute(0.0), &mixed), [0, 2, 3, 5]);
}

#[test]
fn windows_begin_at_multiples_and_end_early_only_at_the_end() {
    let rules = [config::Metric {
        aggregate: vec![Aggregate::Mean, Aggregate::Min, Aggregate::Max, Aggregate::Last],
        window: Duration::from_secs(10),
        unit: Some("V".into()),
        ..rule("*")
    }];
    let raw: Vec<_> = (7..24)
        .map(|second| (second * SECOND, "m", Value::I64(second)))
        .collect();
    let (out, _) = run(&rules, 1, &raw);
    let seen: Vec<_> = out
        .iter()
        .map(|(at, name, reading)| {
            (
                *at,
                name.as_str(),
                reading.metric.unit.as_str(),
                reading.value.clone(),
            )
        })
        .collect();
    let window = |at, mean, min, max| {
        [
            (at, "m.mean", "V", Value::F64(mean)),
            (at, "m.min", "V", Value::I64(min)),
            (at, "m.max", "V", Value::I64(max)),
            (at, "m.last", "V", Value::I64(max)),
        ]
    };
    let mut expected = window(10 * SECOND, 8.0, 7, 9).to_vec();
    expected.extend(window(20 * SECOND, 14.5, 10, 19));
    expected.extend(window(23 * SECOND + 1, 21.5, 20, 23));
    assert_eq!(seen, expected);
}

#[test]
fn a_window_ends_though_no_reading_comes_any_more() {
    let set = Arc::<RuleSet>::default();
    set.set(&[config::Metric {
        aggregate: vec![Aggregate::Max],
        window: Duration::from_secs(10),
        ..rule("*")
    }]);
    let mut rules = Rules::new(set.clone());
    let (mut counts, mut closed) = (Counts::default(), Vec::new());
    for (metric, time_us) in [("a", 3), ("b", 3), ("c", 12)] {
        let mut sample = Sample {
            time_us: time_us * SECOND,
            readings: vec![Reading::new(Metric::new(metric, ""), Value::I64(1))],
        };
        rules.take(&mut sample, 1, &mut counts, &mut closed);
    }
    assert_eq!(rules.deadline(), Some(10 * SECOND));
    rules.close(10 * SECOND - 1, &mut closed);
    assert!(closed.is_empty() && rules.has_windows());
    rules.close(10 * SECOND, &mut closed);
    assert_eq!(
        (closed.len(), closed[0].readings.len()),
        (1, 2),
        "one sample for one time"
    );
    rules.close(20 * SECOND, &mut closed);
    assert!(!rules.has_windows());
    // Other rules: what was gathered by the old ones goes out first.
    let sample = |name: &str| Sample {
        time_us: 25 * SECOND,
        readings: vec![Reading::new(Metric::new(name, ""), Value::I64(1))],
    };
    closed.clear();
    rules.take(&mut sample("a"), 1, &mut counts, &mut closed);
    set.set(&[]);
    let mut next = sample("a");
    rules.take(&mut next, 1, &mut counts, &mut closed);
    assert_eq!((closed.len(), next.readings.len()), (1, 1));
}

#[test]
fn thinning_takes_one_of_so_many_and_counts_the_rest() {
    let raw: Vec<_> = (0..20)
        .flat_map(|at| {
            [
                (at * SECOND, "a", Value::I64(at)),
                (at * SECOND, "b", Value::I64(at)),
            ]
        })
        .collect();
    let (out, counts) = run(&[], 6, &raw);
    let at: Vec<_> = out.iter().map(|(at, ..)| at / SECOND).collect();
    assert_eq!(
        at,
        [0, 0, 6, 6, 12, 12, 18, 18],
        "all metrics keep to the same ticks"
    );
    assert_eq!(counts.thinned, 32);
    assert_eq!(run(&[], 1, &raw).1, Counts::default());
}

#[test]
fn thinning_lets_every_change_of_a_state_pass() {
    let raw: Vec<_> = (0..20)
        .map(|at| (at * SECOND, "door", Value::Bool((7..9).contains(&at))))
        .collect();
    let (out, counts) = run(&[], 6, &raw);
    let at: Vec<_> = out.iter().map(|(at, ..)| at / SECOND).collect();
    assert_eq!(at, [0, 6, 7, 9, 12, 18], "it opened at 7 and closed at 9");
    assert_eq!(counts.thinned, 14);
}

#[test]
fn more_metrics_than_can_be_remembered_pass_as_they_are() {
    let set = Arc::<RuleSet>::default();
    set.set(&[config::Metric {
        scale: 2.0,
        ..rule("*")
    }]);
    let mut rules = Rules::new(set);
    let readings =
        (0..METRICS_MAX + 5).map(|number| Reading::new(Metric::new(format!("m{number}"), ""), Value::I64(1)));
    let mut sample = Sample {
        time_us: 0,
        readings: readings.collect(),
    };
    rules.take(&mut sample, 1, &mut Counts::default(), &mut Vec::new());
    let scaled = sample
        .readings
        .iter()
        .filter(|reading| reading.value == Value::F64(2.0));
    assert_eq!(scaled.count(), METRICS_MAX);
    assert_eq!(sample.readings.len(), METRICS_MAX + 5);
}

proptest! {
    /// Between two readings that went on, none differs from the first by more than the band, and no heartbeat is missed.
    #[test]
    fn a_deadband_hides_no_larger_change_and_the_heartbeat_holds(
        steps in prop::collection::vec((1i64..20, -300i64..300), 1..200),
        band in 0i64..100,
    ) {
        let heartbeat = 60;
        let rules = [config::Metric {
            deadband: Some(Deadband::Absolute(band as f64 / 10.0)),
            heartbeat: Duration::from_secs(heartbeat as u64),
            ..rule("*")
        }];
        let mut at = 0;
        let raw: Vec<_> = steps.iter().map(|(by, value)| {
            at += by;
            (at * SECOND, "m", Value::F64(*value as f64 / 10.0))
        }).collect();
        let (out, counts) = run(&rules, 1, &raw);
        let sent = values(&out);
        prop_assert_eq!(sent.len() as u64 + counts.spared, raw.len() as u64);
        let (mut next, mut last) = (0, None::<(i64, i64)>);
        for ((time_us, _, _), (_, tenths)) in raw.iter().zip(&steps) {
            let at = time_us / SECOND;
            if sent.get(next).is_some_and(|(sent, _)| *sent == at) {
                last = Some((at, *tenths));
                next += 1;
            } else {
                let (since, before) = last.unwrap();
                prop_assert!((tenths - before).abs() <= band);
                prop_assert!(at - since < heartbeat);
            }
        }
        prop_assert_eq!(next, sent.len());
    }

    /// Aggregates are what one would reckon from all readings of the window.
    #[test]
    fn aggregates_equal_a_naive_model(steps in prop::collection::vec((0i64..20, -10_000i64..10_000), 1..200)) {
        // Two digits each, so that the mean has four.
        let steps: Vec<_> = steps.into_iter().map(|(by, value)| (by, value * 10 + 3)).collect();
        let rules = [config::Metric {
            aggregate: vec![Aggregate::Mean, Aggregate::Min, Aggregate::Max, Aggregate::Last],
            window: Duration::from_secs(30),
            ..rule("*")
        }];
        let (mut at, mut windows) = (0, std::collections::BTreeMap::<i64, Vec<i64>>::new());
        let raw: Vec<_> = steps.iter().map(|(by, value)| {
            at += by;
            windows.entry(at / 30).or_default().push(*value);
            (at * SECOND, "m", Value::F64(*value as f64 / 100.0))
        }).collect();
        let (out, _) = run(&rules, 1, &raw);
        prop_assert_eq!(out.len(), 4 * windows.len());
        for (seen, (number, cents)) in out.chunks(4).zip(&windows) {
            let value = |at: usize| match seen[at].2.value { Value::F64(value) => value, _ => f64::NAN };
            prop_assert!(seen.iter().all(|(at, ..)| *at == ((number + 1) * 30 * SECOND).min(raw.last().unwrap().0 + 1)));
            let mean = cents.iter().sum::<i64>() as f64 / cents.len() as f64 / 100.0;
            prop_assert!((value(0) - mean).abs() <= 0.000_051, "{} {}", value(0), mean);
            prop_assert_eq!(value(0), format!("{:.4}", value(0)).parse::<f64>().unwrap());
            prop_assert_eq!(value(1), *cents.iter().min().unwrap() as f64 / 100.0);
            prop_assert_eq!(value(2), *cents.iter().max().unwrap() as f64 / 100.0);
            prop_assert_eq!(value(3), *cents.last().unwrap() as f64 / 100.0);
        }
    }
}
