//! The way of a source's samples into the agent.

use tokio::sync::mpsc;

use super::Sample;
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
}

impl Output {
    /// An output and its other end.
    pub(crate) fn new(clock: Clock) -> (Self, mpsc::Receiver<Sample>) {
        let (samples, receiver) = mpsc::channel(WAITING);
        let thinning = Thinning::default();
        (
            Self {
                samples,
                clock,
                thinning,
            },
            receiver,
        )
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
        if self.samples.send(sample).await.is_err() {
            // The agent has stopped listening, and drops this task next.
            std::future::pending::<()>().await;
        }
    }
}
