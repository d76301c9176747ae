//! The settings of the sources. They are part of every build, so that one that leaves a source out can say so.

mod line;
mod modbus;
mod replay;
mod simulated;
mod sysfs;
mod system;

use serde::Deserialize;

pub use line::{FlowControl, Parity};
pub use modbus::{ModbusDevice, ModbusOrder, ModbusRegister, ModbusSource, ModbusTable, ModbusType};
pub use replay::{AtEnd, ReplaySource, ReplayTimes, Speed, Trace};
pub use simulated::SimulatedSource;
pub use sysfs::{SysfsFile, SysfsParse, SysfsPreset, SysfsSource};
pub use system::{SystemGroup, SystemSource};

/// Where readings come from.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Source {
    /// This machine's own figures.
    System(SystemSource),
    /// Devices that answer Modbus.
    Modbus(ModbusSource),
    /// A recorded trace.
    Replay(ReplaySource),
    /// Sensors that the kernel shows as files.
    Sysfs(SysfsSource),
    /// Made-up sensors.
    Simulated(SimulatedSource),
}

impl Source {
    /// Its `type`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::System(_) => "system",
            Self::Sysfs(_) => "sysfs",
            Self::Modbus(_) => "modbus",
            Self::Replay(_) => "replay",
            Self::Simulated(_) => "simulated",
        }
    }
}
