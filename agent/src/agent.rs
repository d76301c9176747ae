//! The driver: ties sources, batcher, journal and uplink together. One task; it never blocks and awaits nothing but what may
//! happen next, so everything it owns needs no lock.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use headwater_proto::{Limits, name, pb};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::batcher::Batcher;
use crate::broker::Broker;
use crate::host;
use crate::journal::{Journal, Memory};
use crate::sealer::Sealer;
use crate::source::{self, Opened, Output, Sample};
use crate::uplink::Uplink;
use crate::uplink::backoff::Backoff;
use crate::uplink::connection::{Address, Connection, Event};
use crate::{AgentHandle, AgentStats, Config, Error};

/// The network takes nothing for this long although something waits for it: the connection is made anew.
const STALLED: Duration = Duration::from_secs(60);
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);
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
        let (output, samples) = Output::new();
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

/// The running agent.
struct Pipeline {
    batcher: Batcher,
    sealer: Sealer,
    journal: Box<dyn Journal>,
    uplink: Uplink,
    samples: mpsc::Receiver<Sample>,
    link: Link,
    handle: AgentHandle,
    sampled: u64,
}

impl Pipeline {
    async fn run(
        mut self,
        shutdown: impl Future<Output = ()> + Send,
        mut sources: JoinSet<()>,
        stop_timeout: Duration,
    ) -> Result<(), Error> {
        let mut shutdown = pin!(shutdown);
        loop {
            let deadline = self.step()?;
            tokio::select! {
                () = &mut shutdown => break,
                Some(sample) = self.samples.recv() => self.take(sample),
                event = self.link.event() => self.handle_event(event)?,
                Some(ended) = sources.join_next() => {
                    if let Err(error) = ended {
                        log::error!("a source has failed beyond repair: {error}; the others go on");
                    }
                }
                () = sleep_until(deadline) => {}
            }
        }
        sources.shutdown().await;
        self.stop(stop_timeout).await
    }

    /// Does all that is due, and says when more will be.
    fn step(&mut self) -> Result<Option<Instant>, Error> {
        let now = Instant::now();
        if self.batcher.is_due(now) {
            self.close();
        }
        if self.link.connect_at.is_some_and(|at| now >= at) {
            self.link.open(getrandom::u64()?);
        }
        self.uplink.tick(now, &*self.journal);
        self.pump(now);
        if self.link.is_stalled(now) {
            self.closed(now, &format!("the network took nothing for {STALLED:?}"))?;
        }
        self.show();
        let deadlines = [
            self.batcher.deadline(),
            self.uplink.deadline(),
            self.link.deadline(),
        ];
        Ok(deadlines.into_iter().flatten().min())
    }

    fn take(&mut self, sample: Sample) {
        self.sampled += self.batcher.push(Instant::now(), sample) as u64;
    }

    fn close(&mut self) {
        if let Some(closed) = self.batcher.close() {
            for entry in self.sealer.seal(closed) {
                self.journal.append(entry);
            }
        }
    }

    fn handle_event(&mut self, event: Event) -> Result<(), Error> {
        let now = Instant::now();
        match event {
            Event::Open => {
                self.link.opened(now);
                self.uplink.connected(now, self.link.session, &*self.journal);
            }
            Event::Ack(payload) => self.uplink.acknowledged(now, &payload, &mut *self.journal),
            Event::Sent => self.link.moved_at = now,
            Event::Confirmed => {}
            Event::Closed(why) => self.closed(now, &why)?,
        }
        Ok(())
    }

    fn closed(&mut self, now: Instant, why: &str) -> Result<(), Error> {
        self.uplink.disconnected();
        let wait = self.link.closed(now, getrandom::u64()?);
        log::warn!(
            "not connected to {}: {why}; next attempt in {wait:.1?}",
            self.link.name()
        );
        Ok(())
    }

    /// Hands over what the network takes and the window lets through.
    fn pump(&mut self, now: Instant) {
        while self.link.has_room() {
            let Some(publication) = self.uplink.next(now, &mut *self.journal) else {
                return;
            };
            self.link.publish(now, publication);
        }
    }

    fn show(&self) {
        let counters = self.uplink.counters();
        let waiting = self.journal.waiting();
        let oldest_us = match waiting.oldest_us {
            0 => self.batcher.oldest_us().unwrap_or(0),
            oldest => oldest,
        };
        self.handle.set(AgentStats {
            connected: self.uplink.is_up(),
            waiting_batches: waiting.batches,
            waiting_readings: waiting.readings + self.batcher.open() as u64,
            waiting_bytes: waiting.bytes,
            oldest_us,
            sampled_readings: self.sampled,
            acked_readings: counters.delivered,
            lost_readings: counters.lost + waiting.lost,
            reconnects: self.link.reconnects,
            sent_bytes: self.link.sent_bytes,
            resent_batches: counters.resent,
            ignored_acks: counters.ignored,
        });
    }

    /// The sources are stopped; sees to it that as much as possible is acknowledged, and says goodbye.
    async fn stop(mut self, timeout: Duration) -> Result<(), Error> {
        while let Ok(sample) = self.samples.try_recv() {
            self.take(sample);
        }
        self.close();
        let until = Instant::now() + timeout;
        // Nothing is waited for where there is no connection: a broker that is away must not delay a shutdown.
        while self.link.is_open() && self.journal.waiting().batches > 0 && Instant::now() < until {
            let deadline = self.step()?.map_or(until, |deadline| deadline.min(until));
            tokio::select! {
                event = self.link.event() => self.handle_event(event)?,
                () = sleep_until(Some(deadline)) => {}
            }
        }
        self.show();
        let waiting = self.journal.waiting();
        if waiting.readings + waiting.lost > 0 {
            log::error!(
                "stopping with {} readings unacknowledged: a journal in memory ends with its process",
                waiting.readings
            );
        }
        self.uplink.stop(&*self.journal);
        let goodbye = self.link.goodbye(&mut self.uplink, &mut *self.journal);
        if tokio::time::timeout(GOODBYE, goodbye).await.is_err() {
            log::warn!("the broker did not take the goodbye; its Last Will speaks");
        }
        self.show();
        Ok(())
    }
}

/// The connection there is, or when there will be one.
struct Link {
    address: Address,
    backoff: Backoff,
    connection: Option<Connection>,
    connect_at: Option<Instant>,
    /// Drawn for each connection.
    session: u64,
    /// Since when it stands.
    open_since: Option<Instant>,
    /// When the network last took something, or was last idle.
    moved_at: Instant,
    reconnects: u64,
    sent_bytes: u64,
}

impl Link {
    fn new(address: Address, backoff: Backoff) -> Self {
        let now = Instant::now();
        Self {
            address,
            backoff,
            connection: None,
            connect_at: Some(now),
            session: 0,
            open_since: None,
            moved_at: now,
            reconnects: 0,
            sent_bytes: 0,
        }
    }

    fn name(&self) -> String {
        format!("{}:{}", self.address.broker.host, self.address.broker.port)
    }

    fn open(&mut self, session: u64) {
        // 0 stands for "no session" in acknowledgements.
        self.session = session.max(1);
        self.connect_at = None;
        self.connection = Some(Connection::open(&self.address, Uplink::last_will(self.session)));
    }

    fn opened(&mut self, now: Instant) {
        log::info!("connected to {}", self.name());
        self.open_since = Some(now);
        self.moved_at = now;
    }

    fn closed(&mut self, now: Instant, random: u64) -> Duration {
        self.connection = None;
        let stood = self.open_since.take();
        self.reconnects += u64::from(stood.is_some());
        let at = self.backoff.next(now, stood, random);
        self.connect_at = Some(at);
        at - now
    }

    fn is_open(&self) -> bool {
        self.open_since.is_some()
    }

    fn has_room(&self) -> bool {
        self.is_open() && self.connection.as_ref().is_some_and(Connection::has_room)
    }

    fn is_stalled(&self, now: Instant) -> bool {
        self.is_open()
            && self.connection.as_ref().is_some_and(Connection::is_sending)
            && now >= self.moved_at + STALLED
    }

    fn deadline(&self) -> Option<Instant> {
        let sending = self.connection.as_ref().is_some_and(Connection::is_sending);
        self.connect_at
            .or_else(|| sending.then(|| self.moved_at + STALLED))
    }

    fn publish(&mut self, now: Instant, publication: crate::uplink::Publication) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        if !connection.is_sending() {
            self.moved_at = now;
        }
        // If it is over, its last event says so, and everything is sent again on the next.
        self.sent_bytes += connection.publish(publication).unwrap_or(0);
    }

    /// What happens next; never, without a connection.
    async fn event(&mut self) -> Event {
        match &mut self.connection {
            Some(connection) => connection.event().await,
            None => std::future::pending().await,
        }
    }

    /// Sends what the uplink still has to say, waits until the broker has it, and disconnects.
    async fn goodbye(&mut self, uplink: &mut Uplink, journal: &mut dyn Journal) {
        let mut unconfirmed = 0u32;
        let mut disconnecting = false;
        while self.is_open() {
            while self.has_room()
                && let Some(publication) = uplink.next(Instant::now(), journal)
            {
                unconfirmed += u32::from(publication.at_least_once());
                self.publish(Instant::now(), publication);
            }
            if unconfirmed == 0 && !disconnecting {
                disconnecting = true;
                if let Some(connection) = &mut self.connection {
                    connection.disconnect();
                }
            }
            match self.event().await {
                Event::Confirmed => unconfirmed = unconfirmed.saturating_sub(1),
                Event::Closed(_) => return,
                _ => {}
            }
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
