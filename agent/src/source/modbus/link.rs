//! The way to the devices: a TCP connection or a serial line, with one request on it at a time.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as Task, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_modbus::client::{Client, Context, rtu, tcp};
use tokio_modbus::slave::{Slave, SlaveContext};
use tokio_modbus::{Error, Request, Response};
use tokio_serial::SerialStream;

use super::device::Answer;
use super::plan::Block;
use crate::config::{FlowControl, ModbusSource, ModbusTable};
use crate::error::SourceError;
use crate::source::line::Line;

/// Where the devices are.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// `host:port`.
    Tcp(String),
    /// A serial line, and the silence that is kept before each request.
    Rtu { line: Line, pause: Duration },
}

/// See the module.
pub(super) struct Link {
    target: Target,
    timeout: Duration,
    open: Option<Open>,
}

struct Open {
    context: Context,
    port: Option<Port>,
    /// When there was something on it last.
    quiet_since: Instant,
    answered: bool,
}

impl Target {
    pub(super) fn parse(settings: &ModbusSource) -> Result<Self, SourceError> {
        let refused = || {
            let why = format!(
                "{:?} is neither \"tcp://host:port\" nor \"rtu:///dev/…\"",
                settings.address
            );
            Err(SourceError::Setting { key: "address", why })
        };
        if let Some(host) = settings.address.strip_prefix("tcp://") {
            let name = host.rsplit_once(']').map_or(host, |(_, port)| port);
            return match name.rsplit_once(':') {
                _ if host.is_empty() || host.contains('/') => refused(),
                Some((_, port)) if port.parse::<u16>().is_err() => refused(),
                Some(_) => Ok(Self::Tcp(host.to_string())),
                None => Ok(Self::Tcp(format!("{host}:502"))),
            };
        }
        match settings.address.strip_prefix("rtu://") {
            Some(path) if path.starts_with('/') => {
                let line = Line::new(
                    path,
                    settings.baud,
                    8,
                    settings.parity,
                    settings.stop_bits,
                    FlowControl::None,
                )?;
                // MODBUS over serial line V1.02, 2.5.1.1: at least 3.5 characters, 1.75 ms above 19,200 bits/s.
                let least = line.characters(3.5).max(Duration::from_micros(1_750));
                let pause = settings.pause.max(least);
                Ok(Self::Rtu { line, pause })
            }
            _ => refused(),
        }
    }

    pub(super) fn is_line(&self) -> bool {
        matches!(self, Self::Rtu { .. })
    }
}

impl Link {
    pub(super) fn new(target: &Target, timeout: Duration) -> Self {
        Self {
            target: target.clone(),
            timeout,
            open: None,
        }
    }

    /// Asks a device; `Err` when there is no way to any device.
    pub(super) async fn ask(&mut self, id: u8, block: &Block) -> Result<Answer, SourceError> {
        let answer = self.ask_once(id, block).await?;
        match answer {
            Ok(answer) => Ok(answer),
            // Whoever closed it may have done so while nothing was asked, as many a controller does after a minute.
            Err((_, true)) if !self.target.is_line() => match self.ask_once(id, block).await? {
                Ok(answer) => Ok(answer),
                Err((error, _)) => Ok(Answer::Garbled(closed(&error))),
            },
            Err((error, _)) => match &self.target {
                Target::Tcp(_) => Ok(Answer::Garbled(closed(&error))),
                Target::Rtu { line, .. } => Err(line.lost(&error)),
            },
        }
    }

    /// As [`Link::ask`]; the inner error is that of a broken link, and whether it had worked before.
    async fn ask_once(
        &mut self,
        id: u8,
        block: &Block,
    ) -> Result<Result<Answer, (io::Error, bool)>, SourceError> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.connect().await?,
        };
        let mut limit = self.timeout;
        if let (Target::Rtu { line, pause }, Some(port)) = (&self.target, &open.port) {
            sleep_until(open.quiet_since + *pause).await;
            // What comes now is an answer that was given up, or noise.
            if let Err(error) = port.drain() {
                return Ok(Err((error, open.answered)));
            }
            limit += line.characters(f64::from(13 + 2 * block.count));
        }
        open.context.set_slave(Slave(id));
        let (address, count) = (block.address, block.count);
        let request = match block.table {
            ModbusTable::Holding => Request::ReadHoldingRegisters(address, count),
            ModbusTable::Input => Request::ReadInputRegisters(address, count),
            ModbusTable::Coil => Request::ReadCoils(address, count),
            ModbusTable::Discrete => Request::ReadDiscreteInputs(address, count),
        };
        let called = timeout(limit, open.context.call(request)).await;
        open.quiet_since = Instant::now();
        let answered = open.answered;
        let answer = match called {
            Err(_) => Answer::Silence,
            Ok(Err(Error::Transport(error))) if is_garbled(&error) => Answer::Garbled(error.to_string()),
            Ok(Err(Error::Transport(error))) => return Ok(Err((error, answered))),
            Ok(Err(Error::Protocol(_))) => Answer::Garbled("it answers something else than was asked".into()),
            Ok(Ok(Err(exception))) => Answer::Exception(exception.into()),
            Ok(Ok(Ok(response))) => words(response, usize::from(count)),
        };
        match &answer {
            Answer::Words(_) | Answer::Exception(_) => open.answered = true,
            // Over TCP a late answer would be taken for that to the next request.
            Answer::Silence | Answer::Garbled(_) if !self.target.is_line() => return Ok(Ok(answer)),
            Answer::Silence | Answer::Garbled(_) => {}
        }
        self.open = Some(open);
        Ok(Ok(answer))
    }

    async fn connect(&mut self) -> Result<Open, SourceError> {
        let (context, port) = match &self.target {
            Target::Tcp(address) => {
                let failed = |why: String| SourceError::Link {
                    what: format!("modbus tcp://{address}"),
                    why,
                };
                let stream = match timeout(self.timeout, TcpStream::connect(address)).await {
                    Ok(connected) => connected
                        .map_err(|error| failed(format!("{error}; is `address` right, is the device on?")))?,
                    Err(_) => {
                        return Err(failed(format!("no connection within {:?}", self.timeout)));
                    }
                };
                // Requests are small and each waits for its answer.
                let _ = stream.set_nodelay(true);
                (tcp::attach(stream), None)
            }
            Target::Rtu { line, .. } => {
                let port = Port::new(line.open().await?);
                (rtu::attach(port.clone()), Some(port))
            }
        };
        Ok(Open {
            context,
            port,
            quiet_since: Instant::now(),
            answered: false,
        })
    }
}

/// What is not the transport's fault: bytes that are no frame.
fn is_garbled(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
    )
}

/// The end of a connection is told as an error of the system that it is not.
fn closed(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(0) => "it closes the connection".to_string(),
        _ => error.to_string(),
    }
}

/// The answer's words, if they are as many as were asked for; the library leaves that to us.
fn words(response: Response, count: usize) -> Answer {
    let words = match response {
        Response::ReadHoldingRegisters(words) | Response::ReadInputRegisters(words) => words,
        Response::ReadCoils(bits) | Response::ReadDiscreteInputs(bits) => {
            // Whole bytes come.
            let wanted = bits.len().min(count);
            bits[..wanted].iter().map(|bit| u16::from(*bit)).collect()
        }
        _ => Vec::new(),
    };
    if words.len() == count {
        Answer::Words(words)
    } else {
        Answer::Garbled(format!("{} values where {count} were asked for", words.len()))
    }
}

/// A serial line that can be drained while the library holds it.
#[derive(Clone, Debug)]
struct Port(Arc<Mutex<SerialStream>>);

impl Port {
    fn new(stream: SerialStream) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }

    fn stream(&self) -> MutexGuard<'_, SerialStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Throws away what has come, at most some kilobytes.
    fn drain(&self) -> io::Result<()> {
        let mut rubbish = [0; 256];
        let mut stream = self.stream();
        for _ in 0..64 {
            match stream.try_read(&mut rubbish) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl AsyncRead for Port {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Task<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Port {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Task<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream()).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_shutdown(cx)
    }
}
