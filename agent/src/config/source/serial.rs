//! The settings of `serial`.

use headwater_config::ByteSize;
use serde::Deserialize;

use super::Mapping;
use super::line::{FlowControl, Parity};

/// A serial line on which somebody sends readings.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct SerialSource {
    /// Frames: put before every metric's name; lines are named by `map.name`. Default empty.
    pub prefix: String,
    /// The device; `/dev/serial/by-id/…` stays the same when it is plugged in elsewhere.
    pub path: String,
    /// Bits a second. Default 115,200.
    pub baud: u32,
    /// 7 or 8. Default 8.
    pub data_bits: u8,
    /// Default `none`.
    pub parity: Parity,
    /// 1 or 2. Default 1.
    pub stop_bits: u8,
    /// Default `none`.
    pub flow_control: FlowControl,
    /// What comes. Default `frames`.
    pub format: SerialFormat,
    /// The longest frame or line. 32 B to 64 KiB, default 1 KiB.
    pub max_length: ByteSize,
    /// How a line is read.
    pub map: Mapping,
}

impl Default for SerialSource {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            path: String::new(),
            baud: 115_200,
            data_bits: 8,
            parity: Parity::None,
            stop_bits: 1,
            flow_control: FlowControl::None,
            format: SerialFormat::Frames,
            max_length: ByteSize::kib(1),
            map: Mapping::default(),
        }
    }
}

/// What comes over a serial line.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum SerialFormat {
    /// Frames as [`headwater_proto::serial`] has them.
    #[default]
    Frames,
    /// Lines of text, each mapped by itself.
    Lines,
}
