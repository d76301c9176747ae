use super::*;
use headwater_proto::{Column as Readings1, Loss as Lost, LossReason, Readings};
use proptest::prelude::*;

type Place = (String, String, String);

fn batch(device: &str, columns: &[(&str, &str, Values)], times: &[i64]) -> Batch {
    let column = |(metric, unit, values): &(&str, &str, Values)| Readings1 {
        metric: (*metric).into(),
        unit: (*unit).into(),
        times: 0,
        values: values.clone(),
        suspect: vec![],
    };
    let body = Body::Readings(Readings {
        times: vec![times.to_vec()],
        columns: columns.iter().map(column).collect(),
        ..Readings::default()
    });
    Batch {
        device: device.into(),
        stream: 1,
        seq: 1,
        body,
    }
}

fn doubles(device: &str, readings: &[(i64, f64)]) -> Batch {
    let (times, values): (Vec<i64>, Vec<f64>) = readings.iter().copied().unzip();
    batch(device, &[("m", "", Values::F64(values))], &times)
}

/// What a client makes of frames: buckets of the width that is the widest of each column, by place and start.
#[derive(Default)]
struct Client {
    told: Vec<pb::SeriesColumn>,
}

impl Client {
    fn take(&mut self, buckets: &mut Buckets) {
        self.told.extend(buckets.take().columns);
    }

    fn widest(&self, asked_us: i64) -> i64 {
        self.told
            .iter()
            .map(|column| column.bucket_us)
            .max()
            .unwrap_or(asked_us)
    }

    fn cells(&self, width_us: i64) -> BTreeMap<(Place, i64), Cell> {
        let mut cells: BTreeMap<(Place, i64), Cell> = BTreeMap::new();
        for column in &self.told {
            assert_eq!(width_us % column.bucket_us, 0);
            let place = (column.device.clone(), column.metric.clone(), column.unit.clone());
            for i in 0..column.bucket.len() {
                let start = column.start_us + i64::from(column.bucket[i]) * column.bucket_us;
                assert_eq!(start.rem_euclid(column.bucket_us), 0, "aligned to the epoch");
                let cell = Cell {
                    min: column.min[i],
                    max: column.max[i],
                    last: column.last[i],
                    last_us: start + column.last_us[i] as i64,
                    count: column.count[i].into(),
                };
                assert!((start..start + column.bucket_us).contains(&cell.last_us));
                cells
                    .entry((place.clone(), start.div_euclid(width_us)))
                    .and_modify(|known| known.join(&cell))
                    .or_insert(cell);
            }
        }
        cells
    }
}

/// The same, from the readings themselves, one by one.
fn model(readings: &[(i64, f64)], width_us: i64) -> BTreeMap<i64, (f64, f64, f64, i64, u64)> {
    let mut buckets: BTreeMap<i64, Vec<(i64, f64)>> = BTreeMap::new();
    for &(time, value) in readings.iter().filter(|(_, value)| !value.is_nan()) {
        buckets
            .entry(time.div_euclid(width_us))
            .or_default()
            .push((time, value));
    }
    let of = |(index, readings): (i64, Vec<(i64, f64)>)| {
        let mut sorted: Vec<f64> = readings.iter().map(|reading| reading.1).collect();
        sorted.sort_by(f64::total_cmp);
        let last_us = readings.iter().map(|reading| reading.0).max().unwrap();
        let last = readings.iter().rfind(|reading| reading.0 == last_us).unwrap().1;
        (
            index,
            (
                sorted[0],
                sorted[sorted.len() - 1],
                last,
                last_us,
                readings.len() as u64,
            ),
        )
    };
    buckets.into_iter().map(of).collect()
}

fn bits(cell: (f64, f64, f64, i64, u64)) -> (u64, u64, u64, i64, u64) {
    (
        cell.0.to_bits(),
        cell.1.to_bits(),
        cell.2.to_bits(),
        cell.3,
        cell.4,
    )
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => -100.0..100.0,
        1 => prop::sample::select(vec![0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::MAX]),
        1 => Just(f64::NAN),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Batch(Vec<(i64, f64)>),
    /// The window is open: what is held goes out.
    Open,
    /// It is closed: what is held has to fit.
    Closed,
}

fn step() -> impl Strategy<Value = Step> {
    let time = prop_oneof![-5_000i64..5_000, -3_000_000i64..3_000_000];
    prop_oneof![
        4 => prop::collection::vec((time, value()), 0..40).prop_map(Step::Batch),
        1 => Just(Step::Open),
        2 => Just(Step::Closed),
    ]
}

proptest! {
    #[test]
    fn whatever_the_window_did_the_buckets_are_those_of_the_whole(
        width in 1i64..2000,
        steps in prop::collection::vec(step(), 0..60),
        most in 2usize..20,
    ) {
        let (mut buckets, mut client, mut all) = (Buckets::new(width), Client::default(), vec![]);
        for step in steps {
            match step {
                Step::Batch(readings) => {
                    buckets.add(&doubles("d", &readings), &Globs::All, 0);
                    all.extend(readings);
                }
                Step::Open => client.take(&mut buckets),
                Step::Closed => {
                    buckets.narrow(most, usize::MAX);
                    prop_assert!(buckets.cells <= most);
                }
            }
        }
        client.take(&mut buckets);
        prop_assert!(buckets.is_empty());
        let widest = client.widest(width);
        prop_assert_eq!(widest % width, 0);
        prop_assert_eq!((widest / width).count_ones(), 1);
        let told: BTreeMap<_, _> = client
            .cells(widest)
            .into_iter()
            .map(|((_, index), cell)| (index, bits((cell.min, cell.max, cell.last, cell.last_us, cell.count))))
            .collect();
        let expected: BTreeMap<_, _> = model(&all, widest)
            .into_iter()
            .map(|(index, cell)| (index, bits(cell)))
            .collect();
        prop_assert_eq!(told, expected);
    }

    #[test]
    fn what_is_held_is_bounded_whatever_comes(
        batches in prop::collection::vec((0usize..40, prop::collection::vec((any::<i64>(), value()), 1..30)), 1..100),
        most in 2usize..10,
        bytes in 0usize..20_000,
    ) {
        let mut buckets = Buckets::new(1000);
        let mut columns = std::collections::BTreeSet::new();
        for (device, readings) in batches {
            if readings.iter().any(|reading| !reading.1.is_nan()) {
                columns.insert(device);
            }
            buckets.add(&doubles(&format!("d{device}"), &readings), &Globs::All, 0);
            buckets.narrow(most, bytes);
            // Of the greatest width there can be, four buckets hold all times.
            let least = columns.len() * (COLUMN_BYTES + 4 + 4 * CELL_BYTES);
            prop_assert!(buckets.held() <= bytes.max(least), "{} {}", buckets.held(), bytes);
            prop_assert!(buckets.all_columns().all(|column| column.cells.len() <= most.max(4)));
            let counted: usize = buckets.all_columns().map(|column| column.cells.len()).sum();
            prop_assert_eq!(counted, buckets.cells);
            prop_assert_eq!(buckets.all_columns().count(), buckets.columns);
        }
    }

    #[test]
    fn any_time_has_a_bucket_that_can_be_told(
        readings in prop::collection::vec((prop_oneof![any::<i64>(), -9i64..9, Just(i64::MIN), Just(i64::MAX)], -9.0..9.0f64), 1..20),
        width in prop_oneof![1i64..10, 1i64..4_294_967_295_000],
    ) {
        let mut buckets = Buckets::new(width);
        buckets.add(&doubles("d", &readings), &Globs::All, 0);
        let taken = buckets.take().columns;
        let told = taken.iter().flat_map(|column| {
            (0..column.bucket.len()).map(|i| {
                let start = i128::from(column.start_us) + i128::from(column.bucket[i]) * i128::from(column.bucket_us);
                let last = start + i128::from(column.last_us[i]);
                assert!(start <= last && last < start + i128::from(column.bucket_us));
                (last as i64, column.count[i])
            })
        });
        let told: Vec<(i64, u32)> = told.collect();
        prop_assert_eq!(told.iter().map(|told| told.1 as usize).sum::<usize>(), readings.len());
        let greatest = readings.iter().map(|reading| reading.0).max().unwrap();
        prop_assert!(told.iter().any(|told| told.0 == greatest));
        for column in &taken {
            prop_assert!(column.bucket.is_sorted_by(|a, b| a < b) && column.bucket[0] == 0);
        }
    }
}

#[test]
fn numbers_of_every_kind_are_counted_and_nothing_else() {
    let mut buckets = Buckets::new(1_000_000);
    let columns = [
        ("f", "Cel", Values::F64(vec![f64::NAN, -0.0, f64::INFINITY])),
        ("i", "", Values::I64(vec![i64::MAX, -3, 2])),
        ("b", "", Values::Bool(vec![true, false, true])),
        ("s", "", Values::String(vec!["x".into(), "y".into(), "z".into()])),
        ("n", "", Values::F64(vec![f64::NAN; 3])),
        ("other", "", Values::F64(vec![1.0; 3])),
    ];
    let metrics = Globs::compile(&["[fibsn]".into()]).unwrap();
    buckets.add(&batch("gw", &columns, &[-1, 999_999, 0]), &metrics, 0);
    let taken = buckets.take();
    assert_eq!(taken.merged, 1);
    let told: Vec<_> = taken
        .columns
        .iter()
        .map(|c| {
            (
                c.metric.as_str(),
                c.start_us,
                &c.bucket[..],
                &c.min[..],
                &c.max[..],
                &c.last[..],
                &c.count[..],
                &c.last_us[..],
            )
        })
        .collect();
    let two = &[0u32, 1][..];
    assert_eq!(
        told,
        [
            (
                "b",
                -1_000_000,
                two,
                &[1.0, 0.0][..],
                &[1.0, 1.0][..],
                &[1.0, 0.0][..],
                &[1, 2][..],
                &[999_999, 999_999][..]
            ),
            (
                "f",
                0,
                &[0][..],
                &[-0.0][..],
                &[f64::INFINITY][..],
                &[-0.0][..],
                &[2][..],
                &[999_999][..]
            ),
            (
                "i",
                -1_000_000,
                two,
                &[9_223_372_036_854_775_807.0, -3.0][..],
                &[9_223_372_036_854_775_807.0, 2.0][..],
                &[9_223_372_036_854_775_807.0, -3.0][..],
                &[1, 2][..],
                &[999_999, 999_999][..]
            ),
        ]
    );
    assert_eq!(taken.columns[1].unit, "Cel");
    // Nothing but NaN and text: nothing to tell, and no batch that went into it.
    buckets.add(&batch("gw", &columns[3..5], &[1, 2, 3]), &Globs::All, 0);
    assert!(buckets.is_empty());
    assert_eq!(buckets.take().merged, 0);
}

#[test]
fn units_do_not_mix_and_late_readings_come_alone() {
    let mut buckets = Buckets::new(1000);
    buckets.add(
        &batch("gw", &[("t", "Cel", Values::F64(vec![20.0]))], &[500]),
        &Globs::All,
        0,
    );
    buckets.add(
        &batch("gw", &[("t", "[degF]", Values::F64(vec![68.0]))], &[600]),
        &Globs::All,
        0,
    );
    let units: Vec<String> = buckets
        .take()
        .columns
        .into_iter()
        .map(|column| column.unit)
        .collect();
    assert_eq!(units, ["Cel", "[degF]"]);
    // A reading for the bucket that went out: only itself.
    buckets.add(
        &batch("gw", &[("t", "Cel", Values::F64(vec![1.0]))], &[400]),
        &Globs::All,
        0,
    );
    let late = buckets.take().columns;
    assert_eq!(
        (late[0].start_us, &late[0].count[..], &late[0].max[..]),
        (0, &[1][..], &[1.0][..])
    );
}

#[test]
fn losses_are_added_up_by_device() {
    let mut buckets = Buckets::new(1000);
    for (device, readings, arrival) in [("a", 5, 20), ("b", 1, 30), ("a", 7, 10)] {
        let body = Body::Loss(Lost {
            through: 9,
            readings,
            reason: LossReason::JournalFull,
        });
        let lost = Batch {
            device: device.into(),
            stream: 1,
            seq: 1,
            body,
        };
        buckets.add(&lost, &Globs::All, arrival);
    }
    assert!(!buckets.is_empty());
    let taken = buckets.take();
    let losses: Vec<_> = taken
        .losses
        .iter()
        .map(|l| {
            (
                l.device.as_str(),
                l.first_arrival_us,
                l.last_arrival_us,
                l.readings,
            )
        })
        .collect();
    assert_eq!(
        (losses, taken.merged),
        (vec![("a", 10, 20, 12), ("b", 30, 30, 1)], 3)
    );
}

#[test]
fn a_closed_window_for_a_day_costs_a_few_kilobytes_a_column() {
    let mut buckets = Buckets::new(1_000_000);
    for second in 0..86_400 {
        buckets.add(
            &doubles("gw", &[(second * 1_000_000, second as f64)]),
            &Globs::All,
            0,
        );
        buckets.settle();
    }
    let taken = buckets.take();
    let column = &taken.columns[0];
    assert_eq!((taken.columns.len(), taken.merged), (1, 86_400));
    assert_eq!(column.bucket_us, 1024 * 1_000_000);
    assert_eq!(
        (column.bucket.len(), column.count.iter().sum::<u32>()),
        (85, 86_400)
    );
    assert_eq!(
        (column.min[1], column.max[1], column.last[84]),
        (1024.0, 2047.0, 86_399.0)
    );
}

#[test]
fn what_is_kept_is_counted_as_if_the_rest_had_never_come() {
    let (mut both, mut one) = (Buckets::new(10), Buckets::new(10));
    for device in ["a", "b"] {
        let batch = doubles(device, &[(0, 1.0), (15, 2.0)]);
        both.add(&batch, &Globs::All, 1);
        both.lose(device, 7, 2);
        if device == "b" {
            one.add(&batch, &Globs::All, 1);
            one.lose(device, 7, 2);
        }
    }
    both.retain(|device| device == "b");
    assert_eq!((both.held(), both.frame_bytes()), (one.held(), one.frame_bytes()));
    let taken = both.take();
    assert!(taken.columns.iter().all(|column| column.device == "b") && taken.columns.len() == 1);
    assert!(taken.losses.iter().all(|loss| loss.device == "b") && taken.losses.len() == 1);
}
