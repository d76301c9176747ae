//! What devices and metrics may be called.

use crate::Error;

/// Longest device name, bytes.
pub const DEVICE_MAX: usize = 128;
/// Longest metric name, bytes.
pub const METRIC_MAX: usize = 256;

/// A device's name stands in MQTT topics, Kafka keys and URLs: 1 to 128 of `A-Z a-z 0-9 . _ : -`, beginning with a
/// letter or a digit.
pub fn check_device(name: &str) -> Result<(), Error> {
    let why = if name.is_empty() {
        "it is empty"
    } else if name.len() > DEVICE_MAX {
        "it is longer than 128 bytes"
    } else if !name.as_bytes()[0].is_ascii_alphanumeric() {
        "it must begin with a letter or a digit (A-Z a-z 0-9)"
    } else if !name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
    {
        "only A-Z a-z 0-9 . _ : - are allowed"
    } else {
        return Ok(());
    };
    Err(Error::Name {
        kind: "device",
        name: name.chars().take(64).collect(),
        why,
    })
}

/// A metric's name: 1 to 256 bytes of UTF-8 without control characters.
pub fn check_metric(name: &str) -> Result<(), Error> {
    let why = if name.is_empty() {
        "it is empty"
    } else if name.len() > METRIC_MAX {
        "it is longer than 256 bytes"
    } else if name.chars().any(char::is_control) {
        "control characters are not allowed"
    } else {
        return Ok(());
    };
    Err(Error::Name {
        kind: "metric",
        name: name.chars().take(64).collect(),
        why,
    })
}
