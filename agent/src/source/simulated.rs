//! Made-up sensors: seeded random walks at the resolution of real parts, with outages.

use std::sync::Arc;
use std::time::Duration;

use headwater_proto::Value;

use super::schedule::Schedule;
use super::{Cadence, Metric, Output, Reading, Running, Sample, Source};
use crate::config::SimulatedSource;
use crate::error::SourceError;

/// What a cabinet holds: name, unit, digits, steps (of 10^-digits) per resolution step, start, low, high.
const KINDS: [Kind; 8] = [
    Kind::new("temperature", "Cel", 4, 625, 31.25, -40.0, 125.0),
    Kind::new("humidity", "%", 2, 1, 55.0, 0.0, 100.0),
    Kind::new("pressure", "hPa", 2, 1, 1009.37, 900.0, 1100.0),
    Kind::new("voltage", "V", 3, 4, 12.908, 9.0, 15.0),
    Kind::new("current", "A", 3, 1, 1.32, 0.0, 20.0),
    Kind::new("vibration", "[g]", 4, 10, 0.041, 0.0, 16.0),
    Kind::new("flow", "L/min", 1, 5, 32.0, 0.0, 100.0),
    Kind::new("level", "mm", 0, 1, 1450.0, 0.0, 4000.0),
];

struct Kind {
    name: &'static str,
    unit: &'static str,
    digits: u32,
    step: i64,
    start: f64,
    low: f64,
    high: f64,
}

impl Kind {
    const fn new(
        name: &'static str,
        unit: &'static str,
        digits: u32,
        step: i64,
        start: f64,
        low: f64,
        high: f64,
    ) -> Self {
        Self {
            name,
            unit,
            digits,
            step,
            start,
            low,
            high,
        }
    }
}

/// The source.
pub(crate) struct Simulated {
    schedule: Schedule,
    walks: Vec<Walk>,
}

impl Simulated {
    pub(crate) fn open(settings: &SimulatedSource, device: &str) -> Result<Self, SourceError> {
        if !(1..=10_000).contains(&settings.sensors) {
            let why = format!("{} is not in 1..=10000", settings.sensors);
            return Err(SourceError::Setting { key: "sensors", why });
        }
        if settings.interval < Duration::from_millis(1) {
            let why = format!("{:?} is less than 1ms", settings.interval);
            return Err(SourceError::Setting { key: "interval", why });
        }
        let resolution = settings.resolution.map(resolution).transpose()?;
        let seed = settings.seed.unwrap_or_else(|| {
            device.bytes().fold(0, |seed: u64, byte| {
                seed.wrapping_mul(257).wrapping_add(u64::from(byte))
            })
        });
        let outages = Outages::new(settings);
        let walks = (0..settings.sensors)
            .map(|index| Walk::new(index, &settings.prefix, seed, resolution, outages))
            .collect();
        Ok(Self {
            schedule: Schedule::every(settings.interval),
            walks,
        })
    }
}

impl Source for Simulated {
    fn cadence(&self) -> Cadence {
        Cadence::Every(self.schedule.interval())
    }

    fn run<'a>(&'a mut self, output: &'a Output) -> Running<'a> {
        Box::pin(async move {
            let mut previous = None;
            loop {
                let tick = self.schedule.tick(output.clock(), previous).await;
                previous = Some(tick);
                let readings = self.walks.iter_mut().filter_map(Walk::step).collect();
                output
                    .send(Sample {
                        time_us: tick,
                        readings,
                    })
                    .await;
            }
        })
    }
}

/// The digits and step of a resolution: 0.25 is 25 steps of 10^-2.
fn resolution(resolution: f64) -> Result<(u32, i64), SourceError> {
    for digits in 0..=6 {
        let power = 10f64.powi(digits as i32);
        let step = (resolution * power).round();
        if (1.0..=1e9).contains(&step) && step / power == resolution {
            return Ok((digits, step as i64));
        }
    }
    let why = format!("{resolution} is not a decimal of at most 6 digits between 0.000001 and 1000000000");
    Err(SourceError::Setting {
        key: "resolution",
        why,
    })
}

/// How often a sensor falls silent and comes back, as chances per tick.
#[derive(Clone, Copy, Debug)]
struct Outages {
    begin: f64,
    end: f64,
}

impl Outages {
    fn new(settings: &SimulatedSource) -> Self {
        let chance = |mean: Duration| {
            if mean.is_zero() {
                1.0
            } else {
                (settings.interval.as_secs_f64() / mean.as_secs_f64()).min(1.0)
            }
        };
        let begin = if settings.outage_every.is_zero() {
            0.0
        } else {
            chance(settings.outage_every)
        };
        Self {
            begin,
            end: chance(settings.outage_for),
        }
    }
}

/// One sensor.
struct Walk {
    metric: Arc<Metric>,
    random: Random,
    /// In steps of the resolution.
    position: i64,
    low: i64,
    high: i64,
    step: i64,
    power: f64,
    outages: Outages,
    silent: bool,
}

impl Walk {
    fn new(index: usize, prefix: &str, seed: u64, resolution: Option<(u32, i64)>, outages: Outages) -> Self {
        let kind = &KINDS[index % KINDS.len()];
        let number = index / KINDS.len();
        let name = match number {
            0 => format!("{prefix}{}", kind.name),
            _ => format!("{prefix}{}_{}", kind.name, number + 1),
        };
        let (digits, step) = resolution.unwrap_or((kind.digits, kind.step));
        let power = 10f64.powi(digits as i32);
        let steps = |value: f64| (value * power / step as f64).round() as i64;
        let mut random = Random::new(seed ^ (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // Not all of a fleet start alike.
        let spread = (steps(kind.high) - steps(kind.low)) / 20;
        let start = steps(kind.start) + (random.unit() * spread as f64) as i64;
        Self {
            metric: Metric::new(name, kind.unit),
            random,
            position: start,
            low: steps(kind.low),
            high: steps(kind.high),
            step,
            power,
            outages,
            silent: false,
        }
    }

    /// The next value; `None` during an outage.
    fn step(&mut self) -> Option<Reading> {
        // The sensor's world goes on while it is silent.
        let by = (self.random.unit() * 7.0) as i64 - 3;
        self.position = (self.position + by).clamp(self.low, self.high);
        let chance = if self.silent {
            self.outages.end
        } else {
            self.outages.begin
        };
        if self.random.unit() < chance {
            self.silent = !self.silent;
        }
        if self.silent {
            return None;
        }
        let value = (self.position * self.step) as f64 / self.power;
        Some(Reading::new(self.metric.clone(), Value::F64(value)))
    }
}

/// SplitMix64: small, seedable, the same everywhere. Not for secrets.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// In 0..1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(settings: &SimulatedSource, steps: usize) -> Vec<Vec<Option<f64>>> {
        let mut source = Simulated::open(settings, "gw-01").unwrap();
        let value = |walk: &mut Walk| {
            walk.step().map(|reading| match reading.value {
                Value::F64(value) => value,
                other => panic!("{other:?}"),
            })
        };
        (0..steps)
            .map(|_| source.walks.iter_mut().map(value).collect())
            .collect()
    }

    #[test]
    fn the_same_seed_walks_the_same_way_and_another_does_not() {
        let settings = |seed| SimulatedSource {
            seed,
            ..Default::default()
        };
        assert_eq!(values(&settings(Some(7)), 100), values(&settings(Some(7)), 100));
        assert_ne!(values(&settings(Some(7)), 100), values(&settings(Some(8)), 100));
        assert_eq!(values(&settings(None), 100), values(&settings(None), 100));
    }

    #[test]
    fn values_are_decimals_at_the_resolution() {
        let settings = SimulatedSource {
            resolution: Some(0.25),
            sensors: 20,
            ..Default::default()
        };
        for value in values(&settings, 1000).into_iter().flatten().flatten() {
            assert_eq!((value * 4.0).fract(), 0.0, "{value}");
        }
        for value in values(&SimulatedSource::default(), 1000)
            .into_iter()
            .flatten()
            .flatten()
        {
            assert!(format!("{value}").len() <= 8, "{value} is no short decimal");
        }
    }

    #[test]
    fn sensors_fall_silent_and_come_back() {
        let settings = SimulatedSource {
            outage_every: Duration::from_secs(50),
            outage_for: Duration::from_secs(10),
            ..Default::default()
        };
        let all: Vec<_> = values(&settings, 2000).into_iter().flatten().collect();
        let silent = all.iter().filter(|value| value.is_none()).count() as f64 / all.len() as f64;
        assert!((0.08..0.30).contains(&silent), "{silent}");
        assert!(
            values(&SimulatedSource::default(), 2000)
                .into_iter()
                .flatten()
                .all(|value| value.is_some())
        );
    }

    #[test]
    fn names_do_not_repeat() {
        let settings = SimulatedSource {
            sensors: 30,
            prefix: "a.".into(),
            ..Default::default()
        };
        let source = Simulated::open(&settings, "gw").unwrap();
        let names: std::collections::BTreeSet<_> =
            source.walks.iter().map(|w| w.metric.name.clone()).collect();
        assert_eq!(names.len(), 30);
        assert!(names.contains("a.temperature") && names.contains("a.temperature_2"));
    }

    #[test]
    fn settings_that_make_no_sense_are_refused_by_key() {
        for (settings, key) in [
            (
                SimulatedSource {
                    sensors: 0,
                    ..Default::default()
                },
                "sensors",
            ),
            (
                SimulatedSource {
                    resolution: Some(1.0 / 3.0),
                    ..Default::default()
                },
                "resolution",
            ),
            (
                SimulatedSource {
                    resolution: Some(f64::NAN),
                    ..Default::default()
                },
                "resolution",
            ),
            (
                SimulatedSource {
                    resolution: Some(-0.1),
                    ..Default::default()
                },
                "resolution",
            ),
            (
                SimulatedSource {
                    interval: Duration::ZERO,
                    ..Default::default()
                },
                "interval",
            ),
        ] {
            let error = Simulated::open(&settings, "gw").err().unwrap().to_string();
            assert!(error.contains(&format!("`{key}`")), "{error}");
        }
    }
}
