//! `headwater-relay tail`: the live channel in a terminal.
//!
//! What decides is plain structs: `follow` knows where the subscription stands, `acks` when to acknowledge; `line` is what is
//! printed. Drivers: this file, `channel` (the WebSocket) and `printer` (a thread, since a pager may not read for minutes, and
//! pings are to be answered all the while). A frame is acknowledged when it is printed: so who does not read on is sent no more.

mod acks;
mod channel;
mod follow;
mod line;
mod printer;

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use headwater_proto::pb;
use pb::client_frame::Frame as ClientFrame;
use tokio_rustls::rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

use crate::gateway::close::Close;
use crate::mqtt::settings::TlsSettings;
use crate::mqtt::{random, tls};
use acks::Acks;
use channel::{Address, Channel, Event};
use follow::{Follow, Told};
use printer::{Ended, Job, Printer};

/// What may be unprinted.
const WINDOW: pb::Window = pb::Window {
    frames: 64,
    bytes: 1 << 20,
};
/// The server is asked for a sign of life when nothing has come for this long, and given up after twice that.
const SILENCE: Duration = Duration::from_secs(20);
/// Before a token expires the file is read anew, this long.
const REFRESH: Duration = Duration::from_secs(30);
/// The longest wait between two attempts to connect.
const LONGEST: Duration = Duration::from_secs(15);
/// How long the end may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// What to show.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The gateway: ws://, or wss:// where TLS is spoken. Without a path: /v1/live.
    #[arg(long, value_name = "URL", default_value = "ws://127.0.0.1:8080")]
    pub url: String,
    /// A token, where the gateway asks for one. In a command line others may see it: HEADWATER_TOKEN or --token-file is better.
    #[arg(
        long,
        value_name = "JWT",
        env = "HEADWATER_TOKEN",
        hide_env_values = true,
        conflicts_with = "token_file"
    )]
    pub token: Option<String>,
    /// A file with the token, read anew for each connection and before the token expires.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Certificates (PEM) of the authorities that the gateway's may come from, with wss://. Default: those that this system trusts.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Devices, by name or glob: * (any run), ? (one character), [a-z], {a,b}. May be given several times. Default: all.
    #[arg(long = "device", value_name = "GLOB")]
    pub devices: Vec<String>,
    /// Metrics, by name or glob. May be given several times. Default: all.
    #[arg(long = "metric", value_name = "GLOB")]
    pub metrics: Vec<String>,
    /// What arrived from then on: a while ago (10m, 2h) or a time (2026-11-22T10:00:00Z). Default: from now on; with --mode latest
    /// the newest values first.
    #[arg(long, value_name = "TIME", value_parser = crate::deadletter::since)]
    pub since: Option<SystemTime>,
    /// all: every reading. latest: the newest value of each metric. series: minimum, maximum, last and count of each bucket of time; one that is
    /// told again is told what came since.
    #[arg(long, value_enum, default_value = "all")]
    pub mode: Mode,
    /// With --mode latest: at most one line a metric in this time; with --mode series: the bucket. Default: the gateway's.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub interval: Option<Duration>,
    /// An object a line, as in the records of headwater.readings.
    #[arg(long)]
    pub json: bool,
}

/// How readings are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Every batch in order.
    All,
    /// The newest value per device and metric.
    Latest,
    /// Buckets of time.
    Series,
}

/// What ends it. Each message is whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `--url`.
    #[error("--url {url}: {why}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// Options that do not go together.
    #[error("{0}")]
    Options(&'static str),
    /// `--token-file`.
    #[error("--token-file: cannot read {}: {source}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// `--ca-file`.
    #[error("TLS: {0}")]
    Tls(#[from] tls::Error),
    /// Nobody is there.
    #[error(
        "cannot connect to {address}: {why}. Is a gateway running there (gateway.listen in its settings)? --url names another"
    )]
    Connect {
        /// Where to.
        address: String,
        /// What the system says.
        why: String,
    },
    /// Somebody is there, and does not speak the live channel with us.
    #[error("{address} does not open the live channel: {why}")]
    Refused {
        /// Who.
        address: String,
        /// What it says.
        why: String,
    },
    /// The token.
    #[error(
        "the gateway does not take the token: {0}. Give one that it knows with --token-file or HEADWATER_TOKEN"
    )]
    Unauthorised(String),
    /// The gateway closed, and would do so again.
    #[error("the gateway closed the connection, code {code}: {reason}")]
    Closed {
        /// The close code.
        code: u16,
        /// What it says.
        reason: String,
    },
    /// The subscription is refused.
    #[error("the gateway refuses the subscription: {0}")]
    Subscription(String),
    /// Standard output failed, in another way than being closed.
    #[error("standard output: {0}")]
    Output(std::io::Error),
    /// The system gives no thread or no signals.
    #[error("the system: {0}")]
    System(std::io::Error),
}

impl Error {
    /// Whether what was given is wrong, so that nothing was tried.
    pub fn is_argument(&self) -> bool {
        matches!(
            self,
            Self::Url { .. } | Self::Options(_) | Self::Token { .. } | Self::Tls(_)
        )
    }
}

/// How a connection ended.
enum End {
    /// As asked, or because nobody reads on.
    Stopped,
    /// For good.
    Failed(Error),
    /// Why, and when to come back at the earliest.
    Lost(String, Duration),
}

/// Shows readings until a signal, or until nobody reads standard output.
///
/// # Errors
/// [`Error`].
pub async fn run(options: &Options) -> Result<(), Error> {
    let stop = signals().map_err(Error::System)?;
    if options.mode == Mode::Latest && options.since.is_some() {
        return Err(Error::Options(
            "--since goes with --mode all and series: latest begins with what is newest",
        ));
    }
    let address = Address::parse(&options.url)?;
    let tls = options.tls(&address)?;
    let mut tail = Tail {
        follow: Follow::new(options.subscribe()),
        printer: Printer::start(options.json).map_err(Error::System)?,
        options,
        stop: &stop,
    };
    let (mut known, mut attempt) = (false, 0_u32);
    loop {
        let token = options.token()?;
        let opened = tokio::select! {
            opened = Channel::open(&address, tls.as_ref()) => opened,
            () = stop.cancelled() => return Ok(()),
        };
        let end = match opened {
            Ok(channel) => {
                let end = tail.serve(channel, token).await;
                if tail.follow.is_open() {
                    (known, attempt) = (true, 0);
                }
                end
            }
            Err(error @ (Error::Connect { .. } | Error::Refused { .. })) if known => {
                End::Lost(error.to_string(), Duration::ZERO)
            }
            Err(error) => return Err(error),
        };
        let (why, least) = match end {
            End::Stopped => return Ok(()),
            End::Failed(error) => return Err(error),
            End::Lost(why, least) => (why, least),
        };
        // Where standard error is closed, nobody wants to know.
        let _ = writeln!(std::io::stderr(), "{why}; connecting again");
        // What has come is printed first: so what waits here is one window, however often the connection is lost.
        match tail.drain().await {
            Ok(()) => {}
            Err(end) => return end.map_or(Ok(()), Err),
        }
        // Anywhere below a bound that doubles: many who lost one gateway do not come back in step.
        let bound = LONGEST.min(Duration::from_millis(250) * 2_u32.saturating_pow(attempt.min(8)));
        attempt += 1;
        let wait = least + bound.mul_f64(f64::from(random()) / f64::from(u32::MAX));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

impl Options {
    fn subscribe(&self) -> pb::Subscribe {
        let at = match (self.since, self.mode) {
            (Some(since), _) => {
                let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
                pb::start::At::TimeUs(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
            }
            (None, Mode::Latest) => pb::start::At::Snapshot(true),
            (None, _) => pb::start::At::Now(true),
        };
        let interval = self.interval.unwrap_or_default().as_millis();
        pb::Subscribe {
            id: follow::ID,
            devices: self.devices.clone(),
            metrics: self.metrics.clone(),
            mode: match self.mode {
                Mode::All => pb::Mode::All,
                Mode::Latest => pb::Mode::Latest,
                Mode::Series => pb::Mode::Series,
            }
            .into(),
            start: Some(pb::Start { at: Some(at) }),
            interval_ms: u32::try_from(interval).unwrap_or(u32::MAX),
        }
    }

    fn token(&self) -> Result<String, Error> {
        let Some(path) = &self.token_file else {
            return Ok(self.token.clone().unwrap_or_default());
        };
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(text.trim().to_string()),
            Err(source) => Err(Error::Token {
                path: path.clone(),
                source,
            }),
        }
    }

    fn tls(&self, address: &Address) -> Result<Option<Arc<ClientConfig>>, Error> {
        if !address.tls {
            return match self.ca_file {
                Some(_) => Err(Error::Options("--ca-file goes with wss:// in --url")),
                None => Ok(None),
            };
        }
        let settings = TlsSettings {
            ca_file: self.ca_file.clone(),
            ..TlsSettings::default()
        };
        Ok(Some(tls::config(&settings)?))
    }
}

struct Tail<'a> {
    follow: Follow,
    printer: Printer,
    options: &'a Options,
    stop: &'a CancellationToken,
}

impl Tail<'_> {
    async fn serve(&mut self, mut channel: Channel, token: String) -> End {
        let end = self.follow_on(&mut channel, token).await;
        if let End::Stopped = end {
            let _ = tokio::time::timeout(GOODBYE, channel.close()).await;
        }
        end
    }

    async fn follow_on(&mut self, channel: &mut Channel, mut token: String) -> End {
        let hello = pb::ClientHello {
            client: concat!("headwater-relay tail ", env!("CARGO_PKG_VERSION")).into(),
            token: token.clone(),
            window: Some(WINDOW),
        };
        let mut acks = Acks::new(WINDOW.frames);
        let mut send = vec![ClientFrame::Hello(hello), self.follow.begin()];
        let (mut heard, mut asked) = (Instant::now(), false);
        let mut refresh: Option<Instant> = None;
        let mut again: Option<Instant> = None;
        loop {
            for frame in send.drain(..) {
                if let Err(why) = channel.send(frame).await {
                    return End::Lost(why, Duration::ZERO);
                }
            }
            let silence = heard + if asked { 2 * SILENCE } else { SILENCE };
            let wake = [Some(silence), acks.due(), refresh, again]
                .into_iter()
                .flatten()
                .min();
            tokio::select! {
                event = channel.next() => {
                    (heard, asked) = (Instant::now(), false);
                    match event {
                        Event::Frame(frame, bytes) => match self.follow.receive(frame) {
                            Told::Lines(lines) => {
                                let total = acks.received(bytes);
                                self.printer.print(Job { lines, total });
                            }
                            Told::Nothing => {}
                            Told::Expires(us) => refresh = self.options.token_file.is_some().then(|| before(us)).flatten(),
                            Told::Again(why) => {
                                let _ = writeln!(std::io::stderr(), "{why}; trying again");
                                again = Some(heard + Duration::from_secs(1));
                            }
                            Told::Goodbye(why, after) => return End::Lost(format!("the gateway says goodbye: {why}"), after),
                            Told::Note(text) => drop(writeln!(std::io::stderr(), "{text}")),
                            Told::Refused(why) => return End::Failed(Error::Subscription(why)),
                        },
                        Event::Quiet => {}
                        Event::Closed(code, reason) => return closed(code, reason),
                        Event::Lost(why) => return End::Lost(why, Duration::ZERO),
                    }
                }
                printed = self.printer.printed() => match printed {
                    Ok(total) => acks.handled(total, Instant::now()),
                    Err(Ended::Closed) => return End::Stopped,
                    Err(Ended::Failed(error)) => return End::Failed(Error::Output(error)),
                },
                () = at(wake) => {}
                () = self.stop.cancelled() => return End::Stopped,
            }
            let now = Instant::now();
            send.extend(acks.take(now).map(ClientFrame::Ack));
            if now >= heard + 2 * SILENCE {
                return End::Lost("the gateway is silent".into(), Duration::ZERO);
            }
            if now >= heard + SILENCE && !asked {
                asked = true;
                send.push(ClientFrame::Ping(pb::Ping { nonce: 0 }));
            }
            if again.is_some_and(|at| now >= at) {
                again = None;
                send.push(self.follow.begin());
            }
            if refresh.is_some_and(|at| now >= at) {
                // Whoever writes the file may be late: then it is looked at again.
                refresh = Some(now + Duration::from_secs(5));
                if let Ok(fresh) = self.options.token()
                    && fresh != token
                {
                    token.clone_from(&fresh);
                    send.push(ClientFrame::Token(pb::Token { token: fresh }));
                }
            }
        }
    }

    /// Waits until all that has come is printed. `Err`: it is over, with that error or without.
    async fn drain(&mut self) -> Result<(), Option<Error>> {
        while self.printer.is_behind() {
            tokio::select! {
                printed = self.printer.printed() => match printed {
                    Ok(_) => {}
                    Err(Ended::Closed) => return Err(None),
                    Err(Ended::Failed(error)) => return Err(Some(Error::Output(error))),
                },
                () = self.stop.cancelled() => return Err(None),
            }
        }
        self.printer.reset();
        Ok(())
    }
}

/// What a close code means for whoever would come back.
fn closed(code: u16, reason: String) -> End {
    match code {
        Close::TOKEN => End::Failed(Error::Unauthorised(reason)),
        Close::LATE | Close::GOING_AWAY | 1000 | 1005 | 1011 | 1012 | 1013 => End::Lost(
            format!("the gateway closed the connection: {reason} ({code})"),
            Duration::ZERO,
        ),
        _ => End::Failed(Error::Closed { code, reason }),
    }
}

/// When to look for a fresh token. `None`: it does not expire.
fn before(expires_us: i64) -> Option<Instant> {
    let expires = Duration::from_micros(u64::try_from(expires_us).ok().filter(|&us| us > 0)?);
    let left = expires.saturating_sub(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    Instant::now().checked_add(left.saturating_sub(REFRESH))
}

async fn at(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}

/// Is cancelled by SIGINT or SIGTERM.
fn signals() -> std::io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let of_task = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        of_task.cancel();
    });
    Ok(stop)
}
