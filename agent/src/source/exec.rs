//! A program whose output is readings: run at an interval, or kept running.
//!
//! - It is exactly what the settings say: an absolute path and arguments, no shell, no input, an environment of its own.
//! - It has a process group of its own, which is ended as a whole ([`Group`]): at the time limit, when it has written too much,
//!   when it has ended and left something behind, when the agent stops.
//! - Never two at once: a run that cannot even be killed (it hangs in the kernel) is waited for, and reported at every interval.
//! - A run that fails is reported, with its exit status and the last line of its error output, and the next one comes at its time.

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::ChildStderr;

use super::foreign::{Foreign, Metrics};
use super::lines::Lines;
use super::schedule::Schedule;
use super::{Cadence, Output, Running, Source};
use crate::config::ExecSource;
use crate::error::SourceError;
use crate::group::Group;

/// How long what is left in the pipes may take, once the program has ended and its group is killed: somebody outside the group
/// may hold them open.
const REST: Duration = Duration::from_millis(500);
/// The most that a pipe can hold, bytes, unless root has asked for more (pipe(7)).
const PIPE_MAX: u64 = 1 << 20;
/// What is kept of a line of error output, bytes.
const COMPLAINT: usize = 300;

/// The source.
pub(crate) struct Exec {
    settings: ExecSource,
    foreign: Foreign,
    /// A run that was begun and may not have ended.
    group: Option<Group>,
}

impl Exec {
    pub(crate) fn open(settings: &ExecSource) -> Result<Self, SourceError> {
        let wrong = |key, why: String| Err(SourceError::Setting { key, why });
        match settings.command.first() {
            None => {
                return wrong(
                    "command",
                    "it is missing; give a program and its arguments".into(),
                );
            }
            Some(program) if !Path::new(program).is_absolute() => {
                let why = format!("{program:?} is not an absolute path, so it could be anybody's program");
                return wrong("command", why);
            }
            Some(_) => {}
        }
        if settings.interval < Duration::from_millis(100) {
            return wrong("interval", format!("{:?} is less than 100ms", settings.interval));
        }
        if settings.timeout.is_zero() || settings.timeout > settings.interval {
            let why = format!(
                "{:?} is not between 0 and interval ({:?})",
                settings.timeout, settings.interval
            );
            return wrong("timeout", why);
        }
        let is_bad = |text: &String| text.contains('\0');
        let is_bad_name = |name: &String| name.is_empty() || name.contains('=') || is_bad(name);
        if settings
            .environment
            .iter()
            .any(|(name, value)| is_bad_name(name) || is_bad(value))
        {
            return wrong(
                "environment",
                "a name is empty or has a `=`, or there is a NUL".into(),
            );
        }
        Ok(Self {
            foreign: Foreign::new(&settings.map, false, &Metrics::default())?,
            settings: settings.clone(),
            group: None,
        })
    }

    fn failed(&self, why: impl Into<String>) -> SourceError {
        SourceError::Link {
            what: self.settings.command.first().cloned().unwrap_or_default(),
            why: why.into(),
        }
    }

    fn start(&mut self) -> Result<&mut Group, SourceError> {
        let group = Group::start(
            &self.settings.command,
            &self.settings.environment,
            &self.settings.dir,
        )
        .map_err(|error| self.failed(format!("it cannot be started: {error}")))?;
        Ok(self.group.insert(group))
    }

    /// One run, for a tick.
    async fn once(&mut self, tick_us: i64, output: &Output) -> Result<(), SourceError> {
        let (timeout, max) = (self.settings.timeout, self.foreign.max_payload());
        let group = self.start()?;
        let mut written = Vec::new();
        let mut complaint = Complaint::default();
        let ended = tokio::time::timeout(timeout, read_run(group, max, &mut written, &mut complaint)).await;
        let problem = match ended {
            Ok(Ok(status)) if status.success() => None,
            Ok(Ok(status)) => Some(format!("it failed ({status}){complaint}")),
            Ok(Err(Stopped::Long)) => Some(format!("it wrote more than max_payload ({max} bytes)")),
            Ok(Err(Stopped::Io(error))) => Some(format!("its output cannot be read: {error}")),
            Err(_) => Some(format!("it took longer than timeout ({timeout:?}){complaint}")),
        };
        match problem {
            None => {
                group.kill();
                self.group = None;
                self.foreign.take_at(output, tick_us, "", &written).await;
                // A sign of life, should there have been no reading.
                output.alive();
            }
            Some(why) => {
                output.report(&self.failed(why));
                self.end(output).await;
            }
        }
        Ok(())
    }

    /// Sees to it that nothing is left of the last run.
    async fn end(&mut self, output: &Output) {
        let hangs = self.failed("it has been killed and does not end; it seems to hang in the kernel");
        if let Some(group) = &mut self.group {
            let mut end = std::pin::pin!(group.end());
            while tokio::time::timeout(self.settings.interval.max(Duration::from_secs(5)), &mut end)
                .await
                .is_err()
            {
                output.report(&hangs);
            }
        }
        self.group = None;
    }

    /// Runs for as long as it does.
    async fn persistently(&mut self, output: &Output) -> Result<(), SourceError> {
        let foreign = self.foreign.clone();
        let mut complaint = Complaint::default();
        let group = self.start()?;
        let Some((mut stdout, mut stderr)) = group.pipes() else {
            return Err(self.failed("it has no output"));
        };
        output.alive();
        let mut lines = Lines::new(foreign.max_payload());
        let mut piece = vec![0; 4096];
        let mut rest = Vec::new();
        let mut complains = true;
        let ended = loop {
            tokio::select! {
                read = stdout.read(&mut piece) => match read {
                    Ok(0) => break None,
                    Ok(read) => take_lines(&piece[..read], &mut lines, &foreign, output).await,
                    Err(error) => break Some(format!("its output cannot be read: {error}")),
                },
                more = complaint.read(&mut stderr, &mut rest), if complains => complains = more,
                status = group.ended() => {
                    group.kill();
                    break Some(ended_with(status));
                }
            }
        };
        // Its output ends a moment before it does.
        let ended = match ended {
            None => tokio::time::timeout(REST, group.ended())
                .await
                .ok()
                .map(ended_with),
            ended => ended,
        };
        if ended.is_some() {
            // What it wrote last may be in the pipes yet.
            let complaints = async {
                while complains {
                    complains = complaint.read(&mut stderr, &mut rest).await;
                }
            };
            // What is there is read without waiting, however long the readings before it have waited.
            let until = tokio::time::Instant::now() + REST;
            let _ = tokio::time::timeout_at(until, complaints).await;
            let mut last = stdout.take(PIPE_MAX);
            while let Ok(Ok(read @ 1..)) = tokio::time::timeout_at(until, last.read(&mut piece)).await {
                take_lines(&piece[..read], &mut lines, &foreign, output).await;
            }
        }
        let why = ended.unwrap_or_else(|| "it has closed its output".into());
        self.end(output).await;
        Err(self.failed(format!("{why}{complaint}")))
    }
}

impl Source for Exec {
    fn cadence(&self) -> Cadence {
        if self.settings.persistent {
            Cadence::Fed
        } else {
            Cadence::Every(self.settings.interval)
        }
    }

    fn run<'a>(&'a mut self, output: &'a Output) -> Running<'a> {
        Box::pin(async move {
            self.end(output).await;
            if self.settings.persistent {
                return self.persistently(output).await;
            }
            let schedule = Schedule::every(self.settings.interval);
            let mut previous = None;
            loop {
                let tick = schedule.tick(output.clock(), previous).await;
                previous = Some(tick);
                self.once(tick, output).await?;
            }
        })
    }
}

/// Takes the lines that are whole with these bytes, and tells of those that are too long.
async fn take_lines(bytes: &[u8], lines: &mut Lines, foreign: &Foreign, output: &Output) {
    lines.feed(bytes);
    while let Some(line) = lines.next() {
        if !line.is_empty() {
            foreign.take(output, "", line).await;
        }
    }
    let long = lines.take_long();
    if long > 0 {
        output.report(&format_args!(
            "{long} line(s) of more than max_payload ({} bytes)",
            foreign.max_payload()
        ));
    }
}

fn ended_with(status: std::io::Result<ExitStatus>) -> String {
    status.map_or_else(
        |error| error.to_string(),
        |status| format!("it has ended ({status})"),
    )
}

/// Why a run is not waited for any longer.
enum Stopped {
    Long,
    Io(std::io::Error),
}

/// Reads what a run writes until it has ended and, once the rest of its group is killed, its output has too.
async fn read_run(
    group: &mut Group,
    max: usize,
    written: &mut Vec<u8>,
    complaint: &mut Complaint,
) -> Result<ExitStatus, Stopped> {
    let Some((mut stdout, mut stderr)) = group.pipes() else {
        return Err(Stopped::Io(std::io::Error::other("there is none")));
    };
    let (mut piece, mut rest) = (vec![0; 4096], Vec::new());
    let (mut writes, mut complains) = (true, true);
    let mut status = None;
    let mut until = None;
    while status.is_none() || writes || complains {
        tokio::select! {
            read = stdout.read(&mut piece), if writes => match read.map_err(Stopped::Io)? {
                0 => writes = false,
                read if written.len() + read > max => return Err(Stopped::Long),
                read => written.extend_from_slice(&piece[..read]),
            },
            more = complaint.read(&mut stderr, &mut rest), if complains => complains = more,
            ended = group.ended(), if status.is_none() => {
                status = Some(ended.map_err(Stopped::Io)?);
                group.kill();
                until = Some(tokio::time::Instant::now() + REST);
            }
            () = async { tokio::time::sleep_until(until.unwrap_or_else(tokio::time::Instant::now)).await }, if until.is_some() => break,
        }
    }
    status.ok_or_else(|| Stopped::Io(std::io::Error::other("it has no exit status")))
}

/// The last line of error output that says anything.
#[derive(Debug, Default)]
struct Complaint(String);

impl Complaint {
    /// Reads on; `false`: there is no more. `line` is the line that has begun.
    async fn read(&mut self, stderr: &mut ChildStderr, line: &mut Vec<u8>) -> bool {
        read_complaint(self, stderr, line).await
    }
}

async fn read_complaint(
    complaint: &mut Complaint,
    stderr: &mut (impl AsyncRead + Unpin),
    line: &mut Vec<u8>,
) -> bool {
    let mut piece = [0; 512];
    let read = stderr.read(&mut piece).await.unwrap_or(0);
    for part in piece[..read].split_inclusive(|byte| *byte == b'\n') {
        let room = COMPLAINT.saturating_sub(line.len());
        line.extend_from_slice(&part[..part.len().min(room)]);
        let said = String::from_utf8_lossy(line);
        if !said.trim().is_empty() {
            complaint.0 = said.trim().to_string();
        }
        if part.ends_with(b"\n") {
            line.clear();
        }
    }
    read > 0
}

impl std::fmt::Display for Complaint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            Ok(())
        } else {
            write!(f, ": {:?}", self.0)
        }
    }
}

#[cfg(test)]
mod tests;
