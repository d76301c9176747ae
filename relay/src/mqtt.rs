//! How the relay's connections to MQTT brokers are made: what each has in common, whatever it subscribes.
//!
//! [`settings`] is what a section of the configuration says, [`broker`] an address in it, [`tls`] what its PEM files hold, and [`route`]
//! which of several brokers is next, with the options that rumqttc takes for it. Files are read when a connection is made, so a
//! renewed certificate or password is used from the next connection on.
//!
//! Not over WebSocket: rumqttc's brings a second WebSocket library, and a broker that agents reach so has a port for
//! servers, too.

pub mod broker;
pub mod route;
pub mod settings;
pub mod tls;

pub use route::Route;
pub use settings::MqttSettings;

/// What keeps a connection from being tried. Each message is whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A broker's address is none.
    #[error("{section}.broker {address:?}: {why}")]
    Broker {
        /// The section of the settings.
        section: String,
        /// What was given.
        address: String,
        /// What is wrong with it, and what to write.
        why: String,
    },
    /// The password cannot be read.
    #[error("{section}.password_file: {why}")]
    Secret {
        /// The section of the settings.
        section: String,
        /// What is wrong.
        why: headwater_config::Error,
    },
    /// A file of TLS's cannot be used.
    #[error("{section}.tls.{why}")]
    Tls {
        /// The section of the settings.
        section: String,
        /// The key, and what is wrong.
        why: tls::Error,
    },
    /// The files could not be read to their end, as at a stop.
    #[error("{section}: its files were not read: {why}")]
    Interrupted {
        /// The section of the settings.
        section: String,
        /// What came between.
        why: String,
    },
}

/// Not for secrets: ids and jitter.
pub(crate) fn random() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish() as u32
}
