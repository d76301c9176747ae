//! What all connections share: the log, the cache, the fleet, and the word that something is new.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use headwater_proto::Limits;
use tokio::sync::watch;

use super::budget::Budget;
use super::cache::Cache;
use super::catchup::CatchUp;
use super::commands::Commands;
use super::filter::Filters;
use super::fleet::Fleet;
use super::log::Log;
use super::metrics::Metrics;
use super::rate::Rates;
use super::seats::Seats;
use super::settings::GatewaySettings;
use super::token::Keys;
use super::watch::Watches;

/// What all connections share.
#[derive(Debug)]
pub struct Hub {
    /// The section `gateway`.
    pub settings: GatewaySettings,
    /// What a batch may be.
    pub limits: Limits,
    /// What tokens are checked with.
    pub keys: Keys,
    /// The metric filters in use.
    pub filters: Filters,
    /// What is seen from outside.
    pub metrics: Metrics,
    /// Readers of what is no longer in memory.
    pub catch_up: CatchUp,
    /// Commands of dashboards, where they are carried.
    pub commands: OnceLock<Arc<Commands>>,
    /// Which partitions somebody watches: no others are read.
    pub watches: Watches,
    /// Connections of each token subject.
    pub subjects: Seats<String>,
    /// How many of them may begin in a second.
    pub subject_connects: Rates<String>,
    /// Messages of each token subject in a second.
    pub subject_messages: Rates<String>,
    /// Messages of each address in a second.
    pub address_messages: Rates<IpAddr>,
    /// What LATEST and SERIES subscriptions hold.
    pub held: Arc<Budget>,
    log: RwLock<Log>,
    cache: RwLock<Cache>,
    fleet: RwLock<Fleet>,
    changed: watch::Sender<()>,
}

impl Hub {
    /// Empty, for that many partitions.
    pub fn new(
        settings: GatewaySettings,
        keys: Keys,
        metrics: Metrics,
        catch_up: CatchUp,
        partitions: u32,
    ) -> Self {
        let bytes = |size: headwater_config::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        Self {
            log: RwLock::new(Log::new(partitions, bytes(settings.log))),
            cache: RwLock::new(Cache::new(bytes(settings.cache))),
            fleet: RwLock::default(),
            changed: watch::Sender::new(()),
            limits: Limits::default(),
            watches: Watches::new(partitions),
            subjects: Seats::new(settings.limits.per_subject),
            subject_connects: Rates::new(settings.limits.connects_per_subject),
            subject_messages: Rates::new(settings.limits.messages_per_subject),
            address_messages: Rates::new(settings.limits.messages_per_address),
            held: Budget::new(bytes(settings.held), None),
            filters: Filters::default(),
            settings,
            keys,
            metrics,
            catch_up,
            commands: OnceLock::new(),
        }
    }

    // A panic under one of these locks leaves whole values behind: each change is a few plain assignments.

    /// The log.
    pub fn log(&self) -> RwLockReadGuard<'_, Log> {
        self.log.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log, to append to.
    pub fn log_mut(&self) -> RwLockWriteGuard<'_, Log> {
        self.log.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest values.
    pub fn cache(&self) -> RwLockReadGuard<'_, Cache> {
        self.cache.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest values, to update.
    pub fn cache_mut(&self) -> RwLockWriteGuard<'_, Cache> {
        self.cache.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fleet.
    pub fn fleet(&self) -> RwLockReadGuard<'_, Fleet> {
        self.fleet.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fleet, to update.
    pub fn fleet_mut(&self) -> RwLockWriteGuard<'_, Fleet> {
        self.fleet.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the connections: something is new.
    pub fn announce(&self) {
        self.changed.send_replace(());
    }

    /// Where [`Hub::announce`] is heard.
    pub fn listen(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

/// Now, microseconds since the Unix epoch.
pub fn now_us() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
