//! What a day costs the flash, at a block device of its own: a loop device with ext4, whose counters the kernel keeps. And what opening a
//! journal costs, however much it holds.
//!
//! The day is simulated: the journal is told the time, and nobody waits. What a real day costs beside the writes themselves is ext4's doing: it
//! commits its own journal some time after something of a file changed, were it the time of its last change alone, and how long
//! after is its mount's option `commit=`, 5 s unless that is given. So each way is measured with those commits made when they would
//! come: on a mount without the option, and on two with it. The promises are held on the mount that `deploy/agent.toml` advises; what the
//! others cost is shown beside it. `bench/flash-live` has the same for real agents in real time.

mod commits;
mod device;
mod opening;

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use headwater_agent::config::{Journal, SyncAfter};
use headwater_agent::journal::trial::Trial;
use headwater_proto::frame::{self, Compression, Encoding, Sealed};
use headwater_proto::{Body, Limits, SeriesSet};

use crate::trace::{self, Trace};
use commits::Commits;
use device::Device;

pub use opening::{open, opening};

/// Rows of the trace in a batch: 10 s of 1 Hz.
const ROWS: usize = 10;
/// Seconds between two batches.
const PACE: u64 = 10;
/// MiB of the device.
const SIZE: u64 = 256;

/// What is measured.
#[derive(Debug)]
pub struct Plan<'a> {
    /// A trace of 8 metrics at 1 Hz.
    pub trace: &'a Path,
    /// Hours of the simulated day; the promises are for 24.
    pub hours: u64,
}

/// A way to keep batches.
struct Way {
    name: &'static str,
    /// Bytes that the device may take on the day, in MB; `None`: no promise.
    most: Option<f64>,
    keep: fn(&Day, &Path, &mut Commits) -> Result<Option<u64>>,
}

/// Seconds between the file system's commits: as it is mounted without the option, and with it. The promises are held on the last.
const COMMITS: [u64; 3] = [5, 600, 1800];

/// The batches of a day.
struct Day {
    set: SeriesSet,
    batches: Vec<Sealed>,
    readings: u64,
    payload: u64,
}

const WAYS: [Way; 8] = [
    Way {
        name: "journal, acknowledged in time",
        most: Some(1.0),
        keep: |day, dir, commits| journal(day, dir, commits, Duration::from_secs(60), true),
    },
    Way {
        name: "journal, offline, sync_after = 300 s",
        most: Some(4.0),
        keep: |day, dir, commits| journal(day, dir, commits, Duration::from_secs(300), false),
    },
    Way {
        name: "journal, offline, sync_after = 60 s",
        most: Some(16.0),
        keep: |day, dir, commits| journal(day, dir, commits, Duration::from_secs(60), false),
    },
    Way {
        name: "journal, offline, sync_after = 0 s",
        most: None,
        keep: |day, dir, commits| journal(day, dir, commits, Duration::ZERO, false),
    },
    Way {
        name: "one block in its place, every 300 s",
        most: None,
        keep: |day, dir, commits| block(day, dir, commits, 300).map(|()| None),
    },
    Way {
        name: "one block in its place, every 60 s",
        most: None,
        keep: |day, dir, commits| block(day, dir, commits, 60).map(|()| None),
    },
    Way {
        name: "a file, fsync per batch",
        most: None,
        keep: |day, dir, commits| plain_file(day, dir, commits).map(|()| None),
    },
    Way {
        name: "SQLite, WAL, synchronous=FULL",
        most: None,
        keep: |day, dir, commits| sqlite(day, dir, commits).map(|()| None),
    },
];

/// Measures, prints, and returns the promises that are not kept.
///
/// # Errors
/// What keeps it from measuring: it needs root, loop devices, mkfs.ext4 and python3.
pub fn wear(plan: &Plan<'_>) -> Result<Vec<String>> {
    let trace = trace::read(plan.trace)?;
    let day = Day::of(&trace, plan.hours * 360)?;
    println!(
        "{} h of {}: {} batches, {} readings, {} bytes encoded; ext4, {SIZE} MiB, 4 KiB blocks",
        plan.hours,
        trace.name,
        day.batches.len(),
        day.readings,
        day.payload
    );
    let heads = COMMITS.map(|seconds| format!("commit={seconds}"));
    println!(
        "{:<38} {:>11} {:>11} {:>11} {:>8} {:>12}",
        "MB written to the device, mounted with", heads[0], heads[1], heads[2], "times", "own figure"
    );
    let mut shortfalls = Vec::new();
    for way in &WAYS {
        let mut figures = Vec::new();
        let mut own = None;
        for seconds in COMMITS {
            let device = Device::new(SIZE)?;
            let before = device.written()?;
            let mut commits = Commits::new(device.path(), seconds)?;
            let kept = (way.keep)(&day, device.path(), &mut commits).with_context(|| way.name.to_string())?;
            own = own.or(kept);
            figures.push((device.written()? - before) as f64 / 1e6);
        }
        let advised = figures[2];
        println!(
            "{:<38} {:>11.2} {:>11.2} {:>11.2} {:>8.1} {:>12}",
            way.name,
            figures[0],
            figures[1],
            advised,
            advised * 1e6 / day.payload as f64,
            own.map_or_else(String::new, |own| format!("{:.2}", own as f64 / 1e6)),
        );
        let most = way.most.map(|most| most * plan.hours as f64 / 24.0);
        if let Some(most) = most.filter(|most| advised > *most) {
            shortfalls.push(format!(
                "{}, on a mount with {}: {advised:.2} MB, not the {most:.2} MB promised",
                way.name, heads[2]
            ));
        }
    }
    Ok(shortfalls)
}

impl Day {
    fn of(trace: &Trace, batches: u64) -> Result<Self> {
        let set = trace.series();
        let mut day = Self {
            batches: Vec::new(),
            readings: 0,
            payload: 0,
            set,
        };
        let rows = trace.rows.chunks_exact(ROWS).cycle();
        for rows in rows.take(batches as usize) {
            let body = Body::Readings(trace::readings(&trace.metrics, rows));
            let sealed = frame::seal(
                &body,
                &day.set,
                Encoding::Postcard,
                Compression::None,
                &Limits::default(),
            )?;
            day.readings += trace::count(rows) as u64;
            day.payload += sealed.body.len() as u64;
            day.batches.push(sealed);
        }
        if day.batches.len() as u64 != batches {
            bail!("{} has no {ROWS} rows", trace.name);
        }
        Ok(day)
    }
}

/// The agent's journal; returns what it says it has written.
fn journal(
    day: &Day,
    dir: &Path,
    commits: &mut Commits,
    sync_after: Duration,
    acknowledged: bool,
) -> Result<Option<u64>> {
    let settings = Journal {
        sync_after: SyncAfter::After(sync_after),
        ..Journal::default()
    };
    let mut trial = Trial::open(&dir.join("state"), &settings, day.set.clone())?;
    let mut written = 0;
    for (batch, number) in day.batches.iter().zip(0..) {
        let readings = day.readings / day.batches.len() as u64;
        trial.append(
            batch.clone(),
            readings,
            number * 10_000_000 + 1,
            Duration::from_secs(10),
        );
        if acknowledged {
            trial.acknowledge();
        }
        commits.at(PACE * number as u64, trial.written() != written)?;
        written = trial.written();
        if let Some(fault) = trial.fault() {
            bail!("flash failed: {fault:?}");
        }
    }
    let written = trial.written();
    trial.close();
    Ok(Some(written))
}

/// The least that a durable write can be: a block of a file that has all its blocks is overwritten and synced, every so many seconds. What it
/// costs beyond the block is the file system's.
fn block(day: &Day, dir: &Path, commits: &mut Commits, every: u64) -> Result<()> {
    let file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(dir.join("block"))?;
    let mut block = vec![0; 4096];
    file.write_all_at(&block, 0)?;
    file.sync_all()?;
    for now in (0..day.batches.len() as u64).map(|number| PACE * number) {
        let writes = now.is_multiple_of(every);
        if writes {
            // A file's time moves by the kernel's ticks; on a real day there are many between two writes.
            std::thread::sleep(Duration::from_millis(12));
            block[..8].copy_from_slice(&now.to_le_bytes());
            file.write_all_at(&block, 0)?;
            file.sync_data()?;
        }
        commits.at(now, writes)?;
    }
    Ok(())
}

fn plain_file(day: &Day, dir: &Path, commits: &mut Commits) -> Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("batches"))?;
    for (batch, number) in day.batches.iter().zip(0..) {
        let mut record = (batch.body.len() as u32).to_le_bytes().to_vec();
        record.extend(&batch.body);
        file.write_all(&record)?;
        file.sync_all()?;
        commits.at(PACE * number, true)?;
    }
    Ok(())
}

const SQLITE: &str = "
import ctypes, os, sqlite3, sys
folder, pace, interval = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
batches = sys.stdin.buffer
db = sqlite3.connect(folder + '/batches.db', isolation_level=None)
assert db.execute('PRAGMA journal_mode=WAL').fetchone()[0] == 'wal'
db.execute('PRAGMA synchronous=FULL')
db.execute('CREATE TABLE batch (seq INTEGER PRIMARY KEY, body BLOB NOT NULL)')
descriptor = os.open(folder, os.O_RDONLY)
libc = ctypes.CDLL(None)
now, due = 0, None
while length := batches.read(4):
    db.execute('BEGIN')
    db.execute('INSERT INTO batch (body) VALUES (?)', (batches.read(int.from_bytes(length, 'little')),))
    db.execute('COMMIT')
    now += pace
    due = due or now + interval
    if now + pace > due: due = libc.syncfs(descriptor) or None
db.close()
";

fn sqlite(day: &Day, dir: &Path, commits: &Commits) -> Result<()> {
    let mut python = Command::new("python3")
        .args(["-c", SQLITE])
        .arg(dir)
        .args([PACE.to_string(), commits.interval().to_string()])
        .stdin(Stdio::piped())
        .spawn()
        .context("python3, with its module sqlite3, is needed")?;
    {
        let mut input = python.stdin.take().context("python3 has no input")?;
        for batch in &day.batches {
            input.write_all(&(batch.body.len() as u32).to_le_bytes())?;
            input.write_all(&batch.body)?;
        }
    }
    if !python.wait()?.success() {
        bail!("python3 failed");
    }
    Ok(())
}
