//! A serial line.

#[cfg(test)]
pub(super) mod pty;

use std::io;
use std::time::Duration;

use tokio_serial::{SerialPort, SerialStream};

use crate::config::{FlowControl, Parity};
use crate::error::SourceError;
use crate::task;

/// What it is set to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    path: String,
    baud: u32,
    data_bits: tokio_serial::DataBits,
    parity: tokio_serial::Parity,
    stop_bits: tokio_serial::StopBits,
    flow_control: tokio_serial::FlowControl,
    /// Of one character, start and stop bits included.
    bits: u32,
}

impl Line {
    pub(super) fn new(
        path: &str,
        baud: u32,
        data_bits: u8,
        parity: Parity,
        stop_bits: u8,
        flow_control: FlowControl,
    ) -> Result<Self, SourceError> {
        let refused = |key: &'static str, why: String| Err(SourceError::Setting { key, why });
        if !(50..=4_000_000).contains(&baud) {
            return refused("baud", format!("{baud} is not in 50..=4000000"));
        }
        let stop_bits = match stop_bits {
            1 => tokio_serial::StopBits::One,
            2 => tokio_serial::StopBits::Two,
            _ => return refused("stop_bits", format!("{stop_bits} is not 1 or 2")),
        };
        let data_bits = match data_bits {
            7 => tokio_serial::DataBits::Seven,
            8 => tokio_serial::DataBits::Eight,
            _ => return refused("data_bits", format!("{data_bits} is not 7 or 8")),
        };
        Ok(Self {
            path: path.to_string(),
            baud,
            data_bits,
            parity: match parity {
                Parity::None => tokio_serial::Parity::None,
                Parity::Even => tokio_serial::Parity::Even,
                Parity::Odd => tokio_serial::Parity::Odd,
            },
            stop_bits,
            flow_control: match flow_control {
                FlowControl::None => tokio_serial::FlowControl::None,
                FlowControl::Software => tokio_serial::FlowControl::Software,
                FlowControl::Hardware => tokio_serial::FlowControl::Hardware,
            },
            bits: 1
                + u8::from(data_bits) as u32
                + u32::from(parity != Parity::None)
                + u8::from(stop_bits) as u32,
        })
    }

    /// How long so many characters take.
    pub(super) fn characters(&self, count: f64) -> Duration {
        Duration::from_secs_f64(count * f64::from(self.bits) / f64::from(self.baud))
    }

    /// Opens it for nobody else at the same time, and forgets what came before.
    pub(super) async fn open(&self) -> Result<SerialStream, SourceError> {
        let builder = tokio_serial::new(&self.path, self.baud)
            .data_bits(self.data_bits)
            .parity(self.parity)
            .stop_bits(self.stop_bits)
            .flow_control(self.flow_control);
        // A driver may take its time over opening.
        let opening = task::blocking(move || {
            let stream = SerialStream::open(&builder)?;
            stream.clear(tokio_serial::ClearBuffer::Input)?;
            Ok::<_, tokio_serial::Error>(stream)
        });
        let opened = match opening.await {
            Ok(opened) => opened.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        opened.map_err(|why| SourceError::Link {
            what: format!("the serial line {}", self.path),
            why: format!("{why}; is it plugged in, may this user open it (group dialout), does another program hold it?"),
        })
    }

    /// That it broke.
    pub(super) fn lost(&self, error: &io::Error) -> SourceError {
        SourceError::Link {
            what: format!("the serial line {}", self.path),
            why: format!("{error}; was it unplugged?"),
        }
    }
}
