//! A process under watch: what it keeps in memory, and the CPU time it takes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What a process uses.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Resident memory now.
    pub(crate) rss_kib: u64,
    /// The most it ever was.
    pub(crate) peak_kib: u64,
    /// CPU time a minute, user and system, all threads.
    pub(crate) cpu_ms_per_minute: f64,
}

/// A running process; it ends when this is dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    begun: Instant,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts a program; what it prints goes to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        Ok(Self {
            child,
            log: log.to_path_buf(),
            begun: Instant::now(),
        })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its output is.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Watches it: memory at the end, CPU time of the watched part alone.
    pub(crate) fn watch(&self, watch: Duration) -> Result<Usage> {
        let before = self.cpu()?;
        let begun = Instant::now();
        std::thread::sleep(watch);
        let cpu = self.cpu()?.saturating_sub(before);
        Ok(Usage {
            cpu_ms_per_minute: per_minute(cpu, begun.elapsed()),
            ..self.usage()?
        })
    }

    /// What it uses now; CPU time since its start.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).unwrap_or_default();
        let kib = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        let (Some(rss_kib), Some(peak_kib)) = (kib("VmRSS:"), kib("VmHWM:")) else {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            bail!("a process has ended by itself; its output:\n{log}");
        };
        Ok(Usage {
            rss_kib,
            peak_kib,
            cpu_ms_per_minute: per_minute(self.cpu()?, self.begun.elapsed()),
        })
    }

    /// Ends it as an operator would, and returns what it used.
    pub(crate) fn stop(mut self) -> Result<Usage> {
        let usage = self.usage()?;
        let ended = Command::new("kill").arg(self.child.id().to_string()).status()?;
        if !ended.success() {
            bail!("kill failed: {ended}");
        }
        self.child.wait()?;
        Ok(usage)
    }

    /// CPU time since its start, see [`cpu`].
    pub(crate) fn cpu(&self) -> Result<Duration> {
        cpu(self.child.id())
    }
}

/// CPU time of all threads of a process, those that have ended included, to the 10 ms; of those that run, to the nanosecond.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let mut running = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        // A thread may end meanwhile.
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        running += text
            .split_whitespace()
            .next()
            .and_then(|ns| ns.parse::<u64>().ok())
            .unwrap_or(0);
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in brackets may hold anything; user and system time are the 12th and 13th after it.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks: u64 = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_nanos(running).max(Duration::from_millis(ticks * 10)))
}

fn per_minute(cpu: Duration, time: Duration) -> f64 {
    cpu.as_secs_f64() * 1000.0 * 60.0 / time.as_secs_f64()
}
