//! What a box's clock goes through, told by fake clocks, from stamp to frame.

use super::*;
use crate::batcher::Batcher;
use crate::journal::{Entry, Journal, Memory, Read};
use crate::sealer::{Sealer, correct};
use crate::source::{Metric, Output, Reading, Sample};
use headwater_proto::{Body, Limits, Readings, Value, frame::Frame};
use std::sync::Arc;
use std::time::Instant;

const SECOND: i64 = 1_000_000;
/// In 2096: later than this program was made.
const NOON: i64 = 4_000_000_000 * SECOND;

fn settings(trust: Trust) -> config::Clock {
    config::Clock {
        trust,
        ..config::Clock::default()
    }
}

/// What the relay would see of a batch that is read for sending now.
fn sent(clock: &Clock, journal: &mut Memory, seq: u64) -> Readings {
    let stream = journal.streams()[0].stream;
    let Read::Record(record) = journal.read(stream, seq) else {
        panic!("no record {seq}");
    };
    let epoch = record.clock();
    let crate::journal::Content::Batch { sealed, series, .. } = record.content else {
        panic!("a loss");
    };
    let limits = Limits::default();
    let sealed = match clock.standing().judge(epoch) {
        Verdict::Correct(correction) => correct(&sealed, &series, &correction, &limits).unwrap(),
        Verdict::Wait | Verdict::Final => (*sealed).clone(),
    };
    let bytes = sealed.frame(1, seq);
    let body = Frame::parse(&bytes, &limits)
        .unwrap()
        .body(Some(&series), &limits);
    let Body::Readings(readings) = body.unwrap() else {
        panic!("no readings");
    };
    readings
}

/// The pipeline's part of it: a batch every ten samples.
struct Gateway {
    clock: Clock,
    batcher: Batcher,
    sealer: Sealer,
    journal: Memory,
    metric: Arc<Metric>,
}

impl Gateway {
    fn new(clock: Clock) -> Self {
        Self {
            clock,
            batcher: Batcher::new(
                config::Batch {
                    readings: 10,
                    ..config::Batch::default()
                },
                Limits::default(),
            ),
            sealer: Sealer::new(&config::Uplink::default(), Limits::default()),
            journal: Memory::new(7, 1 << 20),
            metric: Metric::new("m", ""),
        }
    }

    fn sample(&mut self, time_us: i64) {
        let now = Instant::now();
        let readings = vec![Reading::new(self.metric.clone(), Value::I64(1))];
        self.batcher.push(now, Sample { time_us, readings });
        if self.batcher.is_due(now) {
            self.close();
        }
    }

    fn close(&mut self) {
        let Some(mut closed) = self.batcher.close() else {
            return;
        };
        let epoch = self.clock.epoch();
        if epoch.is_some() {
            closed.readings.clock = headwater_proto::Clock::Uncertain;
        }
        for entry in self.sealer.seal(closed) {
            self.journal.append(entry.made_with(epoch));
        }
    }

    fn look(&mut self) -> Option<Correction> {
        let correction = self.clock.look(|| {});
        if let Some(correction) = &correction {
            self.batcher.correct(correction);
        }
        correction
    }

    /// Times of all that was appended, as the relay would get them now.
    fn times(&mut self) -> Vec<(i64, headwater_proto::Clock)> {
        self.close();
        let last = self.journal.streams()[0].last;
        let mut times = Vec::new();
        for seq in 1..=last {
            let readings = sent(&self.clock, &mut self.journal, seq);
            times.extend(readings.times[0].iter().map(|time_us| (*time_us, readings.clock)));
        }
        times
    }
}

#[test]
fn without_a_battery_an_hour_is_stamped_by_a_stale_clock_and_then_corrected_to_the_microsecond() {
    // Up for 20 s; the wall clock begins in 1970, the time was last kept long ago.
    let kept = NOON - 90 * 86_400 * SECOND;
    let clock = Clock::fake(
        &settings(Trust::Auto),
        Some(kept),
        (20 * SECOND, 25 * SECOND, false),
    );
    let mut machine = Gateway::new(clock.clone());
    assert_eq!(clock.now_us(), kept.max(MADE.parse::<i64>().unwrap() * SECOND));
    let begin = clock.now_us();
    let mut boots = Vec::new();
    for second in 0..3_605 {
        let boot_us = (20 + second) * SECOND;
        clock.show((boot_us, (25 + second) * SECOND, false));
        assert!(machine.look().is_none());
        assert_eq!(
            clock.now_us(),
            begin + second * SECOND,
            "it goes on at a second a second"
        );
        machine.sample(clock.now_us());
        boots.push(boot_us);
    }
    let epoch = clock.epoch().expect("it is provisional");
    assert_eq!(epoch.offset_us + boots[0], begin);
    assert_eq!(clock.standing().judge(Some(epoch)), Verdict::Wait);
    // A time daemon sets the wall clock and says so.
    let (boot_us, wall_us) = (3_630 * SECOND, NOON + 123_457);
    clock.show((boot_us, wall_us, true));
    let correction = machine.look().expect("it becomes known");
    assert!(correction.became_known);
    assert_eq!(clock.epoch(), None);
    assert_eq!(clock.now_us(), wall_us);
    let times = machine.times();
    assert_eq!(times.len(), boots.len());
    for ((time_us, state), sampled_us) in times.into_iter().zip(boots) {
        assert_eq!(time_us, wall_us - boot_us + sampled_us);
        assert_eq!(state, headwater_proto::Clock::Synchronised);
    }
}

#[test]
fn what_comes_after_a_restart_of_the_machine_before_it_knew_stays_flagged_and_in_order() {
    let clock = Clock::fake(&settings(Trust::Kernel), None, (20 * SECOND, 25 * SECOND, false));
    let mut machine = Gateway::new(clock.clone());
    for second in 0..25 {
        clock.show(((20 + second) * SECOND, (25 + second) * SECOND, false));
        machine.sample(clock.now_us());
    }
    machine.close();
    let kept = clock.now_us();
    // Another boot; the journal's records are of the one before.
    let next = Clock::fake(&settings(Trust::Kernel), Some(kept), (SECOND, 6 * SECOND, false));
    let next = Clock {
        shared: Arc::new(Shared {
            inner: Mutex::new(Arc::try_unwrap(next.shared).unwrap().inner.into_inner().unwrap()),
            boot: clock.shared.boot ^ 1,
            reader: Reader::Fake(Mutex::new(observation((SECOND, 6 * SECOND, false)))),
        }),
        told: Arc::default(),
    };
    assert!(next.now_us() >= kept, "no earlier than the last time");
    machine.clock = next.clone();
    machine.sample(next.now_us());
    next.show((2 * SECOND, NOON, true));
    assert!(machine.look().is_some());
    machine.sample(next.now_us());
    let times = machine.times();
    assert!(times.is_sorted_by_key(|(time_us, _)| *time_us), "{times:?}");
    let flagged = times
        .iter()
        .filter(|(_, state)| *state == headwater_proto::Clock::Uncertain);
    assert_eq!(flagged.count(), 25);
    assert_eq!(times[25].0, NOON - SECOND);
}

#[test]
fn jumps_of_years_in_both_directions_move_nothing_until_somebody_vouches() {
    let year = 365 * 86_400 * SECOND;
    let clock = Clock::fake(&settings(Trust::Auto), None, (SECOND, NOON, false));
    let mut machine = Gateway::new(clock.clone());
    let mut last = clock.now_us();
    for (second, wall_us) in [
        (2, NOON + 3 * year),
        (3, NOON - 40 * year),
        (4, NOON + year),
        (5, 0),
    ] {
        clock.show((second * SECOND, wall_us, false));
        assert!(machine.look().is_none());
        assert_eq!(clock.now_us(), last + SECOND);
        last = clock.now_us();
        machine.sample(last);
    }
    // Known; and from then on an unsynchronised wall clock may do what it likes.
    clock.show((6 * SECOND, NOON + 5 * SECOND, true));
    assert_eq!(machine.look().unwrap().by_us, 0);
    for (second, wall_us) in [(7, NOON + 9 * year), (8, NOON - 9 * year)] {
        clock.show((second * SECOND, wall_us, false));
        assert!(machine.look().is_none());
        assert_eq!(clock.now_us(), NOON + (second - 1) * SECOND);
        assert_eq!(clock.stats().state, ClockState::Holdover);
    }
    // A vouched one is followed when it is seen twice, both ways, and what is stamped meanwhile is not touched.
    for (second, by) in [(9, year), (11, -2 * year)] {
        let before = clock.now_us();
        clock.show((second * SECOND, before + by, true));
        assert!(machine.look().is_none());
        clock.show(((second + 1) * SECOND, before + by + SECOND, true));
        let correction = machine.look().expect("seen twice");
        assert!(!correction.became_known);
        assert_eq!(clock.now_us(), before + by + SECOND);
    }
}

#[test]
fn a_smeared_and_an_inserted_leap_second_are_followed_smoothly() {
    let day = 86_400;
    let clock = Clock::fake(&settings(Trust::Kernel), None, (0, NOON, true));
    let mut last = clock.now_us();
    let (mut least, mut most) = (i64::MAX, i64::MIN);
    // A second less over a day, as a smearing server gives it; then a second at once, as a kernel inserts it.
    for second in 1..=2 * day {
        let smeared = second.min(day) * SECOND / day;
        let inserted = if second > day + 1_000 { SECOND } else { 0 };
        clock.show((second * SECOND, NOON + second * SECOND - smeared - inserted, true));
        assert!(clock.look(|| {}).is_none(), "no step");
        let now = clock.now_us();
        (least, most) = (least.min(now - last), most.max(now - last));
        last = now;
    }
    assert!(least >= SECOND - 501 && most <= SECOND + 501, "{least} {most}");
    let error = last - (NOON + 2 * day * SECOND - 2 * SECOND);
    assert!(error.abs() < 100, "{error} us");
}

#[test]
fn a_suspended_machine_wakes_to_the_right_time() {
    let clock = Clock::fake(&settings(Trust::Kernel), None, (0, NOON, true));
    // Eight hours of sleep count in the time since the start; the kernel has set the wall clock by its real-time clock.
    let slept = 8 * 3_600 * SECOND;
    clock.show((slept, NOON + slept + 300_000, false));
    assert!(clock.look(|| {}).is_none());
    assert_eq!(clock.now_us(), NOON + slept);
    clock.show((slept + SECOND, NOON + slept + SECOND + 300_000, true));
    assert!(clock.look(|| {}).is_none());
    clock.show((
        slept + 1_000 * SECOND,
        NOON + slept + 1_000 * SECOND + 300_000,
        true,
    ));
    assert_eq!(clock.now_us(), NOON + slept + 1_000 * SECOND + 300_000);
}

#[test]
fn hardware_is_believed_after_a_while_if_what_it_says_can_be() {
    let wait = 120 * SECOND;
    let known = |trust, boot_us, wall_us, hardware| {
        let seen = Observation {
            boot_us,
            wall_us,
            synchronised: false,
            hardware,
        };
        Timeline::new(trust, wait, NOON, seen).known()
    };
    let rtc = Hardware::Rtc(NOON + 2 * SECOND);
    let hardware = Some(Evidence::Hardware);
    assert_eq!(known(Trust::Auto, wait, NOON, rtc), hardware);
    assert_eq!(
        known(Trust::Auto, wait - 1, NOON, rtc),
        None,
        "a daemon may yet come"
    );
    assert_eq!(known(Trust::Kernel, wait, NOON, rtc), None);
    assert_eq!(
        known(Trust::Auto, wait, NOON + 60 * SECOND, rtc),
        None,
        "they differ"
    );
    assert_eq!(
        known(Trust::Auto, wait, NOON - SECOND, Hardware::Rtc(NOON - SECOND)),
        None,
        "an empty battery: earlier than the last time known"
    );
    assert_eq!(
        known(Trust::Auto, wait, NOON, Hardware::None),
        None,
        "a stale file, for all we know"
    );
    assert_eq!(known(Trust::Auto, 0, NOON, Hardware::Host), hardware);
    assert_eq!(
        known(Trust::Always, 0, 0, Hardware::None),
        Some(Evidence::Setting)
    );
}

#[tokio::test]
async fn a_sample_in_a_sources_hands_is_corrected_and_a_time_that_readings_bring_along_is_not() {
    let clock = Clock::fake(&settings(Trust::Kernel), None, (20 * SECOND, NOON, false));
    let (output, mut samples) = Output::new(clock.clone());
    let sample = |time_us| Sample {
        time_us,
        readings: vec![Reading::new(Metric::new("m", ""), Value::I64(1))],
    };
    // Its tick is made, and then the sensor takes its time.
    let tick = output.clock().now_us();
    let brought = NOON - 400 * 86_400 * SECOND;
    clock.show((21 * SECOND, NOON + 500 * SECOND, true));
    let correction = clock.look(|| {}).unwrap();
    assert_eq!(correction.by_us, 499 * SECOND);
    output.send(sample(tick)).await;
    output.send(sample(brought)).await;
    assert_eq!(samples.recv().await.unwrap().time_us, NOON + 499 * SECOND);
    assert_eq!(samples.recv().await.unwrap().time_us, brought);
    // Told the new time, it is not corrected again.
    let tick = output.clock().now_us();
    output.send(sample(tick)).await;
    assert_eq!(samples.recv().await.unwrap().time_us, tick);
}

#[test]
fn a_batch_in_either_encoding_keeps_everything_but_its_times() {
    let encodings = [config::Encoding::Postcard, config::Encoding::Protobuf];
    for (encoding, compression) in encodings
        .into_iter()
        .zip([config::Compression::None, config::Compression::Deflate])
    {
        let clock = Clock::fake(&settings(Trust::Kernel), None, (20 * SECOND, NOON, false));
        let uplink = config::Uplink {
            encoding,
            compression,
            ..config::Uplink::default()
        };
        let mut batcher = Batcher::new(config::Batch::default(), Limits::default());
        for second in 0..200 {
            let mut reading = Reading::new(Metric::new("a", "V"), Value::F64(second as f64 / 10.0));
            reading.suspect = second % 7 == 0;
            let readings = vec![
                reading,
                Reading::new(Metric::new("b", ""), Value::String("on".into())),
            ];
            let time_us = NOON + second * SECOND;
            batcher.push(Instant::now(), Sample { time_us, readings });
        }
        let closed = batcher.close().unwrap();
        let before = closed.readings.clone();
        let mut sealer = Sealer::new(&uplink, Limits::default());
        let mut journal = Memory::new(7, 1 << 20);
        for entry in sealer.seal(closed) {
            assert!(matches!(entry, Entry::Batch { .. }));
            journal.append(entry.made_with(clock.epoch()));
        }
        clock.show((300 * SECOND, NOON + 1_280 * SECOND, true));
        clock.look(|| {});
        let after = sent(&clock, &mut journal, 1);
        assert_eq!(after.columns, before.columns);
        assert_eq!(after.times.len(), before.times.len());
        for (after, before) in after.times.iter().flatten().zip(before.times.iter().flatten()) {
            assert_eq!(*after, before + 1_000 * SECOND);
        }
    }
}

#[test]
fn the_relays_time_is_compared_with_and_changes_nothing() {
    let clock = Clock::fake(&settings(Trust::Kernel), None, (20 * SECOND, NOON, true));
    assert_eq!(clock.stats().relay_ahead_us, None);
    // Late by what its way takes.
    clock.compare(NOON - 2 * SECOND);
    assert_eq!(clock.stats().relay_ahead_us, Some(-2 * SECOND));
    assert!(!clock.stats().is_doubtful());
    clock.compare(NOON + 3_600 * SECOND);
    assert!(clock.stats().is_doubtful());
    assert_eq!((clock.now_us(), clock.epoch()), (NOON, None));
    assert!(clock.look(|| {}).is_none());
    // Time goes on for both.
    clock.show((120 * SECOND, NOON + 100 * SECOND, true));
    assert_eq!(clock.stats().relay_ahead_us, Some(3_600 * SECOND));
    // Whatever is told.
    for told in [i64::MIN, i64::MAX] {
        clock.compare(told);
        assert!(clock.stats().is_doubtful());
        assert_eq!(clock.now_us(), NOON + 100 * SECOND);
    }
    // While this clock is not known to be right there is nothing to doubt.
    let unknown = Clock::fake(&settings(Trust::Kernel), None, (20 * SECOND, NOON, false));
    unknown.compare(NOON + 3_600 * SECOND);
    assert_eq!(unknown.stats().relay_ahead_us, Some(3_600 * SECOND));
    assert!(!unknown.stats().is_doubtful());
}
