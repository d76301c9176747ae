//! What is done to flash, one request after the other, on a thread of its own: a card that stalls for seconds holds up nothing else.
//! Where the medium fails, it is opened again, after a while that grows from a second to a minute.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use headwater_proto::{LossReason, SeriesSet};
use tokio::sync::Notify;

use super::disk::Disk;
use super::sent::Sent;
use super::store::{Bounds, Confirmed, Held, Store, Unwritten};
use super::{Forgotten, Record};
use crate::stats::JournalFault;

/// The first and the longest wait before another try.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How often the age of what is held is looked at.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);
/// About how much is read back at once.
const LOAD: usize = 64 * 1024;

/// What is asked of the keeper.
#[derive(Debug)]
pub(super) enum Request {
    /// A stream begins.
    Begin(u64),
    Write {
        records: Vec<Unwritten>,
        sets: Vec<Arc<SeriesSet>>,
    },
    Load {
        stream: u64,
        seq: u64,
    },
    Forget {
        stream: u64,
        through: u64,
    },
    GiveUp {
        stream: u64,
        seq: u64,
        reason: LossReason,
    },
    Told,
    /// To try once more, although it is not yet time.
    Again,
    /// The current stream ends.
    Close,
}

/// What became of a request, and how things stand.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) answer: Answer,
    pub(super) state: State,
}

#[derive(Debug)]
pub(super) enum Answer {
    /// The store is open.
    Opened,
    /// A stream has begun; so many readings of other streams made way.
    Begun(u64, u64),
    Written,
    Loaded {
        stream: u64,
        seq: u64,
        records: Vec<Record>,
        /// How often something of the stream had been given up by then.
        changes: u64,
    },
    Forgotten(Forgotten),
    /// Nothing to tell.
    Done,
    Closed,
    /// This was not done.
    Failed(Asked),
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Open,
    Begin,
    Write,
    Load,
    Again,
    Other,
}

/// How things stand.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) held: Vec<Held>,
    pub(super) bytes: u64,
    pub(super) written: u64,
    pub(super) quarantined: u64,
    pub(super) unfinished: u64,
    /// Why nothing can be written.
    pub(super) fault: Option<JournalFault>,
    /// Whether what is held can be read.
    pub(super) readable: bool,
}

/// The one who handles the store.
pub(super) struct Keeper<D: Disk> {
    bounds: Bounds,
    /// What the log calls it.
    name: String,
    /// Opens the directory; tells too what it knows of the time, in microseconds since the Unix epoch.
    medium: Box<dyn Medium<D>>,
    store: Option<Store<D>>,
    confirmed: Confirmed,
    sent: Sent,
    state: State,
    /// Of stores that are closed.
    written: u64,
    quarantined: u64,
    unfinished: u64,
    /// The fault that the log was told of, while it is tried whether it is over.
    told: Option<JournalFault>,
    again: Instant,
    wait: Duration,
    expire: Instant,
}

/// Where a keeper's directory comes from.
pub(super) trait Medium<D>: Send {
    /// The directory, if it may be used.
    fn open(&mut self) -> io::Result<D>;

    /// The time, microseconds since the Unix epoch, if it is known for certain.
    fn now_us(&self) -> Option<i64>;
}

impl<D: Disk> Keeper<D> {
    pub(super) fn new(
        path: &Path,
        bounds: Bounds,
        medium: Box<dyn Medium<D>>,
        sent: Sent,
        now: Instant,
    ) -> Self {
        Self {
            bounds,
            name: path.display().to_string(),
            medium,
            store: None,
            confirmed: Confirmed::default(),
            sent,
            state: State {
                fault: Some(JournalFault::Opening),
                ..State::default()
            },
            written: 0,
            quarantined: 0,
            unfinished: 0,
            told: None,
            again: now,
            wait: AGAIN.0,
            expire: now + EXPIRE_EVERY,
        }
    }

    #[cfg(test)]
    pub(super) fn store(&mut self) -> Option<&mut Store<D>> {
        self.store.as_mut()
    }

    /// When [`Keeper::tick`] has something to do.
    pub(super) fn deadline(&self) -> Instant {
        match self.state.fault {
            Some(_) => self.again,
            None => self.expire,
        }
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Instant) -> Option<Response> {
        if self.state.fault.is_some() {
            return (now >= self.again).then(|| self.try_again(now));
        }
        if now >= self.expire {
            self.expire = now + EXPIRE_EVERY;
            let now_us = self.medium.now_us()?;
            return Some(self.attempt(now, Asked::Other, |store| {
                store.expire(now_us).map(|()| Answer::Done)
            }));
        }
        None
    }

    fn try_again(&mut self, now: Instant) -> Response {
        if self.store.is_none()
            && let Err(error) = self.open()
        {
            return self.failed(now, Asked::Open, &error);
        }
        self.told = self
            .state
            .fault
            .take()
            .filter(|fault| *fault != JournalFault::Opening);
        self.attempt(now, Asked::Open, |store| store.retire().map(|()| Answer::Opened))
    }

    fn open(&mut self) -> io::Result<()> {
        let disk = self.medium.open()?;
        let mut store = Store::open(disk, self.bounds)?;
        store.restore(&self.confirmed);
        store.heed(self.sent.clone());
        self.store = Some(store);
        Ok(())
    }

    /// Does what is asked.
    pub(super) fn handle(&mut self, request: Request, now: Instant) -> Response {
        if matches!(request, Request::Again) {
            let mut response = match self.state.fault {
                Some(_) => self.try_again(now),
                None => self.response(Answer::Done),
            };
            if let Answer::Failed(asked) = &mut response.answer {
                *asked = Asked::Again;
            }
            return response;
        }
        // What cannot be written is not tried before its time.
        let asked = match request {
            Request::Begin(_) => Asked::Begin,
            Request::Write { .. } => Asked::Write,
            _ => Asked::Other,
        };
        if self.state.fault.is_some() && (asked != Asked::Other || matches!(request, Request::Close)) {
            return self.response(Answer::Failed(asked));
        }
        match request {
            Request::Begin(stream) => {
                self.confirmed.unconfirmed.insert(stream);
                self.attempt(now, Asked::Begin, |store| {
                    let given_up = store.begin(stream);
                    store.write(&[], &[])?;
                    Ok(Answer::Begun(stream, given_up))
                })
            }
            Request::Write { records, sets } => self.attempt(now, Asked::Write, |store| {
                store.write(&records, &sets)?;
                Ok(Answer::Written)
            }),
            Request::Load { stream, seq } => self.attempt(now, Asked::Load, |store| {
                let (records, changes) = store.load(stream, seq, LOAD)?;
                Ok(Answer::Loaded {
                    stream,
                    seq,
                    records,
                    changes,
                })
            }),
            Request::Forget { stream, through } => self.attempt(now, Asked::Other, |store| {
                let forgotten = store.forget(stream, through)?;
                Ok(Answer::Forgotten(forgotten))
            }),
            Request::GiveUp { stream, seq, reason } => self.attempt(now, Asked::Other, |store| {
                store.give_up(stream, seq, reason)?;
                Ok(Answer::Done)
            }),
            Request::Again => self.response(Answer::Done),
            Request::Told => self.attempt(now, Asked::Other, |store| {
                store.told();
                Ok(Answer::Done)
            }),
            Request::Close => self.attempt(now, Asked::Other, |store| {
                store.end();
                store.write(&[], &[])?;
                Ok(Answer::Closed)
            }),
        }
    }

    /// What can be done after the last answer was given, so that nobody waits for it.
    pub(super) fn tidy(&mut self, now: Instant) -> Option<Response> {
        let has_dead = self.store.as_ref()?.has_dead();
        (has_dead && self.state.fault.is_none())
            .then(|| self.attempt(now, Asked::Other, |store| store.retire().map(|()| Answer::Done)))
    }

    fn attempt(
        &mut self,
        now: Instant,
        asked: Asked,
        what: impl FnOnce(&mut Store<D>) -> io::Result<Answer>,
    ) -> Response {
        let Some(store) = &mut self.store else {
            return self.response(Answer::Failed(asked));
        };
        match what(store) {
            Ok(answer) => {
                self.confirmed = store.confirmed();
                if matches!(answer, Answer::Written | Answer::Begun(..)) {
                    self.wait = AGAIN.0;
                    if self.told.take().is_some() {
                        log::info!("the journal in {} can be written again", self.name);
                    }
                }
                self.look();
                self.response(answer)
            }
            Err(error) => self.failed(now, asked, &error),
        }
    }

    fn look(&mut self) {
        if let Some(store) = &self.store {
            self.state.held = store.held().collect();
            self.state.bytes = store.bytes();
            self.state.written = self.written + store.written();
            self.state.quarantined = self.quarantined + store.quarantined();
            self.state.unfinished = self.unfinished + store.unfinished();
        }
        self.state.readable = self.store.is_some();
    }

    fn failed(&mut self, now: Instant, asked: Asked, error: &io::Error) -> Response {
        let fault = fault(error);
        #[cfg(test)]
        eprintln!("failed {asked:?}: {error}");
        if self.state.fault.or(self.told) != Some(fault) {
            log::error!(
                "the journal in {} cannot be written: {error}; what comes now is held in memory, up to `journal.memory`, until it can: {}",
                self.name,
                advice(fault)
            );
        }
        self.told = None;
        if let Some(store) = self.store.take() {
            self.written += store.written();
            self.quarantined += store.quarantined();
            self.unfinished += store.unfinished();
        }
        self.state.fault = Some(fault);
        self.again = now + self.wait;
        self.wait = (self.wait * 2).min(AGAIN.1);
        // What cannot be written may still be read.
        let may_be_read = matches!(
            fault,
            JournalFault::Full | JournalFault::ReadOnly | JournalFault::Missing
        );
        if may_be_read && self.open().is_err() {
            self.store = None;
        }
        self.look();
        self.response(Answer::Failed(asked))
    }

    fn response(&self, answer: Answer) -> Response {
        Response {
            answer,
            state: self.state.clone(),
        }
    }
}

/// Serves requests until nobody can ask any more.
pub(super) fn serve<D: Disk>(
    mut keeper: Keeper<D>,
    requests: &Receiver<Request>,
    responses: &Sender<Response>,
    woken: &Notify,
) {
    loop {
        let wait = keeper.deadline().saturating_duration_since(Instant::now());
        let response = match requests.recv_timeout(wait) {
            Ok(request) => Some(keeper.handle(request, Instant::now())),
            Err(RecvTimeoutError::Timeout) => keeper.tick(Instant::now()),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let Some(response) = response else { continue };
        if responses.send(response).is_err() {
            return;
        }
        woken.notify_one();
        if let Some(response) = keeper.tidy(Instant::now()) {
            if responses.send(response).is_err() {
                return;
            }
            woken.notify_one();
        }
    }
}

/// What an error says about the medium.
pub(super) fn fault(error: &io::Error) -> JournalFault {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => JournalFault::Full,
        ErrorKind::ReadOnlyFilesystem => JournalFault::ReadOnly,
        ErrorKind::PermissionDenied => JournalFault::Denied,
        ErrorKind::NotFound | ErrorKind::NotADirectory => JournalFault::Missing,
        ErrorKind::WouldBlock => JournalFault::Held,
        _ => JournalFault::Io,
    }
}

fn advice(fault: JournalFault) -> &'static str {
    match fault {
        JournalFault::Full => "make room there, or lower `journal.max_bytes`",
        JournalFault::ReadOnly => "mount it writable, or set `state_dir` to a place that is",
        JournalFault::Denied => "let the agent's user own the directory",
        JournalFault::Missing => "it is made anew as soon as that is possible",
        JournalFault::Held => "end the other process that uses it",
        JournalFault::Io | JournalFault::Opening => "see the kernel's log, and check the medium",
    }
}
