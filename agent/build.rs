//! Passes the target triple on, which hello tells, and when the program was made, before which no clock is believed.

use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    let target = std::env::var("TARGET").unwrap_or_default();
    println!("cargo::rustc-env=TARGET={target}");
    // Whoever builds reproducibly says when.
    let made = std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .and_then(|text| text.parse().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let made: u64 = made.unwrap_or_else(|| now.map_or(0, |now| now.as_secs()));
    println!("cargo::rustc-env=HEADWATER_MADE={made}");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo::rerun-if-changed=build.rs");
}
