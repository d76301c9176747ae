//! Threads that read, since a file of the kernel's may take as long as the bus behind it, or for ever.

use std::sync::mpsc as job;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::sync::mpsc;

use super::sensor::{Fault, Outcome, Sensor};
use super::{Finder, SourceError};

/// A thread's stack: it walks directories and reads small files.
const STACK: usize = 128 * 1024;

/// What a thread is to do.
pub(super) enum Job {
    /// Look for sensors.
    Find,
    /// Read one.
    Read {
        /// As [`super::roster::Roster`] numbers them.
        id: u64,
        tick: i64,
        sensor: Arc<Sensor>,
    },
}

/// What came of it.
pub(super) enum Done {
    Found(Vec<Sensor>),
    Read {
        id: u64,
        tick: i64,
        outcome: Result<Outcome, Fault>,
    },
}

/// The threads, seen from the source. Each ends after its job when this is dropped.
pub(super) struct Readers {
    jobs: job::Sender<Job>,
    pub(super) done: mpsc::Receiver<Done>,
}

impl Readers {
    pub(super) fn start(count: usize, finder: &Arc<Finder>) -> Result<Self, SourceError> {
        let (jobs, queue) = job::channel();
        let queue = Arc::new(Mutex::new(queue));
        let (results, done) = mpsc::channel(16);
        for number in 1..=count {
            let (queue, results, finder) = (queue.clone(), results.clone(), finder.clone());
            thread::Builder::new()
                .name(format!("source-sysfs-{number}"))
                .stack_size(STACK)
                .spawn(move || work(&queue, &results, &finder))
                .map_err(|error| SourceError::System {
                    what: "sensors",
                    why: error.to_string(),
                })?;
        }
        Ok(Self { jobs, done })
    }

    /// Gives the next free thread a job.
    pub(super) fn give(&self, job: Job) {
        // Refused only when every thread has ended; then `done` says so.
        let _ = self.jobs.send(job);
    }
}

fn work(queue: &Mutex<job::Receiver<Job>>, results: &mpsc::Sender<Done>, finder: &Finder) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let done = match job {
            Ok(Job::Find) => Done::Found(finder.find()),
            Ok(Job::Read { id, tick, sensor }) => Done::Read {
                id,
                tick,
                outcome: sensor.read(),
            },
            Err(_) => return,
        };
        if results.blocking_send(done).is_err() {
            return;
        }
    }
}
