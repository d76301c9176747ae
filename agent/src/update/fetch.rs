//! A release on its way here: one request for what is missing, over and over until it is whole. What is here is known piece by piece, so a server that
//! dies, a connection that breaks or a power cut costs a piece at most.
//!
//! It runs beside the agent's work, no faster than the settings say; what waits for the medium is on a thread. What passes is counted in the
//! month's data budget, and where that is short it waits, as a backlog does.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::medium::Directory;
use super::rack::Rack;
use super::slots::{NOT_INSTALLED, Next};
use crate::http::client::{Answer, Request, Url, ask};
use crate::mqtt::socket::Ways;
use crate::{AgentHandle, status, task, version};

/// What is made durable at once, bytes.
const PIECE: usize = 128 * 1024;
/// So much passes before the data budget is asked again, bytes.
const ASKED: u64 = 16 * 1024;
/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether the data budget has recovered.
const RECOVERY: Duration = Duration::from_secs(10);
/// How long it waits after a failure, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// So many failures in a row, while the relay can be reached, are too many.
const FAILURES_MAX: u32 = 20;
/// It is given up when so many bytes have passed for it: so many times its size, and so many more for what requests and TLS cost. Whoever controls
/// the server or the network could have it begun anew for ever.
const SPENT_MAX: (u64, u64) = (3, 1024 * 1024);
/// Redirections of one request.
const REDIRECTIONS_MAX: u32 = 5;
/// What has to stay free of the medium beyond a release, bytes: for the journal's next segments.
const SPARED: u64 = 16 * 1024 * 1024;

/// The slots, where several parts know them. Locked on threads that may wait for the medium, and nowhere else.
pub(crate) type Shared = Arc<Mutex<Rack<Directory>>>;

/// Does something with the slots, on a thread.
pub(crate) async fn on<T: Send + 'static>(
    rack: &Shared,
    work: impl FnOnce(&mut Rack<Directory>) -> T + Send + 'static,
) -> T {
    let rack = rack.clone();
    let done = task::blocking(move || work(&mut rack.lock().unwrap_or_else(PoisonError::into_inner)));
    match done.await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// What went wrong with an attempt.
#[derive(Debug, PartialEq)]
enum Trouble {
    /// It may go better the next time.
    Again(String),
    /// It will not.
    Never(String),
}

use Trouble::{Again, Never};

/// A release on its way.
pub(crate) struct Fetch {
    rack: Shared,
    handle: AgentHandle,
    ways: Ways,
    /// Bytes a second.
    rate: u64,
    next: Next,
    /// How long it waits after a failure, at first and at most.
    pause: (Duration, Duration),
    /// Bytes that were counted in the budget.
    counted: u64,
    /// The attempt that runs has begun anew.
    anew: bool,
}

impl Fetch {
    pub(crate) fn new(rack: Shared, handle: AgentHandle, ways: Ways, rate: u64, next: Next) -> Self {
        Self {
            rack,
            handle,
            ways,
            rate,
            next,
            pause: PAUSE,
            counted: 0,
            anew: false,
        }
    }

    /// Fetches it; returns whether it is whole, and on trial from the next start on. If not, it is given up, and that is told.
    pub(crate) async fn run(mut self) -> bool {
        let mut failures = 0;
        loop {
            let before = self.next.have;
            self.anew = false;
            let why = match self.attempt().await {
                Ok(whole) => return whole,
                Err(Never(why)) => break self.give_up(why).await,
                Err(Again(why)) => why,
            };
            // Without a way to the relay it is most likely no fault of the server's.
            let has_more = self.next.have > before && !self.anew;
            match (has_more, self.handle.stats().connected) {
                (true, _) => failures = 0,
                (false, true) => failures += 1,
                (false, false) => {}
            }
            if failures >= FAILURES_MAX {
                break self
                    .give_up(format!("{failures} attempts have failed, the last: {why}"))
                    .await;
            }
            let (first, most) = self.pause;
            let pause = first.saturating_mul(1 << failures.min(10)).min(most);
            log::warn!(
                "{} is not here yet: {why}; next attempt in {pause:?}",
                self.next.url
            );
            self.tell(&why);
            sleep(pause).await;
        }
    }

    async fn give_up(&mut self, why: String) -> bool {
        let why = format!("{NOT_INSTALLED}{why}");
        let given_up = on(&self.rack, move |rack| rack.give_up(&why)).await;
        if let Err(error) = given_up {
            log::error!("the slots cannot be written: {error}");
        }
        false
    }

    /// One attempt to fetch what is missing. Whether it is whole and on trial; `false`: it is given up already.
    async fn attempt(&mut self) -> Result<bool, Trouble> {
        let size = self.next.program.size;
        let missing = size.saturating_sub(self.next.have);
        if missing > 0 {
            while !self.handle.beside(0).await {
                self.tell("it waits: the month's data budget has nothing to spare");
                sleep(RECOVERY).await;
            }
            let room = on(&self.rack, |rack| rack.medium.room()).await;
            let room =
                room.map_err(|error| Again(format!("the room on the medium is not known: {error}")))?;
            if room < missing + SPARED {
                return Err(Again(format!(
                    "{room} bytes are free where it is to be kept, and {} are needed, so that the journal has its own",
                    missing + SPARED
                )));
            }
            self.tell("");
            let result = self.receive().await;
            // The connection is closed by now.
            self.count().await;
            if let Err(trouble) = result {
                if matches!(trouble, Again(_)) {
                    self.afford()?;
                }
                return Err(trouble);
            }
        }
        let complete = on(&self.rack, Rack::complete).await;
        complete.map_err(|error| Again(format!("it cannot be installed: {error}")))
    }

    /// Asks for what is missing, and takes what comes.
    async fn receive(&mut self) -> Result<(), Trouble> {
        let mut answer = self.ask().await?;
        let (size, have) = (self.next.program.size, self.next.have);
        let tag = answer
            .header("etag")
            .filter(|tag| tag.starts_with('"') && tag.len() < 256);
        let tag = tag.unwrap_or_default().to_string();
        let total = match answer.status {
            206 => {
                let range = answer.header("content-range").unwrap_or_default();
                let expected = format!("bytes {have}-");
                if !range.starts_with(&expected) {
                    self.anew().await?;
                    return Err(Again(format!(
                        "the server sent {range:?} in place of what was asked for"
                    )));
                }
                range.rsplit('/').next().and_then(|total| total.parse().ok())
            }
            _ => {
                if have > 0 {
                    log::info!("{}: the server sends all of it again", self.next.url);
                    self.anew().await?;
                }
                answer
                    .header("content-length")
                    .and_then(|length| length.parse::<u64>().ok())
            }
        };
        if let Some(total) = total.filter(|total| *total != size) {
            return Err(Never(format!(
                "the server's file has {total} bytes, and the release {size}"
            )));
        }
        let mut buffer = Vec::with_capacity(PIECE + 16 * 1024);
        let begun = Instant::now();
        let (mut passed, mut asked) = (0u64, 0u64);
        let outcome = loop {
            let missing = size - self.next.have - buffer.len() as u64;
            let piece = match answer.next(Instant::now() + PATIENCE).await {
                Ok(piece) if piece.len() as u64 > missing => {
                    break Err(Never(format!(
                        "the server's file is longer than the release, {size} bytes"
                    )));
                }
                Ok(piece) if piece.is_empty() => {
                    break match missing {
                        0 => Ok(()),
                        _ => Err(Never(format!(
                            "the server's file ends {missing} bytes before the release does"
                        ))),
                    };
                }
                Ok(piece) => piece,
                Err(why) => break Err(Again(why)),
            };
            passed += piece.len() as u64;
            buffer.extend_from_slice(&piece);
            if buffer.len() >= PIECE {
                self.keep(&mut buffer, &tag).await?;
            }
            if passed - asked >= ASKED {
                asked = passed;
                let may = self.count().await;
                if let Err(trouble) = self.afford() {
                    break Err(trouble);
                }
                if !may {
                    break Err(Again("the month's data budget has nothing to spare".into()));
                }
            }
            let due = Duration::from_secs_f64(passed as f64 / self.rate as f64);
            sleep_until(begun + due).await;
        };
        drop(answer);
        if !buffer.is_empty() && !matches!(outcome, Err(Never(_))) {
            self.keep(&mut buffer, &tag).await?;
        }
        outcome
    }

    /// Asks for what is missing, wherever the server says it is.
    async fn ask(&mut self) -> Result<Answer, Trouble> {
        let mut address = self.next.url.clone();
        let range = format!("bytes={}-", self.next.have);
        let mut headers = Vec::new();
        if self.next.have > 0 {
            headers.push(("Range", &*range));
            if !self.next.tag.is_empty() {
                headers.push(("If-Range", &*self.next.tag));
            }
        }
        for _ in 0..=REDIRECTIONS_MAX {
            let url = Url::parse(&address).map_err(|why| Never(format!("{address:?} {why}")))?;
            let request = Request {
                method: "GET",
                url: &url,
                headers: &headers,
                body: &[],
            };
            let answer = ask(&self.ways, request, Instant::now() + PATIENCE)
                .await
                .map_err(Again)?;
            let status = answer.status;
            match status {
                200 => return Ok(answer),
                206 if self.next.have > 0 => return Ok(answer),
                301 | 302 | 303 | 307 | 308 => {
                    address =
                        redirected(&url, answer.header("location").unwrap_or_default()).map_err(Never)?;
                }
                416 => {
                    drop(answer);
                    self.anew().await?;
                    return Err(Again("the server has not as much of it as was here".into()));
                }
                408 | 425 | 429 | 500.. => {
                    return Err(Again(format!("the server answers {status} to {address}")));
                }
                _ => return Err(Never(format!("the server answers {status} to {address}"))),
            }
        }
        Err(Never(format!(
            "more than {REDIRECTIONS_MAX} redirections, the last to {address}"
        )))
    }

    /// Makes a piece durable.
    async fn keep(&mut self, buffer: &mut Vec<u8>, tag: &str) -> Result<(), Trouble> {
        let (piece, tag, spent) = (std::mem::take(buffer), tag.to_string(), self.next.spent);
        let (kept, next) = on(&self.rack, move |rack| {
            let mut kept = rack.piece(&piece, &tag, spent);
            if kept
                .as_ref()
                .is_err_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof)
            {
                kept = rack.anew(spent).and(kept);
            }
            (kept, rack.slots.next.clone())
        })
        .await;
        match next {
            Some(next) => self.next = next,
            None => return Err(Never("it was given up".into())),
        }
        self.tell("");
        kept.map_err(|error| Again(format!("it cannot be kept: {error}")))
    }

    async fn anew(&mut self) -> Result<(), Trouble> {
        let spent = self.next.spent;
        let kept = on(&self.rack, move |rack| rack.anew(spent)).await;
        (self.next.have, self.next.tag) = (0, String::new());
        self.anew = true;
        kept.map_err(|error| Again(format!("it cannot be kept: {error}")))
    }

    /// Counts what has passed; returns whether more may.
    async fn count(&mut self) -> bool {
        let bytes = self.ways.traffic.bytes();
        let passed = bytes.sent + bytes.received;
        let more = passed - self.counted;
        self.counted = passed;
        self.next.spent += more;
        self.handle.beside(more).await
    }

    /// Whether it may cost more.
    fn afford(&self) -> Result<(), Trouble> {
        let (size, spent) = (self.next.program.size, self.next.spent);
        let most = SPENT_MAX.0.saturating_mul(size).saturating_add(SPENT_MAX.1);
        if spent <= most {
            return Ok(());
        }
        Err(Never(format!(
            "{spent} bytes have passed for the release's {size}, and it is not whole: the server or the network does not let it through"
        )))
    }

    fn tell(&self, what: &str) {
        self.handle.set_update(told(&self.next, what));
    }
}

/// What is shown of a release on its way or on trial.
pub(crate) fn told(next: &Next, what: &str) -> status::Update {
    status::Update {
        state: if next.trial.is_some() {
            "trying"
        } else {
            "downloading"
        }
        .into(),
        running: version::current().into(),
        slot: super::slot().map_or("", super::slots::Slot::name).into(),
        version: next.program.version.clone(),
        command: next.command.clone(),
        have: next.have,
        size: next.program.size,
        what: what.into(),
    }
}

/// Where a redirection leads.
fn redirected(from: &Url, location: &str) -> Result<String, String> {
    let server = &from.server;
    let scheme = if server.tls { "https" } else { "http" };
    if location.starts_with("https://") || (location.starts_with("http://") && !server.tls) {
        return Ok(location.into());
    }
    if location.starts_with('/') && !location.starts_with("//") {
        return Ok(format!("{scheme}://{}:{}{location}", server.host, server.port));
    }
    Err(format!(
        "the server redirects to {location:?}, which is not followed"
    ))
}

#[cfg(test)]
mod tests;
