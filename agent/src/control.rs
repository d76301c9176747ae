//! What is done to a running agent from outside: a reload, a stop. The controller owns the sources and gives the pipeline its orders; what
//! may take long (opening a source, reading a secret) it does on a thread beside, so that the pipeline never waits for it.

mod sources;

use std::future::Future;
use std::pin::pin;

use tokio::sync::mpsc;

use crate::handle::Request;
use crate::pipeline::Order;
use crate::setup::Setup;
use crate::{Config, Error};

pub(crate) use sources::Sources;

/// Steers an agent.
pub(crate) struct Controller {
    /// What the agent runs by.
    pub(crate) setup: Setup,
    pub(crate) sources: Sources,
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) orders: mpsc::Sender<Order>,
}

impl Controller {
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
        // If it does not listen any more it has ended by itself.
        let _ = self.orders.send(Order::Stop).await;
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
        let order = Order::Reload(Box::new(next.clone()));
        self.setup = next;
        self.orders.send(order).await.map_err(|_| Error::Stopped)
    }
}
