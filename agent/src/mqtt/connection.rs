//! One connection to a broker: a task of its own that reads, writes and keeps time, whatever anyone else does. The decisions are
//! [`super::session`]'s.
//!
//! Nothing outlives it: no packet id, no unsent message. What has to be remembered, the journal remembers.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::session::{Cause, End, Event, Message, Next, Options, Session};
use super::socket::{Stream, Ways};
use super::traffic::add;
use crate::broker::Broker;
use crate::task;

/// Messages handed over that the network has not taken.
const QUEUE: usize = 8;
/// Bytes to be written beyond which no further message is taken over.
const AHEAD: usize = 16 * 1024;
/// How long the far end may take to be told that nothing follows.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// A connection, being made or standing. Dropping it breaks it off without a word, so that the Last Will speaks.
#[derive(Debug)]
pub(crate) struct Connection {
    requests: mpsc::Sender<Request>,
    events: mpsc::Receiver<Event>,
    queued: usize,
    task: JoinHandle<()>,
}

#[derive(Debug)]
enum Request {
    Publish(Message),
    Disconnect,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// Begins to connect.
    pub(crate) fn open(ways: Ways, broker: Broker, options: Options) -> Self {
        // A place for the goodbye, too.
        let (requests, received) = mpsc::channel(QUEUE + 1);
        let (sender, events) = mpsc::channel(QUEUE);
        let task = task::spawn(async move {
            let end = run(&ways, &broker, options, received, &sender).await;
            let _ = sender.send(Event::Closed(end)).await;
        });
        Self {
            requests,
            events,
            queued: 0,
            task,
        }
    }

    /// What happens next. May be dropped at any time without loss.
    pub(crate) async fn event(&mut self) -> Event {
        let event = self.events.recv().await;
        if let Some(Event::Sent) = event {
            self.queued = self.queued.saturating_sub(1);
        }
        event.unwrap_or_else(|| Event::Closed(End::failed("the connection's task has ended")))
    }

    /// Whether another message may be handed over.
    pub(crate) fn has_room(&self) -> bool {
        self.queued < QUEUE
    }

    /// Hands a message over. If the connection is over, its last event says so.
    pub(crate) fn publish(&mut self, message: Message) {
        if self.requests.try_send(Request::Publish(message)).is_ok() {
            self.queued += 1;
        }
    }

    /// Ends the connection in good order: the Last Will stays unsaid. [`Event::Closed`] follows.
    pub(crate) fn disconnect(&mut self) {
        // Should there be no room, dropping the connection ends it as well.
        let _ = self.requests.try_send(Request::Disconnect);
    }
}

/// Connects and talks until it is over; returns why it is.
async fn run(
    ways: &Ways,
    broker: &Broker,
    options: Options,
    requests: mpsc::Receiver<Request>,
    events: &mpsc::Sender<Event>,
) -> End {
    let began = Instant::now();
    let by = began + options.connect_timeout;
    let stream = match ways.connect(broker, by.into()).await {
        Ok(stream) => stream,
        Err(why) => return End::failed(why),
    };
    let (reader, writer) = tokio::io::split(stream);
    let talk = Talk {
        ways: ways.clone(),
        tls: broker.tls,
        session: Session::new(options, began, Instant::now()),
        reader,
        writer,
        requests,
        untold: VecDeque::new(),
        flushed: true,
        ending: None,
    };
    talk.run(events).await
}

struct Talk {
    ways: Ways,
    /// Whether the broker is spoken to in TLS.
    tls: bool,
    session: Session,
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    requests: mpsc::Receiver<Request>,
    /// What was read and has yet to be told.
    untold: VecDeque<Event>,
    /// Whether all that was written has left.
    flushed: bool,
    /// Since the goodbye was said: why.
    ending: Option<End>,
}

/// What the task's one wait may end with.
enum Turn {
    Told,
    Deaf,
    Read(io::Result<usize>),
    Wrote { result: io::Result<usize>, waited: bool },
    Request(Option<Request>),
    Due,
    Renewed,
}

impl Talk {
    async fn run(mut self, events: &mpsc::Sender<Event>) -> End {
        let ways = self.ways.clone();
        let mut renewed = pin!(ways.renewed(self.tls));
        loop {
            let turn = tokio::select! {
                turn = self.turn(events) => turn,
                () = &mut renewed, if self.ending.is_none() => Turn::Renewed,
            };
            match self.take(turn) {
                Ok(()) => {}
                Err(end) => return end,
            }
            if self.ending.is_some() && self.flushed && self.session.output.is_empty() {
                let _ = tokio::time::timeout(SHUTDOWN, self.writer.shutdown()).await;
                return self.ending.unwrap_or_else(|| End::failed("closed"));
            }
        }
    }

    /// Waits. Nothing is read while what was read has not been told, and no message is taken over while much is still to be written: so
    /// both sides' backpressure goes through; reading, writing and time never wait for each other.
    async fn turn(&mut self, events: &mpsc::Sender<Event>) -> Turn {
        let deadline = self.session.deadline();
        let telling = !self.untold.is_empty();
        let writing = !self.flushed || !self.session.output.is_empty();
        let taking = self.session.is_open() && self.session.output.len() < AHEAD;
        tokio::select! {
            permit = events.reserve(), if telling => match (permit, self.untold.pop_front()) {
                (Ok(permit), Some(event)) => {
                    permit.send(event);
                    Turn::Told
                }
                _ => Turn::Deaf,
            },
            result = self.reader.read_buf(&mut self.session.input), if !telling => Turn::Read(result),
            (result, waited) = write(&mut self.writer, &self.session.output), if writing => Turn::Wrote { result, waited },
            request = self.requests.recv(), if taking => Turn::Request(request),
            () = tokio::time::sleep_until(deadline.into()) => Turn::Due,
        }
    }

    fn take(&mut self, turn: Turn) -> Result<(), End> {
        let now = Instant::now();
        match turn {
            Turn::Told => Ok(()),
            Turn::Deaf | Turn::Request(None) => Err(End::failed("the agent has stopped")),
            Turn::Read(Ok(0)) => Err(self.cut("the broker closed the connection".into())),
            Turn::Read(Ok(count)) => {
                add(&self.ways.traffic.mqtt_received, count);
                self.session.read(now);
                loop {
                    match self.session.next()? {
                        Next::Event(event) => self.untold.push_back(event),
                        Next::Nothing => {}
                        Next::Incomplete => return Ok(()),
                    }
                }
            }
            Turn::Wrote {
                result: Ok(0),
                waited,
            } => {
                self.flushed = true;
                if waited {
                    self.session.read(now);
                }
                self.untold
                    .extend((0..self.session.flushed()).map(|_| Event::Sent));
                Ok(())
            }
            Turn::Wrote {
                result: Ok(count),
                waited,
            } => {
                add(&self.ways.traffic.mqtt_sent, count);
                self.flushed = false;
                self.session.wrote(now, count, waited);
                Ok(())
            }
            Turn::Read(Err(error))
            | Turn::Wrote {
                result: Err(error), ..
            } => Err(match self.ways.of_tls(&error) {
                // That says all, and with an older MQTT it would be the same.
                Some(why) => End::failed(why),
                None => self.cut(self.ways.explain(&error)),
            }),
            Turn::Request(Some(request)) => {
                self.request(now, request);
                // What comes together goes in one write: fewer packets on the line.
                while self.ending.is_none()
                    && self.session.output.len() < AHEAD
                    && let Ok(request) = self.requests.try_recv()
                {
                    self.request(now, request);
                }
                Ok(())
            }
            Turn::Renewed => {
                self.end(now, Cause::Renewed, "the TLS files have changed");
                Ok(())
            }
            Turn::Due => {
                // Who has not listened has no reason to complain of silence.
                if !self.untold.is_empty() {
                    self.session.read(now);
                }
                self.session.tick(now)
            }
        }
    }

    fn cut(&self, what: String) -> End {
        let hint = match (self.session.is_unanswered(), self.tls) {
            (true, true) => self.ways.hint(),
            (true, false) => "; is the port one for TLS (mqtts://)?",
            (false, _) => "",
        };
        let mut end = self.session.cut(what);
        end.why.push_str(hint);
        end
    }

    fn request(&mut self, now: Instant, request: Request) {
        match request {
            Request::Publish(message) => match self.session.publish(&message) {
                Ok(()) => add(&self.ways.traffic.payload_sent, message.payload.len()),
                Err((size, largest)) => {
                    log::error!(
                        "a message of about {size} bytes to {} is more than the {largest} that the broker takes, and stays; lower \
                         batch.bytes, or raise the broker's limit",
                        message.topic
                    );
                    self.untold.push_back(Event::Sent);
                }
            },
            Request::Disconnect => self.end(now, Cause::Wanted, "closed by this agent"),
        }
    }

    fn end(&mut self, now: Instant, cause: Cause, why: &str) {
        self.session.disconnect(now);
        self.ending = Some(End {
            cause,
            why: why.into(),
        });
    }
}

/// Writes of `output` what the network takes, or where there is nothing, flushes what it has taken; and whether it had to wait. May be
/// dropped at any time without loss.
async fn write(writer: &mut WriteHalf<Box<dyn Stream>>, output: &[u8]) -> (io::Result<usize>, bool) {
    let mut waited = false;
    let result = poll_fn(|cx| {
        let writer = Pin::new(&mut *writer);
        let poll = if output.is_empty() {
            writer.poll_flush(cx).map_ok(|()| 0)
        } else {
            match writer.poll_write(cx, output) {
                Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                poll => poll,
            }
        };
        waited |= poll.is_pending();
        poll
    });
    (result.await, waited)
}
