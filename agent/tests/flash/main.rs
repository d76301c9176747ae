//! The journal of the running program on real files: a file system that fills up, that may only be read, whose files are deleted; what is
//! said of the way it is mounted; a second agent, and a second process that looks.
//!
//! Some of these tests mount small file systems of their own, which only root may do.
#![allow(
    clippy::unwrap_used,
    reason = "in the tests' own parts too, a panic is the report"
)]

mod agent;
mod beside;
mod golden;
mod mount;
mod mounted;
mod trouble;
