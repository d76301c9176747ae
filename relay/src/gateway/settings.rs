//! The section `gateway` of the settings.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use headwater_config::ByteSize;
use serde::Deserialize;

use super::commands::settings::CommandSettings;
use super::keyset::KeySetSettings;
use super::tls::TlsSettings;
use super::window;

/// Kafka → WebSocket.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewaySettings {
    /// Where dashboards connect.
    pub listen: SocketAddr,
    /// Serve everybody everything on an address that others can reach, though no keys are configured.
    pub allow_anonymous: bool,
    /// Origins (`https://dash.example`) of web pages, beside the gateway's own, that may connect; `*`: any.
    pub allowed_origins: Vec<String>,
    /// Keys that tokens are checked with; none: everybody may read everything, on loopback only.
    pub keys: Vec<KeySettings>,
    /// Sets of keys that tokens are checked with too, from URLs or files, kept up to date.
    pub key_sets: Vec<KeySetSettings>,
    /// What tokens must say.
    pub tokens: TokenSettings,
    /// TLS for dashboards.
    pub tls: TlsSettings,
    /// Memory for the end of the log, from which live subscribers read.
    pub log: ByteSize,
    /// Records of a partition that are read into the log when somebody comes to watch it.
    pub log_backfill: u32,
    /// A partition that nobody watches any more is read on for this long.
    #[serde(with = "headwater_config::duration")]
    pub linger: Duration,
    /// Memory for the newest value of every metric.
    pub cache: ByteSize,
    /// Memory for what LATEST and SERIES subscriptions hold, of all connections together.
    pub held: ByteSize,
    /// Subscribers that fell behind the log read from Kafka, this many at a time.
    pub catch_up_readers: usize,
    /// The greatest window a client gets: frames.
    pub window_frames: u32,
    /// The greatest window a client gets: bytes.
    pub window_bytes: ByteSize,
    /// A client is pinged when nothing came of it for this long, and let go after twice that.
    #[serde(with = "headwater_config::duration")]
    pub keep_alive: Duration,
    /// How long a connection may take to say hello, and before that to send its request.
    #[serde(with = "headwater_config::duration")]
    pub hello_timeout: Duration,
    /// How long frames may stay unacknowledged altogether.
    #[serde(with = "headwater_config::duration")]
    pub ack_timeout: Duration,
    /// Commands from dashboards.
    pub commands: CommandSettings,
    /// When the gateway is told to stop, its connections are told to go one by one over this time, so that not all come to
    /// another at once.
    #[serde(with = "headwater_config::duration")]
    pub drain: Duration,
    /// What a client may ask of the gateway.
    pub limits: LimitSettings,
}

impl Default for GatewaySettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            allow_anonymous: false,
            allowed_origins: Vec::new(),
            keys: Vec::new(),
            key_sets: Vec::new(),
            tokens: TokenSettings::default(),
            tls: TlsSettings::default(),
            log: ByteSize::mib(64),
            log_backfill: 1000,
            linger: Duration::from_secs(60),
            cache: ByteSize::mib(64),
            held: ByteSize::mib(128),
            catch_up_readers: 4,
            window_frames: 1024,
            window_bytes: ByteSize::mib(16),
            keep_alive: Duration::from_secs(20),
            hello_timeout: Duration::from_secs(10),
            ack_timeout: Duration::from_secs(600),
            commands: CommandSettings::default(),
            drain: Duration::from_secs(5),
            limits: LimitSettings::default(),
        }
    }
}

impl GatewaySettings {
    /// The greatest window a client gets.
    pub fn window(&self) -> window::Size {
        window::Size {
            frames: self.window_frames,
            bytes: self.window_bytes.as_u64(),
        }
    }
}

/// A key that tokens are checked with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySettings {
    /// The only algorithm it is used with.
    pub algorithm: Algorithm,
    /// A public key in PEM (EdDSA, RS256), or the secret (HS256; white space at its end is not part of it).
    pub file: PathBuf,
    /// The `kid` of tokens that it is for; empty: any.
    #[serde(default)]
    pub id: String,
}

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Algorithm {
    /// Ed25519.
    EdDSA,
    /// RSA with SHA-256.
    RS256,
    /// A shared secret with SHA-256.
    HS256,
}

/// What tokens must say.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenSettings {
    /// One of these in `aud`; empty: not looked at.
    pub audience: Vec<String>,
    /// One of these as `iss`; empty: not looked at.
    pub issuer: Vec<String>,
    /// By how much clocks may differ.
    #[serde(with = "headwater_config::duration")]
    pub leeway: Duration,
}

impl Default for TokenSettings {
    fn default() -> Self {
        Self {
            audience: Vec::new(),
            issuer: Vec::new(),
            leeway: Duration::from_secs(5),
        }
    }
}

/// What a client may ask of the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// WebSocket connections.
    pub connections: usize,
    /// Those of one address; 0: no limit of its own. Behind a proxy all come from the proxy's.
    pub per_address: usize,
    /// Those of one token subject; 0: no limit of its own.
    pub per_subject: usize,
    /// Subscriptions of one connection.
    pub subscriptions: usize,
    /// Globs of all subscriptions of one connection together.
    pub globs: usize,
    /// Connections a second that one address may begin, four seconds' worth at once; 0: no limit of its own.
    pub connects_per_address: u32,
    /// Those with tokens of one subject.
    pub connects_per_subject: u32,
    /// Messages a second of one connection, four seconds' worth at once; a subscription counts for ten.
    pub messages: u32,
    /// Those of all connections of one address together; 0: no limit of its own.
    pub messages_per_address: u32,
    /// Those of all connections of one token subject together; 0: no limit of its own.
    pub messages_per_subject: u32,
    /// Bytes that the LATEST and SERIES subscriptions of one connection hold for it while it does not take its frames.
    pub held: ByteSize,
    /// Bytes of a message of a client, as it comes and inflated.
    pub message: ByteSize,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            connections: 10_000,
            per_address: 0,
            per_subject: 1000,
            subscriptions: 64,
            globs: 1024,
            connects_per_address: 0,
            connects_per_subject: 250,
            messages: 5000,
            messages_per_address: 0,
            messages_per_subject: 50_000,
            held: ByteSize::mib(8),
            message: ByteSize::kib(256),
        }
    }
}
