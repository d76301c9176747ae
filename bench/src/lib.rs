//! Measurements beside named peers: every figure Headwater states comes from here.
//!
//! - [`trace`]: a CSV file as rows, and its batches in Headwater's model.
//! - [`peers`]: the same batches as JSON, protobuf rows, Sparkplug B and pco.
//! - [`table`]: bytes per reading, side by side, and the targets.

pub mod peers;
pub mod table;
pub mod trace;
