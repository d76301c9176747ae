//! This machine's own figures.
//!
//! Reading them may hang (a file system that is gone answers no `statfs`), so it is done on a thread of its own, which keeps the schedule as
//! well: the agent's thread wakes once for a sample, to take it. While that thread hangs, ticks are skipped; when it comes back the
//! source goes on.

mod cpu;
mod disks;
mod figures;
mod memory;
mod network;
mod shown;
mod temperatures;

use std::sync::mpsc as end;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;

use super::schedule::{PIECE, Schedule};
use super::{Cadence, Output, Running, Sample, Source};
use crate::clock::Clock;
use crate::config::SystemSource;
use crate::error::SourceError;

use figures::Figures;

/// The reading thread's stack: it formats names and walks /sys, no more.
const STACK: usize = 256 * 1024;

/// The source.
pub(crate) struct System {
    schedule: Schedule,
    settings: SystemSource,
    thread: Option<Thread>,
}

/// The reading thread, seen from the source. It ends when this is dropped.
struct Thread {
    _end: end::Sender<()>,
    samples: mpsc::Receiver<Taken>,
}

/// A sample, and of how many changes of the clock its time knows; or why there is none.
type Taken = Result<(usize, Sample), SourceError>;

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
                none => none.insert(Thread::start(
                    &self.settings,
                    self.schedule,
                    output.clock().another(),
                )?),
            };
            let result = thread.run(output).await;
            self.thread = None;
            result
        })
    }
}

impl Thread {
    fn start(settings: &SystemSource, schedule: Schedule, clock: Clock) -> Result<Self, SourceError> {
        let (end, ended) = end::channel();
        let (results, samples) = mpsc::channel(1);
        let settings = settings.clone();
        let work = move || {
            let figures = Figures::open(&settings);
            Reader {
                figures,
                schedule,
                clock,
                skipped: 0,
            }
            .run(&ended, &results);
        };
        thread::Builder::new()
            .name("source-system".into())
            .stack_size(STACK)
            .spawn(work)
            .map_err(|error| SourceError::System {
                what: "figures",
                why: error.to_string(),
            })?;
        Ok(Self { _end: end, samples })
    }

    async fn run(&mut self, output: &Output) -> Result<(), SourceError> {
        while let Some(taken) = self.samples.recv().await {
            let (told, sample) = taken?;
            output.send_as_of(told, sample).await;
        }
        let why = "the thread that reads them has ended".to_string();
        Err(SourceError::System { what: "figures", why })
    }
}

/// What the thread does.
struct Reader {
    figures: Figures,
    schedule: Schedule,
    clock: Clock,
    /// Samples that the reading took too long for.
    skipped: i64,
}

impl Reader {
    fn run(mut self, ended: &end::Receiver<()>, results: &mpsc::Sender<Taken>) {
        let mut previous = None;
        while let Some(tick) = self.wait(previous, ended) {
            let interval_us = self.schedule.interval().as_micros() as i64;
            let told = self.clock.told();
            let readings = self.figures.sample();
            let late = (self.clock.now_us() - tick) / interval_us;
            previous = Some(tick + late.max(0) * interval_us);
            // Taken while later ticks passed: its values are not of its time. (A clock that was set meanwhile passes ticks, too.)
            if late > 0 && self.clock.told() == told {
                self.skipped += late;
                continue;
            }
            if self.skipped > 0 {
                log::warn!(
                    "system figures took longer than their interval; {} samples were skipped",
                    self.skipped
                );
                self.skipped = 0;
            }
            let sample = Sample {
                time_us: tick,
                readings,
            };
            if results.blocking_send(Ok((told, sample))).is_err() {
                return;
            }
        }
    }

    /// Waits for the tick after `previous`; `None`: the source is gone.
    fn wait(&self, previous: Option<i64>, ended: &end::Receiver<()>) -> Option<i64> {
        let due = self.schedule.next(self.clock.now_us(), previous);
        loop {
            let now_us = self.clock.now_us();
            let left = due - now_us;
            if left <= 0 {
                return Some(self.schedule.come(due, now_us));
            }
            let left = Duration::from_micros(left.unsigned_abs()).min(PIECE);
            if ended.recv_timeout(left) != Err(end::RecvTimeoutError::Timeout) {
                return None;
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
        let (output, mut samples) = Output::new(Clock::default());
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
