//! The Headwater edge agent: sources → batcher → journal → uplink.
//!
//! One file per noun; what decides is plain structs with time as an argument, what waits is tokio:
//!
//! - [`config`]: the settings.
//! - `source`: where readings come from; one file per kind, each behind its cargo feature.
//! - `rules`: what is done to readings on their way from there, metric by metric.
//! - `batcher`, `sealer`: readings become batches, and batches become encoded entries no larger than a frame.
//! - `journal`: where they wait until the relay has acknowledged them.
//! - `uplink`: what is said to the relay, and what is made of its answers; `uplink::link` is the connection there is.
//! - `mqtt`: a connection to a broker: packets, TLS, time-outs, bytes counted.
//! - `enroll`: this agent's certificate, from the relay's enrolment endpoint; `first_boot`: the file that a field engineer lays on an SD card.
//! - `thinning`: how coarsely readings are taken while the data budget runs short.
//! - [`update`]: another version of this program, over the air; [`version`]: which one this is.
//! - [`stats`], [`status`], `health`: the figures of all parts, and how they are told.
//! - `state`: the small files that outlive the process.
//! - `pipeline`: the driver that ties the parts together, woken by its `alarm`; `control`: what is done to a running agent from outside; [`agent`]: the
//!   public face of this crate.

pub mod agent;
mod alarm;
mod batcher;
mod broker;
mod calendar;
pub mod check;
mod clock;
pub mod config;
mod control;
#[cfg(feature = "enroll")]
pub mod enroll;
pub mod error;
#[cfg(feature = "enroll")]
pub mod first_boot;
#[cfg(feature = "source-exec")]
mod group;
pub mod handle;
mod health;
mod host;
#[cfg(any(
    feature = "enroll",
    feature = "prometheus",
    feature = "source-http",
    feature = "update"
))]
mod http;
pub mod journal;
mod mqtt;
mod pipeline;
#[cfg(test)]
#[path = "../tests/link/port.rs"]
mod port;
pub mod process;
mod replies;
mod rules;
mod sealer;
mod setup;
mod source;
mod state;
pub mod stats;
pub mod status;
mod task;
mod thinning;
#[cfg(feature = "update")]
pub mod update;
mod uplink;
#[cfg_attr(
    not(feature = "update"),
    allow(dead_code, reason = "which of two is newer is asked by updates alone")
)]
pub mod version;

pub use agent::Agent;
pub use config::Config;
pub use error::Error;
pub use handle::AgentHandle;
pub use stats::{AgentStats, ClockState, JournalFault, JournalMode, SourceState, SourceStats};
pub use status::Status;
