//! Where readings come from: the contract between the agent and its sources. One file per kind of source.
//!
//! The agent opens every source before it starts, so that a wrong path or setting is refused at once. Then it gives each a
//! task of its own and calls [`Source::run`] there:
//!
//! - The source keeps its own schedule and hands each [`Sample`] to [`Output::send`] when it is taken. All readings of a
//!   sample share its time; sources on a schedule stamp the tick, not the moment they came to it, so that a regular cadence
//!   is regular to the microsecond.
//! - It may await as long as it likes. It must not block the thread: what blocks (or may hang, as a file system can) goes on
//!   a thread of its own, as in `system`. So no source ever delays another.
//! - `send` waits while the agent is behind. A source that comes back late skips the ticks it missed.
//! - `Ok` means that nothing more will ever come. On `Err` the agent logs it, waits (1 s, doubling to 1 min), and calls `run`
//!   again. Either way the other sources go on.
//! - The future may be dropped at any await, when the agent stops.
//! - Values that are decimals by nature are handed over as the doubles nearest to those decimals (see [`decimal`]): that is
//!   what the batch's encoding makes small.

#[cfg(not(any(
    feature = "source-system",
    feature = "source-modbus",
    feature = "source-replay",
    feature = "source-simulated",
    feature = "source-sysfs"
)))]
compile_error!(
    "an agent without any source has nothing to send: choose at least one of the features source-*"
);

#[cfg(feature = "source-modbus")]
mod line;
mod meter;
#[cfg(feature = "source-modbus")]
mod modbus;
mod output;
#[cfg(feature = "source-replay")]
mod replay;
#[cfg(any(feature = "source-modbus", feature = "source-sysfs"))]
mod scale;
mod schedule;
#[cfg(feature = "source-simulated")]
mod simulated;
#[cfg(feature = "source-sysfs")]
mod sysfs;
#[cfg(feature = "source-system")]
mod system;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use headwater_proto::Value;

use crate::config;
use crate::error::{Error, SourceError};

pub(crate) use meter::Meter;
pub(crate) use output::Output;
pub(crate) use schedule::Schedule;

/// What a source measures.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Metric {
    /// Its name; see [`headwater_proto::name::check_metric`].
    pub(crate) name: String,
    /// Its unit as in UCUM, or empty.
    pub(crate) unit: String,
}

impl Metric {
    pub(crate) fn new(name: impl Into<String>, unit: impl Into<String>) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            unit: unit.into(),
        })
    }
}

/// One metric's value in a sample.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) metric: Arc<Metric>,
    pub(crate) value: Value,
    /// The value is not to be trusted (outside its plausible range, say): it travels with a flag.
    pub(crate) suspect: bool,
}

impl Reading {
    /// A reading to be trusted.
    pub(crate) fn new(metric: Arc<Metric>, value: Value) -> Self {
        Self {
            metric,
            value,
            suspect: false,
        }
    }
}

/// What was sampled together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Microseconds since the Unix epoch, by [`Output::clock`].
    pub(crate) time_us: i64,
    pub(crate) readings: Vec<Reading>,
}

/// What [`Source::run`] returns.
pub(crate) type Running<'a> = Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send + 'a>>;

/// A source of readings; the module's documentation is its contract.
pub(crate) trait Source: Send {
    /// Samples until nothing more comes.
    fn run<'a>(&'a mut self, output: &'a Output) -> Running<'a>;
}

/// A source that is open, and what logs call it.
pub(crate) struct Opened {
    /// `source 2 (replay)`.
    pub(crate) name: String,
    pub(crate) source: Box<dyn Source>,
}

/// What logs and commands call the source that stands at position `number` (from 1) in the settings.
pub(crate) fn title(number: usize, settings: &config::Source) -> String {
    format!("source {number} ({})", settings.kind())
}

/// Opens the source that stands at position `number` (from 1) in the settings.
pub(crate) fn open(number: usize, settings: &config::Source, device: &str) -> Result<Opened, Error> {
    let (kind, name) = (settings.kind(), title(number, settings));
    let opened = match settings {
        config::Source::System(settings) => open_system(settings),
        config::Source::Sysfs(settings) => open_sysfs(settings),
        config::Source::Modbus(settings) => open_modbus(settings),
        config::Source::Replay(settings) => open_replay(settings),
        config::Source::Simulated(settings) => open_simulated(settings, device),
    };
    match opened {
        Some(Ok(source)) => Ok(Opened { name, source }),
        Some(Err(source)) => Err(Error::Source { number, kind, source }),
        None => Err(Error::SourceLeftOut { number, kind }),
    }
}

/// What opening gives; `None`: this build leaves the source out.
type Opening = Option<Result<Box<dyn Source>, SourceError>>;

#[cfg(feature = "source-system")]
fn open_system(settings: &config::SystemSource) -> Opening {
    Some(system::System::open(settings).map(|source| Box::new(source) as _))
}

#[cfg(not(feature = "source-system"))]
fn open_system(_: &config::SystemSource) -> Opening {
    None
}

#[cfg(feature = "source-sysfs")]
fn open_sysfs(settings: &config::SysfsSource) -> Opening {
    Some(sysfs::Sysfs::open(settings).map(|source| Box::new(source) as _))
}

#[cfg(not(feature = "source-sysfs"))]
fn open_sysfs(_: &config::SysfsSource) -> Opening {
    None
}

#[cfg(feature = "source-modbus")]
fn open_modbus(settings: &config::ModbusSource) -> Opening {
    Some(modbus::Modbus::open(settings).map(|source| Box::new(source) as _))
}

#[cfg(not(feature = "source-modbus"))]
fn open_modbus(_: &config::ModbusSource) -> Opening {
    None
}

#[cfg(feature = "source-replay")]
fn open_replay(settings: &config::ReplaySource) -> Opening {
    Some(replay::Replay::open(settings).map(|source| Box::new(source) as _))
}

#[cfg(not(feature = "source-replay"))]
fn open_replay(_: &config::ReplaySource) -> Opening {
    None
}

#[cfg(feature = "source-simulated")]
fn open_simulated(settings: &config::SimulatedSource, device: &str) -> Opening {
    Some(simulated::Simulated::open(settings, device).map(|source| Box::new(source) as _))
}

#[cfg(not(feature = "source-simulated"))]
fn open_simulated(_: &config::SimulatedSource, _: &str) -> Opening {
    None
}

/// The double nearest to `value` rounded to `digits` decimals (at most 15).
#[cfg(feature = "source-system")]
pub(crate) fn decimal(value: f64, digits: u32) -> f64 {
    let power = 10f64.powi(digits as i32);
    (value * power).round() / power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "source-system")]
    #[test]
    fn a_decimal_is_the_double_that_its_text_reads_as() {
        for (value, digits, text) in [
            (12.345_678_f64, 2, "12.35"),
            (0.1 + 0.2, 1, "0.3"),
            (99.999, 2, "100"),
        ] {
            assert_eq!(
                decimal(value, digits).to_bits(),
                text.parse::<f64>().unwrap().to_bits(),
                "{text}"
            );
        }
        assert_eq!(decimal(f64::from(41.27_f32), 2).to_string(), "41.27");
    }

    #[cfg(not(feature = "source-system"))]
    #[test]
    fn a_source_that_is_left_out_is_named_with_its_feature() {
        let error = open(2, &config::Source::System(Default::default()), "gw")
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("source 2 is of type \"system\"") && error.contains("`source-system`"),
            "{error}"
        );
    }
}
