//! Where readings come from: the contract between the agent and its sources. One file per kind of source.
//!
//! The agent opens every source before it starts ([`open`]), so that a wrong path or setting is refused at once. Then it gives each a
//! task of its own ([`supervise`]) and an [`Output`] of its own ([`Output::of`]), and calls [`Source::run`] there:
//!
//! - The source keeps its own schedule and hands each [`Sample`] to [`Output::send`] when it is taken. All readings of a
//!   sample share its time; sources on a schedule stamp the tick, not the moment they came to it, so that a regular cadence
//!   is regular to the microsecond.
//! - Time comes from [`Output::clock`] and nowhere else, and is asked for anew for each sample: what is stamped before the clock is
//!   known to be right is corrected later. A time that readings bring along stays as it is, unless it can have been read off this
//!   machine's wrong clock.
//! - It hands over raw values under final names. Scale, deadband, aggregates and the like are applied on the way (`send`), by the
//!   `[[metric]]` rules; a source knows nothing of them. A metric is made once and its `Arc` kept: it is found by its address.
//! - It may await as long as it likes. It must not block the thread: what blocks (or may hang, as a file system can) goes on
//!   a thread of its own, as in `system`. So no source ever delays another.
//! - `send` waits while the agent is behind. A source that comes back late skips the ticks it missed. How it is held to its share
//!   depends on its [`Cadence`]: one that asks, or slows others down, waits in `send`; of one that is pushed to, readings beyond its `rate` are dropped, counted and
//!   told (`send` returns how many, so that a listener can answer "too many").
//! - A sample without readings is a sign of life and nothing else. A source on a schedule sends one on a tick that yields nothing
//!   and is no error; without a sign of life for several intervals it is called stalled, and is started again in the end.
//! - What goes wrong and does not concern the whole source (one device of several, one line of many) goes to [`Output::report`], which
//!   counts it, keeps it for the figures and logs it now and then; it is a sign of life too. A source does not log in a loop by itself.
//! - `Ok` means that nothing more will ever come. On `Err` the agent logs it, waits (1 s, doubling to 1 min, with jitter), and calls `run`
//!   again; after a panic the source is opened anew first. Either way the other sources go on.
//! - The future may be dropped at any await: when the agent stops, when the source is changed by a reload, when it hangs. `run`
//!   may be called again afterwards.
//! - Values that are decimals by nature are handed over as the doubles nearest to those decimals (see [`decimal`]): that is
//!   what the batch's encoding makes small.
//!
//! A new kind needs: a file of settings under `config/source/` and a variant of [`config::SourceKind`]; a file here with a `Source`; a pair of
//! functions and an arm in [`open`]; its table in `deploy/agent.toml`. The keys `name` and `rate` of every `[[source]]` are not its affair.

#[cfg(not(any(
    feature = "source-exec",
    feature = "source-file",
    feature = "source-http",
    feature = "source-modbus",
    feature = "source-mqtt",
    feature = "source-replay",
    feature = "source-serial",
    feature = "source-simulated",
    feature = "source-socket",
    feature = "source-sysfs",
    feature = "source-system"
)))]
compile_error!(
    "an agent without any source has nothing to send: choose at least one of the features source-*"
);

mod allowance;
#[cfg(feature = "source-exec")]
mod exec;
#[cfg(feature = "source-file")]
mod file;
#[cfg(any(
    feature = "source-exec",
    feature = "source-file",
    feature = "source-http",
    feature = "source-mqtt",
    feature = "source-serial",
    feature = "source-socket"
))]
#[allow(
    dead_code,
    reason = "a build with few of these sources does not use all of it"
)]
mod foreign;
#[cfg(feature = "source-http")]
mod http;
mod last;
#[cfg(any(feature = "source-modbus", feature = "source-serial"))]
#[allow(dead_code, reason = "not every source uses all of it")]
mod line;
#[cfg(any(feature = "source-exec", feature = "source-file", feature = "source-socket"))]
#[allow(dead_code, reason = "not every source of lines has a last one without an end")]
mod lines;
#[cfg(any(feature = "source-http", feature = "source-socket"))]
mod listen;
mod meter;
#[cfg(feature = "source-modbus")]
mod modbus;
#[cfg(feature = "source-mqtt")]
mod mqtt;
mod output;
#[cfg(test)]
mod probe;
#[cfg(feature = "source-replay")]
mod replay;
#[allow(dead_code, reason = "not every source uses all of it")]
mod scale;
#[allow(dead_code, reason = "not every build has a source that samples on a schedule")]
mod schedule;
#[cfg(feature = "source-serial")]
mod serial;
#[cfg(feature = "source-simulated")]
mod simulated;
#[cfg(feature = "source-socket")]
mod socket;
mod supervisor;
#[cfg(feature = "source-sysfs")]
mod sysfs;
#[cfg(feature = "source-system")]
mod system;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use headwater_proto::Value;

use crate::config;
use crate::error::{Error, SourceError};
use crate::task;

pub(crate) use last::Last;
pub(crate) use meter::Meter;
pub(crate) use output::Output;
pub(crate) use scale::{Decimal, Scale};
pub(crate) use schedule::Schedule;
pub(crate) use supervisor::supervise;

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

/// How readings come about: what may be asked of a source, and what to expect of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "not every build has sources of each kind")]
pub(crate) enum Cadence {
    /// It asks at this interval: it can wait, and is watched for silence.
    Every(Duration),
    /// It goes at its own pace: it can wait, and may be silent for as long as it likes.
    Own,
    /// Others hand it readings, and can be slowed down: it can wait, and may be silent.
    #[allow(dead_code, reason = "not every build has a source that listens")]
    Fed,
    /// Others hand it readings, and cannot be slowed down: it cannot wait, and may be silent.
    #[allow(dead_code, reason = "not every build has a source that listens")]
    Pushed,
}

/// A source of readings; the module's documentation is its contract.
pub(crate) trait Source: Send {
    /// How its readings come about; asked for after opening, and the same ever after.
    fn cadence(&self) -> Cadence;

    /// Samples until nothing more comes.
    fn run<'a>(&'a mut self, output: &'a Output) -> Running<'a>;
}

/// A source that is open.
pub(crate) struct Opened {
    pub(crate) settings: config::Source,
    pub(crate) source: Box<dyn Source>,
    /// It knows the name that logs, figures and commands call it by.
    pub(crate) meter: Meter,
    /// Where it stands in the settings, from 1.
    number: usize,
    device: String,
}

/// Opens the sources of a device, in their order.
pub(crate) fn open_all(settings: &[config::Source], device: &str) -> Result<Vec<Opened>, Error> {
    let named = settings.iter().zip(config::Source::names(settings));
    named
        .zip(1..)
        .map(|((settings, name), number)| open(number, &name, settings, device))
        .collect()
}

/// Opens the source that stands at position `number` (from 1) in the settings and is called `name`.
pub(crate) fn open(
    number: usize,
    name: &str,
    settings: &config::Source,
    device: &str,
) -> Result<Opened, Error> {
    let kind = settings.kind.name();
    let opened = match &settings.kind {
        config::SourceKind::System(settings) => open_system(settings),
        config::SourceKind::Sysfs(settings) => open_sysfs(settings),
        config::SourceKind::Modbus(settings) => open_modbus(settings),
        config::SourceKind::Serial(settings) => open_serial(settings),
        config::SourceKind::Replay(settings) => open_replay(settings),
        config::SourceKind::Simulated(settings) => open_simulated(settings, device),
        config::SourceKind::Mqtt(settings) => open_mqtt(settings),
        config::SourceKind::Http(settings) => open_http(settings),
        config::SourceKind::Socket(settings) => open_socket(settings),
        config::SourceKind::Exec(settings) => open_exec(settings),
        config::SourceKind::File(settings) => open_file(settings),
    };
    match opened {
        Some(Ok(source)) => Ok(Opened {
            meter: Meter::new(name, kind),
            settings: settings.clone(),
            source,
            number,
            device: device.to_string(),
        }),
        Some(Err(source)) => Err(Error::Source { number, kind, source }),
        None => Err(Error::SourceLeftOut { number, kind }),
    }
}

impl Opened {
    /// Opens it once more, on another thread: opening may block.
    async fn again(&mut self) -> Result<(), String> {
        let (number, name) = (self.number, self.meter.name());
        let (settings, device) = (self.settings.clone(), self.device.clone());
        let opening = task::blocking(move || open(number, &name, &settings, &device));
        let opened = opening
            .await
            .map_err(|error| format!("it cannot be opened again: {error}"))?;
        self.source = opened.map_err(|error| error.to_string())?.source;
        Ok(())
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

#[cfg(feature = "source-serial")]
fn open_serial(settings: &config::SerialSource) -> Opening {
    Some(serial::Serial::open(settings).map(|source| Box::new(source) as _))
}

#[cfg(not(feature = "source-serial"))]
fn open_serial(_: &config::SerialSource) -> Opening {
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

#[cfg(feature = "source-mqtt")]
fn open_mqtt(settings: &config::MqttSource) -> Opening {
    Some(mqtt::Mqtt::open(settings).map(|source| Box::new(source) as _))
}

#[cfg(not(feature = "source-mqtt"))]
fn open_mqtt(_: &config::MqttSource) -> Opening {
    None
}

#[cfg(feature = "source-http")]
fn open_http(settings: &config::HttpSource) -> Opening {
    Some(http::Http::open(settings).map(|source| Box::new(source) as _))
}

#[cfg(not(feature = "source-http"))]
fn open_http(_: &config::HttpSource) -> Opening {
    None
}

#[cfg(feature = "source-socket")]
fn open_socket(settings: &config::SocketSource) -> Opening {
    Some(socket::Socket::open(settings).map(|source| Box::new(source) as _))
}

#[cfg(not(feature = "source-socket"))]
fn open_socket(_: &config::SocketSource) -> Opening {
    None
}

#[cfg(feature = "source-exec")]
fn open_exec(settings: &config::ExecSource) -> Opening {
    Some(exec::Exec::open(settings).map(|source| Box::new(source) as _))
}

#[cfg(not(feature = "source-exec"))]
fn open_exec(_: &config::ExecSource) -> Opening {
    None
}

#[cfg(feature = "source-file")]
fn open_file(settings: &config::FileSource) -> Opening {
    Some(file::File::open(settings).map(|source| Box::new(source) as _))
}

#[cfg(not(feature = "source-file"))]
fn open_file(_: &config::FileSource) -> Opening {
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

    #[cfg(all(
        feature = "source-exec",
        feature = "source-file",
        feature = "source-http",
        feature = "source-mqtt",
        feature = "source-socket"
    ))]
    #[test]
    fn the_examples_of_the_reference_open() {
        let reference = include_str!("../../deploy/agent.toml");
        let switched_on = reference.lines().map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '[') => rest,
            _ => line,
        });
        let text = switched_on.collect::<Vec<_>>().join("\n");
        let mut config: config::Config = toml::from_str(&text).unwrap();
        let mut opened = 0;
        for source in &mut config.sources {
            let kind = source.kind.name();
            match &mut source.kind {
                // Files that are not here.
                config::SourceKind::Mqtt(settings) => {
                    settings.password_file = None;
                    settings.tls = config::Tls::default();
                }
                config::SourceKind::Http(settings) => settings.token_file = None,
                config::SourceKind::Socket(_) | config::SourceKind::Exec(_) | config::SourceKind::File(_) => {
                }
                _ => continue,
            }
            if let Err(error) = open(1, kind, source, "gw") {
                panic!("{error}");
            }
            opened += 1;
        }
        assert_eq!(opened, 5);
    }

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
        let settings = config::SourceKind::System(Default::default()).into();
        let error = open(2, "system", &settings, "gw").err().unwrap().to_string();
        assert!(
            error.contains("source 2 is of type \"system\"") && error.contains("`source-system`"),
            "{error}"
        );
    }
}
