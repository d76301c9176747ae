//! A file that grows by lines, followed across rotation.
//!
//! It is looked at now and then; nothing asks the kernel to tell. A look that finds nothing costs a read and a stat, works on every
//! file system (network ones and overlays tell nobody), and needs no second mechanism for the file that is not there yet.
//! Looking may hang with its medium, so it is done on a thread of its own.
//!
//! What has been read is not remembered across restarts: a position would have to be written as often as lines come, and flash
//! wears. `from` says on which side to err.

mod tail;

use std::sync::mpsc as request;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;

use super::foreign::{Foreign, Metrics};
use super::lines::Lines;
use super::{Cadence, Output, Running, Source};
use crate::config::FileSource;
use crate::error::SourceError;

use tail::{Look, Tail};

/// The looking thread's stack.
const STACK: usize = 128 * 1024;

/// The source.
pub(crate) struct File {
    settings: FileSource,
    foreign: Foreign,
    /// What has been read of the file, across restarts of [`File::run`].
    followed: Option<Followed>,
}

struct Followed {
    thread: Thread,
    lines: Lines,
    /// Said once.
    absent: bool,
}

/// The looking thread, seen from the source. It ends when this is dropped, and when it has come back from what it hangs in.
struct Thread {
    asks: request::SyncSender<()>,
    looks: mpsc::Receiver<std::io::Result<Look>>,
}

impl File {
    pub(crate) fn open(settings: &FileSource) -> Result<Self, SourceError> {
        if settings.path.as_os_str().is_empty() {
            let why = "it is missing; give the file to follow".to_string();
            return Err(SourceError::Setting { key: "path", why });
        }
        if settings.poll < Duration::from_millis(10) {
            let why = format!("{:?} is less than 10ms", settings.poll);
            return Err(SourceError::Setting { key: "poll", why });
        }
        Ok(Self {
            foreign: Foreign::new(&settings.map, false, &Metrics::default())?,
            settings: settings.clone(),
            followed: None,
        })
    }
}

impl Source for File {
    fn cadence(&self) -> Cadence {
        Cadence::Fed
    }

    fn run<'a>(&'a mut self, output: &'a Output) -> Running<'a> {
        Box::pin(async move {
            let followed = match &mut self.followed {
                Some(followed) => followed,
                none => none.insert(Followed {
                    thread: Thread::start(&self.settings)?,
                    lines: Lines::new(self.foreign.max_payload()),
                    absent: false,
                }),
            };
            let result = followed.run(&self.settings, &self.foreign, output).await;
            self.followed = None;
            result
        })
    }
}

impl Followed {
    async fn run(
        &mut self,
        settings: &FileSource,
        foreign: &Foreign,
        output: &Output,
    ) -> Result<(), SourceError> {
        let path = settings.path.display();
        loop {
            // Full: asked before, when this future was dropped, and not answered yet.
            let _ = self.thread.asks.try_send(());
            let look = self.thread.looks.recv().await.ok_or(SourceError::System {
                what: "files",
                why: "the thread that looks has ended".into(),
            })?;
            let was_absent = std::mem::take(&mut self.absent);
            match look {
                Ok(Look::More(piece)) => {
                    let now_us = output.clock().now_us();
                    self.lines.feed(&piece);
                    while let Some(line) = self.lines.next() {
                        if !line.is_empty() {
                            foreign.take_at(output, now_us, "", line).await;
                        }
                    }
                    let long = self.lines.take_long();
                    if long > 0 {
                        let max = foreign.max_payload();
                        output.report(&format_args!(
                            "{path}: {long} line(s) of more than max_payload ({max} bytes)"
                        ));
                    }
                    continue;
                }
                Ok(Look::Middle) => self.lines.skip(),
                Ok(Look::Ended) => {
                    if let Some(line) = self.lines.finish() {
                        foreign.take(output, "", &line).await;
                    }
                    log::info!("{path} was replaced; reading the new one");
                    continue;
                }
                Ok(Look::Emptied) => {
                    if self.lines.finish().is_some() {
                        output.report(&format_args!("{path} was emptied in the middle of a line"));
                    }
                    continue;
                }
                Ok(Look::Absent) => {
                    self.absent = true;
                    if !was_absent {
                        log::info!("{path} is not there; waiting for it");
                    }
                }
                Ok(Look::Nothing) => output.alive(),
                Err(error) => output.report(&format_args!("cannot read {path}: {error}")),
            }
            tokio::time::sleep(settings.poll).await;
        }
    }
}

impl Thread {
    fn start(settings: &FileSource) -> Result<Self, SourceError> {
        let (asks, requests) = request::sync_channel::<()>(1);
        let (results, looks) = mpsc::channel(1);
        let mut tail = Tail::new(&settings.path, settings.from);
        let work = move || {
            while requests.recv().is_ok() {
                if results.blocking_send(tail.look()).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("source-file".into())
            .stack_size(STACK)
            .spawn(work)
            .map_err(|error| SourceError::System {
                what: "files",
                why: error.to_string(),
            })?;
        Ok(Self { asks, looks })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use headwater_foreign::{Format, Settings};

    use super::super::probe::Probe;
    use super::*;
    use crate::config::Begin;

    fn append(path: &std::path::Path, text: &str) {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[tokio::test]
    async fn lines_become_readings_across_both_kinds_of_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sensors.log");
        let source = File::open(&FileSource {
            path: path.clone(),
            from: Begin::Beginning,
            poll: Duration::from_millis(10),
            map: Settings {
                format: Format::Pairs,
                max_payload: headwater_config::ByteSize::b(32),
                ..Settings::default()
            },
        })
        .unwrap();
        let mut probe = Probe::start(source);
        append(&path, "a 1\nb 2\nc ");
        assert_eq!(probe.readings(2).await, ["a=1", "b=2"]);
        append(&path, "3\n");
        assert_eq!(probe.readings(1).await, ["c=3"]);
        append(&path, &format!("{} 1\nlast 4", "x".repeat(100)));
        std::fs::rename(&path, folder.path().join("sensors.log.1")).unwrap();
        append(&path, "d 5\n");
        assert_eq!(probe.readings(2).await, ["last=4", "d=5"]);
        // As logrotate's copytruncate does; shorter than before, so that it shows.
        append(&path, "something longer\n");
        probe.reports(2, "is not a number").await;
        std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(0)
            .unwrap();
        append(&path, "e 6\n");
        assert_eq!(probe.readings(1).await, ["e=6"]);
        std::fs::remove_file(&path).unwrap();
        append(&path, "f 7\n");
        assert_eq!(probe.readings(1).await, ["f=7"]);
    }

    #[tokio::test]
    async fn a_restart_of_the_source_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut source = File::open(&FileSource {
            path: path.clone(),
            poll: Duration::from_millis(10),
            ..FileSource::default()
        })
        .unwrap();
        append(&path, "{\"old\":1}\n");
        let (output, mut samples) = Output::new(crate::clock::Clock::default());
        let limit = Duration::from_millis(100);
        let stopped = tokio::time::timeout(limit, source.run(&output)).await;
        assert!(stopped.is_err(), "it runs until it is dropped");
        append(&path, "{\"new\":2}\n");
        let task = tokio::spawn(async move { source.run(&output).await });
        let sample = tokio::time::timeout(Duration::from_secs(20), samples.recv()).await;
        assert_eq!(sample.unwrap().unwrap().readings[0].metric.name, "new");
        task.abort();
    }

    #[test]
    fn settings_that_make_no_sense_are_refused_by_key() {
        let open = |settings: FileSource| File::open(&settings).err().unwrap().to_string();
        assert!(open(FileSource::default()).contains("`path`"));
        let settings = FileSource {
            path: "x".into(),
            poll: Duration::from_millis(1),
            ..FileSource::default()
        };
        assert!(open(settings).contains("`poll`"));
        let settings = FileSource {
            path: "x".into(),
            map: Settings {
                format: Format::Value,
                ..Settings::default()
            },
            ..FileSource::default()
        };
        let error = open(settings);
        assert!(error.contains("`map`: `name`: is missing"), "{error}");
    }
}
