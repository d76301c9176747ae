//! A recorded trace, replayed at its own or another speed.

mod trace;

use super::schedule::{Schedule, sleep_until};
use super::{Cadence, Output, Reading, Running, Sample, Source};
use crate::config::{AtEnd, ReplaySource, ReplayTimes, Speed};
use crate::error::SourceError;

use trace::{Row, Trace};

/// The source.
pub(crate) struct Replay {
    settings: ReplaySource,
    /// Open at its first row; taken when a pass begins.
    trace: Option<Trace>,
    pace: Pace,
}

impl Replay {
    pub(crate) fn open(settings: &ReplaySource) -> Result<Self, SourceError> {
        if let Speed::Factor(factor) = settings.speed
            && !(factor.is_finite() && factor > 0.0)
        {
            let why = format!("{factor} is not greater than 0");
            return Err(SourceError::Setting { key: "speed", why });
        }
        // Every row once, so that a trace that cannot be replayed is refused now and not in an hour.
        let mut trace = Trace::open(settings)?;
        if trace.next()?.is_none() {
            let why = "there is no row with a time and a reading".to_string();
            return Err(SourceError::Content {
                origin: trace.origin().to_string(),
                why,
            });
        }
        Ok(Self {
            trace: Some(Trace::open(settings)?),
            pace: Pace::new(settings),
            settings: settings.clone(),
        })
    }
}

impl Source for Replay {
    fn cadence(&self) -> Cadence {
        Cadence::Own
    }

    fn run<'a>(&'a mut self, output: &'a Output) -> Running<'a> {
        Box::pin(async move {
            loop {
                let mut trace = match self.trace.take() {
                    Some(trace) => trace,
                    None => Trace::open(&self.settings)?,
                };
                let mut rows = 0u64;
                while let Some(row) = trace.next()? {
                    rows += 1;
                    let Turn { due_us, stamp_us } = self.pace.turn(&row, output.clock().now_us());
                    if let Some(due) = due_us {
                        sleep_until(output.clock(), due).await;
                    }
                    output
                        .send(Sample {
                            time_us: stamp_us,
                            readings: row.readings,
                        })
                        .await;
                }
                if rows == 0 {
                    // Emptied since it was opened: going round at once would only burn.
                    let why = "there is no row with a time and a reading any more".to_string();
                    return Err(SourceError::Content {
                        origin: trace.origin().to_string(),
                        why,
                    });
                }
                if self.settings.at_end == AtEnd::Stop {
                    return Ok(());
                }
                self.pace.end_of_pass();
            }
        })
    }
}

/// When a row is due and how its readings are stamped. Pure.
struct Pace {
    speed: Speed,
    times: ReplayTimes,
    /// Wall time of the first row of all.
    start_us: Option<i64>,
    /// The trace's time that is played at `start_us + played_us / speed`.
    first_us: Option<i64>,
    played_us: i64,
    last_us: i64,
    /// The last step forward between two rows: what lies between the last row and the first of the next pass.
    step_us: i64,
}

/// What [`Pace::turn`] decides.
#[derive(Debug, PartialEq)]
struct Turn {
    due_us: Option<i64>,
    stamp_us: i64,
}

impl Pace {
    fn new(settings: &ReplaySource) -> Self {
        Self {
            speed: settings.speed,
            times: settings.times,
            start_us: None,
            first_us: None,
            played_us: 0,
            last_us: 0,
            step_us: 1_000_000,
        }
    }

    fn turn(&mut self, row: &Row, now_us: i64) -> Turn {
        // At a whole second, so that a trace with a cadence of seconds keeps times of whole seconds.
        let start = *self
            .start_us
            .get_or_insert_with(|| Schedule::every(SECOND).after(now_us));
        match self.first_us {
            None => self.first_us = Some(row.time_us - self.played_us),
            Some(_) if row.time_us > self.last_us => self.step_us = row.time_us - self.last_us,
            Some(_) => {}
        }
        self.last_us = row.time_us;
        let offset = row.time_us - self.first_us.unwrap_or(row.time_us);
        let (due_us, at) = match self.speed {
            Speed::Max => (None, start + offset),
            Speed::Factor(1.0) => (Some(start + offset), start + offset),
            Speed::Factor(factor) => {
                let at = start + (offset as f64 / factor).round() as i64;
                (Some(at), at)
            }
        };
        let stamp_us = match self.times {
            ReplayTimes::Now => at,
            ReplayTimes::Original => row.time_us,
        };
        Turn { due_us, stamp_us }
    }

    fn end_of_pass(&mut self) {
        if let Some(first) = self.first_us.take() {
            self.played_us = self.last_us - first + self.step_us;
        }
    }
}

const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn row(time_s: i64) -> Row {
        Row {
            time_us: time_s * 1_000_000,
            readings: Vec::new(),
        }
    }

    fn stamps(settings: &ReplaySource, passes: &[&[i64]]) -> Vec<(Option<i64>, i64)> {
        let mut pace = Pace::new(settings);
        let mut out = Vec::new();
        for pass in passes {
            for time in *pass {
                let turn = pace.turn(&row(*time), 99_400_000);
                out.push((turn.due_us.map(|due| due / 1000), turn.stamp_us / 1000));
            }
            pace.end_of_pass();
        }
        out
    }

    #[test]
    fn times_are_now_at_the_original_spacing_and_loops_go_on() {
        let stamps = stamps(&ReplaySource::default(), &[&[1000, 1001, 1004], &[1000, 1001]]);
        let expected = [100_000, 101_000, 104_000, 107_000, 108_000].map(|at| (Some(at), at));
        assert_eq!(stamps, expected);
    }

    #[test]
    fn a_factor_shortens_the_spacing() {
        let settings = ReplaySource {
            speed: Speed::Factor(10.0),
            ..Default::default()
        };
        let expected = [100_000, 100_100, 100_400].map(|at| (Some(at), at));
        assert_eq!(stamps(&settings, &[&[1000, 1001, 1004]]), expected);
    }

    #[test]
    fn original_times_stay_and_only_the_pace_is_now() {
        let settings = ReplaySource {
            times: ReplayTimes::Original,
            ..Default::default()
        };
        let expected = [(Some(100_000), 1_000_000), (Some(101_000), 1_001_000)];
        assert_eq!(stamps(&settings, &[&[1000, 1001]]), expected);
        let settings = ReplaySource {
            speed: Speed::Max,
            ..settings
        };
        assert_eq!(
            stamps(&settings, &[&[1000, 1001]]),
            [(None, 1_000_000), (None, 1_001_000)]
        );
    }

    #[test]
    fn times_that_go_back_stay_going_back() {
        let stamps = stamps(&ReplaySource::default(), &[&[1000, 1002, 1001, 1003]]);
        let stamps: Vec<_> = stamps.into_iter().map(|(_, stamp)| stamp).collect();
        assert_eq!(stamps, [100_000, 102_000, 101_000, 103_000]);
    }

    #[tokio::test]
    async fn a_trace_is_sent_row_by_row_and_ends() {
        let settings = ReplaySource {
            trace: config::Trace::Text("time_ms,a,b\n1000,1.5,\n2000,,\n3000,2.5,7\n".into()),
            at_end: AtEnd::Stop,
            speed: Speed::Max,
            times: ReplayTimes::Original,
            ..Default::default()
        };
        let (output, mut samples) = Output::new(crate::clock::Clock::default());
        Replay::open(&settings).unwrap().run(&output).await.unwrap();
        drop(output);
        let mut seen = Vec::new();
        while let Some(sample) = samples.recv().await {
            seen.push((sample.time_us, sample.readings.len()));
        }
        assert_eq!(seen, [(1_000_000, 1), (3_000_000, 2)]);
    }

    #[test]
    fn what_cannot_be_replayed_is_refused_at_once() {
        let open = |text: &'static str| {
            let settings = ReplaySource {
                trace: config::Trace::Text(text.into()),
                ..Default::default()
            };
            Replay::open(&settings).err().unwrap().to_string()
        };
        assert!(open("").contains("no column `time_ms`"), "{}", open(""));
        assert!(open("when,a\n1,2\n").contains("no column `time_ms`"));
        assert!(open("time_ms\n1\n").contains("no column but `time_ms`"));
        assert!(open("time_ms,a\n").contains("no row with a time and a reading"));
        assert!(open("time_ms,a\nx,1\n").contains("no row with a time and a reading"));
        assert!(open("time_ms,\n1,2\n").contains("it is empty"));
        let settings = ReplaySource {
            trace: config::Trace::File("/nonexistent/trace.csv".into()),
            ..Default::default()
        };
        let error = Replay::open(&settings).err().unwrap().to_string();
        assert!(error.contains("cannot read /nonexistent/trace.csv"), "{error}");
        let settings = ReplaySource {
            speed: Speed::Factor(0.0),
            ..Default::default()
        };
        assert!(
            Replay::open(&settings)
                .err()
                .unwrap()
                .to_string()
                .contains("`speed`")
        );
    }
}
