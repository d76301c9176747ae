//! The settings of `modbus`.

use headwater_config::Duration;
use serde::Deserialize;

use super::line::Parity;

/// Devices that answer Modbus, over TCP or a serial line (RTU).
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct ModbusSource {
    /// Put before every metric's name. Default empty.
    pub prefix: String,
    /// Time between polls; at least 10 ms. Default 10 s.
    #[serde(with = "headwater_config::duration")]
    pub interval: Duration,
    /// `tcp://host:port` (the port is 502 if it is left out) or `rtu:///dev/serial/by-id/…`.
    pub address: String,
    /// How long an answer, or a connection, may take. Default 1 s.
    #[serde(with = "headwater_config::duration")]
    pub timeout: Duration,
    /// RTU: bits a second. Default 19,200, as the specification has it.
    pub baud: u32,
    /// RTU: default `even`, as the specification has it.
    pub parity: Parity,
    /// RTU: 1 or 2. Default 1.
    pub stop_bits: u8,
    /// RTU: silence between an answer and the next request; at least 3.5 characters are kept. Default 5 ms.
    #[serde(with = "headwater_config::duration")]
    pub pause: Duration,
    /// Most registers of one request, sixteen times as many coils. 1 to 125, default 100.
    pub max_registers: u16,
    /// Registers that nobody asked for are read along where at most so many lie between two that are wanted. Default 8.
    pub max_gap: u16,
    /// The devices at that address, polled in turn.
    #[serde(rename = "device")]
    pub devices: Vec<ModbusDevice>,
}

impl Default for ModbusSource {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            interval: Duration::from_secs(10),
            address: String::new(),
            timeout: Duration::from_secs(1),
            baud: 19_200,
            parity: Parity::Even,
            stop_bits: 1,
            pause: Duration::from_millis(5),
            max_registers: 100,
            max_gap: 8,
            devices: Vec::new(),
        }
    }
}

/// One device.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct ModbusDevice {
    /// Its unit id: 1 to 247; over TCP 0 to 255, where 255 or 0 is usual for a device that has an address of its own. Default 1.
    pub id: u8,
    /// Put before its metrics' names, after the source's. Default empty.
    pub prefix: String,
    /// Time between polls, where it differs from the source's.
    #[serde(with = "optional_duration")]
    pub interval: Option<Duration>,
    /// In which order it sends the bytes of a value that takes several. Default `ABCD`.
    pub order: ModbusOrder,
    /// What is read of it.
    #[serde(rename = "register")]
    pub registers: Vec<ModbusRegister>,
}

impl Default for ModbusDevice {
    fn default() -> Self {
        Self {
            id: 1,
            prefix: String::new(),
            interval: None,
            order: ModbusOrder::Abcd,
            registers: Vec::new(),
        }
    }
}

/// One value of a device.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct ModbusRegister {
    /// The metric's name.
    pub metric: String,
    /// Its unit (UCUM). Default none.
    pub unit: String,
    /// Default `holding`.
    pub table: ModbusTable,
    /// As the protocol counts, from 0: what manuals call 40001 or 4x0001 is the holding register 0.
    pub address: u16,
    /// Default `u16`; of coils and discrete inputs always `bool`.
    #[serde(rename = "type")]
    pub value: ModbusType,
    /// Where it differs from the device's.
    pub order: Option<ModbusOrder>,
    /// `bool` of a register: which bit, 0 the lowest. Unset: whether the register is not 0.
    pub bit: Option<u8>,
    /// `string`: how many registers it takes, two characters each. Default 1.
    pub length: u16,
    /// value = number × scale + offset. Default 1.
    pub scale: f64,
    /// See `scale`. Default 0.
    pub offset: f64,
    /// Numbers, before scaling, that mean that there is no value. Unset: 0xFFFF and alike of unsigned types, 0x8000 and alike of
    /// signed ones. NaN always means that.
    pub absent: Option<Vec<i64>>,
}

impl Default for ModbusRegister {
    fn default() -> Self {
        Self {
            metric: String::new(),
            unit: String::new(),
            table: ModbusTable::Holding,
            address: 0,
            value: ModbusType::U16,
            order: None,
            bit: None,
            length: 1,
            scale: 1.0,
            offset: 0.0,
            absent: None,
        }
    }
}

/// Where a value stands.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum ModbusTable {
    /// Holding registers (function 3).
    Holding,
    /// Input registers (function 4).
    Input,
    /// Coils (function 1).
    Coil,
    /// Discrete inputs (function 2).
    Discrete,
}

/// What a value is.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ModbusType {
    /// Unsigned, 16 bits.
    U16,
    /// Signed, 16 bits.
    I16,
    /// Unsigned, 32 bits.
    U32,
    /// Signed, 32 bits.
    I32,
    /// Unsigned, 64 bits; beyond 2^63 it is handed over as a double.
    U64,
    /// Signed, 64 bits.
    I64,
    /// IEEE 754, 32 bits.
    F32,
    /// IEEE 754, 64 bits.
    F64,
    /// A truth value.
    Bool,
    /// Text, without the spaces and zeros at its end.
    String,
}

/// In which order the bytes of a value come, A the highest of a 32-bit one. Of 64 bits `CDAB` has the four words from last to first; of
/// 16 bits, and of texts, only the order in a word counts.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
pub enum ModbusOrder {
    /// The highest first: what the specification has.
    Abcd,
    /// Words swapped.
    Cdab,
    /// Bytes swapped in each word.
    Badc,
    /// The lowest first.
    Dcba,
}

mod optional_duration {
    use headwater_config::{Duration, duration};
    use serde::Deserializer;

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        duration::deserialize(deserializer).map(Some)
    }
}
