//! What can be wrong with a batch, a frame or a name.

use alloc::string::String;

/// What was wrong and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes end in the middle of something.
    #[error("{what} is truncated at byte {at}")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Offset in the input.
        at: usize,
    },
    /// The bytes cannot be what they claim to be.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// What was being read: "column 3 (temp)", "time column 0".
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The envelope's version, encoding or compression is unknown to this build.
    #[error(
        "envelope byte {byte:#04x}: {field} {value} is not known to this version; upgrade the receiver or lower the sender's setting"
    )]
    Envelope {
        /// The envelope byte.
        byte: u8,
        /// `version`, `encoding` or `compression`.
        field: &'static str,
        /// Its value.
        value: u8,
    },
    /// A limit was passed.
    #[error("{what}: {actual} is over the limit of {limit}")]
    Limit {
        /// Which limit, as its field in [`crate::Limits`] is called.
        what: &'static str,
        /// What was there (or the least it would have been).
        actual: usize,
        /// The limit.
        limit: usize,
    },
    /// The batch names its columns by a series set that is not the one given.
    #[error("series set {hash:08x} is not known")]
    UnknownSeriesSet {
        /// The hash in the frame.
        hash: u32,
    },
    /// A device or metric name is not allowed.
    #[error("{kind} name {name:?}: {why}")]
    Name {
        /// `device` or `metric`.
        kind: &'static str,
        /// The name, cut to 64 characters.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
}
