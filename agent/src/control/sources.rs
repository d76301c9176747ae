//! The sources that run: each has a task of its own, and is started again when it fails.

use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};

use crate::config;
use crate::error::Error;
use crate::handle::AgentHandle;
use crate::source::{self, Meter, Opened, Output, supervise};
use crate::task;

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

    /// Starts sources that are open.
    pub(crate) fn start(&mut self, opened: Vec<Opened>) {
        for opened in opened {
            let running = self.run(opened);
            self.running.push(running);
        }
        self.show();
    }

    /// Puts the rules of metrics in force, for sources that run and that come.
    pub(crate) fn rule(&self, metrics: &[config::Metric]) {
        self.output.set_rules(metrics);
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
        let names = config::Source::names(settings);
        let wanted = kept.iter().zip(settings).zip(&names).zip(1..);
        let wanted = wanted
            .filter(|(((kept, _), _), _)| kept.is_none())
            .map(|(((_, settings), name), number)| (number, name.clone(), settings.clone()))
            .collect();
        let opened = open(wanted, self.handle.device()).await;
        let (opened, result) = match opened {
            Ok(opened) => (opened, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        if result.is_ok() {
            let mut opened = opened.into_iter();
            for (at, name) in names.iter().enumerate() {
                let running = match kept[at].and_then(|old| before[old].take()) {
                    Some(running) => {
                        running.meter.rename(name);
                        running
                    }
                    None => match opened.next() {
                        Some(opened) => self.run(opened),
                        None => break,
                    },
                };
                self.running.push(running);
            }
        } else {
            let names = config::Source::names(&old);
            for (at, (settings, name)) in old.iter().zip(names).enumerate() {
                let running = before[at].take();
                if kept.contains(&Some(at)) {
                    self.running.extend(running);
                    continue;
                }
                match open(vec![(at + 1, name, settings.clone())], self.handle.device()).await {
                    Ok(opened) => {
                        for opened in opened {
                            let running = self.run(opened);
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

    fn run(&mut self, opened: Opened) -> Running {
        let (settings, meter) = (opened.settings.clone(), opened.meter.clone());
        let output = self.output.of(&opened);
        let task = self.tasks.spawn(task::boxed(supervise(opened, output)));
        Running {
            settings,
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
async fn open(wanted: Vec<(usize, String, config::Source)>, device: &str) -> Result<Vec<Opened>, Error> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let device = device.to_string();
    let work = task::blocking(move || {
        wanted
            .iter()
            .map(|(number, name, settings)| source::open(*number, name, settings, &device))
            .collect()
    });
    match tokio::time::timeout(OPENING, work).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
        Err(_) => Err(Error::Opening { limit: OPENING }),
    }
}
