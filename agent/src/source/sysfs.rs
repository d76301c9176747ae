//! Sensors that the kernel shows as files: hwmon, thermal zones, IIO, 1-wire, and any other by a path with wildcards.
//!
//! Reading such a file means waiting for the bus behind it: 750 ms for a 1-wire thermometer, seconds for an I²C bus that
//! stalls, now and then for ever. So sensors are read by a few threads, one sensor each at a time; one that does not come back costs
//! a thread and its own readings, nothing else. Directories are searched by the same threads, seldom.
//!
//! Names are made of what stays: labels, chips' names and the addresses where they are connected (`place.rs`). Values are
//! what the kernel's integers mean, in the units of UCUM, as decimals.

mod free;
mod iio;
mod place;
mod presets;
mod readers;
mod roster;
mod sensor;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::schedule::Schedule;
use super::{Cadence, Output, Running, Sample, Source};
use crate::config::{SysfsPreset, SysfsSource};
use crate::error::SourceError;

use free::Free;
use place::Names;
use presets::Scan;
use readers::{Done, Job, Readers};
use roster::Roster;
use sensor::Sensor;

/// The source.
pub(crate) struct Sysfs {
    schedule: Schedule,
    rescan: Duration,
    readers: usize,
    finder: Arc<Finder>,
}

/// What is looked for, and where.
#[derive(Debug)]
struct Finder {
    root: PathBuf,
    prefix: String,
    presets: Vec<SysfsPreset>,
    files: Vec<Free>,
}

impl Sysfs {
    pub(crate) fn open(settings: &SysfsSource) -> Result<Self, SourceError> {
        let refused = |key, why| Err(SourceError::Setting { key, why });
        if settings.interval < Duration::from_millis(10) {
            return refused("interval", format!("{:?} is less than 10ms", settings.interval));
        }
        if settings.rescan < Duration::from_secs(1) {
            return refused("rescan", format!("{:?} is less than 1s", settings.rescan));
        }
        if !(1..=16).contains(&settings.readers) {
            return refused("readers", format!("{} is not in 1..=16", settings.readers));
        }
        if settings.presets.is_empty() && settings.files.is_empty() {
            let why = "it is empty and there is no `file`, so that nothing would be read".to_string();
            return refused("presets", why);
        }
        let finder = Finder {
            root: settings.root.clone(),
            prefix: settings.prefix.clone(),
            presets: settings.presets.clone(),
            files: settings.files.iter().map(Free::check).collect::<Result<_, _>>()?,
        };
        Ok(Self {
            schedule: Schedule::every(settings.interval),
            rescan: settings.rescan,
            readers: settings.readers,
            finder: Arc::new(finder),
        })
    }
}

impl Finder {
    /// Looks through the tree; may take long.
    fn find(&self) -> Vec<Sensor> {
        let mut scan = Scan {
            root: &self.root,
            prefix: &self.prefix,
            presets: &self.presets,
            names: Names::default(),
            found: Vec::new(),
        };
        for preset in &self.presets {
            match preset {
                SysfsPreset::Hwmon => scan.hwmon(),
                SysfsPreset::Thermal => scan.thermal(),
                SysfsPreset::Iio => scan.iio(),
                SysfsPreset::OneWire => scan.onewire(),
            }
        }
        for file in &self.files {
            file.scan(&mut scan);
        }
        scan.found
    }
}

impl Source for Sysfs {
    fn cadence(&self) -> Cadence {
        Cadence::Every(self.schedule.interval())
    }

    fn run<'a>(&'a mut self, output: &'a Output) -> Running<'a> {
        Box::pin(async move {
            let mut readers = Readers::start(self.readers, &self.finder)?;
            let mut roster = Roster::default();
            readers.give(Job::Find);
            let mut looked = Instant::now();
            let mut looking = true;
            let mut previous = None;
            loop {
                tokio::select! {
                    tick = self.schedule.tick(output.clock(), previous) => {
                        previous = Some(tick);
                        if !looking && looked.elapsed() >= self.rescan {
                            (looking, looked) = (true, Instant::now());
                            readers.give(Job::Find);
                        }
                        let (late, jobs) = roster.begin(tick);
                        for (id, sensor) in jobs {
                            readers.give(Job::Read { id, tick, sensor });
                        }
                        // Without readings it says that the source is alive, though nothing may be plugged in.
                        let alive = Sample { time_us: tick, readings: Vec::new() };
                        output.send(late.unwrap_or(alive)).await;
                    }
                    done = readers.done.recv() => {
                        let sample = match done {
                            Some(Done::Found(sensors)) => {
                                looking = false;
                                roster.found(sensors);
                                None
                            }
                            Some(Done::Read { id, tick, outcome }) => roster.read(id, tick, outcome),
                            None => {
                                let why = "the threads that read them have ended".to_string();
                                return Err(SourceError::System { what: "sensors", why });
                            }
                        };
                        if let Some(sample) = sample {
                            output.send(sample).await;
                        }
                    }
                }
                for (fault, news) in roster.faults() {
                    output.tell(&fault, news);
                }
            }
        })
    }
}
