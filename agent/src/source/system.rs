//! This machine's own figures.
//!
//! Reading them may hang (a file system that is gone answers no `statfs`), so it is done on a thread of its own. While that
//! thread hangs, ticks are skipped; when it comes back the source goes on.

mod figures;
mod network;

use std::sync::mpsc as request;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;

use super::schedule::Schedule;
use super::{Cadence, Output, Reading, Running, Sample, Source};
use crate::config::SystemSource;
use crate::error::SourceError;

use figures::Figures;

/// The reading thread's stack: it formats names and walks /proc, no more.
const STACK: usize = 256 * 1024;

/// The source.
pub(crate) struct System {
    schedule: Schedule,
    settings: SystemSource,
    thread: Option<Thread>,
}

/// The reading thread, seen from the source. It ends when this is dropped.
struct Thread {
    ticks: request::SyncSender<i64>,
    samples: mpsc::Receiver<Result<Sample, SourceError>>,
}

impl System {
    pub(crate) fn open(settings: &SystemSource) -> Result<Self, SourceError> {
        if settings.interval < Duration::from_millis(200) {
            let why = format!(
                "{:?} is less than 200ms, under which CPU figures mean nothing",
                settings.interval
            );
            return Err(SourceError::Setting { key: "interval", why });
        }
        if settings.groups.is_empty() {
            let why = "it is empty, so that nothing would be sampled".to_string();
            return Err(SourceError::Setting { key: "groups", why });
        }
        let schedule = Schedule::every(settings.interval);
        Ok(Self {
            schedule,
            settings: settings.clone(),
            thread: None,
        })
    }
}

impl Source for System {
    fn cadence(&self) -> Cadence {
        Cadence::Every(self.settings.interval)
    }

    fn run<'a>(&'a mut self, output: &'a Output) -> Running<'a> {
        Box::pin(async move {
            let thread = match &mut self.thread {
                Some(thread) => thread,
                none => none.insert(Thread::start(&self.settings)?),
            };
            let result = thread.run(self.schedule, output).await;
            self.thread = None;
            result
        })
    }
}

impl Thread {
    fn start(settings: &SystemSource) -> Result<Self, SourceError> {
        let (ticks, requests) = request::sync_channel::<i64>(1);
        let (results, samples) = mpsc::channel(1);
        let settings = settings.clone();
        let work = move || {
            let mut figures = match Figures::open(&settings) {
                Ok(figures) => figures,
                Err(error) => {
                    let _ = results.blocking_send(Err(error));
                    return;
                }
            };
            while let Ok(time_us) = requests.recv() {
                let readings: Vec<Reading> = figures.sample();
                if results.blocking_send(Ok(Sample { time_us, readings })).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("source-system".into())
            .stack_size(STACK)
            .spawn(work)
            .map_err(|error| SourceError::System {
                what: "figures",
                why: error.to_string(),
            })?;
        Ok(Self { ticks, samples })
    }

    async fn run(&mut self, schedule: Schedule, output: &Output) -> Result<(), SourceError> {
        let mut previous = None;
        let mut skipped = 0u64;
        loop {
            let tick = schedule.tick(output.clock(), previous).await;
            previous = Some(tick);
            // Still full: the thread has not even taken the tick before.
            let _ = self.ticks.try_send(tick);
            let mut next = tick;
            loop {
                tokio::select! {
                    result = self.samples.recv() => match result {
                        // Taken while later ticks passed: its values are not of its time.
                        Some(Ok(sample)) if sample.time_us != next => {}
                        Some(Ok(sample)) => {
                            if skipped > 0 {
                                log::info!("system figures are back after {skipped} skipped samples");
                                skipped = 0;
                            }
                            output.send(sample).await;
                            break;
                        }
                        Some(Err(error)) => return Err(error),
                        None => {
                            let why = "the thread that reads them has ended".to_string();
                            return Err(SourceError::System { what: "figures", why });
                        }
                    },
                    late = schedule.tick(output.clock(), previous) => {
                        if skipped == 0 {
                            log::warn!("system figures take longer than their interval; skipping samples");
                        }
                        skipped += 1;
                        previous = Some(late);
                        if self.ticks.try_send(late).is_ok() {
                            next = late;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_machine_is_sampled_on_the_tick() {
        let interval = Duration::from_millis(200);
        let mut source = System::open(&SystemSource {
            interval,
            ..Default::default()
        })
        .unwrap();
        let (output, mut samples) = Output::new(crate::clock::Clock::default());
        let task = tokio::spawn(async move { source.run(&output).await });
        for _ in 0..3 {
            let sample = tokio::time::timeout(Duration::from_secs(20), samples.recv())
                .await
                .unwrap()
                .unwrap();
            assert_eq!(sample.time_us % 200_000, 0);
            assert!(
                sample
                    .readings
                    .iter()
                    .any(|reading| reading.metric.name == "cpu.usage")
            );
        }
        task.abort();
    }

    #[test]
    fn settings_that_make_no_sense_are_refused_by_key() {
        let interval = Duration::from_millis(100);
        let error = System::open(&SystemSource {
            interval,
            ..Default::default()
        })
        .err()
        .unwrap()
        .to_string();
        assert!(error.contains("`interval`"), "{error}");
        let error = System::open(&SystemSource {
            groups: Vec::new(),
            ..Default::default()
        })
        .err()
        .unwrap()
        .to_string();
        assert!(error.contains("`groups`"), "{error}");
    }
}
