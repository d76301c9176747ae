//! Updates over the air: a program that was signed, into one of two slots of the state directory, started under watch, and back to the one before
//! by itself if it does not reach the relay in time.
//!
//! - `signature`, `manifest`: what was signed, and by whom.
//! - `slots`: what is remembered; `rack`: every step, in its order on the `medium`; `model`: power cuts at each of them.
//! - `launch`: the first thing that a started program does: which of the programs is to run.
//! - `fetch`: the way here, in pieces. What commands have to do with it is `control/update.rs`.
//!
//! **Who watches.** The program that the package brought is what a service manager starts; it becomes the one in the slot (execve(2)), so that
//! nothing stays in memory beside it. Before a trial it sets the process' alarm(2), which outlives that: a program that hangs, whatever it
//! hangs in, is ended by the kernel, and whoever restarts the agent after a crash starts the packaged program again, which sees in the state that
//! a trial has ended. One that runs but does not reach the relay gives itself up and starts the packaged program in its own place, which
//! needs nobody.

pub(crate) mod fetch;
mod launch;
pub(crate) mod manifest;
pub(crate) mod medium;
#[cfg(test)]
mod model;
pub(crate) mod rack;
pub(crate) mod signature;
pub(crate) mod slots;

pub(crate) use launch::{calm, instead, slot, watch_stop};
pub use launch::{gave_up, launch, stopped};
