//! What is done to a running agent from outside: a reload, a stop. The controller owns the sources and gives the pipeline its orders; what
//! may take long (opening a source, reading a secret) it does on a thread beside, so that the pipeline never waits for it.

mod socket;
mod sources;

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::handle::Request;
use crate::pipeline::Order;
use crate::setup::Setup;
use crate::source::Output;
use crate::{AgentHandle, Config, Error, health, status};

use socket::Socket;

pub(crate) use sources::Sources;

/// Steers an agent.
pub(crate) struct Controller {
    handle: AgentHandle,
    /// What the agent runs by.
    setup: Setup,
    sources: Sources,
    /// Where the agent's own figures go.
    output: Output,
    health: Option<Health>,
    socket: Option<Socket>,
    requests: mpsc::Receiver<Request>,
}

/// The task that samples the agent's own figures.
struct Health {
    interval: Duration,
    task: JoinHandle<()>,
}

impl Drop for Health {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Controller {
    pub(crate) fn new(
        handle: AgentHandle,
        setup: Setup,
        sources: Sources,
        output: Output,
        requests: mpsc::Receiver<Request>,
    ) -> Self {
        let mut controller = Self {
            handle,
            setup,
            sources,
            output,
            health: None,
            socket: None,
            requests,
        };
        controller.in_force();
        controller
    }

    /// Steers until `shutdown` is done; then ends the sources, and tells the pipeline to stop.
    pub(crate) async fn run(mut self, shutdown: impl Future<Output = ()> + Send) {
        let mut shutdown = pin!(shutdown);
        loop {
            let request = tokio::select! {
                () = &mut shutdown => break,
                () = self.sources.ended() => continue,
                Some(request) = self.requests.recv() => request,
            };
            tokio::select! {
                () = &mut shutdown => break,
                () = self.answer(request) => {}
            }
        }
        self.sources.stop().await;
        self.health = None;
        self.handle.order(Order::Stop).await;
    }

    async fn answer(&mut self, request: Request) {
        match request {
            Request::Reload(config, answer) => {
                let result = self.reload(*config).await;
                match &result {
                    Ok(()) => log::info!("settings reloaded: {}", self.setup.config.hash()),
                    Err(error) => log::error!("{error}; the settings stay as they were"),
                }
                // Who asked may be gone.
                let _ = answer.send(result);
            }
        }
    }

    async fn reload(&mut self, config: Config) -> Result<(), Error> {
        let next = match tokio::task::spawn_blocking(|| Setup::new(config)).await {
            Ok(next) => next?,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        self.setup.can_become(&next)?;
        self.sources.change(&next.config.sources).await?;
        self.setup = next;
        self.in_force();
        let order = Order::Reload(Box::new(self.setup.clone()));
        if self.handle.order(order).await {
            Ok(())
        } else {
            Err(Error::Stopped)
        }
    }

    /// The settings are those of `self.setup` from now on: what the controller itself does by them.
    fn in_force(&mut self) {
        let config = &self.setup.config;
        self.handle.set_settings(status::Settings {
            hash: config.hash(),
            ..status::Settings::default()
        });
        let interval = config.health.interval;
        if self
            .health
            .as_ref()
            .is_none_or(|health| health.interval != interval)
        {
            self.health = (!interval.is_zero()).then(|| Health {
                interval,
                task: tokio::spawn(health::run(self.handle.clone(), self.output.clone(), interval)),
            });
        }
        let path = config.status_socket();
        if self.socket.as_ref().map(Socket::path) != path.as_deref() {
            self.socket = None;
            self.socket = path.and_then(|path| match Socket::open(&path, self.handle.clone()) {
                Ok(socket) => Some(socket),
                Err(error) => {
                    log::warn!("no status socket at {}: {error}", path.display());
                    None
                }
            });
        }
    }
}
