//! HTTP/1.1: for whoever comes to a port of the agent's (`server`), and for what the agent asks of others (`client`).

#[cfg(feature = "enroll")]
pub(crate) mod client;
#[cfg(any(feature = "prometheus", feature = "source-http"))]
mod server;

#[cfg(any(feature = "prometheus", feature = "source-http"))]
pub(crate) use server::{Answering, serve};
