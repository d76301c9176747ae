//! A serial line on which somebody sends readings: a microcontroller its frames ([`headwater_proto::serial`]), or any device
//! its lines of text.
//!
//! What cannot be read costs itself: the next delimiter begins anew. Nothing that comes is held beyond the longest frame or line. A
//! line that breaks (unplugged) ends the run; it is opened again under its path until it is back.

mod frames;
mod metrics;
mod pieces;
#[cfg(test)]
mod tests;
mod uptime;

use tokio::io::AsyncReadExt;

use super::foreign::Foreign;
use super::line::Line;
use super::{Cadence, Output, Running, Source};
use crate::config::{FlowControl, SerialFormat, SerialSource};
use crate::error::SourceError;

use frames::Frames;
use pieces::{Piece, Pieces};

/// The source.
pub(crate) struct Serial {
    line: Line,
    pieces: Pieces,
    content: Content,
}

/// What the pieces are.
enum Content {
    Frames(Frames),
    Lines(Foreign),
}

impl Serial {
    pub(crate) fn open(settings: &SerialSource) -> Result<Self, SourceError> {
        let refused = |key: &'static str, why: String| Err(SourceError::Setting { key, why });
        if !settings.path.starts_with('/') {
            let why = format!(
                "{:?} is not a path such as \"/dev/serial/by-id/…\"",
                settings.path
            );
            return refused("path", why);
        }
        let line = Line::new(
            &settings.path,
            settings.baud,
            settings.data_bits,
            settings.parity,
            settings.stop_bits,
            settings.flow_control,
        )?;
        let max = settings.max_length.as_u64();
        if !(32..=64 * 1024).contains(&max) {
            return refused(
                "max_length",
                format!("{} is not in 32 B..=64 KiB", settings.max_length),
            );
        }
        let (delimiter, content) = match settings.format {
            SerialFormat::Frames if settings.data_bits != 8 => {
                return refused("data_bits", "frames take 8".into());
            }
            SerialFormat::Frames if settings.flow_control == FlowControl::Software => {
                let why = "frames hold the bytes that \"software\" takes for XON and XOFF; use \"hardware\" or \"none\"";
                return refused("flow_control", why.into());
            }
            SerialFormat::Frames => (0, Content::Frames(Frames::new(&settings.prefix))),
            SerialFormat::Lines if !settings.prefix.is_empty() => {
                return refused("prefix", "it is for frames; lines are named by `map.name`".into());
            }
            SerialFormat::Lines => {
                let foreign = Foreign::new(&settings.map, false, &super::foreign::Metrics::default())?;
                (b'\n', Content::Lines(foreign))
            }
        };
        Ok(Self {
            line,
            pieces: Pieces::new(delimiter, max as usize),
            content,
        })
    }
}

impl Source for Serial {
    fn cadence(&self) -> Cadence {
        Cadence::Pushed
    }

    fn run<'a>(&'a mut self, output: &'a Output) -> Running<'a> {
        Box::pin(async move {
            self.pieces.clear();
            let mut stream = self.line.open().await?;
            let mut buffer = [0; 512];
            loop {
                let count = match stream.read(&mut buffer).await {
                    Ok(0) => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)),
                    read => read,
                }
                .map_err(|error| self.line.lost(&error))?;
                let mut bytes = &buffer[..count];
                while let Some(piece) = self.pieces.take(&mut bytes) {
                    self.content.take(piece, output).await;
                }
            }
        })
    }
}

impl Content {
    /// Takes a piece and hands over what it brought; what is wrong with it is reported.
    async fn take(&mut self, piece: Piece<'_>, output: &Output) {
        let Piece::Whole(bytes) = piece else {
            output.report(&"a frame or line was longer than `max_length` and is left out; are baud rate and format right?");
            return;
        };
        let arrival_us = output.clock().now_us();
        match self {
            Self::Frames(frames) => match frames.take(bytes, arrival_us) {
                Ok(taken) => {
                    if taken.missing > 0 {
                        output.report(&format_args!("{} frame(s) are missing", taken.missing));
                    }
                    if let Some(why) = taken.refused {
                        output.report(&format_args!("a reading is left out: {why}"));
                    }
                    output.send(taken.sample).await;
                }
                Err(why) => output.report(&format_args!("a frame is left out: {why}")),
            },
            Self::Lines(foreign) => {
                // Whole milliseconds: more is the line's trembling, and costs bytes.
                let arrival_us = arrival_us - arrival_us.rem_euclid(1000);
                foreign.take_at(output, arrival_us, "", bytes).await;
            }
        }
    }
}
