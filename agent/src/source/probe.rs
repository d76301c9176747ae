//! A source on the bench: runs it and looks at what it hands over.

use std::time::Duration;

use headwater_proto::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Output, Sample, Source};
use crate::clock::Clock;
use crate::error::SourceError;

/// How long anything may take to come about.
const LIMIT: Duration = Duration::from_secs(30);

/// A source that runs. Dropping this ends it.
pub(crate) struct Probe {
    pub(crate) output: Output,
    samples: mpsc::Receiver<Sample>,
    waiting: Vec<(i64, String)>,
    task: JoinHandle<Result<(), SourceError>>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Probe {
    pub(crate) fn start(source: impl Source + 'static) -> Self {
        Self::limited(source, None)
    }

    /// With a share of `rate` readings a second, as the agent gives it.
    pub(crate) fn limited(mut source: impl Source + 'static, rate: Option<u32>) -> Self {
        let (output, samples) = Output::new(Clock::default());
        let output = output.limited(rate, source.cadence());
        let its = output.clone();
        let task = tokio::spawn(async move { source.run(&its).await });
        Self {
            output,
            samples,
            waiting: Vec::new(),
            task,
        }
    }

    /// The next readings, `name=value` each.
    pub(crate) async fn readings(&mut self, number: usize) -> Vec<String> {
        let timed = self.timed(number).await;
        timed.into_iter().map(|(_, reading)| reading).collect()
    }

    /// The next readings, each with its time.
    pub(crate) async fn timed(&mut self, number: usize) -> Vec<(i64, String)> {
        while self.waiting.len() < number {
            let Ok(sample) = tokio::time::timeout(LIMIT, self.samples.recv()).await else {
                panic!("only {:?} came; {:?}", self.waiting, self.output.meter().stats());
            };
            let sample = sample.expect("the source has ended");
            self.waiting.extend(
                sample
                    .readings
                    .iter()
                    .map(|reading| (sample.time_us, shown(reading))),
            );
        }
        self.waiting.drain(..number).collect()
    }

    /// Whether nothing more has come.
    pub(crate) fn is_silent(&mut self) -> bool {
        self.waiting.is_empty() && self.samples.try_recv().is_err()
    }

    /// Takes what has come and forgets it, as the agent would go on with it.
    pub(crate) fn drain(&mut self) {
        self.waiting.clear();
        while self.samples.try_recv().is_ok() {}
    }

    /// Waits until so many errors were reported, the last of which says `part`.
    pub(crate) async fn reports(&self, errors: u64, part: &str) {
        let until = tokio::time::Instant::now() + LIMIT;
        loop {
            let stats = self.output.meter().stats();
            let last = stats.last_error.unwrap_or_default();
            if stats.errors >= errors && last.contains(part) {
                return;
            }
            assert!(
                tokio::time::Instant::now() < until,
                "{} errors, the last: {last:?}, not {part:?}",
                stats.errors
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the source fails.
    pub(crate) async fn failure(&mut self) -> String {
        let ended = tokio::time::timeout(LIMIT, &mut self.task);
        let result = ended.await.expect("it goes on").expect("it panicked");
        result.expect_err("it ended without an error").to_string()
    }
}

fn shown(reading: &super::Reading) -> String {
    let name = &reading.metric.name;
    match &reading.value {
        Value::F64(value) => format!("{name}={value}"),
        Value::I64(value) => format!("{name}={value}i"),
        Value::Bool(value) => format!("{name}={value}"),
        Value::String(value) => format!("{name}={value:?}"),
    }
}
