//! What opening costs, in a process of its own, with little and with much on flash.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use headwater_agent::config::{Journal, SyncAfter};
use headwater_agent::journal::trial::Trial;
use headwater_proto::SeriesSet;
use headwater_proto::frame::Sealed;

/// MiB that are on flash.
const BACKLOGS: [u64; 2] = [2, 2048];
/// Bytes of a batch's body.
const BODY: usize = 30_000;
/// Each is opened so often; the median counts.
const TIMES: usize = 9;
/// More than this, in time or in memory, is not "no more"; both are small beside what a start costs anyway.
const MORE: (u64, u64) = (20_000, 512);

fn settings() -> Journal {
    Journal {
        sync_after: SyncAfter::After(Duration::ZERO),
        max_bytes: headwater_config::ByteSize::mib(4096),
        segment: headwater_config::ByteSize::mib(1),
        ..Journal::default()
    }
}

fn set() -> SeriesSet {
    SeriesSet::new(Vec::new(), 0)
}

/// Measures, prints, and returns the promises that are not kept. The files are made in `dir`, and removed.
///
/// # Errors
/// What keeps it from measuring.
pub fn opening(dir: &Path) -> Result<Vec<String>> {
    println!(
        "{:>12} {:>10} {:>14} {:>14}",
        "on flash", "files", "to open, µs", "memory, KiB"
    );
    let mut medians = Vec::new();
    for backlog in BACKLOGS {
        let folder = tempfile::tempdir_in(dir)?;
        fill(folder.path(), backlog)?;
        let files = fs::read_dir(folder.path().join("journal"))?.count();
        let mut costs = Vec::new();
        for _ in 0..TIMES {
            let output = Command::new(std::env::current_exe()?)
                .args(["flash", "--open"])
                .arg(folder.path())
                .output()?;
            let text = String::from_utf8(output.stdout)?;
            let mut words = text.split_whitespace().map(str::parse::<u64>);
            let (Some(Ok(time)), Some(Ok(memory))) = (words.next(), words.next()) else {
                bail!("it cannot be opened: {}", String::from_utf8_lossy(&output.stderr));
            };
            costs.push((time, memory));
        }
        costs.sort_unstable();
        let time = costs[TIMES / 2].0;
        costs.sort_unstable_by_key(|cost| cost.1);
        let memory = costs[TIMES / 2].1;
        println!("{backlog:>8} MiB {files:>10} {time:>14} {memory:>14}");
        medians.push((time, memory));
    }
    let (little, much) = (medians[0], medians[1]);
    let mut shortfalls = Vec::new();
    if much.0 > little.0 + MORE.0 || much.1 > little.1 + MORE.1 {
        shortfalls.push(format!(
            "opening {} MiB costs more than {} MiB: {much:?}, {little:?}",
            BACKLOGS[1], BACKLOGS[0]
        ));
    }
    Ok(shortfalls)
}

fn fill(dir: &Path, mebibytes: u64) -> Result<()> {
    let mut trial = Trial::open(dir, &settings(), set())?;
    let mut number = 0u64;
    while trial.bytes() < mebibytes * 1024 * 1024 {
        let mut body = set().hash().to_le_bytes().to_vec();
        body.resize(BODY, number as u8);
        let sealed = Sealed {
            envelope: 0x11,
            series_set: set().hash(),
            body,
        };
        trial.append(sealed, 80, number as i64 + 1, Duration::from_secs(1));
        number += 1;
        if let Some(fault) = trial.fault() {
            bail!("{} cannot take {mebibytes} MiB: {fault:?}", dir.display());
        }
    }
    if trial.waiting() != number * 80 {
        bail!("{} readings wait, not {}", trial.waiting(), number * 80);
    }
    trial.close();
    Ok(())
}

/// Opens the journal in a state directory, and prints microseconds and KiB that it took.
///
/// # Errors
/// If there is none.
pub fn open(dir: &Path) -> Result<()> {
    let before = resident()?;
    let began = Instant::now();
    let trial = Trial::open(
        dir,
        &Journal {
            sync_after: SyncAfter::Never,
            ..settings()
        },
        set(),
    )?;
    let time = began.elapsed().as_micros();
    if trial.waiting() == 0 {
        bail!("{} holds no journal", dir.display());
    }
    println!("{time} {}", resident()?.saturating_sub(before));
    Ok(())
}

/// Memory of this process, KiB.
fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}
