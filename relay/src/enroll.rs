//! Devices' certificates: an endpoint that signs them, and what an operator does about them.
//!
//! A device comes with a token that lets it in once, bound to its name, and a signing request; it is given a certificate whose name is
//! the token's to say and whose powers are the endpoint's: nothing of a request is copied but its public key. It renews with the certificate
//! that it has, for the same key.
//!
//! `register` is what has to be remembered, as plain files; `authority` parses requests and signs; `desk` decides, with the time as an
//! argument; `standing` says how each device stands; `server` is the port, and `limits` what one address may have of it; [`fleet`] is the operator's commands, which work on the register
//! beside a running endpoint.

mod authority;
mod desk;
pub mod fleet;
mod limits;
mod register;
mod server;
pub mod settings;
mod standing;
mod unfinished;
mod way;

use std::path::PathBuf;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admin::Monitor;
use desk::Desk;
use register::Register;
use settings::EnrollSettings;

/// What keeps the endpoint, or a command, from its work. Each message is whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is missing.
    #[error("{key} is not set; see [enroll] in deploy/relay.toml")]
    Missing {
        /// Which.
        key: &'static str,
    },
    /// A file cannot be used.
    #[error("{key}: {}: {why}", path.display())]
    File {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate or key.
    #[error("enroll.{0}")]
    Pem(#[from] crate::mqtt::tls::Error),
    /// Another endpoint uses the register.
    #[error(
        "enroll.state: another endpoint uses {}: the endpoint runs once, so that no token is used twice",
        .0.display()
    )]
    Held(PathBuf),
    /// What was asked for makes no sense, or cannot be done.
    #[error("{0}")]
    Argument(String),
    /// The listener failed.
    #[error("the listener failed: {0}")]
    Listen(std::io::Error),
}

/// Checks what the endpoint needs, without starting it.
///
/// # Errors
/// [`Error`].
pub fn check(settings: &EnrollSettings) -> Result<(), Error> {
    server::Tls::load(settings)?;
    Desk::open(settings).map(|_| ())
}

/// Checks what is written onto cards (`enroll.url`, if it is set) against the endpoint's certificate, as devices will.
///
/// # Errors
/// [`Error`].
pub fn check_way(settings: &EnrollSettings) -> Result<(), Error> {
    settings
        .url
        .as_deref()
        .map_or(Ok(()), |url| way::check(settings, url))
}

/// Serves devices until `shutdown`.
///
/// # Errors
/// [`Error`].
pub async fn run(
    settings: EnrollSettings,
    monitor: Monitor,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    drop(monitor.check("enroll", "starting"));
    let _alone = Register::open(&settings.state)?.endpoint()?;
    let desk = Desk::open(&settings)?;
    let tls = server::Tls::load(&settings)?;
    if let Err(why) = check_way(&settings) {
        tracing::warn!("{why}");
    }
    server::serve(settings, desk, tls, &monitor, listener, shutdown).await
}
