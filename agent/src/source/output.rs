//! The way of a source's samples into the agent.

use tokio::sync::mpsc;

use super::{Meter, Sample};
use crate::clock::Clock;
use crate::thinning::Thinning;

/// Samples on their way, over all sources. Waiting senders are served in turn, so a flood from one source costs another
/// no more than the time to batch these.
const WAITING: usize = 64;

/// Where a source puts its samples.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    samples: mpsc::Sender<Sample>,
    clock: Clock,
    thinning: Thinning,
    meter: Meter,
}

impl Output {
    /// An output and its other end.
    pub(crate) fn new(clock: Clock) -> (Self, mpsc::Receiver<Sample>) {
        let (samples, receiver) = mpsc::channel(WAITING);
        let output = Self {
            samples,
            clock,
            thinning: Thinning::default(),
            meter: Meter::default(),
        };
        (output, receiver)
    }

    /// An output to the same end for the source that `meter` counts.
    pub(crate) fn metered(&self, meter: &Meter) -> Self {
        Self {
            meter: meter.clone(),
            ..self.clone()
        }
    }

    /// How coarsely readings are taken at present. Whoever spends the link's bytes keeps a clone and sets it.
    pub(crate) fn thinning(&self) -> &Thinning {
        &self.thinning
    }

    /// The clock that samples are stamped by.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Hands a sample over; waits while the agent is behind. A sample without readings is left out.
    pub(crate) async fn send(&self, sample: Sample) {
        if sample.readings.is_empty() {
            return;
        }
        self.meter.sampled(&sample);
        if self.samples.send(sample).await.is_err() {
            // The agent has stopped listening, and drops this task next.
            std::future::pending::<()>().await;
        }
    }
}
