//! What an agent runs by: settings that were checked, and what follows from them.

use headwater_proto::{name, pb};

use crate::host;
use crate::uplink::link::Address;
use crate::{Config, Error};

/// Checked settings.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) config: Config,
    /// Where and as whom to connect.
    pub(crate) address: Address,
}

/// Without what may be secret.
impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").finish_non_exhaustive()
    }
}

impl Setup {
    /// Checks the settings, and reads the files with secrets: it may block.
    ///
    /// # Errors
    /// What is wrong: a setting, a name, a secret.
    pub(crate) fn new(config: Config) -> Result<Self, Error> {
        config.check()?;
        let device = match &config.device {
            Some(device) => device.clone(),
            None => host::name().ok_or(Error::NoDevice)?,
        };
        name::check_device(&device).map_err(|source| Error::Device { source })?;
        let address = Address::new(&config.uplink, &device)?;
        Ok(Self { config, address })
    }

    /// The device's name.
    pub(crate) fn device(&self) -> &str {
        &self.address.device
    }

    /// Whether an agent that runs by `self` can go on by `next`.
    ///
    /// # Errors
    /// [`Error::Restart`], for what an agent holds on to as long as it runs.
    pub(crate) fn can_become(&self, next: &Self) -> Result<(), Error> {
        if self.device() != next.device() {
            return Err(Error::Restart { key: "device" });
        }
        if self.config.state_dir != next.config.state_dir {
            return Err(Error::Restart { key: "state_dir" });
        }
        Ok(())
    }

    /// What of `next` has no effect on an agent that runs by `self` until its next start.
    pub(crate) fn postponed(&self, next: &Self) -> Option<&'static str> {
        let journal = self.config.journal != next.config.journal;
        let clock = (self.config.clock.trust, self.config.clock.wait)
            != (next.config.clock.trust, next.config.clock.wait);
        if self.config.enroll != next.config.enroll {
            return Some("settings of enroll take effect at the next start");
        }
        match (journal, clock) {
            (true, true) => Some("settings of the journal and the clock take effect at the next start"),
            (true, false) => Some("settings of the journal take effect at the next start"),
            (false, true) => Some("settings of the clock take effect at the next start"),
            (false, false) => None,
        }
    }

    /// What hello tells of this agent; the uplink draws the process' number.
    pub(crate) fn about(&self) -> pb::AgentInfo {
        pb::AgentInfo {
            version: crate::version::current().into(),
            target: env!("TARGET").into(),
            boot_id: host::boot_id(),
            config_hash: self.config.hash(),
            hostname: host::name().unwrap_or_default(),
            process: 0,
        }
    }
}
