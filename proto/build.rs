//! Compiles the `.proto` files with protox, so that no `protoc` has to be installed.

use std::error::Error;

const FILES: &[&str] = &[
    "headwater/v1/batch.proto",
    "headwater/v1/link.proto",
    "headwater/v1/fleet.proto",
    "headwater/v1/command.proto",
    "headwater/v1/live.proto",
    "headwater/v1/reading.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
