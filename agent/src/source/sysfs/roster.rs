//! Which sensors there are, and what came of each round of readings. Pure.
//!
//! A tick begins a round: every sensor is read once, except those that are still being read. The round's sample goes out when
//! all have answered, or at the next tick with what has come. What comes later than that is not of its time, and left out.

use std::collections::HashMap;
use std::sync::Arc;

use headwater_proto::Value;

use super::sensor::{Fault, Outcome, Probe, Sensor};
use crate::source::{Reading, Sample};

/// What a DS18B20 holds when power came on and nothing was measured yet; Celsius.
const POWER_ON: f64 = 85.0;
/// A true reading of that value has one of the last round as near as this.
const POWER_ON_NEAR: f64 = 5.0;

/// See the module.
#[derive(Default)]
pub(super) struct Roster {
    entries: HashMap<u64, Entry>,
    next_id: u64,
    round: Option<Round>,
    scanned: bool,
    faults: Vec<(String, bool)>,
}

struct Entry {
    sensor: Arc<Sensor>,
    /// The tick of a reading that has not come back.
    reading: Option<i64>,
    /// Rounds that it was left out of because of that.
    skipped: u64,
    /// Failed readings since the last good one.
    failed: u64,
    /// The last good number.
    last: Option<f64>,
}

struct Round {
    tick: i64,
    waiting: usize,
    readings: Vec<Reading>,
}

impl Roster {
    /// Takes what a scan found. What was there and is found again keeps its state.
    pub(super) fn found(&mut self, sensors: Vec<Sensor>) {
        let mut known: HashMap<_, _> = std::mem::take(&mut self.entries)
            .into_iter()
            .map(|(id, entry)| (entry.sensor.metric.name.clone(), (id, entry)))
            .collect();
        let (mut new, mut first) = (0, None);
        for sensor in sensors {
            match known.remove(&sensor.metric.name) {
                Some((id, entry)) if *entry.sensor == sensor => {
                    self.entries.insert(id, entry);
                }
                changed => {
                    if changed.is_none() {
                        new += 1;
                        first.get_or_insert_with(|| sensor.metric.name.clone());
                    }
                    let entry = Entry {
                        sensor: Arc::new(sensor),
                        reading: None,
                        skipped: 0,
                        failed: 0,
                        last: None,
                    };
                    self.entries.insert(self.next_id, entry);
                    self.next_id += 1;
                }
            }
        }
        if let Some(first) = first {
            log::info!("sysfs: {new} new sensor(s), {first} the first of them");
        }
        for name in known.keys() {
            log::warn!("sysfs: {name} is no longer there; looking for it at each scan");
        }
        if !self.scanned && self.entries.is_empty() {
            log::warn!("sysfs: no sensor is found; looking again at each scan");
        }
        self.scanned = true;
    }

    /// Ends the round before, and begins one: what is left of the former, and what is to be read.
    pub(super) fn begin(&mut self, tick: i64) -> (Option<Sample>, Vec<(u64, Arc<Sensor>)>) {
        let late = self.round.take().and_then(Round::sample);
        let mut jobs = Vec::with_capacity(self.entries.len());
        for (id, entry) in &mut self.entries {
            if entry.reading.is_some() {
                entry.skipped += 1;
                let name = &entry.sensor.metric.name;
                let text = format!("{name} takes longer than the interval; leaving it out until it answers");
                self.faults.push((text, entry.skipped == 1));
                continue;
            }
            entry.reading = Some(tick);
            jobs.push((*id, entry.sensor.clone()));
        }
        jobs.sort_by_key(|(id, _)| *id);
        if !jobs.is_empty() {
            self.round = Some(Round {
                tick,
                waiting: jobs.len(),
                readings: Vec::with_capacity(jobs.len()),
            });
        }
        (late, jobs)
    }

    /// What went wrong since the last call, and whether that is new.
    pub(super) fn faults(&mut self) -> Vec<(String, bool)> {
        std::mem::take(&mut self.faults)
    }

    /// Takes what came of one reading. The round's sample, if this was its last.
    pub(super) fn read(&mut self, id: u64, tick: i64, outcome: Result<Outcome, Fault>) -> Option<Sample> {
        let entry = self.entries.get_mut(&id);
        let reading = entry.and_then(|entry| match outcome {
            Ok(outcome) => Some(entry.good(outcome)),
            Err(fault) => {
                self.faults.push(entry.failed(&fault));
                None
            }
        });
        let round = self.round.as_mut().filter(|round| round.tick == tick)?;
        round.readings.extend(reading);
        round.waiting -= 1;
        if round.waiting > 0 {
            return None;
        }
        self.round.take().and_then(Round::sample)
    }
}

impl Round {
    fn sample(self) -> Option<Sample> {
        (!self.readings.is_empty()).then_some(Sample {
            time_us: self.tick,
            readings: self.readings,
        })
    }
}

impl Entry {
    fn good(&mut self, Outcome { value, suspect }: Outcome) -> Reading {
        self.answered();
        if self.failed > 0 {
            let name = &self.sensor.metric.name;
            log::info!("sysfs: {name} is back after {} failed reading(s)", self.failed);
            self.failed = 0;
        }
        let mut reading = Reading::new(self.sensor.metric.clone(), value);
        reading.suspect = suspect || self.is_power_on(&reading.value);
        if let (Value::F64(value), false) = (&reading.value, reading.suspect) {
            self.last = Some(*value);
        }
        reading
    }

    fn failed(&mut self, fault: &Fault) -> (String, bool) {
        self.answered();
        self.failed += 1;
        let name = &self.sensor.metric.name;
        let path = self.sensor.path().display();
        let then = match fault.is_gone() {
            true => "it is looked for at the next scan",
            false => "the others go on; it is tried at each round",
        };
        let text = format!("{name} cannot be read from {path}: {fault}; {then}");
        (text, self.failed == 1)
    }

    fn answered(&mut self) {
        self.reading = None;
        if self.skipped > 0 {
            let name = &self.sensor.metric.name;
            log::info!(
                "sysfs: {name} answers again after {} skipped reading(s)",
                self.skipped
            );
            self.skipped = 0;
        }
    }

    fn is_power_on(&self, value: &Value) -> bool {
        matches!(self.sensor.probe, Probe::OneWire(_) | Probe::OneWireSlave(_))
            && *value == Value::F64(POWER_ON)
            && self
                .last
                .is_none_or(|last| (last - POWER_ON).abs() > POWER_ON_NEAR)
    }
}
