//! An agent: checks its settings, opens its sources, and runs controller and pipeline.

use std::future::Future;
use std::path::Path;
use std::time::Instant;

use headwater_proto::Limits;

use crate::alarm::Alarm;
use crate::batcher::Batcher;
use crate::clock::{Clock, Known};
use crate::control::{Controller, FileSettings, Sources};
use crate::handle::Inbox;
use crate::journal::{Flash, Journal, Memory};
use crate::pipeline::Pipeline;
use crate::replies::Replies;
use crate::sealer::Sealer;
use crate::setup::Setup;
use crate::source::{self, Opened, Output};
use crate::state::State;
use crate::uplink::Uplink;
use crate::uplink::backoff::Backoff;
use crate::uplink::link::Link;
use crate::uplink::meter::Meter;
use crate::{AgentHandle, Config, Error, config};

/// An agent, ready to run.
pub struct Agent {
    setup: Setup,
    handle: AgentHandle,
    inbox: Inbox,
    sources: Vec<Opened>,
    file: Option<FileSettings>,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("device", &self.handle.device())
            .finish_non_exhaustive()
    }
}

impl Agent {
    /// Checks the settings and opens the sources.
    ///
    /// # Errors
    /// What keeps the agent from starting: a setting, a name, a secret, a source.
    pub fn new(config: Config) -> Result<(Self, AgentHandle), Error> {
        let setup = Setup::new(config)?;
        let sources = source::open_all(&setup.config.sources, setup.device())?;
        let (handle, inbox) = AgentHandle::new(&setup);
        let agent = Self {
            setup,
            handle: handle.clone(),
            inbox,
            sources,
            file: None,
        };
        Ok((agent, handle))
    }

    /// As [`Agent::new`], with the settings of a file, and what was applied or changed by command over it. Only such an agent can have its
    /// settings changed by command.
    ///
    /// # Errors
    /// What keeps the agent from starting.
    pub fn from_file(path: &Path) -> Result<(Self, AgentHandle), Error> {
        let file = FileSettings::open(path)?;
        let (mut agent, handle) = Self::new(file.loaded.config.clone())?;
        agent.file = Some(file);
        Ok((agent, handle))
    }

    /// Runs until `shutdown` is done, then stops cleanly: closes the open batch, waits a bounded time for
    /// acknowledgements, says goodbye to the broker.
    ///
    /// # Errors
    /// What makes going on impossible. A broker or a relay that is away is none of that: the agent waits for it.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let stream = getrandom::u64()?;
        log::info!(
            "{}: stream {stream:016x}, {} source(s), to {}",
            self.handle.device(),
            self.sources.len(),
            self.setup.address.brokers[0]
        );
        // One for all, so that it knows all that is written.
        let state = self.file.as_ref().and_then(FileSettings::state);
        let state = state.or_else(|| self.setup.config.state_dir.clone().map(State::new));
        let mut known = state.clone().map(Known::open);
        let clock = Clock::open(&self.setup.config.clock, known.as_ref().and_then(Known::time_us));
        let (output, samples) = Output::new(clock.clone());
        output.set_rules(&self.setup.config.metrics);
        let thinning = output.thinning().clone();
        let last = output.last().clone();
        let mut sources = Sources::new(output.clone(), self.handle.clone());
        sources.start(self.sources);
        let config = &self.setup.config;
        let limits = Limits::default();
        let journal = journal(stream, &config.journal, state.as_ref(), clock.clone())?;
        let now = Instant::now();
        let about = self.setup.about();
        let uplink = Uplink::new(&config.uplink, about, &*journal, now, getrandom::u64()?);
        let meter = Meter::new(
            config.uplink.data_budget.as_ref(),
            state.clone(),
            thinning.clone(),
            now,
        );
        let backoff = Backoff::new(config.uplink.backoff.clone());
        let pipeline = Pipeline {
            batcher: Batcher::new(config.batch.clone(), limits.clone()),
            sealer: Sealer::new(&config.uplink, limits.clone()),
            limits,
            journal,
            state,
            uplink,
            samples,
            last,
            orders: self.inbox.orders,
            link: Link::new(self.setup.address.clone(), backoff, clock.another()),
            handle: self.handle.clone(),
            meter,
            thinning,
            replies: Replies::default(),
            flushes: Vec::new(),
            said: Vec::new(),
            clock: clock.clone(),
            look_at: Instant::now(),
            alarm: Alarm::new(),
            hold: config.clock.hold,
            stop_timeout: config.uplink.stop_timeout,
            beside: 0,
            sampled: 0,
            ended: 0,
        };
        let (certified, handle) = (self.setup.config.clone(), self.handle.clone());
        let mut controller = Controller::new(self.handle, self.setup, sources, output, self.inbox.requests);
        controller.steer_by(self.file).await;
        let mut controller = std::pin::pin!(controller.run(shutdown));
        let mut pipeline = std::pin::pin!(pipeline.run());
        // Sources end with the controller, so it is dropped with the pipeline should that fail.
        let result = {
            let mut keeper = std::pin::pin!(async {
                tokio::join!(
                    keep_time(clock.clone(), known.clone()),
                    keep_certificate(&certified, &handle, &clock)
                );
            });
            tokio::select! {
                result = &mut pipeline => result,
                () = &mut controller => pipeline.await,
                () = &mut keeper => unreachable!("the time is kept for ever"),
            }
        };
        if let Some(known) = &mut known {
            known.save(&clock, 0).await;
        }
        result
    }
}

/// The journal that the settings ask for.
fn journal(
    stream: u64,
    settings: &config::Journal,
    state: Option<&State>,
    clock: Clock,
) -> Result<Box<dyn Journal>, Error> {
    let Some(state) = state else {
        log::warn!("there is no state_dir: what waits for its acknowledgement is in memory only");
        return Ok(Box::new(Memory::new(stream, settings.memory.as_u64() as usize)));
    };
    let wall_time = Box::new(move || clock.is_synchronised().then(|| clock.now_us()));
    Ok(Box::new(Flash::open(stream, settings, state, wall_time)?))
}

/// Sees to it that there is a certificate, where the settings say how; for ever.
async fn keep_certificate(config: &Config, handle: &AgentHandle, clock: &Clock) {
    #[cfg(feature = "enroll")]
    crate::enroll::keep(config, handle.clone(), clock.clone()).await;
    #[cfg(not(feature = "enroll"))]
    {
        let _ = (config, handle, clock);
        std::future::pending::<()>().await;
    }
}

/// Looks after the clock's hardware, and keeps the last time known; for ever.
async fn keep_time(clock: Clock, known: Option<Known>) {
    let keeping = async {
        match known {
            Some(known) => known.keep(clock.clone()).await,
            None => std::future::pending().await,
        }
    };
    tokio::join!(clock.clone().watch(), keeping);
    std::future::pending::<()>().await;
}
