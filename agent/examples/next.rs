//! The agent's program as of another version: what tests of updates over the air install.

#[allow(dead_code, reason = "its own `main` is this crate's")]
#[path = "../src/main.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::program("9.0.0")
}
