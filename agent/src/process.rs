//! What this process takes of its machine, as the kernel counts it. Reading it costs two short files of /proc, and never waits.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::{fs, io};

/// Says to a program in which slot it is, and that it is not to look for another.
pub(crate) const SLOT: &str = "HEADWATER_SLOT";

/// Starts, in the place of this program, what whoever started it would start: with the same arguments, and the packaged program, which decides
/// anew which one runs. It returns only if that fails.
pub fn replace() -> io::Error {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    #[cfg(feature = "update")]
    crate::update::calm();
    Command::new(program).args(arguments).env_remove(SLOT).exec()
}

/// What a process takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Process {
    /// Resident memory, bytes.
    pub(crate) rss_bytes: u64,
    /// Processor time used since its start, in user and kernel mode, microseconds.
    pub(crate) cpu_us: u64,
}

impl Process {
    /// This process, now; `None` where /proc is not mounted.
    pub(crate) fn read() -> Option<Self> {
        let pages = resident(&fs::read_to_string("/proc/self/statm").ok()?)?;
        let ticks = ticks(&fs::read_to_string("/proc/self/stat").ok()?)?;
        Some(Self {
            rss_bytes: pages * rustix::param::page_size() as u64,
            cpu_us: ticks * 1_000_000 / rustix::param::clock_ticks_per_second().max(1),
        })
    }
}

/// Resident pages: the second figure of statm (proc(5)).
fn resident(statm: &str) -> Option<u64> {
    statm.split_whitespace().nth(1)?.parse().ok()
}

/// Clock ticks in user and kernel mode: fields 14 and 15 of stat, counted behind the program's name, which may hold anything (proc(5)).
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    Some(user + kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_behind_any_name() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 900 0 1 0 37 5 0 0 20 0 1 0 5 1000 200";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(resident("1000 200 150 10 0 90 0\n"), Some(200));
        assert_eq!((ticks("42 (x"), resident("")), (None, None));
    }

    #[test]
    fn this_process_is_read() {
        let process = Process::read().unwrap();
        assert!(process.rss_bytes > 500_000, "{process:?}");
        assert!(process.rss_bytes < 1 << 40, "{process:?}");
    }
}
