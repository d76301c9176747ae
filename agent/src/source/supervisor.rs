//! Keeps a source running: what fails, hangs or panics is told, and started again after a while. One task per source, so that
//! none ever waits for another.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::{Cadence, Opened, Output, Running};
use crate::error::SourceError;

/// How long a source is waited for.
#[derive(Clone, Copy)]
struct Rules {
    /// One that fails is started again after this long at first, and this long at last; random in the upper half of it, so that
    /// several on one bus, or many boxes at one server, do not come back at once.
    restart: (Duration, Duration),
    /// One that asks on a schedule is called stalled after so long without a sign of life.
    stalled: Patience,
    /// And is started anew after so long.
    hung: Patience,
}

const RULES: Rules = Rules {
    restart: (Duration::from_secs(1), Duration::from_secs(60)),
    stalled: Patience {
        intervals: 3,
        least: Duration::from_secs(10),
    },
    hung: Patience {
        intervals: 30,
        least: Duration::from_secs(300),
    },
};

/// So many intervals, and at least so long.
#[derive(Clone, Copy)]
struct Patience {
    intervals: u32,
    least: Duration,
}

impl Patience {
    fn of(self, interval: Duration) -> Duration {
        interval.saturating_mul(self.intervals).max(self.least)
    }
}

/// How a run came to its end.
enum End {
    /// Nothing more will come.
    Done,
    Failed(SourceError),
    /// No sign of life for so long.
    Hung(Duration),
    /// Its state is not to be trusted any more.
    Panicked(String),
}

/// Runs a source for as long as it has anything to give; `output` is its own ([`Output::of`]).
pub(crate) async fn supervise(opened: Opened, output: Output) {
    // Also when this is dropped, as sources are at a stop.
    let _windows = Finish(output.clone());
    tokio::select! {
        () = supervise_by(RULES, opened, output.clone()) => {}
        () = output.close_windows() => {}
    }
}

/// Hands over what windows hold when it is dropped.
struct Finish(Output);

impl Drop for Finish {
    fn drop(&mut self) {
        self.0.finish();
    }
}

async fn supervise_by(rules: Rules, mut opened: Opened, output: Output) {
    let (least, most) = rules.restart;
    let mut wait = least;
    loop {
        let began = Instant::now();
        let (mut why, broken) = match run(rules, &mut opened, &output).await {
            End::Done => {
                log::info!("source {} has ended", output.meter().name());
                output.meter().ended();
                return;
            }
            End::Failed(error) => (error.to_string(), false),
            End::Hung(patience) => (format!("no sign of life for {patience:?}"), false),
            End::Panicked(why) => (format!("it panicked: {why}"), true),
        };
        if began.elapsed() > most {
            wait = least;
        }
        loop {
            let pause = jittered(wait, getrandom::u32().unwrap_or(u32::MAX));
            output.meter().failed(&why);
            log::error!(
                "source {}: {why}; trying again in {pause:.1?}",
                output.meter().name()
            );
            tokio::time::sleep(pause).await;
            wait = (wait * 2).min(most);
            if !broken {
                break;
            }
            match opened.again().await {
                Ok(()) => break,
                Err(error) => why = error,
            }
        }
    }
}

/// One run, watched.
async fn run(rules: Rules, opened: &mut Opened, output: &Output) -> End {
    let cadence = opened.source.cadence();
    let mut source = pin!(guarded(opened.source.run(output)));
    let Cadence::Every(interval) = cadence else {
        return source.await;
    };
    let began = Instant::now();
    let (stalled, hung) = (rules.stalled.of(interval), rules.hung.of(interval));
    loop {
        let alive = output.meter().last_alive();
        let silent = alive.unwrap_or(began).max(began).elapsed();
        // Once a stall; any sign of life ends it.
        if silent >= stalled && output.meter().stalled() {
            log::warn!(
                "source {} is stalled: no sign of life for {silent:.0?}, at an interval of {interval:?}",
                output.meter().name()
            );
        }
        if silent >= hung {
            return End::Hung(silent);
        }
        let next = if silent >= stalled { hung } else { stalled };
        // The wait begins anew with each sign of life: one that is put off wakes nobody.
        let polled = poll_fn(|context| match source.as_mut().poll(context) {
            Poll::Ready(end) => Poll::Ready(Some(end)),
            Poll::Pending if output.meter().last_alive() != alive => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        tokio::select! {
            end = polled => if let Some(end) = end {
                return end;
            },
            () = tokio::time::sleep(next - silent) => {}
        }
    }
}

/// Runs a source; a panic in it ends this run and nothing else.
async fn guarded(mut running: Running<'_>) -> End {
    let polled =
        poll_fn(
            move |context| match catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(context))) {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(result)) => Poll::Ready(Ok(result)),
                Err(panic) => Poll::Ready(Err(panic)),
            },
        );
    match polled.await {
        Ok(Ok(())) => End::Done,
        Ok(Err(error)) => End::Failed(error),
        Err(panic) => End::Panicked(message(&*panic)),
    }
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "without a message".into())
}

/// In the upper half of `wait`, by `random`.
fn jittered(wait: Duration, random: u32) -> Duration {
    wait.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SourceState;
    use crate::clock::Clock;
    use crate::config;
    use crate::source::{Meter, Metric, Reading, Sample, Source};
    use headwater_proto::Value;
    use std::sync::Arc;
    use tokio::sync::mpsc::Receiver;

    const QUICK: Rules = Rules {
        restart: (Duration::from_millis(5), Duration::from_millis(20)),
        stalled: Patience {
            intervals: 3,
            least: Duration::from_millis(30),
        },
        hung: Patience {
            intervals: 30,
            least: Duration::from_millis(60),
        },
    };

    /// Runs as the test says: the number of the run (from 1) and what to do.
    struct Scripted<F> {
        cadence: Cadence,
        runs: usize,
        script: F,
    }

    impl<F: for<'a> Fn(usize, &'a Output) -> Running<'a> + Send> Source for Scripted<F> {
        fn cadence(&self) -> Cadence {
            self.cadence
        }

        fn run<'a>(&'a mut self, output: &'a Output) -> Running<'a> {
            self.runs += 1;
            (self.script)(self.runs, output)
        }
    }

    fn opened<F: for<'a> Fn(usize, &'a Output) -> Running<'a> + Send + 'static>(
        name: &str,
        cadence: Cadence,
        script: F,
    ) -> Opened {
        let every = Duration::from_millis(5);
        let settings = config::SourceKind::Simulated(config::SimulatedSource {
            interval: every,
            sensors: 1,
            ..Default::default()
        });
        Opened {
            settings: settings.into(),
            source: Box::new(Scripted {
                cadence,
                runs: 0,
                script,
            }),
            meter: Meter::new(name, "scripted"),
            number: 1,
            device: "gw".into(),
        }
    }

    fn sample(metric: &Arc<Metric>, time_us: i64, readings: usize) -> Sample {
        Sample {
            time_us,
            readings: vec![Reading::new(metric.clone(), Value::I64(1)); readings],
        }
    }

    fn started(output: &Output, opened: Opened) -> (Meter, tokio::task::JoinHandle<()>) {
        let meter = opened.meter.clone();
        let output = output.of(&opened);
        (meter, tokio::spawn(supervise_by(QUICK, opened, output)))
    }

    async fn received(samples: &mut Receiver<Sample>) -> Sample {
        let receiving = tokio::time::timeout(Duration::from_secs(20), samples.recv());
        receiving.await.expect("a sample within 20 s").unwrap()
    }

    #[tokio::test]
    async fn a_source_that_dies_is_started_again_and_its_error_told() {
        let (output, mut samples) = Output::new(Clock::default());
        let dying = opened("dying", Cadence::Own, |run, output| {
            Box::pin(async move {
                output.send(sample(&Metric::new("m", ""), run as i64, 1)).await;
                let why = format!("run {run} is over");
                Err(SourceError::System { what: "figures", why })
            })
        });
        let (meter, task) = started(&output, dying);
        for run in 1..=4 {
            assert_eq!(received(&mut samples).await.time_us, run);
        }
        let stats = meter.stats();
        assert!(stats.failures >= 3 && stats.readings >= 4, "{stats:?}");
        assert!(stats.last_error.unwrap().contains("is over"));
        task.abort();
    }

    #[tokio::test]
    async fn a_panic_is_an_error_like_others_and_the_source_is_opened_anew() {
        let (output, mut samples) = Output::new(Clock::default());
        let wild = opened("wild", Cadence::Own, |_, output| {
            Box::pin(async move {
                output.send(sample(&Metric::new("m", ""), 1, 1)).await;
                panic!("index 7 of 5");
            })
        });
        let (meter, task) = started(&output, wild);
        assert_eq!(received(&mut samples).await.readings[0].metric.name, "m");
        // By its settings it is a simulated one.
        assert_eq!(
            received(&mut samples).await.readings[0].metric.name,
            "temperature"
        );
        let stats = meter.stats();
        assert_eq!(
            (stats.failures, stats.state),
            (1, SourceState::Running),
            "{stats:?}"
        );
        assert_eq!(stats.last_error.unwrap(), "it panicked: index 7 of 5");
        task.abort();
    }

    #[tokio::test]
    async fn a_source_that_hangs_is_told_and_started_again_and_a_silent_listener_is_left_alone() {
        let (output, mut samples) = Output::new(Clock::default());
        let hanging = opened(
            "hanging",
            Cadence::Every(Duration::from_millis(1)),
            |run, output| {
                Box::pin(async move {
                    output.send(sample(&Metric::new("m", ""), run as i64, 1)).await;
                    std::future::pending().await
                })
            },
        );
        let silent = opened("silent", Cadence::Pushed, |_, _| Box::pin(std::future::pending()));
        let (hangs, first) = started(&output, hanging);
        let (listens, second) = started(&output, silent);
        for run in 1..=3 {
            assert_eq!(received(&mut samples).await.time_us, run);
        }
        let stats = hangs.stats();
        assert!(stats.stalls >= 2 && stats.failures >= 2, "{stats:?}");
        assert!(stats.last_error.unwrap().contains("no sign of life"));
        assert_eq!(listens.stats().failures, 0);
        first.abort();
        second.abort();
    }

    fn flood(run: usize, output: &Output) -> Running<'_> {
        Box::pin(async move {
            let metric = Metric::new("flood", "");
            loop {
                output.send(sample(&metric, run as i64, 100)).await;
                // A listener reads its socket.
                tokio::task::yield_now().await;
            }
        })
    }

    #[tokio::test]
    async fn beside_floods_a_source_on_a_schedule_misses_no_tick() {
        let (output, mut samples) = Output::new(Clock::default());
        let (pushed, first) = started(&output, opened("pushed", Cadence::Pushed, flood));
        let (asks, second) = started(&output, opened("asks", Cadence::Own, flood));
        let interval = Duration::from_millis(100);
        let regular = opened("regular", Cadence::Every(interval), move |_, output| {
            Box::pin(async move {
                let (metric, schedule) = (
                    Metric::new("regular", ""),
                    crate::source::schedule::Schedule::every(interval),
                );
                let mut previous = None;
                loop {
                    let tick = schedule.tick(output.clock(), previous).await;
                    previous = Some(tick);
                    output.send(sample(&metric, tick, 1)).await;
                }
            })
        });
        let (_, third) = started(&output, regular);
        let mut ticks = Vec::new();
        while ticks.len() < 10 {
            let sample = received(&mut samples).await;
            if sample.readings[0].metric.name == "regular" {
                ticks.push(sample.time_us);
            }
        }
        for pair in ticks.windows(2) {
            assert_eq!(pair[1] - pair[0], 100_000, "{ticks:?}");
        }
        // A thousand readings a second on average, ten seconds' worth at once.
        let stats = pushed.stats();
        assert!(stats.dropped_readings > 0, "{stats:?}");
        assert!(stats.readings < 10_000 + 20 * 1_000, "{stats:?}");
        assert_eq!(asks.stats().dropped_readings, 0);
        for task in [first, second, third] {
            task.abort();
        }
    }

    #[tokio::test]
    async fn rules_are_applied_on_the_way_and_a_window_is_handed_over_when_its_source_ends_or_is_stopped() {
        let (output, mut samples) = Output::new(Clock::default());
        output.set_rules(&[config::Metric {
            pattern: "*".into(),
            rename: None,
            aggregate: vec![config::Aggregate::Max],
            window: Duration::from_secs(86_400),
            ..Default::default()
        }]);
        for ends in [true, false] {
            let hourly = opened("hourly", Cadence::Own, move |_, output| {
                Box::pin(async move {
                    let metric = Metric::new("köln 🌡 m", "");
                    let now_us = output.clock().now_us();
                    for time_us in now_us..now_us + 5 {
                        output.send(sample(&metric, time_us, 1)).await;
                    }
                    if !ends {
                        std::future::pending::<()>().await;
                    }
                    Ok(())
                })
            });
            let meter = hourly.meter.clone();
            let output = output.of(&hourly);
            let task = tokio::spawn(supervise(hourly, output));
            if !ends {
                while meter.last_alive().is_none() {
                    tokio::task::yield_now().await;
                }
                task.abort();
            }
            let sample = received(&mut samples).await;
            assert_eq!(sample.readings[0].metric.name, "köln 🌡 m.max");
            assert_eq!(sample.readings[0].value, Value::I64(1));
        }
    }

    #[tokio::test]
    async fn a_window_is_handed_over_at_a_stop_however_much_waits() {
        let (output, mut samples) = Output::new(Clock::default());
        output.set_rules(&[config::Metric {
            pattern: "hourly".into(),
            aggregate: vec![config::Aggregate::Max, config::Aggregate::Last],
            window: Duration::from_secs(86_400),
            ..Default::default()
        }]);
        let flood = opened("flood", Cadence::Own, |_, output| {
            Box::pin(async move {
                let hourly = Metric::new("hourly", "");
                output.send(sample(&hourly, output.clock().now_us(), 1)).await;
                let flood = Metric::new("flood", "");
                loop {
                    output.send(sample(&flood, output.clock().now_us(), 1)).await;
                }
            })
        });
        let meter = flood.meter.clone();
        let its = output.of(&flood);
        let task = tokio::spawn(supervise(flood, its));
        // Until there is no room, and the source waits.
        while meter.stats().readings < samples.max_capacity() as u64 {
            tokio::task::yield_now().await;
        }
        assert!(output.last().is_empty());
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        let mut floods = 0;
        while let Ok(sample) = samples.try_recv() {
            assert_eq!(sample.readings[0].metric.name, "flood");
            floods += 1;
        }
        assert_eq!(floods, samples.max_capacity());
        let last = output.last().take();
        let names = last.iter().flat_map(|sample| &sample.readings);
        let names: Vec<_> = names.map(|reading| &*reading.metric.name).collect();
        assert_eq!(names, ["hourly.max", "hourly.last"]);
        assert_eq!(
            (meter.stats().dropped_readings, meter.stats().readings),
            (0, floods as u64 + 2)
        );
    }

    #[test]
    fn pauses_lie_in_the_upper_half() {
        let wait = Duration::from_secs(8);
        assert_eq!(jittered(wait, 0), wait / 2);
        assert_eq!(jittered(wait, u32::MAX), wait);
    }
}
