//! The sources that run: each has a task of its own, and is started again when it fails.

use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, JoinSet};

use crate::config;
use crate::error::Error;
use crate::handle::AgentHandle;
use crate::source::{self, Meter, Opened, Output};

/// A source that fails is started again after this long at first, and this long at last.
const RESTART: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long opening sources may take.
const OPENING: Duration = Duration::from_secs(30);

/// The sources that run.
pub(crate) struct Sources {
    output: Output,
    handle: AgentHandle,
    tasks: JoinSet<()>,
    /// In the order of the settings.
    running: Vec<Running>,
}

struct Running {
    settings: config::Source,
    meter: Meter,
    task: AbortHandle,
}

impl Sources {
    /// None yet; `output` is where all will put their samples.
    pub(crate) fn new(output: Output, handle: AgentHandle) -> Self {
        Self {
            output,
            handle,
            tasks: JoinSet::new(),
            running: Vec::new(),
        }
    }

    /// Starts sources that are open, one for each of `settings`.
    pub(crate) fn start(&mut self, settings: &[config::Source], opened: Vec<Opened>) {
        for (settings, opened) in settings.iter().zip(opened) {
            let running = self.run(settings, opened);
            self.running.push(running);
        }
        self.show();
    }

    /// Runs by other settings. Sources that stand in both go on undisturbed. The others are ended before new ones are opened, since both may
    /// want the same port or device.
    ///
    /// # Errors
    /// Why a new one cannot be opened; then those that were ended are opened and started again.
    pub(crate) async fn change(&mut self, settings: &[config::Source]) -> Result<(), Error> {
        let mut before: Vec<Option<Running>> =
            std::mem::take(&mut self.running).into_iter().map(Some).collect();
        let old: Vec<config::Source> = before
            .iter()
            .flatten()
            .map(|running| running.settings.clone())
            .collect();
        let kept: Vec<Option<usize>> = matches(&old, settings);
        for (at, running) in before.iter().enumerate() {
            if let Some(running) = running.as_ref().filter(|_| !kept.contains(&Some(at))) {
                self.end(running.task.clone()).await;
            }
        }
        let wanted = |kept: &[Option<usize>], settings: &[config::Source]| {
            let numbered = kept.iter().zip(settings).zip(1..);
            numbered
                .filter(|((kept, _), _)| kept.is_none())
                .map(|((_, settings), number)| (number, settings.clone()))
                .collect::<Vec<_>>()
        };
        let opened = open(wanted(&kept, settings), self.handle.device()).await;
        let (opened, result) = match opened {
            Ok(opened) => (opened, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        if result.is_ok() {
            let mut opened = opened.into_iter();
            for (at, settings) in settings.iter().enumerate() {
                let running = match kept[at].and_then(|old| before[old].take()) {
                    Some(running) => {
                        running.meter.rename(&source::title(at + 1, settings));
                        running
                    }
                    None => match opened.next() {
                        Some(opened) => self.run(settings, opened),
                        None => break,
                    },
                };
                self.running.push(running);
            }
        } else {
            for (at, settings) in old.iter().enumerate() {
                let running = before[at].take();
                if kept.contains(&Some(at)) {
                    self.running.extend(running);
                    continue;
                }
                match open(vec![(at + 1, settings.clone())], self.handle.device()).await {
                    Ok(opened) => {
                        for opened in opened {
                            let running = self.run(settings, opened);
                            self.running.push(running);
                        }
                    }
                    Err(error) => log::error!("{error}; it stays off until the next reload"),
                }
            }
        }
        self.show();
        result
    }

    /// Waits until a source's task has ended, which it does when there is nothing more to give; never, if none runs.
    pub(crate) async fn ended(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(Err(error)) if !error.is_cancelled() => {
                let failed = self
                    .running
                    .iter()
                    .find(|running| running.task.id() == error.id());
                if let Some(running) = failed {
                    running.meter.failed(&error);
                }
                log::error!("a source has failed beyond repair: {error}; the others go on");
            }
            Some(_) => {}
            None => std::future::pending().await,
        }
    }

    /// Ends all.
    pub(crate) async fn stop(&mut self) {
        self.tasks.shutdown().await;
    }

    fn run(&mut self, settings: &config::Source, opened: Opened) -> Running {
        let meter = Meter::new(&opened.name);
        let output = self.output.metered(&meter);
        let task = self.tasks.spawn(supervise(opened, output, meter.clone()));
        Running {
            settings: settings.clone(),
            meter,
            task,
        }
    }

    async fn end(&mut self, task: AbortHandle) {
        task.abort();
        while !task.is_finished() {
            // What it returns is of this task or of another that ended meanwhile, and both are noted by their meters.
            if self.tasks.join_next().await.is_none() {
                return;
            }
        }
    }

    fn show(&self) {
        let meters = self.running.iter().map(|running| running.meter.clone());
        self.handle.set_sources(meters.collect());
    }
}

/// For each of `new`, which of `old` is the same; each of `old` at most once.
fn matches(old: &[config::Source], new: &[config::Source]) -> Vec<Option<usize>> {
    let mut taken = vec![false; old.len()];
    new.iter()
        .map(|settings| {
            let at = (0..old.len()).find(|at| !taken[*at] && old[*at] == *settings)?;
            taken[at] = true;
            Some(at)
        })
        .collect()
}

/// Opens sources on a thread of its own: a device or a file system may hang.
async fn open(wanted: Vec<(usize, config::Source)>, device: &str) -> Result<Vec<Opened>, Error> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let device = device.to_string();
    let work = tokio::task::spawn_blocking(move || {
        wanted
            .iter()
            .map(|(number, settings)| source::open(*number, settings, &device))
            .collect()
    });
    match tokio::time::timeout(OPENING, work).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
        Err(_) => Err(Error::Opening { limit: OPENING }),
    }
}

/// Runs a source for as long as it has anything to give.
async fn supervise(mut opened: Opened, output: Output, meter: Meter) {
    let mut wait = RESTART.0;
    loop {
        let began = Instant::now();
        match opened.source.run(&output).await {
            Ok(()) => {
                log::info!("{} has ended", meter.name());
                meter.ended();
                return;
            }
            Err(error) => {
                meter.failed(&error);
                if began.elapsed() > RESTART.1 {
                    wait = RESTART.0;
                }
                log::error!("{}: {error}; trying again in {wait:?}", meter.name());
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RESTART.1);
            }
        }
    }
}
