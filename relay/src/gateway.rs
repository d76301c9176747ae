//! Kafka → WebSocket, and the dashboard page.
//!
//! ```text
//!                      ┌ hub ────────────────────────────────┐
//!  telemetry ─► reader ─► cache (newest values) ─► log (end) │──► session ─► socket ─► client
//!  devices   ─►        ─► fleet (states, rates)              │      ▲ cursor, window
//!                      └──────────────────────────────────────┘      │
//!  telemetry ─► catch-up readers (what is no longer in memory) ──────┘
//! ```
//!
//! A connection keeps no queue: a subscription is a cursor, or how far it has been told, and asks the hub for its next
//! frame when its window is open. Frames are made and compressed once and shared.
//!
//! Telemetry is read of the partitions alone that somebody watches.
//!
//! Pure: [`watch`], [`window`], [`filter`], [`record`], [`log`], [`cache`], [`fleet`], [`buckets`], [`token`], [`deflate`], [`subscription`],
//! [`session`], [`seats`], [`rate`], [`budget`], [`pace`]. Drivers: [`reader`], [`telemetry`] and [`catchup`] (Kafka), [`live`] and [`socket`] (WebSocket), [`page`] (HTTP).

pub mod buckets;
pub mod budget;
pub mod cache;
pub mod caller;
pub mod catchup;
pub mod close;
pub mod commands;
pub mod deflate;
pub mod filter;
pub mod fleet;
pub mod hub;
pub mod jwks;
pub mod keyset;
pub mod latency;
pub mod live;
pub mod log;
pub mod metrics;
pub mod pace;
pub mod page;
pub mod rate;
pub mod reader;
pub mod record;
pub mod seats;
pub mod session;
pub mod settings;
pub mod socket;
pub mod subscription;
pub mod telemetry;
pub mod tls;
pub mod token;
pub mod watch;
pub mod window;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use futures_util::future::{FusedFuture as _, FutureExt as _};
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::admin::{Check, Monitor};
use crate::kafka::{self, KafkaSettings};
use catchup::CatchUp;
use commands::Commands;
use commands::order::Taken;
use hub::Hub;
use live::Live;
use metrics::Metrics;
use rate::Rates;
use seats::Seats;
use settings::GatewaySettings;
use tls::Tls;
use token::Keys;

/// How long connections may take to say goodbye, when it is their time.
const GOODBYE: Duration = Duration::from_secs(2);
/// How long a connection that does not become a WebSocket may stay.
const LONGEST: Duration = Duration::from_secs(60);
/// TCP connections beside the WebSockets: page loads, refusals.
const OTHERS: usize = 256;

/// What ends the gateway. Each message is whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Kafka, where only an operator can help.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
    /// The listener failed, or the system gives no thread.
    #[error("the system: {0}")]
    Listen(std::io::Error),
    /// A key for tokens.
    #[error(transparent)]
    Key(#[from] token::KeyError),
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// Everybody would be served everything.
    #[error(
        "gateway.listen = {address} can be reached by others, and no gateway.keys or gateway.key_sets are configured: everybody could read \
         everything. Configure keys, listen on 127.0.0.1, or set gateway.allow_anonymous = true"
    )]
    Anonymous {
        /// Where it listens.
        address: SocketAddr,
    },
}

/// Checks what can be wrong with its settings without anything being started.
///
/// # Errors
/// [`Error`].
pub fn check(settings: &GatewaySettings, kafka: &KafkaSettings) -> Result<(), Error> {
    let keys = Keys::load(&settings.keys, &settings.tokens)?.with_sets(&settings.key_sets)?;
    is_local(settings, &keys, settings.listen)?;
    Tls::load(&settings.tls)?;
    Ok(kafka.check()?)
}

/// Whether only loopback is served, since nobody is asked for a token.
fn is_local(settings: &GatewaySettings, keys: &Keys, address: SocketAddr) -> Result<bool, Error> {
    let local = keys.is_empty() && !settings.allow_anonymous;
    if local && !address.ip().is_loopback() {
        return Err(Error::Anonymous { address });
    }
    Ok(local)
}

/// Serves dashboards on `listener` until `shutdown`; `extra_routes` are served beside (the demo's controls).
///
/// # Errors
/// Where only an operator can help; an absent Kafka is waited for.
pub async fn run(
    settings: GatewaySettings,
    kafka: KafkaSettings,
    monitor: Monitor,
    extra_routes: Router,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let check = monitor.check(
        "gateway kafka",
        &format!("no answer yet from {}", kafka.bootstrap),
    );
    let keys = Keys::load(&settings.keys, &settings.tokens)?.with_sets(&settings.key_sets)?;
    let tls = Tls::load(&settings.tls)?;
    let address = listener.local_addr().map_err(Error::Listen)?;
    let local = is_local(&settings, &keys, address)?;
    if keys.is_empty() {
        tracing::warn!(%address, "no gateway.keys: whoever reaches this address reads everything");
    }
    // Whatever ends this part ends its connections, and leaves the others to the caller.
    let shutdown = shutdown.child_token();
    if !keys.sets().is_empty() {
        let metrics = monitor.register(keyset::Metrics::new);
        for set in keys.sets() {
            tokio::spawn(Arc::clone(set).follow(metrics.clone(), shutdown.clone()));
        }
    }
    if let Some(tls) = &tls {
        tokio::spawn(Arc::clone(tls).follow(shutdown.clone()));
    }
    let live = Arc::new(Live {
        permits: Arc::new(Semaphore::new(settings.limits.connections)),
        addresses: Seats::new(settings.limits.per_address),
        address_connects: Rates::new(settings.limits.connects_per_address),
        settings,
        hub: OnceLock::new(),
        shutdown: shutdown.clone(),
        local,
    });
    let router = Router::new()
        .route("/v1/live", any(live::live))
        .with_state(Arc::clone(&live))
        .merge(extra_routes)
        .fallback(page::page);
    let metrics = monitor.register(Metrics::new);
    let of_commands = monitor.register(commands::Metrics::new);
    // Read on until the last connection has gone.
    let done = CancellationToken::new();
    let metrics = (metrics, of_commands);
    let mut reading = std::pin::pin!(read(&live, &kafka, keys, metrics, &check, &done).fuse());
    let result = tokio::select! {
        result = &mut reading => result,
        result = serve(listener, tls.as_ref(), &router, &live) => result.map_err(Error::Listen),
    };
    check.failing("the gateway is stopping");
    shutdown.cancel();
    let all = u32::try_from(live.settings.limits.connections).unwrap_or(u32::MAX);
    let drain = live.settings.drain + GOODBYE;
    tokio::select! {
        // Whoever has not gone by then is left.
        _ = tokio::time::timeout(drain, live.permits.acquire_many(all)) => {}
        _ = &mut reading, if !reading.is_terminated() => {}
    }
    done.cancel();
    if let Some(commands) = live.hub.get().and_then(|hub| hub.commands.get()).cloned() {
        // What was audited last.
        let _ = tokio::task::spawn_blocking(move || commands.flush(GOODBYE)).await;
    }
    result
}

/// Connects to Kafka, reads the topics up to their ends, opens the live channel, and reads on until it is shut down.
async fn read(
    live: &Live,
    settings: &KafkaSettings,
    keys: Keys,
    (metrics, of_commands): (Metrics, commands::Metrics),
    check: &Check,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let Some(partitions) = kafka::await_topics(settings, check, shutdown).await? else {
        return Ok(());
    };
    let limits = headwater_proto::Limits::default();
    let catch_up = CatchUp::start(settings, live.settings.catch_up_readers, &limits)?;
    let hub = Arc::new(Hub::new(
        live.settings.clone(),
        keys,
        metrics,
        catch_up,
        partitions,
    ));
    let taken = match (hub.keys.is_empty(), live.local) {
        (false, _) => Taken::ByToken,
        (true, true) => Taken::OfThisMachine,
        (true, false) => Taken::Never,
    };
    let of_settings = &hub.settings.commands;
    let commands = Commands::start(of_settings, settings, taken, partitions, of_commands, shutdown)?;
    // Nobody else fills it.
    let _ = hub.commands.set(commands);
    let readers = loop {
        match reader::open(&hub, settings, shutdown).await {
            Ok(Some(readers)) => break readers,
            Ok(None) => return Ok(()),
            Err(error) if error.is_transient() => check.failing(format!("{error}; trying again")),
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    };
    // Nobody else fills it.
    let _ = live.hub.set(Arc::clone(&hub));
    check.ready();
    readers.run(&hub, check, shutdown).await;
    Ok(())
}

/// Accepts connections until it is shut down; then the listener is closed.
async fn serve(
    listener: TcpListener,
    tls: Option<&Arc<Tls>>,
    router: &Router,
    live: &Live,
) -> std::io::Result<()> {
    let sockets = Arc::new(Semaphore::new(live.settings.limits.connections + OTHERS));
    loop {
        let (stream, peer, permit) = tokio::select! {
            accepted = accept(&listener, &sockets) => accepted?,
            () = live.shutdown.cancelled() => return Ok(()),
        };
        // Frames are whole messages; waiting for more to send with them only makes them late.
        let _ = stream.set_nodelay(true);
        let router = TowerToHyperService::new(router.clone());
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(peer);
            router.call(request)
        });
        let (tls, shutdown) = (tls.cloned(), live.shutdown.clone());
        let head_time = live.settings.hello_timeout;
        tokio::spawn(async move {
            match tls {
                None => connection(stream, service, (head_time, LONGEST), &shutdown).await,
                Some(tls) => match tokio::time::timeout(head_time, tls.accept(stream)).await {
                    Ok(Ok(stream)) => connection(stream, service, (head_time, LONGEST), &shutdown).await,
                    Ok(Err(error)) => tracing::debug!(%peer, "no TLS: {error}"),
                    Err(_) => tracing::debug!(%peer, "no TLS within {head_time:?}"),
                },
            }
            drop(permit);
        });
    }
}

/// Serves HTTP on a connection until it ends, is upgraded, its time is over, or `shutdown`.
async fn connection<T, S>(
    stream: T,
    service: S,
    (head_time, longest): (Duration, Duration),
    shutdown: &CancellationToken,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: hyper::service::Service<
            hyper::Request<Incoming>,
            Response = axum::response::Response,
            Error = Infallible,
        >,
    S::Future: Send,
{
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_time)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // What a client does wrong in HTTP is between hyper and the client. One that is upgraded ends here too.
        _ = connection.as_mut() => return,
        () = shutdown.cancelled() => {}
        // Whoever does not take the page's files would hold its place for ever.
        () = tokio::time::sleep(longest) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(GOODBYE, connection).await;
}

async fn accept(
    listener: &TcpListener,
    sockets: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    // The semaphore is never closed.
    let permit = Arc::clone(sockets)
        .acquire_owned()
        .await
        .map_err(std::io::Error::other)?;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return Ok((stream, peer, permit)),
            // Out of file descriptors, or a client that left already: others are served on.
            Err(error) => {
                tracing::warn!("a connection could not be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever asks and does not take the answer holds a place for a while, and not for ever.
    #[tokio::test]
    async fn a_connection_whose_answer_is_not_taken_ends_in_time() {
        let (near, mut far) = tokio::io::duplex(1 << 10);
        let service = service_fn(async |_: hyper::Request<Incoming>| {
            Ok::<_, Infallible>(axum::response::Response::new("x".repeat(1 << 20).into()))
        });
        let serving = tokio::spawn(async move {
            let times = (Duration::from_secs(60), Duration::from_millis(200));
            connection(near, service, times, &CancellationToken::new()).await;
        });
        let asked = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut far, asked)
            .await
            .unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(60), serving).await;
        ended.expect("it goes on for ever").unwrap();
        drop(far);
    }
}
