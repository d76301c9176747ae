//! The journal on real flash: the keeper's thread, and the way to it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use tokio::sync::Notify;

use super::disk::real::Directory;
use super::flash::{Flash, Port, Terms};
use super::keeper::{Keeper, Medium, Request, Response, serve};
use super::mount::Mount;
use super::sent::Sent;
use super::store::Bounds;
use crate::Error;
use crate::config::{self, SyncAfter};
use crate::state::{Lock, NoLock, State};

/// Tells the time in microseconds since the Unix epoch, while it is known for certain.
pub(crate) type WallTime = Box<dyn Fn() -> Option<i64> + Send>;

impl Flash {
    /// The journal in a state directory, under that directory's lock. It is opened in the background.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Start`].
    pub(crate) fn open(
        stream: u64,
        settings: &config::Journal,
        state: &State,
        wall_time: WallTime,
    ) -> Result<Self, Error> {
        let path = state.dir().join("journal");
        let lock = match state.lock() {
            Ok(lock) => Some(lock),
            Err(NoLock::Held(pid)) => {
                let path = state.dir().to_path_buf();
                return Err(Error::Locked { path, pid });
            }
            // The keeper tries again, and says what is wrong.
            Err(NoLock::Failed(_)) => None,
        };
        let medium = Folder {
            state: state.clone(),
            lock,
            wall_time,
            sync_after: Some(settings.sync_after),
        };
        let (request, requests) = channel();
        let (answer, answers) = channel();
        let woken = Arc::new(Notify::new());
        let sent = Sent::default();
        let keeper = Keeper::<Directory>::new(
            &path,
            Bounds::new(settings),
            Box::new(medium),
            sent.clone(),
            Instant::now(),
        );
        let wake = woken.clone();
        std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || serve(keeper, &requests, &answer, &wake))
            .map_err(|source| Error::Start {
                what: "the journal's thread",
                source,
            })?;
        let port = Box::new(Channel { request, answers });
        let draw = Box::new(|| getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id())));
        Ok(Self::with(stream, Terms::new(settings), port, woken, sent, draw))
    }
}

impl Bounds {
    pub(crate) fn new(settings: &config::Journal) -> Self {
        Self {
            segment: settings.segment.as_u64() / 4096 * 4096,
            bytes: settings.max_bytes.as_u64(),
            age_us: (!settings.max_age.is_zero())
                .then(|| i64::try_from(settings.max_age.as_micros()).unwrap_or(i64::MAX)),
        }
    }
}

impl Terms {
    pub(crate) fn new(settings: &config::Journal) -> Self {
        let memory = settings.memory.as_u64() as usize;
        Self {
            memory,
            sync_after: settings.sync_after.duration(),
            // Early enough that memory lasts while a slow card takes it.
            write_at: (settings.segment.as_u64() as usize / 2).min(memory / 4),
        }
    }
}

/// The folder in the state directory, under its lock.
struct Folder {
    state: State,
    lock: Option<Lock>,
    wall_time: WallTime,
    /// What its mount makes of this is told once.
    sync_after: Option<SyncAfter>,
}

impl Medium<Directory> for Folder {
    fn open(&mut self) -> io::Result<Directory> {
        if !self.lock.as_ref().is_some_and(Lock::holds) {
            self.lock = None;
            match self.state.lock() {
                Ok(lock) => self.lock = Some(lock),
                Err(NoLock::Held(pid)) => {
                    let by = pid.map(|pid| format!(" by process {pid}")).unwrap_or_default();
                    return Err(io::Error::new(
                        io::ErrorKind::WouldBlock,
                        format!("it is used{by}"),
                    ));
                }
                // What may only be read can be read, by any number of processes.
                Err(NoLock::Failed(error)) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
                Err(NoLock::Failed(error)) => return Err(error),
            }
        }
        if let Some(sync_after) = self.sync_after.take()
            && let Some(advice) = Mount::under(self.state.dir()).and_then(|mount| mount.advice(sync_after))
        {
            log::info!("journal: {advice}");
        }
        Ok(Directory::new(self.state.dir().join("journal")))
    }

    fn now_us(&self) -> Option<i64> {
        (self.wall_time)()
    }
}

/// The way to the thread.
struct Channel {
    request: Sender<Request>,
    answers: Receiver<Response>,
}

impl Port for Channel {
    fn ask(&mut self, request: Request) {
        // The thread ends after this does.
        let _ = self.request.send(request);
    }

    fn answer(&mut self) -> Option<Response> {
        self.answers.try_recv().ok()
    }
}
