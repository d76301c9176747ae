//! What sources of other programs' payloads have in common: a mapping, and the metrics seen so far.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use headwater_foreign::{Mapped, Mapping, Settings};

use super::{Metric, Output, Reading, Sample};
use crate::error::SourceError;

/// The most metrics of one source: whoever makes up names can take no more from the others.
const METRICS_MAX: usize = 2_000;

/// The metrics of a source, each made once. Clones have the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics(Arc<Mutex<HashMap<String, Arc<Metric>>>>);

/// A mapping and the metrics that it made.
#[derive(Clone, Debug)]
pub(crate) struct Foreign {
    mapping: Arc<Mapping>,
    metrics: Metrics,
    /// Bytes.
    max_payload: usize,
}

/// What a payload gave.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// A sample for each time.
    pub(crate) samples: Vec<Sample>,
    /// The number of readings in them.
    pub(crate) readings: usize,
    /// How often something was refused, and why the first time.
    pub(crate) refused: u64,
    pub(crate) refusal: Option<String>,
    /// Readings that have the time of their arrival since their own makes no sense.
    pub(crate) untimed: u64,
}

impl Foreign {
    /// Makes a mapping; `has_topic`: whether payloads come under a topic.
    ///
    /// # Errors
    /// [`SourceError::Setting`] with the key `map`.
    pub(crate) fn new(settings: &Settings, has_topic: bool, metrics: &Metrics) -> Result<Self, SourceError> {
        let mapping = Mapping::new(settings, has_topic).map_err(|error| SourceError::Setting {
            key: "map",
            why: error.to_string(),
        })?;
        Ok(Self::of(mapping, settings, metrics))
    }

    /// A mapping that has been made.
    pub(crate) fn of(mapping: Mapping, settings: &Settings, metrics: &Metrics) -> Self {
        Self {
            mapping: Arc::new(mapping),
            metrics: metrics.clone(),
            // `Mapping::new` has seen to it that it is at most 16 MiB.
            max_payload: settings.max_payload.as_u64() as usize,
        }
    }

    /// The longest payload, bytes.
    pub(crate) fn max_payload(&self) -> usize {
        self.max_payload
    }

    /// The samples of a payload that came at `now_us`.
    pub(crate) fn map(&self, now_us: i64, topic: &str, payload: &[u8]) -> Taken {
        let Mapped {
            readings,
            refused,
            refusal,
            untimed,
        } = self.mapping.map(topic, payload);
        let mut taken = Taken {
            refused,
            refusal: refusal.map(|refusal| refusal.to_string()),
            untimed,
            ..Taken::default()
        };
        let mut metrics = self.metrics.0.lock().unwrap_or_else(PoisonError::into_inner);
        for reading in readings {
            let Some(metric) = metric(&mut metrics, reading.metric, reading.unit) else {
                taken.refused += 1;
                taken.refusal.get_or_insert_with(|| {
                    format!(
                        "more than {METRICS_MAX} metrics of one source; readings of further ones are left out"
                    )
                });
                continue;
            };
            taken.readings += 1;
            let reading_time = reading.time_us.unwrap_or(now_us);
            let reading = Reading::new(metric, reading.value);
            match taken.samples.last_mut() {
                Some(sample) if sample.time_us == reading_time => sample.readings.push(reading),
                _ => taken.samples.push(Sample {
                    time_us: reading_time,
                    readings: vec![reading],
                }),
            }
        }
        taken
    }

    /// Maps a payload that came now and hands over what it gave; what is refused is reported. Returns the number of readings that
    /// were dropped because it was too many.
    pub(crate) async fn take(&self, output: &Output, topic: &str, payload: &[u8]) -> usize {
        self.take_at(output, output.clock().now_us(), topic, payload)
            .await
    }

    /// As [`Foreign::take`], of a payload that came at `now_us`.
    pub(crate) async fn take_at(&self, output: &Output, now_us: i64, topic: &str, payload: &[u8]) -> usize {
        let taken = self.map(now_us, topic, payload);
        taken.report(topic, output);
        let mut dropped = 0;
        for sample in taken.samples {
            dropped += output.send(sample).await;
        }
        dropped
    }
}

fn metric(metrics: &mut HashMap<String, Arc<Metric>>, name: String, unit: String) -> Option<Arc<Metric>> {
    if let Some(metric) = metrics.get_mut(&name) {
        if metric.unit != unit {
            *metric = Metric::new(name, unit);
        }
        return Some(metric.clone());
    }
    if metrics.len() >= METRICS_MAX {
        return None;
    }
    let metric = Metric::new(name.clone(), unit);
    metrics.insert(name, metric.clone());
    Some(metric)
}

impl Taken {
    /// Reports what was not as it should be.
    pub(crate) fn report(&self, topic: &str, output: &Output) {
        if let Some(refusal) = &self.refusal {
            output.report(&Refused {
                topic,
                refusal,
                others: self.refused - 1,
            });
        }
        if self.untimed > 0 {
            let refusal = "a time that cannot be read, has no offset, or lies before 2000; that of the arrival stands in its place";
            output.report(&Refused {
                topic,
                refusal,
                others: self.untimed - 1,
            });
        }
    }
}

/// What of a payload was refused.
struct Refused<'a> {
    topic: &'a str,
    refusal: &'a str,
    others: u64,
}

impl Display for Refused<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.topic.is_empty() {
            write!(f, "{:?}: ", self.topic)?;
        }
        f.write_str(self.refusal)?;
        if self.others > 0 {
            write!(f, " (and {} more)", self.others)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(settings: &Settings) -> Foreign {
        Foreign::new(settings, true, &Metrics::default()).unwrap()
    }

    #[test]
    fn readings_of_one_time_are_one_sample_and_a_metric_is_made_once() {
        let foreign = foreign(&Settings {
            time: Some("/t".into()),
            name: Some("{key}".into()),
            ..Settings::default()
        });
        let payload = br#"[{"a":1,"b":2,"t":1700000000},{"a":3,"t":1700000001},{"b":4}]"#;
        let taken = foreign.map(7, "x", payload);
        let times: Vec<_> = taken
            .samples
            .iter()
            .map(|sample| (sample.time_us, sample.readings.len()))
            .collect();
        assert_eq!(
            times,
            [(1_700_000_000_000_000, 2), (1_700_000_001_000_000, 1), (7, 1)]
        );
        assert!(Arc::ptr_eq(
            &taken.samples[0].readings[0].metric,
            &taken.samples[1].readings[0].metric
        ));
        assert_eq!((taken.readings, taken.refused, taken.untimed), (4, 0, 1));
    }

    #[test]
    fn whoever_makes_up_names_is_bounded() {
        let foreign = foreign(&Settings::default());
        let (mut readings, mut refused) = (0, 0);
        for number in 0..METRICS_MAX + 50 {
            let taken = foreign.map(0, "x", format!("{{\"k{number}\":1}}").as_bytes());
            (readings, refused) = (readings + taken.readings, refused + taken.refused);
        }
        assert_eq!((readings, refused), (METRICS_MAX, 50));
        assert_eq!(foreign.map(0, "x", b"{\"k0\":1}").readings, 1);
    }
}
