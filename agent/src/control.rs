//! What is done to a running agent from outside: reloads, commands, a stop. The controller owns the sources and gives the pipeline its
//! orders; what may take long (opening a source, reading a secret, running a program) it does on a thread or a task beside, so that
//! the pipeline never waits for it.

mod carry;
mod command;
mod exec;
mod file;
mod ledger;
mod overrides;
#[cfg(feature = "prometheus")]
mod prometheus;
mod settings;
mod socket;
mod sources;
mod trial;
#[cfg(feature = "update")]
mod update;
#[cfg(not(feature = "update"))]
#[path = "control/update/left_out.rs"]
mod update;

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use crate::handle::Request;
use crate::pipeline::Order;
use crate::setup::Setup;
use crate::source::Output;
use crate::task;
use crate::{AgentHandle, Config, Error, health, status};

use command::{Commands, Outcome};
use file::Trying;
use ledger::Ledger;
use settings::Loaded;
use socket::Socket;
use update::Updates;

pub(crate) use file::FileSettings;
pub(crate) use sources::Sources;

/// How often a trial is looked at.
const LOOK: Duration = Duration::from_millis(250);

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
    #[cfg(feature = "prometheus")]
    prometheus: Option<prometheus::Port>,
    requests: mpsc::Receiver<Request>,
    /// Where the settings came from, if that was a file.
    file: Option<FileSettings>,
    /// Settings that are rolled back unless the relay answers.
    trying: Option<Trying>,
    commands: Commands,
    updates: Updates,
    /// Commands that are carried out beside: their id, what came of them, whether a repetition would change something.
    work: JoinSet<(String, Outcome, bool)>,
    /// Payloads that were no command.
    garbage: u64,
    /// What of the last reload has no effect before the next start.
    postponed: Option<&'static str>,
    /// A command asked for a restart.
    restart: bool,
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
        let commands = Commands::new(setup.device(), Ledger::default());
        let mut controller = Self {
            handle,
            setup,
            sources,
            output,
            health: None,
            socket: None,
            #[cfg(feature = "prometheus")]
            prometheus: None,
            requests,
            file: None,
            trying: None,
            commands,
            updates: Updates::default(),
            work: JoinSet::new(),
            garbage: 0,
            postponed: None,
            restart: false,
        };
        controller.in_force();
        controller
    }

    /// Steers until `shutdown` is done, or a command asks for a restart; then ends the sources, and tells the pipeline to stop.
    pub(crate) async fn run(mut self, shutdown: impl Future<Output = ()> + Send) {
        let mut shutdown = pin!(shutdown);
        while !self.restart {
            let next = async {
                tokio::select! {
                    () = self.sources.ended() => None,
                    Some(request) = self.requests.recv() => Some(Next::Request(request)),
                    Some(Ok((id, outcome, effect))) = self.work.join_next() => Some(Next::Done(id, outcome, effect)),
                    ready = self.updates.fetched() => Some(Next::Fetched(ready)),
                    () = tokio::time::sleep(LOOK), if self.trying.is_some() || self.updates.on_trial() => Some(Next::Look),
                }
            };
            let next = tokio::select! {
                () = &mut shutdown => break,
                next = next => next,
            };
            let step = async {
                match next {
                    Some(Next::Request(request)) => self.answer(request).await,
                    Some(Next::Done(id, outcome, effect)) => self.finish(&id, &outcome, effect).await,
                    Some(Next::Look) => {
                        self.look(Instant::now()).await;
                        self.look_at_update(Instant::now()).await;
                    }
                    Some(Next::Fetched(ready)) => self.fetched(ready).await,
                    None => {}
                }
            };
            tokio::select! {
                () = &mut shutdown => break,
                () = step => {}
            }
        }
        if self.restart {
            log::info!("stopping in order to start anew");
            self.handle.restarting();
        }
        self.work.shutdown().await;
        self.updates.stop(self.setup.config.uplink.stop_timeout);
        self.sources.stop().await;
        self.health = None;
        self.handle.order(Order::Stop).await;
    }

    async fn answer(&mut self, request: Request) {
        let (answer, result) = match request {
            Request::Command(payload) => return self.command(&payload).await,
            Request::Reload(config, answer) => (answer, self.reload(*config, None).await),
            Request::ReloadFile(answer) => (answer, self.reload_file().await),
        };
        match &result {
            Ok(()) => log::info!("settings reloaded: {}", self.setup.config.hash()),
            Err(error) => log::error!("{error}; the settings stay as they were"),
        }
        // Who asked may be gone.
        let _ = answer.send(result);
    }

    /// Goes on by other settings; `loaded` where they came from a file. What is shown of them changes at once.
    ///
    /// # Errors
    /// Why they are refused; then the old ones are in force.
    async fn reload(&mut self, config: Config, loaded: Option<Loaded>) -> Result<(), Error> {
        let next = beside(|| Setup::new(config)).await?;
        self.setup.can_become(&next)?;
        self.sources.change(&next.config.sources).await?;
        if self.setup.config.metrics != next.config.metrics {
            self.sources.rule(&next.config.metrics);
        }
        self.postponed = self.setup.postponed(&next);
        if let Some(postponed) = self.postponed {
            log::warn!("{postponed}");
        }
        self.setup = next;
        if let (Some(file), Some(loaded)) = (&mut self.file, loaded) {
            file.loaded = loaded;
        }
        self.in_force();
        let (done, reloaded) = tokio::sync::oneshot::channel();
        self.handle
            .order(Order::Reload(Box::new(self.setup.clone()), done))
            .await;
        reloaded.await.map_err(|_| Error::Stopped)
    }

    /// The settings are those of `self.setup` from now on: what the controller itself does by them.
    fn in_force(&mut self) {
        self.show();
        #[cfg(feature = "prometheus")]
        self.open_prometheus();
        let config = &self.setup.config;
        let interval = config.health.interval;
        if self
            .health
            .as_ref()
            .is_none_or(|health| health.interval != interval)
        {
            self.health = (!interval.is_zero()).then(|| Health {
                interval,
                task: task::spawn(health::run(self.handle.clone(), self.output.clone(), interval)),
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

    /// Opens the port for Prometheus where the settings have it now.
    #[cfg(feature = "prometheus")]
    fn open_prometheus(&mut self) {
        let address = self.setup.config.control.prometheus;
        if self.prometheus.as_ref().map(prometheus::Port::address) == address {
            return;
        }
        self.prometheus = None;
        let Some(address) = address else { return };
        match prometheus::Port::open(address, self.handle.clone()) {
            Ok(port) => self.prometheus = Some(port),
            Err(error) => log::error!("no figures for Prometheus at {address}: {error}"),
        }
    }

    /// The settings in force, for a reply.
    fn told(&self) -> String {
        let hash = self.setup.config.hash();
        match self.postponed {
            Some(postponed) => format!("in force: {hash}; {postponed}"),
            None => format!("in force: {hash}"),
        }
    }

    /// Shows what is in force.
    fn show(&self) {
        let trial = self.trying.as_ref().map(Trying::id);
        let settings = match &self.file {
            Some(file) => file.loaded.status(trial),
            None => status::Settings::default(),
        };
        self.handle.set_settings(status::Settings {
            hash: self.setup.config.hash(),
            ..settings
        });
    }
}

enum Next {
    Request(Request),
    Done(String, Outcome, bool),
    Look,
    /// What was to be downloaded is there, or is given up.
    Fetched(bool),
}

/// Does what may block on a thread of its own.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match task::blocking(work).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
