//! Where a source listens.

use std::net::SocketAddr;

use crate::error::SourceError;

/// Reads `address:port`; the address is one of this machine's own, not a name.
///
/// # Errors
/// [`SourceError::Setting`] with the key `listen`.
pub(crate) fn address(text: &str, whole: &str) -> Result<SocketAddr, SourceError> {
    text.parse().map_err(|_| SourceError::Setting {
        key: "listen",
        why: format!("{whole:?} has no address and port such as 127.0.0.1:8094 or [::1]:8094"),
    })
}

/// Whether other machines can reach it.
pub(crate) fn is_remote(address: &SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback()
}

/// Why nothing can be listened to.
pub(crate) fn failed(listen: &str, error: &std::io::Error) -> SourceError {
    let what = match error.kind() {
        std::io::ErrorKind::AddrInUse => "; another program listens there",
        std::io::ErrorKind::PermissionDenied => "; ports below 1024 are root's",
        std::io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        _ => "",
    };
    SourceError::Link {
        what: listen.to_string(),
        why: format!("it cannot be listened on: {error}{what}"),
    }
}
