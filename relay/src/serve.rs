//! Runs the parts of one process until it is told to stop.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Monitor};
use crate::certificates::Certificates;
use crate::settings::{LogSettings, Settings};
use crate::{bridge, enroll, gateway, kafka, log, rows};

/// A part of the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// MQTT → Kafka.
    Bridge,
    /// Kafka → WebSocket.
    Gateway,
    /// Kafka → Kafka, one record a reading.
    Rows,
    /// Devices' certificates.
    Enroll,
}

/// What ends the process. Each message is whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `log.level` is not one.
    #[error("log.level = {given:?}: {why}")]
    Log {
        /// What was given.
        given: String,
        /// What is wrong with it.
        why: String,
    },
    /// A port cannot be had.
    #[error("cannot listen on {address} ({key}): {why}")]
    Bind {
        /// The setting.
        key: &'static str,
        /// Its value.
        address: SocketAddr,
        /// What the system says.
        why: std::io::Error,
    },
    /// The system gives no signals, or a listener failed.
    #[error(transparent)]
    System(#[from] std::io::Error),
    /// The bridge ended.
    #[error("bridge: {0}")]
    Bridge(bridge::Error),
    /// The gateway ended.
    #[error("gateway: {0}")]
    Gateway(gateway::Error),
    /// The enrolment endpoint ended.
    #[error("enroll: {0}")]
    Enroll(enroll::Error),
    /// The making of rows ended.
    #[error("rows: {0}")]
    Rows(kafka::Error),
}

/// Sets up logging to standard error.
///
/// # Errors
/// [`Error::Log`].
pub fn log(settings: &LogSettings) -> Result<(), Error> {
    let filter = LogSettings::filter(&settings.level).map_err(|why| Error::Log {
        given: settings.level.clone(),
        why,
    })?;
    log::init(settings, filter);
    Ok(())
}

/// Checks all that can be wrong with the settings of these parts without anything being started: files of keys and
/// secrets, properties of Kafka's client, who would be served.
///
/// # Errors
/// [`Error::Bridge`], [`Error::Gateway`], [`Error::Rows`], [`Error::Enroll`].
pub fn check(settings: &Settings, parts: &[Part]) -> Result<(), Error> {
    if parts.contains(&Part::Gateway) {
        gateway::check(&settings.gateway, &settings.kafka).map_err(Error::Gateway)?;
    }
    if parts.contains(&Part::Bridge) {
        bridge::check(&settings.mqtt, &settings.kafka).map_err(Error::Bridge)?;
    }
    if parts.contains(&Part::Rows) {
        settings.kafka.check().map_err(Error::Rows)?;
    }
    if parts == [Part::Enroll] && settings.enroll.listen.is_none() {
        return Err(Error::Enroll(enroll::Error::Missing { key: "enroll.listen" }));
    }
    if parts.contains(&Part::Enroll) && settings.enroll.listen.is_some() {
        enroll::check(&settings.enroll).map_err(Error::Enroll)?;
    }
    Ok(())
}

/// Runs these parts until SIGINT or SIGTERM. The settings have passed [`check`].
///
/// # Errors
/// Where only an operator can help: a taken port, topics that do not fit. An absent broker is waited for.
pub async fn run(settings: Settings, parts: &[Part]) -> Result<(), Error> {
    let monitor = Monitor::new();
    if let Some(certificates) = Certificates::of(&settings, parts) {
        monitor.register(|registry| registry.register_collector(Box::new(certificates)));
    }
    let shutdown = CancellationToken::new();
    let mut tasks: JoinSet<Result<(), Error>> = JoinSet::new();

    let listener = bind("admin.listen", settings.admin.listen).await?;
    tracing::info!("health and metrics on http://{}", listener.local_addr()?);
    // It goes last: while the others stop, it says so.
    let admin_stop = CancellationToken::new();
    let (of_admin, stop) = (monitor.clone(), admin_stop.clone());
    let mut admin = tokio::spawn(async move { Ok(admin::serve(listener, of_admin, stop).await?) });
    let mut admin_ended = false;

    if parts.contains(&Part::Gateway) {
        let listener = bind("gateway.listen", settings.gateway.listen).await?;
        let scheme = if settings.gateway.tls.cert_file.is_some() {
            "https"
        } else {
            "http"
        };
        tracing::info!("dashboards on {scheme}://{}", listener.local_addr()?);
        let (gateway, kafka) = (settings.gateway, settings.kafka.clone());
        let (monitor, stop) = (monitor.clone(), shutdown.clone());
        tasks.spawn(async move {
            gateway::run(gateway, kafka, monitor, axum::Router::new(), listener, stop)
                .await
                .map_err(Error::Gateway)
        });
    }
    // With the others only where it is asked for: it doubles what Kafka stores many times over.
    if parts.contains(&Part::Rows) && (parts == [Part::Rows] || settings.rows.enabled) {
        let (rows, kafka) = (settings.rows.clone(), settings.kafka.clone());
        let limits = settings.bridge.limits.codec();
        let (monitor, stop) = (monitor.clone(), shutdown.clone());
        tasks.spawn(async move {
            rows::run(rows, kafka, limits, monitor, stop)
                .await
                .map_err(Error::Rows)
        });
    }
    if let Some(address) = settings.enroll.listen.filter(|_| parts.contains(&Part::Enroll)) {
        let listener = bind("enroll.listen", address).await?;
        let (enroll, monitor, stop) = (settings.enroll.clone(), monitor.clone(), shutdown.clone());
        tasks.spawn(async move {
            enroll::run(enroll, monitor, listener, stop)
                .await
                .map_err(Error::Enroll)
        });
    }
    if parts.contains(&Part::Bridge) {
        let (bridge, mqtt, kafka) = (settings.bridge, settings.mqtt, settings.kafka);
        let foreign = settings.foreign;
        let (monitor, stop) = (monitor.clone(), shutdown.clone());
        tasks.spawn(async move {
            bridge::run(bridge, mqtt, foreign, kafka, monitor, stop)
                .await
                .map_err(Error::Bridge)
        });
    }

    let result = tokio::select! {
        signal = stop_signal() => signal.map_err(Error::System).map(|name| tracing::info!("{name}: stopping")),
        // A part that ends by itself takes the process with it: better restarted whole than running in half.
        Some(ended) = tasks.join_next() => flatten(ended),
        ended = &mut admin => {
            admin_ended = true;
            flatten(ended)
        }
    };
    monitor.check("process", "stopping");
    shutdown.cancel();
    let mut result = result;
    while let Some(ended) = tasks.join_next().await {
        result = result.and(flatten(ended));
    }
    admin_stop.cancel();
    if !admin_ended {
        result = result.and(flatten(admin.await));
    }
    result
}

/// Binds, with the setting in the error.
///
/// # Errors
/// [`Error::Bind`].
pub async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|why| Error::Bind { key, address, why })
}

/// Waits for SIGINT or SIGTERM and returns its name.
///
/// # Errors
/// If the system gives no signals.
pub async fn stop_signal() -> std::io::Result<&'static str> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    })
}

fn flatten(ended: Result<Result<(), Error>, tokio::task::JoinError>) -> Result<(), Error> {
    match ended {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Ok(()),
    }
}
