//! What an agent tells of itself to the program it runs in, and what that program may ask of it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::source::Meter;
use crate::stats::{AgentStats, SourceStats};
use crate::{Config, Error};

/// Requests on their way to the controller.
const WAITING: usize = 8;

/// Asked of a running agent from outside.
#[derive(Debug)]
pub(crate) enum Request {
    /// To go on with other settings.
    Reload(Box<Config>, oneshot::Sender<Result<(), Error>>),
}

/// Looks at a running agent from outside.
#[derive(Clone, Debug)]
pub struct AgentHandle {
    device: Arc<str>,
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
}

#[derive(Debug, Default)]
struct Shared {
    stats: Mutex<AgentStats>,
    sources: Mutex<Vec<Meter>>,
}

impl AgentHandle {
    pub(crate) fn new(device: &str) -> (Self, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(WAITING);
        let handle = Self {
            device: device.into(),
            shared: Arc::default(),
            requests,
        };
        (handle, receiver)
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The agent's figures, as of its last step.
    pub fn stats(&self) -> AgentStats {
        *lock(&self.shared.stats)
    }

    /// The figures of each source, in the order of the settings.
    pub fn sources(&self) -> Vec<SourceStats> {
        lock(&self.shared.sources).iter().map(Meter::stats).collect()
    }

    /// Goes on with other settings. What is buffered stays, the batch that is open is closed, sources whose settings are the same go on
    /// undisturbed, and so does the connection where nothing about it changes.
    ///
    /// # Errors
    /// Why the new settings are refused: the agent goes on with the old ones. [`Error::Stopped`] if it runs no more.
    pub async fn reload(&self, config: Config) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        let request = Request::Reload(Box::new(config), answer);
        self.requests.send(request).await.map_err(|_| Error::Stopped)?;
        answered.await.map_err(|_| Error::Stopped)?
    }

    pub(crate) fn set(&self, stats: AgentStats) {
        *lock(&self.shared.stats) = stats;
    }

    pub(crate) fn set_sources(&self, meters: Vec<Meter>) {
        *lock(&self.shared.sources) = meters;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
