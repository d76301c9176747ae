//! `headwater-relay fleet`: what is done to many devices at a time.

use clap::Subcommand;

use crate::settings::Settings;

pub mod rollout;
pub mod roster;
pub mod update;

/// What to do.
#[derive(Subcommand, Clone, Debug)]
pub enum Options {
    /// Installs a signed release on a share of the agents, follows what comes of it, and stops by itself when too many fail.
    Update(update::Options),
}

/// Why it was not begun, or could not go on. Each message is whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Kafka, or what is set of it.
    #[error(transparent)]
    Kafka(#[from] crate::kafka::Error),
    /// What was given makes no sense.
    #[error("{0}")]
    Argument(String),
    /// Standard output is closed.
    #[error("standard output: {0}")]
    Output(#[from] std::io::Error),
}

/// Does what is asked for; returns whether all of it was done. Blocks.
///
/// # Errors
/// [`Error`].
pub fn run(options: &Options, settings: &Settings) -> Result<bool, Error> {
    match options {
        Options::Update(options) => update::run(options, &settings.kafka),
    }
}
