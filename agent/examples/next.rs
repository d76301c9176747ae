//! The agent's program as of another version: what tests of updates over the air install.

#[allow(dead_code, reason = "its own `main` is this crate's")]
#[path = "../src/main.rs"]
#[macro_use]
mod program;

fn main() -> std::process::ExitCode {
    // Some releases that are tested are a script around this program, and say that they are another version still.
    match std::env::var("NEXT_VERSION") {
        Ok(version) => program::program(format!("headwater-agent {version} {}\n", env!("TARGET")).leak()),
        Err(_) => program::program(mark!("9.0.0")),
    }
}
