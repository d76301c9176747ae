//! The agent on a link: as a library and as a program, with a real broker (Mosquitto) and a scripted relay.
#![allow(
    clippy::unwrap_used,
    reason = "in the tests' own parts too, a panic is the report"
)]

mod agent;
mod authority;
mod bridge;
mod brokers;
mod cable;
mod commands;
mod handed_in;
mod library;
mod mosquitto;
mod netns;
mod network;
mod operator;
mod port;
mod program;
mod proxy;
mod reload;
mod service;
mod site;
mod state;
mod status;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "update")]
mod update;
#[cfg(feature = "websocket")]
mod websocket;
