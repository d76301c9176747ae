//! The subscribers: many sockets in one process, each doing the least that its protocol wants.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use flate2::Decompress;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::protocol::{self, Kind};
use super::wire;

/// Batches that can be numbered in a run.
const MOST: usize = 1 << 20;
/// Handshakes at a time.
const TOGETHER: usize = 64;
/// Of a window that nobody asked for (live.proto): frames.
const WINDOW: u64 = 256;
/// An acknowledgement waits this long for more, as in our clients.
const ACK: Duration = Duration::from_millis(50);
/// Subscribers of the Node pattern whose frames are inflated and timed.
const TIMED: usize = 50;
/// A slow subscriber takes so much at a time, so often.
const SIP: (usize, Duration) = (1024, Duration::from_millis(100));
/// Each bucket of the latencies is so much wider than the one before.
const STEP: f64 = 1.02;
const BUCKETS: usize = 1024;

/// How a subscriber behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Takes what comes.
    Quick,
    /// Takes 10 KiB a second.
    Slow,
    /// Takes what comes, and acknowledges nothing.
    Mute,
    /// Takes nothing once it has subscribed.
    Deaf,
}

/// What all subscribers count.
pub(super) struct Counts {
    began: Instant,
    /// When each batch was handed to Kafka, microseconds.
    published: Vec<AtomicU64>,
    /// Batches that quick subscribers have had.
    pub(super) quick: AtomicU64,
    /// Batches that the others have had.
    pub(super) others: AtomicU64,
    /// Bytes of frames with batches in them, with their headers.
    pub(super) wire: AtomicU64,
    /// Quick subscribers whose connection has ended.
    pub(super) lost_quick: AtomicU64,
    /// Others whose connection has ended.
    pub(super) lost_others: AtomicU64,
    pub(super) timing: AtomicBool,
    latencies: Vec<AtomicU64>,
}

impl Counts {
    fn new() -> Self {
        let zeroes = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            began: Instant::now(),
            published: zeroes(MOST),
            quick: AtomicU64::new(0),
            others: AtomicU64::new(0),
            wire: AtomicU64::new(0),
            lost_quick: AtomicU64::new(0),
            lost_others: AtomicU64::new(0),
            timing: AtomicBool::new(false),
            latencies: zeroes(BUCKETS),
        }
    }

    fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    /// A batch is handed to Kafka now.
    pub(super) fn publish(&self, number: u64) -> Result<()> {
        let at = self
            .published
            .get(number as usize)
            .context("more batches than can be numbered")?;
        at.store(self.now_us(), Ordering::Relaxed);
        Ok(())
    }

    fn came(&self, number: u64) {
        if self.timing.load(Ordering::Relaxed)
            && let Some(at) = self.published.get(number as usize)
        {
            let us = self.now_us().saturating_sub(at.load(Ordering::Relaxed)).max(1);
            let bucket = ((us as f64).ln() / STEP.ln()) as usize;
            self.latencies[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The middle one and the slowest of a hundred, milliseconds, since this was last asked. `None`: none was timed.
    pub(super) fn latency(&self) -> Option<(f64, f64)> {
        let counts: Vec<u64> = self
            .latencies
            .iter()
            .map(|count| count.swap(0, Ordering::Relaxed))
            .collect();
        let all: u64 = counts.iter().sum();
        let at = |share: f64| {
            let (mut seen, wanted) = (0, (all as f64 * share).ceil() as u64);
            let found = counts.iter().position(|count| {
                seen += count;
                seen >= wanted
            });
            STEP.powi(found.unwrap_or(0) as i32 + 1) / 1000.0
        };
        (all > 0).then(|| (at(0.5), at(0.99)))
    }
}

/// Subscribers that are connected and subscribed; they go when this is dropped.
pub(super) struct Crowd {
    pub(super) counts: Arc<Counts>,
    pub(super) quick: usize,
    runtime: Runtime,
    tasks: JoinSet<()>,
}

impl Crowd {
    /// Nobody yet.
    pub(super) fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        Ok(Self {
            counts: Arc::new(Counts::new()),
            quick: 0,
            runtime,
            tasks: JoinSet::new(),
        })
    }

    /// Connects so many subscribers of each manner, and waits until their subscriptions stand.
    pub(super) fn join(&mut self, kind: Kind, address: SocketAddr, parts: &[(Manner, usize)]) -> Result<()> {
        let permits = Arc::new(Semaphore::new(TOGETHER));
        let (ready, mut readies) = tokio::sync::mpsc::unbounded_channel();
        let all: usize = parts.iter().map(|(_, count)| count).sum();
        for &(manner, count) in parts {
            for index in 0..count {
                let (counts, permits, ready) = (self.counts.clone(), permits.clone(), ready.clone());
                let timed = index % count.div_ceil(TIMED) == 0;
                let subscriber = Subscriber {
                    kind,
                    manner,
                    timed,
                    counts,
                };
                self.tasks.spawn_on(
                    async move {
                        let permit = permits.acquire().await;
                        let opened = tokio::time::timeout(Duration::from_secs(30), subscriber.open(address));
                        let opened = opened.await.map_err(anyhow::Error::from).flatten();
                        drop(permit);
                        match opened {
                            Ok((stream, rest)) => {
                                let _ = ready.send(Ok(()));
                                let ended = subscriber.follow(stream, rest).await;
                                subscriber.ended(ended);
                            }
                            Err(error) => drop(ready.send(Err(error))),
                        }
                    },
                    self.runtime.handle(),
                );
            }
            if manner == Manner::Quick {
                self.quick += count;
            }
        }
        drop(ready);
        self.runtime.block_on(async {
            for number in 0..all {
                match readies.recv().await {
                    Some(Ok(())) => {}
                    Some(Err(error)) => return Err(error.context(format!("after {number} subscribers"))),
                    None => bail!("a subscriber has ended"),
                }
            }
            Ok(())
        })
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.tasks.abort_all();
    }
}

struct Subscriber {
    kind: Kind,
    manner: Manner,
    timed: bool,
    counts: Arc<Counts>,
}

/// What a connection remembers.
struct State {
    frames: u64,
    bytes: u64,
    acked: u64,
    since: Option<Instant>,
    inflater: Option<Decompress>,
    subscribed: bool,
    /// The frames before the last one of a message: whether it is compressed, its payload, bytes with headers.
    begun: Option<(bool, Vec<u8>, usize)>,
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 256 << 10]);
}

impl Subscriber {
    async fn open(&self, address: SocketAddr) -> Result<(TcpStream, (State, Vec<u8>))> {
        let socket = TcpSocket::new_v4()?;
        if matches!(self.manner, Manner::Slow | Manner::Deaf) {
            // So that it is the server that has to wait, and not a buffer of the kernel's.
            socket.set_recv_buffer_size(8 << 10)?;
        }
        let mut stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        let (path, subprotocol) = self.kind.request();
        wire::open(&mut stream, path, subprotocol).await?;
        for message in self.kind.greeting() {
            stream.write_all(&wire::masked(2, &message)).await?;
        }
        let mut state = State {
            frames: 0,
            bytes: 0,
            acked: 0,
            since: None,
            inflater: (self.kind == Kind::Node && self.timed).then(|| Decompress::new(false)),
            subscribed: self.kind == Kind::Node,
            begun: None,
        };
        let mut rest = Vec::new();
        while !state.subscribed {
            self.take(&mut stream, &mut state, &mut rest, usize::MAX).await?;
        }
        Ok((stream, (state, rest)))
    }

    async fn follow(&self, mut stream: TcpStream, (mut state, mut rest): (State, Vec<u8>)) -> Result<()> {
        loop {
            match self.manner {
                // Until the crowd goes.
                Manner::Deaf => std::future::pending().await,
                Manner::Slow => {
                    tokio::time::sleep(SIP.1).await;
                    self.take(&mut stream, &mut state, &mut rest, SIP.0).await?;
                }
                Manner::Quick | Manner::Mute => match state.since {
                    Some(since) if self.manner == Manner::Quick => {
                        let due = tokio::time::Instant::from_std(since + ACK);
                        let take = self.take(&mut stream, &mut state, &mut rest, usize::MAX);
                        if let Ok(taken) = tokio::time::timeout_at(due, take).await {
                            taken?;
                        }
                    }
                    _ => self.take(&mut stream, &mut state, &mut rest, usize::MAX).await?,
                },
            }
            let due = state.since.is_some_and(|since| since.elapsed() >= ACK)
                || state.frames - state.acked >= WINDOW / 2;
            if self.kind == Kind::Headwater && self.manner != Manner::Mute && due {
                (state.acked, state.since) = (state.frames, None);
                let ack = protocol::ack(state.frames, state.bytes);
                stream.write_all(&wire::masked(2, &ack)).await?;
            }
        }
    }

    /// Takes what comes next, up to `most` bytes.
    async fn take(
        &self,
        stream: &mut TcpStream,
        state: &mut State,
        rest: &mut Vec<u8>,
        most: usize,
    ) -> Result<()> {
        stream.readable().await?;
        let answers = BUFFER.with_borrow_mut(|buffer| {
            let most = most.min(buffer.len());
            let count = match wire::read(stream, &mut buffer[..most])? {
                Some(0) => bail!("the server has closed"),
                Some(count) => count,
                None => return Ok(Vec::new()),
            };
            if rest.is_empty() {
                let (used, answers) = self.frames(&buffer[..count], state)?;
                rest.extend_from_slice(&buffer[used..count]);
                return Ok(answers);
            }
            rest.extend_from_slice(&buffer[..count]);
            let (used, answers) = self.frames(rest, state)?;
            rest.drain(..used);
            if rest.is_empty() {
                *rest = Vec::new();
            }
            Ok(answers)
        })?;
        for answer in answers {
            stream.write_all(&answer).await?;
        }
        Ok(())
    }

    /// Takes whole frames. Returns the bytes they had, and what is to be answered.
    fn frames(&self, bytes: &[u8], state: &mut State) -> Result<(usize, Vec<Vec<u8>>)> {
        let (mut used, mut answers) = (0, Vec::new());
        let mut had = 0;
        while let Some(mut frame) = wire::frame(&bytes[used..]) {
            used += frame.wire;
            let whole;
            match frame.opcode {
                1 | 2 if frame.last => {}
                1 | 2 => {
                    state.begun = Some((frame.deflated, frame.payload.to_vec(), frame.wire));
                    continue;
                }
                0 => {
                    let (deflated, mut payload, wire) =
                        state.begun.take().context("a continuation of nothing")?;
                    payload.extend_from_slice(frame.payload);
                    if !frame.last {
                        state.begun = Some((deflated, payload, wire + frame.wire));
                        continue;
                    }
                    whole = payload;
                    (frame.deflated, frame.payload) = (deflated, &whole);
                    frame.wire += wire;
                }
                8 => bail!(
                    "closed: {}",
                    String::from_utf8_lossy(frame.payload.get(2..).unwrap_or_default())
                ),
                9 => {
                    answers.push(wire::masked(10, frame.payload));
                    continue;
                }
                _ => continue,
            }
            if self.kind == Kind::Node {
                had += 1;
                self.counts.wire.fetch_add(frame.wire as u64, Ordering::Relaxed);
                if let Some(inflater) = &mut state.inflater {
                    self.came(protocol::node(inflater, &frame)?);
                }
                continue;
            }
            let heard = protocol::hear(self.kind, &frame)?;
            state.subscribed |= heard.subscribed;
            answers.extend(heard.answer.map(|answer| wire::masked(2, answer)));
            if let Some(counted) = heard.counted {
                state.frames += 1;
                state.bytes += counted as u64;
                state.since.get_or_insert_with(Instant::now);
            }
            if !heard.batches.is_empty() {
                self.counts.wire.fetch_add(frame.wire as u64, Ordering::Relaxed);
            }
            for &number in &heard.batches {
                had += 1;
                self.came(number);
            }
        }
        let count = match self.manner {
            Manner::Quick => &self.counts.quick,
            Manner::Slow | Manner::Mute | Manner::Deaf => &self.counts.others,
        };
        count.fetch_add(had, Ordering::Relaxed);
        Ok((used, answers))
    }

    fn came(&self, number: u64) {
        if self.manner == Manner::Quick {
            self.counts.came(number);
        }
    }

    fn ended(&self, ended: Result<()>) {
        let lost = match self.manner {
            Manner::Quick => &self.counts.lost_quick,
            Manner::Slow | Manner::Mute | Manner::Deaf => &self.counts.lost_others,
        };
        // The first says why; the others mostly the same.
        if let Err(error) = ended
            && lost.fetch_add(1, Ordering::Relaxed) == 0
        {
            eprintln!(
                "{:?}: a {:?} subscriber has ended: {error:#}",
                self.kind, self.manner
            );
        }
    }
}
