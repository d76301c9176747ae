//! An agent: checks its settings, opens its sources, and runs the pipeline.

use std::future::Future;
use std::time::{Duration, Instant};

use headwater_proto::{Limits, name, pb};
use tokio::task::JoinSet;

use crate::batcher::Batcher;
use crate::broker::Broker;
use crate::clock::Clock;
use crate::host;
use crate::journal::Memory;
use crate::pipeline::Pipeline;
use crate::sealer::Sealer;
use crate::source::{self, Opened, Output};
use crate::uplink::Uplink;
use crate::uplink::backoff::Backoff;
use crate::uplink::connection::Address;
use crate::uplink::link::Link;
use crate::{AgentHandle, Config, Error};

/// A source that fails is started again after this long at first, and this long at last.
const RESTART: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// An agent, ready to run.
pub struct Agent {
    config: Config,
    handle: AgentHandle,
    address: Address,
    sources: Vec<Opened>,
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
        config.check()?;
        let device = match &config.device {
            Some(device) => device.clone(),
            None => host::name().ok_or(Error::NoDevice)?,
        };
        name::check_device(&device).map_err(|source| Error::Device { source })?;
        let password = config
            .uplink
            .password_file
            .as_deref()
            .map(headwater_config::secret)
            .transpose()?;
        let address = Address {
            broker: Broker::parse(&config.uplink.broker)?,
            device: device.clone(),
            client_id: config.uplink.client_id.clone().unwrap_or_else(|| device.clone()),
            credentials: config
                .uplink
                .user
                .clone()
                .map(|user| (user, password.unwrap_or_default())),
            keep_alive: config.uplink.keep_alive,
        };
        let numbered = config.sources.iter().zip(1..);
        let sources = numbered
            .map(|(settings, number)| source::open(number, settings, &device))
            .collect::<Result<_, _>>()?;
        let handle = AgentHandle::new(&device);
        Ok((
            Self {
                config,
                handle: handle.clone(),
                address,
                sources,
            },
            handle,
        ))
    }

    /// Runs until `shutdown` is done, then stops cleanly: closes the open batch, waits a bounded time for
    /// acknowledgements, says goodbye to the broker.
    ///
    /// # Errors
    /// What makes going on impossible. A broker or a relay that is away is none of that: the agent waits for it.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let stream = getrandom::u64()?;
        let address = &self.address;
        log::info!(
            "{}: stream {stream:016x}, {} source(s), to {}:{}",
            address.device,
            self.sources.len(),
            address.broker.host,
            address.broker.port
        );
        let (output, samples) = Output::new(Clock::default());
        let thinning = output.thinning().clone();
        let mut sources = JoinSet::new();
        for opened in self.sources {
            sources.spawn(supervise(opened, output.clone()));
        }
        drop(output);
        let limits = Limits::default();
        let journal = Memory::new(stream, self.config.journal.memory.as_u64() as usize);
        let uplink = Uplink::new(&self.config.uplink, about(&self.config), &journal, Instant::now());
        let pipeline = Pipeline {
            batcher: Batcher::new(self.config.batch.clone(), limits.clone()),
            sealer: Sealer::new(&self.config.uplink, limits),
            journal: Box::new(journal),
            uplink,
            samples,
            link: Link::new(self.address, Backoff::new(self.config.uplink.backoff.clone())),
            handle: self.handle,
            thinning,
            sampled: 0,
        };
        pipeline
            .run(shutdown, sources, self.config.uplink.stop_timeout)
            .await
    }
}

/// Runs a source for as long as it has anything to give.
async fn supervise(mut opened: Opened, output: Output) {
    let mut wait = RESTART.0;
    loop {
        let began = Instant::now();
        match opened.source.run(&output).await {
            Ok(()) => {
                log::info!("{} has ended", opened.name);
                return;
            }
            Err(error) => {
                if began.elapsed() > RESTART.1 {
                    wait = RESTART.0;
                }
                log::error!("{}: {error}; trying again in {wait:?}", opened.name);
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RESTART.1);
            }
        }
    }
}

/// What hello tells of this agent.
fn about(config: &Config) -> pb::AgentInfo {
    pb::AgentInfo {
        version: env!("CARGO_PKG_VERSION").into(),
        target: env!("TARGET").into(),
        boot_id: host::boot_id(),
        config_hash: config.hash(),
        hostname: host::name().unwrap_or_default(),
    }
}
