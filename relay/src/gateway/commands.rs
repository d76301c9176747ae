//! Commands from dashboards: checked, audited, written to `headwater.commands`, and answered out of `headwater.replies`.
//!
//! ```text
//!  session ─ order ─► audit: asked ─► headwater.commands ─► bridge ─► device
//!     ▲        │ no: refused                                            │
//!     └─ desk ◄┴──────────────── headwater.replies ◄── bridge ◄─────────┘
//! ```
//!
//! Pure: [`order`] (what is asked, and may it be), [`desk`] (what is under way, who waits, which replies are known), [`audit`] (what is written of it).
//! Here is what drives them: a thread that reads replies, and one task for each command.

pub mod audit;
pub mod desk;
pub mod order;
pub mod settings;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headwater_proto::pb::{ErrorCode, ReplyStatus};
use headwater_proto::{Message as _, name, shard};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rdkafka::error::KafkaError;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::hub::now_us;
use crate::kafka::delivery::{Delivery, Sender};
use crate::kafka::replies::{GRACE, Look, Replies};
use crate::kafka::{self, KafkaSettings, Topics};
use audit::Event;
use desk::{Asked, Desk, Key};
use order::{Answer, Order, Taken};
use settings::CommandSettings;

/// Replies before the end of each partition that are read at the start.
const BEFORE: i64 = 1000;
/// How long one look for a reply takes.
const LOOK: Duration = Duration::from_millis(100);
/// How long a command waits for the gateway to be ready for commands.
const START: Duration = Duration::from_secs(5);
/// What could not be done is tried again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// By what became of a command.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Outcome {
    /// A reply's status, an error's code, or `repeated`.
    pub outcome: &'static str,
}

/// What can be seen of commands from outside.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Commands by outcome.
    pub commands: Family<Outcome, Counter>,
    /// Commands without a reply.
    pub open: Gauge,
    /// Records of the audit that Kafka did not take.
    pub unaudited: Counter,
}

impl Metrics {
    /// Registered under `headwater_gateway_`.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for outcome in ["ok", "forbidden"] {
            drop(metrics.commands.get_or_create(&Outcome { outcome }));
        }
        let registry = registry.sub_registry_with_prefix("headwater_gateway");
        let help = "Commands from dashboards: by the reply's status, the error's code, or repeated";
        registry.register("commands", help, metrics.commands.clone());
        let help = "Commands from dashboards without a reply";
        registry.register("commands_open", help, metrics.open.clone());
        let help = "Records of the audit that Kafka did not take";
        registry.register("unaudited", help, metrics.unaudited.clone());
        metrics
    }

    /// A command ended so.
    pub fn count(&self, outcome: &'static str) {
        self.commands.get_or_create(&Outcome { outcome }).inc();
    }
}

/// A command's place behind the one that its connection sent before it: they are written in that order.
#[derive(Debug)]
pub struct Place {
    after: Option<oneshot::Receiver<()>>,
    /// Dropping it lets the next one go on.
    _written: oneshot::Sender<()>,
}

impl Place {
    /// The next one after `last`, which becomes this.
    pub fn next(last: &mut Option<oneshot::Receiver<()>>) -> Self {
        let (written, ours) = oneshot::channel();
        Self {
            after: last.replace(ours),
            _written: written,
        }
    }

    async fn begin(mut self) -> Self {
        if let Some(after) = self.after.take() {
            // Nothing is ever sent: the other end is dropped.
            let _ = after.await;
        }
        self
    }
}

/// The commands of this gateway.
#[derive(Debug)]
pub struct Commands {
    /// The section `gateway.commands`.
    pub settings: CommandSettings,
    /// From whom commands are taken.
    pub taken: Taken,
    /// What is counted.
    pub metrics: Metrics,
    desk: Mutex<Desk>,
    sender: Sender,
    topics: Topics,
    partitions: u32,
    /// This gateway's name in the audit.
    gateway: String,
    /// Why no command can be taken yet; `None`: it can.
    obstacle: watch::Sender<Option<String>>,
}

impl Commands {
    /// Starts what reads replies; it ends with `shutdown`.
    ///
    /// # Errors
    /// [`kafka::Error::Client`], [`kafka::Error::Secret`], [`kafka::Error::Thread`].
    pub fn start(
        settings: &CommandSettings,
        kafka: &KafkaSettings,
        taken: Taken,
        partitions: u32,
        metrics: Metrics,
        shutdown: &CancellationToken,
    ) -> Result<Arc<Self>, kafka::Error> {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let this = Arc::new(Self {
            settings: settings.clone(),
            taken,
            metrics,
            desk: Mutex::new(Desk::new(settings)),
            sender: Sender::new(kafka)?,
            topics: kafka.topics(),
            partitions,
            gateway: host.trim().to_owned(),
            obstacle: watch::Sender::new(Some("the gateway has just started".into())),
        });
        let (commands, of_thread, stop) = (Arc::clone(&this), kafka.clone(), shutdown.clone());
        let (topic, audited) = oneshot::channel();
        std::thread::Builder::new()
            .name("replies".into())
            .spawn(move || commands.read(&of_thread, audited, &stop))
            .map_err(kafka::Error::Thread)?;
        let (commands, kafka, stop) = (Arc::clone(&this), kafka.clone(), shutdown.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = commands.ensure_audit(&kafka) => drop(topic.send(())),
                () = stop.cancelled() => {}
            }
        });
        Ok(this)
    }

    async fn ensure_audit(&self, kafka: &KafkaSettings) {
        let mut said = false;
        while let Err(error) = kafka::ensure_audit(kafka).await {
            if !std::mem::replace(&mut said, true) {
                tracing::warn!("no commands are taken, since they cannot be audited: {error}; trying again");
            }
            self.obstacle.send_replace(Some(error.to_string()));
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Reads replies until `stop`.
    fn read(&self, kafka: &KafkaSettings, mut audited: oneshot::Receiver<()>, stop: &CancellationToken) {
        let mut audited_too = false;
        let mut replies = None;
        while !stop.is_cancelled() {
            let Some(reader) = &mut replies else {
                match Replies::open(kafka, BEFORE) {
                    Ok(opened) => replies = Some(opened),
                    Err(error) => {
                        self.obstacle.send_replace(Some(error.to_string()));
                        std::thread::sleep(AGAIN);
                    }
                }
                continue;
            };
            match reader.look(LOOK) {
                Look::Reply(reply) => self.desk().reply(reply),
                Look::Nothing { caught_up } => {
                    audited_too |= audited.try_recv().is_ok();
                    if caught_up && audited_too && self.obstacle.borrow().is_some() {
                        self.obstacle.send_replace(None);
                    }
                }
            }
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        // A panic under the lock leaves whole values behind: each change is a few plain assignments.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a command carried out, or refused, and says what came of it. To be run as a task of its own: who asked may leave meanwhile.
    pub async fn carry(self: Arc<Self>, order: Order, place: Place) -> Answer {
        let answer = self.answer(&order, place).await;
        match &answer {
            Answer::Reply(reply) => self.metrics.count(audit::status_word(reply.status())),
            Answer::Error(code, _) => self.metrics.count(audit::word(*code)),
        }
        match answer {
            // As the client knows it.
            Answer::Reply(mut reply) => {
                reply.id = order.id;
                Answer::Reply(reply)
            }
            error @ Answer::Error(..) => error,
        }
    }

    async fn answer(self: &Arc<Self>, order: &Order, place: Place) -> Answer {
        if let Some((code, why)) = &order.refusal {
            // Its turn comes and goes all the same: those behind it do not pass those before it.
            tokio::spawn(async move { drop(place.begin().await) });
            return self.refuse(order, *code, why.clone());
        }
        let place = place.begin().await;
        if let Err(why) = self.await_start().await {
            return self.refuse(order, ErrorCode::Unavailable, why);
        }
        // In a statement of its own: the lock is not held any longer.
        let asked = if order.is_late() {
            self.desk().known(order).map(Asked::Known)
        } else {
            Some(self.desk().ask(order))
        };
        match asked {
            None => {
                let reply = order.too_late();
                self.note(order, Event::Answered(ReplyStatus::Expired));
                Answer::Reply(reply)
            }
            Some(Asked::Full(why)) => self.refuse(order, ErrorCode::Limit, why),
            Some(Asked::Known(reply)) => {
                self.note(order, Event::Repeated);
                self.metrics.count("repeated");
                Answer::Reply(reply)
            }
            Some(Asked::Joined(told)) => {
                self.note(order, Event::Repeated);
                self.metrics.count("repeated");
                drop(place);
                // Whoever wrote it tells in the end.
                told.await.unwrap_or_else(|_| silence(order))
            }
            Some(Asked::New(told)) => {
                self.metrics.open.inc();
                let written = self.write(order).await;
                drop(place);
                let answer = match written {
                    Ok(()) => self.await_reply(order, told).await,
                    Err(why) => Answer::Error(ErrorCode::Unavailable, why),
                };
                self.metrics.open.dec();
                self.desk().close(&Key::of(order), &answer);
                self.note(order, Event::of(&answer));
                answer
            }
        }
    }

    async fn await_start(&self) -> Result<(), String> {
        let mut obstacle = self.obstacle.subscribe();
        let started = tokio::time::timeout(START, obstacle.wait_for(Option::is_none)).await;
        if matches!(started, Ok(Ok(_))) {
            return Ok(());
        }
        let why = self.obstacle.borrow().clone().unwrap_or_default();
        Err(format!("commands cannot be taken yet: {why}"))
    }

    fn refuse(self: &Arc<Self>, order: &Order, code: ErrorCode, why: String) -> Answer {
        self.note(order, Event::Refused(code, &why));
        Answer::Error(code, why)
    }

    /// First that it was asked, then the command.
    async fn write(&self, order: &Order) -> Result<(), String> {
        let outcome = |delivery: Delivery| async { delivery.await.unwrap_or(Err(KafkaError::Canceled)) };
        outcome(self.record(order, Event::Asked)).await.map_err(|error| {
            self.metrics.unaudited.inc();
            format!(
                "it was not sent, since Kafka did not take its record for the audit: {error}; send it again"
            )
        })?;
        let command = &order.command;
        let partition = shard::partition(&command.device, self.partitions);
        let value = command.encode_to_vec();
        let sent = self
            .sender
            .send(&self.topics.commands, Some(partition), &command.device, &value);
        outcome(sent).await.map_err(|error| {
            format!("Kafka did not confirm it: {error}; whether it is carried out is not known, and under its id it can be sent again without harm")
        })
    }

    async fn await_reply(&self, order: &Order, told: oneshot::Receiver<Answer>) -> Answer {
        let left = order.command.expires_us.saturating_sub(now_us()).max(0);
        let within = Duration::from_micros(left.unsigned_abs()) + GRACE;
        match tokio::time::timeout(within, told).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => silence(order),
        }
    }

    /// Hands a record of the audit over.
    fn record(&self, order: &Order, event: Event<'_>) -> Delivery {
        let arguments = self.settings.audit_arguments;
        let value = audit::record(order, event, arguments, &self.gateway, now_us());
        let device = &order.command.device;
        let key = if name::check_device(device).is_ok() {
            device.as_str()
        } else {
            ""
        };
        self.sender.send(&self.topics.audit, None, key, &value)
    }

    /// Has something audited that has happened already.
    fn note(self: &Arc<Self>, order: &Order, event: Event<'_>) {
        let (delivery, this) = (self.record(order, event), Arc::clone(self));
        tokio::spawn(async move {
            if let Ok(Err(error)) = delivery.await {
                this.metrics.unaudited.inc();
                tracing::warn!("a record of the audit is lost: {error}");
            }
        });
    }

    /// Waits for what is on its way to Kafka, for so long at most. Blocks.
    pub fn flush(&self, within: Duration) {
        self.sender.flush(within);
    }
}

fn silence(order: &Order) -> Answer {
    let why = format!(
        "no reply to the command came within its time and {} s more: is a bridge running? Whether it was carried out is not known, and under its id {:?} it can be \
         sent again without harm",
        GRACE.as_secs(),
        order.id
    );
    Answer::Error(ErrorCode::Unavailable, why)
}
