//! A sensor behind files, and how it is read. Reading blocks.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_proto::Value;

use crate::config::SysfsParse;
use crate::source::Metric;
use crate::source::scale::{Decimal, Scale};

/// The most that is read of a file; the kernel's attributes are at most a page.
const LARGEST: usize = 4096;
/// The most that is taken of a text, bytes.
const TEXT: usize = 256;

/// What a scan found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sensor {
    pub(super) metric: Arc<Metric>,
    pub(super) probe: Probe,
}

/// How a sensor is read.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Probe {
    /// A number in a file.
    Number {
        path: PathBuf,
        after: String,
        scale: Scale,
        /// A file that says 1 when the number means nothing.
        fault: Option<PathBuf>,
    },
    /// Something else in a file.
    Other {
        path: PathBuf,
        after: String,
        parse: SysfsParse,
    },
    /// A thermometer's `temperature`, millidegrees Celsius; empty when the bus did not answer.
    OneWire(PathBuf),
    /// A thermometer's `w1_slave`: the scratchpad with its checksum's verdict, and `t=`.
    OneWireSlave(PathBuf),
}

/// What a reading brought.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outcome {
    pub(super) value: Value,
    pub(super) suspect: bool,
}

/// Why a reading brought nothing.
#[derive(Debug)]
pub(super) enum Fault {
    /// The system's answer.
    Io(io::Error),
    /// The file is empty: the driver got no answer.
    Empty,
    /// The bus' checksum did not hold.
    Checksum,
    /// The sensor's memory reads as zeros, which the checksum cannot tell: the bus is shorted.
    Zeros,
    /// What was read is not what it should be.
    Content(String),
}

impl Fault {
    /// The sensor is no longer there.
    pub(super) fn is_gone(&self) -> bool {
        let Self::Io(error) = self else { return false };
        let gone = [rustix::io::Errno::NODEV, rustix::io::Errno::NXIO];
        error.kind() == io::ErrorKind::NotFound
            || gone
                .iter()
                .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Empty => f.write_str("the file is empty: the sensor does not answer; check its wiring"),
            Self::Checksum => {
                f.write_str("its checksum does not hold (CRC NO); check wiring and pull-up resistor")
            }
            Self::Zeros => f.write_str("it reads as zeros throughout: the bus may be shorted"),
            Self::Content(text) => write!(f, "{text:?} is not what this file should hold"),
        }
    }
}

impl Sensor {
    /// The file that is read.
    pub(super) fn path(&self) -> &Path {
        match &self.probe {
            Probe::Number { path, .. }
            | Probe::Other { path, .. }
            | Probe::OneWire(path)
            | Probe::OneWireSlave(path) => path,
        }
    }

    /// Reads it; may take long.
    pub(super) fn read(&self) -> Result<Outcome, Fault> {
        let trusted = |value| Outcome {
            value,
            suspect: false,
        };
        match &self.probe {
            Probe::Number {
                path,
                after,
                scale,
                fault,
            } => {
                let value = number(token(&text(path)?, after)?, scale)?;
                let suspect = fault
                    .as_ref()
                    .is_some_and(|fault| text(fault).is_ok_and(|text| text.trim() == "1"));
                Ok(Outcome { value, suspect })
            }
            Probe::Other { path, after, parse } => {
                let text = text(path)?;
                other(&text, after, *parse).map(trusted)
            }
            Probe::OneWire(path) => number(token(&text(path)?, "")?, &Scale::milli(3)).map(trusted),
            Probe::OneWireSlave(path) => {
                let text = text(path)?;
                if !text.contains("YES") {
                    return Err(match text.contains("NO") {
                        true => Fault::Checksum,
                        false => Fault::Content(shown(&text)),
                    });
                }
                let scratchpad = text.split(':').next().unwrap_or_default();
                if scratchpad.split_whitespace().all(|byte| byte == "00") {
                    return Err(Fault::Zeros);
                }
                number(token(&text, "t=")?, &Scale::milli(3)).map(trusted)
            }
        }
    }
}

/// A file's text, up to a page.
pub(super) fn text(path: &Path) -> Result<String, Fault> {
    let mut bytes = Vec::with_capacity(64);
    File::open(path)
        .and_then(|file| file.take(LARGEST as u64).read_to_end(&mut bytes))
        .map_err(Fault::Io)?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Fault::Empty);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What stands behind `after`, up to white space.
fn token<'a>(text: &'a str, after: &str) -> Result<&'a str, Fault> {
    text.find(after)
        .and_then(|at| text[at + after.len()..].split_whitespace().next())
        .ok_or_else(|| Fault::Content(shown(text)))
}

fn number(token: &str, scale: &Scale) -> Result<Value, Fault> {
    if let Some(raw) = Decimal::parse(token) {
        return Ok(Value::F64(scale.apply(raw)));
    }
    // Infinities, and what has more digits than a decimal here.
    match token.parse::<f64>() {
        Ok(raw) if !raw.is_nan() => Ok(Value::F64(scale.apply_double(raw))),
        _ => Err(Fault::Content(shown(token))),
    }
}

fn other(text: &str, after: &str, parse: SysfsParse) -> Result<Value, Fault> {
    let fault = || Fault::Content(shown(text));
    let at = text.find(after).ok_or_else(fault)? + after.len();
    let line = text[at..].lines().next().unwrap_or_default().trim();
    if parse == SysfsParse::Bool {
        let word = line.split_whitespace().next().unwrap_or_default().to_lowercase();
        return match word.as_str() {
            "on" => Ok(Value::Bool(true)),
            "off" => Ok(Value::Bool(false)),
            _ if word.starts_with(['y', 't']) => Ok(Value::Bool(true)),
            _ if word.starts_with(['n', 'f']) => Ok(Value::Bool(false)),
            _ => match word.parse::<i64>() {
                Ok(number) => Ok(Value::Bool(number != 0)),
                Err(_) => Err(fault()),
            },
        };
    }
    let end = (0..=TEXT.min(line.len()))
        .rev()
        .find(|end| line.is_char_boundary(*end))
        .unwrap_or(0);
    Ok(Value::String(line[..end].to_string()))
}

/// The beginning of a text, for a message.
fn shown(text: &str) -> String {
    text.trim().chars().take(40).collect()
}
