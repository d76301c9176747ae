//! HTTP/1.1: for whoever comes to a port of the agent's (`server`), and for what the agent asks of others (`client`).

#[cfg(any(feature = "enroll", feature = "update"))]
#[allow(dead_code, reason = "a part of it is for one, a part for another who asks")]
pub(crate) mod client;
#[cfg(any(feature = "prometheus", feature = "source-http"))]
mod server;

#[cfg(any(feature = "prometheus", feature = "source-http"))]
pub(crate) use server::{Answering, serve};
