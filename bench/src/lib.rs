//! Measurements beside named peers: every figure Headwater states comes from here.
//!
//! - [`agent`]: memory and CPU time of the agent as a process, beside Telegraf.
//! - [`bridge`]: CPU time of the bridge between real MQTT and Kafka, beside Telegraf and Redpanda Connect.
//! - [`fanout`]: CPU time, bytes, latency and memory of the gateway, beside Centrifugo and the Node pattern.
//! - [`flash`]: what a day costs the flash, and what opening a journal costs.
//! - [`link`]: bytes per reading at the broker's socket.
//! - [`trace`]: a CSV file as rows, and its batches in Headwater's model.
//! - [`peers`]: the same batches as JSON, protobuf rows, Sparkplug B and pco.
//! - [`table`]: bytes per reading, side by side, and the targets.

pub mod agent;
pub mod bridge;
pub mod fanout;
pub mod flash;
pub mod link;
pub mod peers;
pub mod table;
pub mod trace;
