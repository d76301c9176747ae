//! The running agent: one task that ties sources, batcher, journal and uplink together. It never blocks and awaits nothing but
//! what may happen next, so everything it owns needs no lock.

use std::time::{Duration, Instant};

use headwater_proto::Limits;
use tokio::sync::{mpsc, oneshot};

use crate::alarm::Alarm;
use crate::batcher::Batcher;
use crate::clock::Clock;
use crate::journal::{Extent, Journal};
use crate::mqtt::End;
use crate::replies::Replies;
use crate::sealer::Sealer;
use crate::setup::Setup;
use crate::source::{Last, Sample};
use crate::state::State;
use crate::stats::{JournalMode, JournalStats};
use crate::thinning::Thinning;
use crate::uplink::backoff::Backoff;
use crate::uplink::budget::Allowance;
use crate::uplink::link::{Event, Link};
use crate::uplink::meter::Meter;
use crate::uplink::{Publication, Uplink};
use crate::{AgentHandle, AgentStats, Error};

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// What the controller tells the pipeline to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// To go on by other settings.
    Reload(Box<Setup>, oneshot::Sender<()>),
    /// To close the open batch, and to say when everything up to now is acknowledged.
    Flush(oneshot::Sender<()>),
    /// To publish a reply to a command.
    Say(Publication),
    /// To say when the broker has all replies.
    Said(oneshot::Sender<()>),
    /// To count bytes that pass beside the link, and to say whether more may.
    #[cfg_attr(not(feature = "update"), allow(dead_code, reason = "updates alone do"))]
    Beside(u64, oneshot::Sender<bool>),
    /// To tell what is held of each stream.
    Look(oneshot::Sender<Vec<Extent>>),
    /// To stop; the sources have.
    Stop,
}

/// How long the last write to flash may take.
const FAREWELL: Duration = Duration::from_secs(10);
/// At a stop, how long to wait for the next acknowledgement where flash can take what is not acknowledged.
const PATIENCE: Duration = Duration::from_secs(1);

/// The running agent.
pub(crate) struct Pipeline {
    pub(crate) batcher: Batcher,
    pub(crate) sealer: Sealer,
    pub(crate) limits: Limits,
    pub(crate) journal: Box<dyn Journal>,
    /// The small files: what they cost the flash is told with the journal's.
    pub(crate) state: Option<State>,
    pub(crate) uplink: Uplink,
    pub(crate) samples: mpsc::Receiver<Sample>,
    /// What ended sources handed over while there was no room.
    pub(crate) last: Last,
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) link: Link,
    pub(crate) handle: AgentHandle,
    pub(crate) meter: Meter,
    pub(crate) thinning: Thinning,
    pub(crate) replies: Replies,
    /// Who waits until a sequence number of a stream is acknowledged.
    pub(crate) flushes: Vec<(u64, u64, oneshot::Sender<()>)>,
    /// Who waits until the broker has all replies.
    pub(crate) said: Vec<oneshot::Sender<()>>,
    pub(crate) clock: Clock,
    /// When to look at the clock, if nothing has woken the pipeline for some time before.
    pub(crate) look_at: Instant,
    pub(crate) alarm: Alarm,
    /// How long batches are held back whose times are not known to be right.
    pub(crate) hold: Duration,
    /// How long a stop waits for acknowledgements.
    pub(crate) stop_timeout: Duration,
    /// Bytes that passed beside the link: an update's.
    pub(crate) beside: u64,
    pub(crate) sampled: u64,
    /// Readings that ended with the agent: neither acknowledged nor on flash.
    pub(crate) ended: u64,
}

impl Pipeline {
    /// Runs until it is told to stop, and then stops.
    ///
    /// # Errors
    /// What makes going on impossible.
    pub(crate) async fn run(mut self) -> Result<(), Error> {
        let woken = self.journal.woken();
        self.handle.disconnected(self.link.name(), None);
        loop {
            let deadline = self.step()?;
            tokio::select! {
                order = self.orders.recv() => match order {
                    Some(Order::Stop) | None => return self.stop().await,
                    Some(order) => self.obey(order),
                },
                Some(sample) = self.samples.recv() => self.take(sample),
                event = self.link.event() => self.handle_event(event)?,
                () = woken.notified() => {}
                () = self.alarm.until(deadline) => {}
            }
        }
    }

    fn obey(&mut self, order: Order) {
        // Who asked may have waited long enough, and be gone.
        match order {
            Order::Reload(setup, done) => {
                self.reload(*setup);
                self.show();
                let _ = done.send(());
            }
            Order::Flush(done) => {
                self.close();
                if let Some(extent) = self.journal.streams().last() {
                    self.flushes.push((extent.stream, extent.last, done));
                }
            }
            Order::Say(reply) => self.replies.push(reply),
            Order::Said(done) => self.said.push(done),
            Order::Beside(bytes, answer) => {
                self.beside += bytes;
                let (link, backlog) = self.link_bytes();
                let allowance = self.meter.look(Instant::now(), self.wall(), link, backlog);
                let _ = answer.send(allowance == Allowance::All);
            }
            Order::Look(answer) => drop(answer.send(self.journal.streams())),
            Order::Stop => {}
        }
    }

    /// Answers those whose wait is over.
    fn answer(&mut self) {
        if !self.flushes.is_empty() {
            let streams = self.journal.streams();
            let held = |id: u64, seq: u64| {
                let mut streams = streams.iter();
                streams.any(|extent| extent.stream == id && extent.first <= seq)
            };
            for (.., done) in self.flushes.extract_if(.., |(id, seq, _)| !held(*id, *seq)) {
                let _ = done.send(());
            }
            self.flushes.retain(|(.., done)| !done.is_closed());
        }
        if self.replies.is_empty() {
            for done in self.said.drain(..) {
                let _ = done.send(());
            }
        }
    }

    /// Goes on by other settings. Everything that waits stays where it is: the journal is the same, and so is its stream.
    fn reload(&mut self, setup: Setup) {
        let now = Instant::now();
        self.close();
        self.batcher.reload(setup.config.batch.clone());
        self.sealer = Sealer::new(&setup.config.uplink, self.limits.clone());
        self.stop_timeout = setup.config.uplink.stop_timeout;
        self.hold = setup.config.clock.hold;
        self.uplink.reload(now, &setup.config.uplink, setup.about());
        self.meter.reload(setup.config.uplink.data_budget.as_ref(), now);
        let backoff = Backoff::new(setup.config.uplink.backoff);
        if self.link.reload(now, setup.address, backoff) {
            self.uplink.disconnected();
            self.replies.disconnected();
            self.handle.disconnected(self.link.name(), None);
        } else if self.link.is_open() {
            // Hello tells the hash of the settings in force.
            self.uplink.connected(now, self.link.session, &mut *self.journal);
        }
    }

    /// Does all that is due, and says when more will be.
    fn step(&mut self) -> Result<Option<Instant>, Error> {
        let now = Instant::now();
        if !self.last.is_empty() {
            self.take_all();
        }
        // When it is awake anyway: it need not be woken for this.
        if now + self.clock.pace() / 2 >= self.look_at {
            self.look(now);
        }
        if self.batcher.is_due(now) {
            self.close();
        }
        if self.link.connect_at.is_some_and(|at| now >= at) {
            self.link.open(getrandom::u64()?);
        }
        let forgotten = self.journal.tick(now);
        self.uplink.forgotten(forgotten);
        let (link, backlog) = self.link_bytes();
        let allowance = self.meter.look(now, self.wall(), link, backlog);
        self.uplink.allow(now, allowance);
        self.uplink.tick(now, &*self.journal);
        self.uplink.clock(self.clock.standing(), self.hold);
        self.pump(now);
        self.answer();
        self.link.tick(now);
        self.show();
        let deadlines = [
            self.batcher.deadline(),
            self.uplink.deadline(),
            self.link.deadline(),
            self.journal.deadline(),
            self.meter.deadline(),
            Some(self.look_at),
        ];
        Ok(deadlines.into_iter().flatten().min())
    }

    /// Seconds since the Unix epoch, where the clock is known to be right.
    fn wall(&self) -> Option<i64> {
        let synchronised = self.clock.is_synchronised();
        synchronised.then(|| self.clock.now_us() / 1_000_000)
    }

    /// Bytes that passed the link since the start, and those of a backlog among them.
    fn link_bytes(&self) -> (u64, u64) {
        let bytes = self.link.bytes();
        let link = bytes.sent + bytes.received + self.beside;
        // Like a backlog it could be done without for now, and says nothing of the rate of live data.
        (link, self.uplink.counters().backlog_bytes + self.beside)
    }

    fn take(&mut self, sample: Sample) {
        self.sampled += self.batcher.push(Instant::now(), sample) as u64;
    }

    /// Takes all that sources have handed over.
    fn take_all(&mut self) {
        while let Ok(sample) = self.samples.try_recv() {
            self.take(sample);
        }
        for sample in self.last.take() {
            self.take(sample);
        }
    }

    /// Looks at the clock. What was stamped by the old time is in the open batch by the time the new one is told, and is put right there.
    fn look(&mut self, now: Instant) {
        let mut before = Vec::new();
        let (samples, last) = (&mut self.samples, &self.last);
        let correction = self.clock.look(|| {
            while let Ok(sample) = samples.try_recv() {
                before.push(sample);
            }
            before.extend(last.take());
        });
        for sample in before {
            self.take(sample);
        }
        match correction {
            Some(correction) if correction.became_known => self.batcher.correct(&correction),
            // The clock was known, and is another now.
            Some(_) => self.close(),
            None => {}
        }
        let pace = self.clock.pace();
        self.look_at = now + pace + pace / 2;
    }

    fn close(&mut self) {
        if let Some(mut closed) = self.batcher.close() {
            let epoch = self.clock.epoch();
            if epoch.is_some() {
                closed.readings.clock = headwater_proto::Clock::Uncertain;
            }
            for entry in self.sealer.seal(closed) {
                self.journal.append(entry.made_with(epoch));
            }
        }
    }

    fn handle_event(&mut self, event: Event) -> Result<(), Error> {
        let now = Instant::now();
        match event {
            Event::Open => {
                self.link.opened(now);
                self.handle.connected(self.link.name());
                self.uplink.connected(now, self.link.session, &mut *self.journal);
            }
            Event::Ack(payload) => {
                self.uplink.acknowledged(now, &payload, &mut *self.journal);
                if let Some(time_us) = self.uplink.relay_time_us() {
                    self.clock.compare(time_us);
                }
            }
            Event::Command(payload) => self.handle.command(payload),
            Event::Confirmed => {
                self.link.confirmed += 1;
                self.replies.confirmed(self.link.confirmed);
            }
            Event::Sent => {}
            Event::Closed(end) => self.closed(now, &end)?,
        }
        Ok(())
    }

    fn closed(&mut self, now: Instant, end: &End) -> Result<(), Error> {
        self.uplink.disconnected();
        self.replies.disconnected();
        let name = self.link.name();
        self.handle.disconnected(name.clone(), Some(&end.why));
        let wait = self.link.closed(now, end, getrandom::u64()?);
        log::warn!(
            "not connected to {name}: {}; next attempt in {:.1} s, to {}",
            end.why,
            wait.as_secs_f64(),
            self.link.name()
        );
        Ok(())
    }

    /// Hands over what the network takes and the window lets through.
    fn pump(&mut self, now: Instant) {
        while self.link.has_room() {
            if let Some(reply) = self.replies.next(self.link.promised + 1) {
                self.link.publish(reply);
                continue;
            }
            let Some(publication) = self.uplink.next(now, &mut *self.journal) else {
                return;
            };
            self.link.publish(publication);
        }
    }

    fn show(&self) {
        let counters = self.uplink.counters();
        let link = self.link.bytes();
        let others = self.uplink.other_boxes(Instant::now());
        self.handle.meet(others);
        let waiting = self.journal.waiting();
        let figures = self.journal.figures();
        let oldest_us = match waiting.oldest_us {
            0 => self.batcher.oldest_us().unwrap_or(0),
            oldest => oldest,
        };
        self.handle.set(AgentStats {
            connected: self.uplink.is_up(),
            waiting_batches: waiting.batches,
            waiting_readings: waiting.readings + self.batcher.open() as u64 - self.ended,
            waiting_bytes: waiting.bytes,
            oldest_us,
            sampled_readings: self.sampled,
            acked_readings: counters.delivered,
            lost_readings: counters.lost + waiting.lost + self.ended,
            reconnects: self.link.reconnects,
            sent_bytes: link.mqtt_sent,
            received_bytes: link.mqtt_received,
            payload_bytes: link.payload_sent,
            link_sent_bytes: link.sent,
            link_received_bytes: link.received,
            sent_batches: counters.sent,
            resent_batches: counters.resent,
            ignored_acks: counters.ignored,
            thinning: self.thinning.factor(),
            journal: JournalStats {
                mode: figures.mode,
                fault: figures.fault,
                memory_bytes: figures.memory_bytes,
                flash_bytes: figures.flash_bytes,
                flash_written_bytes: figures.flash_written + self.state.as_ref().map_or(0, State::written),
                quarantined: figures.quarantined,
                unfinished: figures.unfinished,
                found_readings: figures.found,
            },
            budget: self.meter.stats(),
            sealed_streams: counters.sealed,
            other_boxes: others.len() as u64,
            clock: self.clock.stats(),
        });
    }

    /// The sources are stopped; sees to it that as much as possible is acknowledged, and says goodbye.
    async fn stop(mut self) -> Result<(), Error> {
        self.take_all();
        self.close();
        // Better flagged than not at all.
        self.hold = Duration::ZERO;
        let until = Instant::now() + self.stop_timeout;
        let woken = self.journal.woken();
        let mut best = u64::MAX;
        let mut patience = until;
        // Nothing is waited for where there is no connection: a broker that is away must not delay a shutdown. Nor is anything that is on
        // flash: it goes out after the next start.
        while self.link.is_open() {
            let (figures, now) = (self.journal.figures(), Instant::now());
            let unwritten = figures.unwritten.batches;
            if unwritten < best {
                best = unwritten;
                patience = now + PATIENCE;
            }
            let until = match figures.mode {
                JournalMode::Flash => until.min(patience),
                JournalMode::Memory | JournalMode::Fallback => until,
            };
            if unwritten == 0 || now >= until {
                break;
            }
            let deadline = self.step()?.map_or(until, |deadline| deadline.min(until));
            tokio::select! {
                event = self.link.event() => self.handle_event(event)?,
                () = woken.notified() => {}
                () = self.alarm.until(Some(deadline)) => {}
            }
        }
        self.uplink.stop(&*self.journal);
        let goodbye = self.link.goodbye(&mut self.uplink, &mut *self.journal);
        if tokio::time::timeout(GOODBYE, goodbye).await.is_err() {
            log::warn!("the broker did not take the goodbye; its Last Will speaks");
        }
        self.close_journal().await;
        self.show();
        let (link, backlog) = self.link_bytes();
        let wall = self.wall();
        self.meter.close(Instant::now(), wall, link, backlog).await;
        Ok(())
    }

    /// Makes durable what is not acknowledged, as far as the journal can.
    async fn close_journal(&mut self) {
        let until = Instant::now() + FAREWELL;
        let woken = self.journal.woken();
        self.journal.close();
        loop {
            let forgotten = self.journal.tick(Instant::now());
            self.uplink.forgotten(forgotten);
            if self.journal.is_closed() || Instant::now() >= until {
                break;
            }
            tokio::select! {
                () = woken.notified() => {}
                () = self.alarm.until(Some(until)) => {}
            }
        }
        let figures = self.journal.figures();
        self.ended = figures.unwritten.readings;
        let kept = self.journal.waiting().readings - self.ended;
        if kept > 0 {
            log::info!("{kept} unacknowledged readings are on flash, and go out after the next start");
        }
        if self.ended > 0 {
            let why = match (figures.mode, figures.fault) {
                (JournalMode::Memory, _) => "the settings keep them in memory".to_string(),
                (_, Some(fault)) => format!("the journal cannot be written ({fault})"),
                _ => format!("flash has not taken them in {FAREWELL:?}"),
            };
            log::error!(
                "{} readings are lost: they are not acknowledged and not on flash, since {why}",
                self.ended
            );
        }
    }
}
