//! The program that is tested.

use std::ffi::OsString;
use std::process::{Command, Stdio};

/// Its path: this build's, or what `HEADWATER_TESTED_AGENT` names, which may be another machine's under an emulator (`scripts/test`, phase `cross`).
pub(crate) fn path() -> OsString {
    std::env::var_os("HEADWATER_TESTED_AGENT").unwrap_or_else(|| env!("CARGO_BIN_EXE_headwater-agent").into())
}

/// It, without arguments.
pub(crate) fn program() -> Command {
    let mut command = Command::new(path());
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}
