//! permessage-deflate (RFC 7692) under tokio-tungstenite, which has none.
//!
//! No message depends on an earlier one, in either direction (no context takeover): so a frame is compressed once and
//! its bytes are shared by every connection, and a connection keeps no window of its own.
//!
//! - [`negotiation`]: what of a client's offers is accepted.
//! - [`shim`]: clears RSV1 beneath tungstenite, which would refuse it, and remembers which message had it.
//! - [`inflate`]: one message, up to a limit.
//! - [`prepared`]: a message compressed once for all.

pub mod inflate;
pub mod negotiation;
pub mod prepared;
pub mod shim;

/// The window we compress with, bits: 4 KiB. Frames are of that order, and it is what a client has to hold at least.
pub const WINDOW_BITS: u8 = 12;
