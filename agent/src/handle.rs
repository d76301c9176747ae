//! What an agent tells of itself to the program it runs in, and what that program may ask of it.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headwater_proto::frame;
use headwater_proto::pb::{self, Reply};
use headwater_proto::topic::Kind;
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::journal::Extent;
use crate::pipeline::Order;
use crate::process::Process;
use crate::setup::Setup;
use crate::source::Meter;
use crate::stats::{AgentStats, SourceStats};
use crate::status::{Link, OtherBox, Settings, Status, Stream, Update};
use crate::uplink::Publication;
use crate::{Config, Error};

/// Requests on their way to the controller, and orders on their way to the pipeline.
const WAITING: usize = 16;
/// How long the pipeline may take to answer before it counts as not answering. Its steps take microseconds.
const ANSWER: Duration = Duration::from_secs(2);

/// Asked of a running agent from outside.
#[derive(Debug)]
pub(crate) enum Request {
    /// To go on with other settings.
    Reload(Box<Config>, oneshot::Sender<Result<(), Error>>),
    /// To read its settings again from where they came from.
    ReloadFile(oneshot::Sender<Result<(), Error>>),
    /// To deal with a command from the relay; its payload.
    Command(Vec<u8>),
}

/// Looks at a running agent from outside.
#[derive(Clone, Debug)]
pub struct AgentHandle {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    orders: mpsc::Sender<Order>,
}

/// The other ends of a handle.
pub(crate) struct Inbox {
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) orders: mpsc::Receiver<Order>,
}

#[derive(Debug, Default)]
struct Shared {
    /// What does not change: the device, the build, the process.
    fixed: Status,
    stats: Mutex<AgentStats>,
    sources: Mutex<Vec<Meter>>,
    settings: Mutex<Settings>,
    link: Mutex<Link>,
    update: Mutex<Update>,
    other_boxes: Mutex<Vec<OtherBox>>,
    /// Commands that came while too many waited.
    dropped: AtomicU64,
    restarting: AtomicBool,
    /// Until when the certificate is valid, seconds since the Unix epoch; 0: there is none.
    certificate_until_s: AtomicI64,
}

impl AgentHandle {
    pub(crate) fn new(setup: &Setup) -> (Self, Inbox) {
        let (requests, requested) = mpsc::channel(WAITING);
        let (orders, ordered) = mpsc::channel(WAITING);
        let about = setup.about();
        let fixed = Status {
            device: setup.device().into(),
            version: about.version,
            target: about.target,
            boot_id: about.boot_id,
            pid: std::process::id(),
            started_us: Clock::default().now_us(),
            ..Status::default()
        };
        let shared = Shared {
            fixed,
            ..Shared::default()
        };
        let handle = Self {
            shared: Arc::new(shared),
            requests,
            orders,
        };
        let inbox = Inbox {
            requests: requested,
            orders: ordered,
        };
        (handle, inbox)
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        &self.shared.fixed.device
    }

    /// The agent's figures, as of its last step.
    pub fn stats(&self) -> AgentStats {
        *lock(&self.shared.stats)
    }

    /// Until when this agent's certificate is valid, seconds since the Unix epoch; `None`: it has none, or none with its key.
    pub fn certificate_until_s(&self) -> Option<i64> {
        Some(self.shared.certificate_until_s.load(Ordering::Relaxed)).filter(|until| *until != 0)
    }

    #[cfg(feature = "enroll")]
    pub(crate) fn set_certificate_until(&self, seconds: i64) {
        self.shared.certificate_until_s.store(seconds, Ordering::Relaxed);
    }

    /// The figures of each source, in the order of the settings.
    pub fn sources(&self) -> Vec<SourceStats> {
        lock(&self.shared.sources).iter().map(Meter::stats).collect()
    }

    /// Goes on with other settings. What is buffered stays, the batch that is open is closed, sources whose settings are the same go on
    /// undisturbed, and so does the connection where nothing about it changes.
    ///
    /// # Errors
    /// Why the new settings are refused: the agent goes on with the old ones. [`Error::Stopped`] if it runs no more.
    pub async fn reload(&self, config: Config) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        let request = Request::Reload(Box::new(config), answer);
        self.requests.send(request).await.map_err(|_| Error::Stopped)?;
        answered.await.map_err(|_| Error::Stopped)?
    }

    /// As [`AgentHandle::reload`], with what now stands where the settings came from.
    ///
    /// # Errors
    /// As [`AgentHandle::reload`]; [`Error::NoFile`] if they did not come from a file.
    pub async fn reload_file(&self) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        let request = Request::ReloadFile(answer);
        self.requests.send(request).await.map_err(|_| Error::Stopped)?;
        answered.await.map_err(|_| Error::Stopped)?
    }

    /// Whether the agent ended in order to be started again, as a command asked.
    pub fn is_restarting(&self) -> bool {
        self.shared.restarting.load(Ordering::Relaxed)
    }

    /// Whether the task that moves readings answers within 2 s.
    pub async fn answers(&self) -> bool {
        self.look().await.is_some()
    }

    /// The agent's state. What the pipeline has to be asked for is asked for 2 s at most.
    pub async fn status(&self) -> Status {
        let streams = self.look().await;
        let process = Process::read().unwrap_or_default();
        let stream = |extent: Extent| Stream {
            stream: format!("{:016x}", extent.stream),
            first_seq: extent.first,
            last_seq: extent.last,
            durable_seq: extent.durable,
        };
        Status {
            now_us: Clock::default().now_us(),
            answering: streams.is_some(),
            settings: lock(&self.shared.settings).clone(),
            link: lock(&self.shared.link).clone(),
            update: self.update(),
            other_boxes: lock(&self.shared.other_boxes).clone(),
            stats: self.stats(),
            streams: streams.unwrap_or_default().into_iter().map(stream).collect(),
            sources: self.sources(),
            rss_bytes: process.rss_bytes,
            cpu_us: process.cpu_us,
            ..self.shared.fixed.clone()
        }
    }

    /// What is known of the last update.
    pub(crate) fn update(&self) -> Update {
        lock(&self.shared.update).clone()
    }

    /// What is known of it from now on.
    #[cfg(feature = "update")]
    pub(crate) fn set_update(&self, update: Update) {
        *lock(&self.shared.update) = update;
    }

    /// So many bytes have passed beside the link; returns whether the data budget lets more.
    #[cfg(feature = "update")]
    pub(crate) async fn beside(&self, bytes: u64) -> bool {
        let (answer, answered) = oneshot::channel();
        self.order(Order::Beside(bytes, answer)).await && answered.await.unwrap_or(false)
    }

    async fn look(&self) -> Option<Vec<Extent>> {
        let looked = async {
            let (answer, answered) = oneshot::channel();
            self.orders.send(Order::Look(answer)).await.ok()?;
            answered.await.ok()
        };
        tokio::time::timeout(ANSWER, looked).await.ok().flatten()
    }

    /// The time, microseconds since the Unix epoch; `None` while the clock is not known to be right.
    pub(crate) fn now_us(&self) -> Option<i64> {
        self.stats().clock.synchronised.then(|| Clock::default().now_us())
    }

    /// Why there is no connection, or was none before the one that stands.
    pub(crate) fn link_error(&self) -> Option<String> {
        lock(&self.shared.link).last_error.clone()
    }

    /// Closes the open batch, and waits until everything up to now is acknowledged, or for `limit`; returns whether it is.
    pub(crate) async fn flush(&self, limit: Duration) -> bool {
        let (done, flushed) = oneshot::channel();
        if !self.order(Order::Flush(done)).await {
            return false;
        }
        matches!(tokio::time::timeout(limit, flushed).await, Ok(Ok(())))
    }

    /// Publishes the reply to a command.
    pub(crate) async fn say(&self, reply: &Reply) {
        let payload = frame::seal_control(reply);
        self.order(Order::Say(Publication {
            kind: Kind::Reply,
            payload,
        }))
        .await;
    }

    /// Waits until the broker has all replies, or for `limit`.
    pub(crate) async fn said(&self, limit: Duration) {
        let (done, said) = oneshot::channel();
        if self.order(Order::Said(done)).await {
            // Who sent the command asks again.
            let _ = tokio::time::timeout(limit, said).await;
        }
    }

    /// A command has come. It is dropped if too many wait; who sent it sends it again.
    pub(crate) fn command(&self, payload: Vec<u8>) {
        if self.requests.try_send(Request::Command(payload)).is_err() {
            let dropped = self.shared.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            if dropped.is_power_of_two() {
                log::error!("a command is dropped, {WAITING} wait already ({dropped} so far)");
            }
        }
    }

    pub(crate) fn restarting(&self) {
        self.shared.restarting.store(true, Ordering::Relaxed);
    }

    /// Tells the pipeline what to do; `false` if it has ended.
    pub(crate) async fn order(&self, order: Order) -> bool {
        self.orders.send(order).await.is_ok()
    }

    pub(crate) fn set(&self, stats: AgentStats) {
        *lock(&self.shared.stats) = stats;
    }

    pub(crate) fn set_sources(&self, meters: Vec<Meter>) {
        *lock(&self.shared.sources) = meters;
    }

    pub(crate) fn set_settings(&self, settings: Settings) {
        *lock(&self.shared.settings) = settings;
    }

    /// The other boxes that use this device's name.
    pub(crate) fn meet(&self, boxes: &[pb::Box]) {
        let mut known = lock(&self.shared.other_boxes);
        if known.len() != boxes.len() || known.iter().zip(boxes).any(|(known, met)| !known.is(met)) {
            *known = boxes.iter().map(OtherBox::from).collect();
        }
    }

    /// A connection stands.
    pub(crate) fn connected(&self, broker: String) {
        *lock(&self.shared.link) = Link {
            broker,
            since_us: Clock::default().now_us(),
            last_error: None,
        };
    }

    /// There is no connection, and why.
    pub(crate) fn disconnected(&self, broker: String, why: Option<&str>) {
        *lock(&self.shared.link) = Link {
            broker,
            since_us: 0,
            last_error: why.map(str::to_string),
        };
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
