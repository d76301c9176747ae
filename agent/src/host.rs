//! What the host says of itself.

use std::fs;

/// The host's name, if it has one.
pub(crate) fn name() -> Option<String> {
    let name = line("/proc/sys/kernel/hostname").or_else(|| std::env::var("HOSTNAME").ok())?;
    Some(name).filter(|name| !name.is_empty())
}

/// The id of this boot, or empty.
pub(crate) fn boot_id() -> String {
    line("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

fn line(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_string())
}
