//! One connection's conversation: what is written, what an answer means, when the other side is silent for too long. Pure: time is an
//! argument, bytes to be written wait in [`Session::output`]; [`super::connection`] owns the socket.
//!
//! Signs of life. The other side lives when something comes from it, or when it takes bytes that had to wait (a TCP that was full and takes
//! more has been acknowledged). After a keep-alive without either, a ping asks; after half of another without either, the connection is
//! over: whatever hangs is found within one and a half times the keep-alive. A link on which acknowledgements come back is never
//! pinged. Beside that, something is written at least every keep-alive, as MQTT demands (section 3.1.2.10).

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::packet::{self, Limits, Malformed, Packet, Version};
use super::reason::Reason;

/// The one alias: of the topic that nearly all messages go to.
const ALIAS: u16 = 1;
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(5);
/// Packet id of the one SUBSCRIBE.
const SUBSCRIBE: u16 = 1;

/// Who connects, and for what.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) version: Version,
    pub(crate) client_id: String,
    /// User and password.
    pub(crate) credentials: Option<(String, String)>,
    /// Whole seconds, 1 to 65,535.
    pub(crate) keep_alive: Duration,
    /// From the start to the answered subscription.
    pub(crate) connect_timeout: Duration,
    /// Topic and payload: QoS 1, retained. `None`: no Last Will.
    pub(crate) will: Option<(String, Vec<u8>)>,
    /// Subscribed to at QoS 1.
    pub(crate) topics: Vec<String>,
    /// Without so many of the first of them the connection is of no use; a refusal of another is told.
    pub(crate) needed: usize,
    /// The largest packet taken from the broker, bytes.
    pub(crate) incoming_max: u32,
}

/// A message to publish.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    /// QoS 1; else 0.
    pub(crate) at_least_once: bool,
    pub(crate) retain: bool,
    /// Many go to this topic: where the broker allows it, an alias stands for it.
    pub(crate) frequent: bool,
}

/// What a connection reports.
#[derive(Debug)]
pub(crate) enum Event {
    /// It stands, and the topics are subscribed to.
    Open,
    /// A message on a topic subscribed to.
    Message {
        topic: Bytes,
        payload: Bytes,
        /// The broker had kept it: it is of before the subscription.
        #[cfg_attr(not(feature = "source-mqtt"), allow(dead_code))]
        retained: bool,
    },
    /// The network has taken a message.
    Sent,
    /// The broker has a message of QoS 1.
    Confirmed,
    /// It is over; nothing follows.
    Closed(End),
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) cause: Cause,
    /// For a person: what happened and what to do.
    pub(crate) why: String,
}

/// What follows from how a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// This side wanted it.
    Wanted,
    /// The broker does not speak this version of MQTT.
    Version,
    /// The broker closed it where its answer to CONNECT should have come.
    Unanswered,
    /// Another client with the same client id has connected.
    TakenOver,
    /// The certificate files have changed: the next connection uses the new ones.
    Renewed,
    /// All else.
    Failed,
}

impl End {
    pub(crate) fn failed(why: impl Into<String>) -> Self {
        Self {
            cause: Cause::Failed,
            why: why.into(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    Subscribing,
    Open,
    Closing,
}

/// The conversation.
#[derive(Debug)]
pub(crate) struct Session {
    options: Options,
    stage: Stage,
    /// What is to be written. The driver takes from its front.
    pub(crate) output: BytesMut,
    /// What was read and is not yet a packet.
    pub(crate) input: BytesMut,
    /// Messages in `output`.
    unsent: usize,
    packet_id: u16,
    limits: Limits,
    keep_alive: Duration,
    /// The topic whose alias the broker has been told.
    aliased: Option<String>,
    /// Until when it has to be open, or gone.
    by: Instant,
    written_at: Instant,
    life_at: Instant,
    /// Since the last sign of life.
    pinged: bool,
}

impl Session {
    /// Begins: CONNECT is to be written. `began` is when the attempt began, resolving the name included.
    pub(crate) fn new(options: Options, began: Instant, now: Instant) -> Self {
        let mut output = BytesMut::with_capacity(1024);
        let connect = packet::Connect {
            client_id: &options.client_id,
            credentials: options
                .credentials
                .as_ref()
                .map(|(user, password)| (user.as_str(), password.as_str())),
            keep_alive: u16::try_from(options.keep_alive.as_secs()).unwrap_or(u16::MAX),
            will: options
                .will
                .as_ref()
                .map(|(topic, payload)| (&**topic, &**payload)),
            incoming_max: options.incoming_max,
        };
        packet::connect(&mut output, options.version, &connect);
        Self {
            stage: Stage::Connecting,
            output,
            input: BytesMut::with_capacity(1024),
            unsent: 0,
            packet_id: SUBSCRIBE,
            limits: Limits::default(),
            keep_alive: options.keep_alive,
            aliased: None,
            by: began + options.connect_timeout,
            written_at: now,
            life_at: now,
            pinged: false,
            options,
        }
    }

    /// Whether messages may be published.
    pub(crate) fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Whether the broker has yet to answer CONNECT.
    pub(crate) fn is_unanswered(&self) -> bool {
        self.stage == Stage::Connecting
    }

    /// What the next packet read means; `None` when there is none, or it means nothing. To be called until it says that nothing is left.
    pub(crate) fn next(&mut self) -> Result<Next, End> {
        // What is no MQTT may look like the beginning of a packet whose end never comes.
        if let (Stage::Connecting, Some(first)) = (self.stage, self.input.first())
            && !packet::is_answer(*first)
        {
            let what = format!("its first byte is {first:#04x}");
            return Err(self.malformed(&Malformed::Packet(what)));
        }
        match packet::read(
            &mut self.input,
            self.options.version,
            self.options.incoming_max as usize,
        ) {
            Ok(Some(packet)) => Ok(self.received(packet)?.map_or(Next::Nothing, Next::Event)),
            Ok(None) => {
                // One large packet must not keep its memory for as long as the connection stands.
                if self.input.is_empty() && self.input.capacity() > 16 * 1024 {
                    self.input = BytesMut::with_capacity(1024);
                }
                Ok(Next::Incomplete)
            }
            Err(malformed) => Err(self.malformed(&malformed)),
        }
    }

    fn malformed(&self, malformed: &Malformed) -> End {
        let (cause, why) = if self.is_unanswered() {
            let hint = "is it an MQTT port, and TLS where the broker wants TLS?";
            (
                Cause::Unanswered,
                format!("what answers is no MQTT broker ({malformed}); {hint}"),
            )
        } else {
            (Cause::Failed, format!("the broker sent {malformed}"))
        };
        End { cause, why }
    }

    fn received(&mut self, packet: Packet) -> Result<Option<Event>, End> {
        match (packet, self.stage) {
            (Packet::Connected(Ok(limits)), Stage::Connecting) => {
                self.limits = limits;
                if let Some(seconds) = limits.keep_alive.filter(|seconds| *seconds > 0) {
                    self.keep_alive = Duration::from_secs(seconds.into());
                }
                let topics = &self.options.topics;
                packet::subscribe(&mut self.output, self.options.version, SUBSCRIBE, topics);
                self.stage = Stage::Subscribing;
                Ok(None)
            }
            (Packet::Connected(Err(reason)), Stage::Connecting) => Err(self.refused(&reason)),
            (Packet::Subscribed(answers), Stage::Subscribing) => self.subscribed(&answers),
            (
                Packet::Message {
                    topic,
                    packet_id,
                    payload,
                    retained,
                },
                Stage::Subscribing | Stage::Open,
            ) => {
                if let Some(packet_id) = packet_id {
                    packet::confirm(&mut self.output, packet_id);
                }
                Ok(Some(Event::Message {
                    topic,
                    payload,
                    retained,
                }))
            }
            (Packet::Confirmed(answer), Stage::Open | Stage::Closing) => {
                if let Err(reason) = answer {
                    log::warn!(
                        "the broker does not take a message: {reason}; check its access rules and limits"
                    );
                }
                Ok(Some(Event::Confirmed))
            }
            (Packet::Pong, Stage::Subscribing | Stage::Open | Stage::Closing) => Ok(None),
            (Packet::Disconnected(reason), stage) => Err(self.disconnected(&reason, stage)),
            (_, Stage::Closing) => Ok(None),
            (packet, _) => Err(End::failed(format!(
                "the broker sent what does not belong here: {packet:?}"
            ))),
        }
    }

    /// The network has broken the conversation off, as `what` says; what that means.
    pub(crate) fn cut(&self, what: String) -> End {
        match self.stage {
            Stage::Connecting => End {
                cause: Cause::Unanswered,
                why: format!("{what}, in place of answering"),
            },
            _ => End::failed(what),
        }
    }

    fn refused(&self, reason: &Reason) -> End {
        let cause = match reason.code {
            Reason::UNSUPPORTED_VERSION => Cause::Version,
            _ => Cause::Failed,
        };
        let user = self.options.credentials.as_ref().map(|(user, _)| user);
        let client_id = &self.options.client_id;
        let why = match (reason.code, user) {
            (Reason::BAD_CREDENTIALS | Reason::NOT_AUTHORIZED, Some(user)) => format!(
                "the broker refuses user {user:?}, {reason}; check uplink.user and uplink.password_file"
            ),
            (Reason::BAD_CREDENTIALS | Reason::NOT_AUTHORIZED, None) => format!(
                "the broker wants credentials, {reason}; set uplink.user and uplink.password_file, or for a broker that goes by \
                 certificates uplink.tls.cert_file and key_file"
            ),
            (Reason::CLIENT_ID, _) => {
                format!("the broker refuses client id {client_id:?}, {reason}; see uplink.client_id")
            }
            (Reason::UNSUPPORTED_VERSION, _) => {
                format!("the broker refuses this version of MQTT, {reason}; see uplink.protocol")
            }
            _ => format!("the broker refuses the connection, {reason}"),
        };
        End { cause, why }
    }

    fn subscribed(&mut self, answers: &[Result<(), Reason>]) -> Result<Option<Event>, End> {
        for (at, topic) in self.options.topics.iter().enumerate() {
            let why = match answers.get(at) {
                Some(Ok(())) => continue,
                Some(Err(reason)) => reason.to_string(),
                None => "no answer".to_string(),
            };
            let why =
                format!("the broker refuses the subscription to {topic}, {why}; check its access rules");
            if at < self.options.needed {
                return Err(End::failed(why));
            }
            log::warn!("{why}. All else goes on without it");
        }
        self.stage = Stage::Open;
        Ok(Some(Event::Open))
    }

    fn disconnected(&self, reason: &Reason, stage: Stage) -> End {
        let (cause, what) = match reason.code {
            Reason::TAKEN_OVER => (Cause::TakenOver, String::new()),
            Reason::PACKET_TOO_LARGE => (
                Cause::Failed,
                "; lower batch.bytes, or raise the broker's limit".to_string(),
            ),
            Reason::UNSUPPORTED_VERSION => (Cause::Version, "; see uplink.protocol".to_string()),
            _ if stage == Stage::Connecting => (Cause::Unanswered, String::new()),
            _ => (Cause::Failed, String::new()),
        };
        End {
            cause,
            why: format!("the broker ended the connection, {reason}{what}"),
        }
    }

    /// Puts a message where it will be written.
    ///
    /// # Errors
    /// The message is larger than the broker takes: its size and the broker's limit.
    pub(crate) fn publish(&mut self, message: &Message) -> Result<(), (usize, u32)> {
        let mut alias = None;
        let mut topic = message.topic.as_str();
        if message.frequent && self.limits.topic_alias_max >= ALIAS && self.options.version == Version::V5 {
            alias = Some(ALIAS);
            if self.aliased.as_deref() == Some(topic) {
                topic = "";
            }
        }
        // The parts of a header besides topic and payload take less than this.
        let size = topic.len() + message.payload.len() + 16;
        let largest = self
            .limits
            .packet_max
            .unwrap_or(u32::MAX)
            .min(packet::LENGTH_MAX as u32);
        if size > largest as usize {
            return Err((size, largest));
        }
        let packet_id = message.at_least_once.then(|| {
            // 0 is no packet id; of the few in flight none is as old as a whole turn.
            self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
            self.packet_id
        });
        let publish = packet::Publish {
            topic,
            alias,
            packet_id,
            retain: message.retain,
            payload: &message.payload,
        };
        packet::publish(&mut self.output, self.options.version, &publish);
        if alias.is_some() && self.aliased.as_ref() != Some(&message.topic) {
            self.aliased = Some(message.topic.clone());
        }
        self.unsent += 1;
        Ok(())
    }

    /// Ends the conversation in good order: the Last Will stays unsaid.
    pub(crate) fn disconnect(&mut self, now: Instant) {
        packet::disconnect(&mut self.output);
        self.by = now + GOODBYE;
        self.stage = Stage::Closing;
    }

    /// Bytes have come.
    pub(crate) fn read(&mut self, now: Instant) {
        self.life_at = now;
        self.pinged = false;
    }

    /// The first `count` bytes of the output are written; `waited`: after the network had taken no more.
    pub(crate) fn wrote(&mut self, now: Instant, count: usize, waited: bool) {
        bytes::Buf::advance(&mut self.output, count);
        self.written_at = now;
        if waited {
            self.read(now);
        }
        if self.output.is_empty() && self.output.capacity() > 16 * 1024 {
            self.output = BytesMut::with_capacity(1024);
        }
    }

    /// All that was written has left; how many messages are among it.
    pub(crate) fn flushed(&mut self) -> usize {
        std::mem::take(&mut self.unsent)
    }

    /// When [`Session::tick`] has something to do.
    pub(crate) fn deadline(&self) -> Instant {
        if !self.is_open() {
            return self.by;
        }
        let silent = if self.pinged {
            self.life_at + self.patience()
        } else {
            self.life_at + self.keep_alive
        };
        silent.min(self.written_at + self.keep_alive)
    }

    /// Does what is due.
    ///
    /// # Errors
    /// The connection is over.
    pub(crate) fn tick(&mut self, now: Instant) -> Result<(), End> {
        let timeout = self.options.connect_timeout;
        match self.stage {
            Stage::Connecting if now >= self.by => {
                return Err(End::failed(format!(
                    "the broker has accepted the connection and not answered within {timeout:?} (uplink.connect_timeout)"
                )));
            }
            Stage::Subscribing if now >= self.by => {
                return Err(End::failed(format!(
                    "the broker has not answered the subscription within {timeout:?} (uplink.connect_timeout)"
                )));
            }
            Stage::Closing if now >= self.by => {
                return Err(End::failed("the broker did not take the goodbye"));
            }
            Stage::Open => {}
            _ => return Ok(()),
        }
        if now >= self.life_at + self.patience() {
            let what = if self.output.is_empty() {
                "the broker has not answered"
            } else {
                "the network has taken nothing, and the broker has said nothing,"
            };
            return Err(End::failed(format!("{what} for {:?}", self.patience())));
        }
        let silent = !self.pinged && now >= self.life_at + self.keep_alive;
        if silent || now >= self.written_at + self.keep_alive {
            // What waits to be written is as good as a ping.
            if self.output.is_empty() {
                packet::ping(&mut self.output);
            }
            self.pinged |= silent;
            self.written_at = now;
        }
        Ok(())
    }

    /// The longest time without a sign of life.
    fn patience(&self) -> Duration {
        self.keep_alive * 3 / 2
    }
}

/// What [`Session::next`] found.
#[derive(Debug)]
pub(crate) enum Next {
    /// To be reported.
    Event(Event),
    /// A packet that means nothing to anyone else.
    Nothing,
    /// No whole packet.
    Incomplete,
}
