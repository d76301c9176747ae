//! What can keep an agent from starting, or end it.

use std::path::PathBuf;

/// What was wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The settings or a secret cannot be read.
    #[error(transparent)]
    Config(#[from] headwater_config::Error),
    /// A setting has a value that is not allowed.
    #[error("setting `{key}`: {why}")]
    Setting {
        /// The key, dotted.
        key: String,
        /// What is wrong with it, and what is allowed.
        why: String,
    },
    /// The broker's address cannot be used.
    #[error("setting `uplink.broker`: {address:?} {why}")]
    Broker {
        /// As it was given.
        address: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The device's name is not allowed.
    #[error("{source}; set `device` in the configuration")]
    Device {
        /// What is wrong with it.
        source: headwater_proto::Error,
    },
    /// There is neither `device` nor a host name to take in its place.
    #[error("this host has no name that could be the device's; set `device` in the configuration")]
    NoDevice,
    /// The source is not part of this build.
    #[error(
        "source {number} is of type \"{kind}\", which this build leaves out; build with the feature `source-{kind}`"
    )]
    SourceLeftOut {
        /// Its position among the `[[source]]` tables, from 1.
        number: usize,
        /// Its type.
        kind: &'static str,
    },
    /// The source cannot be opened.
    #[error("source {number} ({kind}): {source}")]
    Source {
        /// Its position among the `[[source]]` tables, from 1.
        number: usize,
        /// Its type.
        kind: &'static str,
        /// Why.
        source: SourceError,
    },
    /// The system gives no random numbers, without which no stream can be told from another.
    #[error("the system gives no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// Another agent runs with the same state directory.
    #[error(
        "another agent{} uses {}: two would mix their journals; stop it, or give each its own `state_dir`",
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(), path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The other's process id, if it says so.
        pid: Option<u32>,
    },
    /// A thread or a runtime cannot be started.
    #[error("cannot start {what}: {source}")]
    Start {
        /// What.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A setting cannot change while the agent runs.
    #[error("setting `{key}`: it cannot change while the agent runs; restart the agent")]
    Restart {
        /// The key.
        key: &'static str,
    },
    /// A setting that came by command, and that only the machine's own configuration may widen.
    #[error("setting `{key}`: what may be done from outside can only be widened on the machine itself")]
    Local {
        /// The key, dotted.
        key: String,
    },
    /// There is no file to read the settings from again.
    #[error("the settings of this agent did not come from a file")]
    NoFile,
    /// A file of the state directory cannot be written or read.
    #[error("{}: {source}; without it {consequence}", path.display())]
    State {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
        /// What cannot be done.
        consequence: &'static str,
    },
    /// Opening the sources took too long; the thread that does it may hang.
    #[error("the sources are not open after {limit:?}; does a device or a file system hang?")]
    Opening {
        /// How long was waited.
        limit: std::time::Duration,
    },
    /// The agent runs no more.
    #[error("the agent has stopped")]
    Stopped,
}

/// What can be wrong with a source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A setting of it has a value that is not allowed.
    #[error("setting `{key}`: {why}")]
    Setting {
        /// The key.
        key: &'static str,
        /// What is wrong with it, and what is allowed.
        why: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{origin}: {why}")]
    Content {
        /// The file, with the line where known.
        origin: String,
        /// What is wrong.
        why: String,
    },
    /// The system does not tell its figures.
    #[error("the system does not tell its {what}: {why}")]
    System {
        /// Which figures.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// A device, a line, a port, a broker or a program cannot be had, or broke off.
    #[error("{what}: {why}")]
    Link {
        /// Which.
        what: String,
        /// Why, and what to do.
        why: String,
    },
}
