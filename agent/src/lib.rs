//! The Headwater edge agent: sources → batcher → journal → uplink.
//!
//! One file per noun; what decides is plain structs with time as an argument, what waits is tokio:
//!
//! - [`config`]: the settings.
//! - [`agent`]: the driver that ties the parts together; the public face of this crate.

pub mod agent;
mod broker;
pub mod config;
pub mod error;
pub mod stats;

pub use agent::Agent;
pub use config::Config;
pub use error::Error;
pub use stats::{AgentHandle, AgentStats};
