//! What is read, under which name, in which unit (UCUM) and at which resolution:
//!
//! | metric | unit | resolution |
//! |---|---|---|
//! | `cpu.usage` | `%` of all processors | 0.01 |
//! | `memory.used`, `memory.available`, `swap.used` | `By` | 1 |
//! | `load.1m`, `load.5m`, `load.15m` | none | 0.01 |
//! | `uptime` | `s` | 1 |
//! | `disk.<mount>.used`, `disk.<mount>.free` | `By` | 1 |
//! | `net.<interface>.rx`, `net.<interface>.tx` | `By/s` | 1 |
//! | `temperature.<sensor>` | `Cel` | 0.01 |
//!
//! Rates are means over the time since the last sample. A disk is what has a size of its own: a device that is mounted at
//! several places is named by the shortest. The loopback interface is left out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use headwater_proto::Value;
use sysinfo::{Components, DiskRefreshKind, Disks, System};

use super::network::Network;
use crate::config::{SystemGroup, SystemSource};
use crate::error::SourceError;
use crate::source::{Metric, Reading, decimal};

/// Reads this machine's figures.
pub(super) struct Figures {
    prefix: String,
    groups: Vec<SystemGroup>,
    system: System,
    disks: Option<Disks>,
    network: Option<Network>,
    components: Option<Components>,
    refreshed: Instant,
    metrics: HashMap<String, Arc<Metric>>,
}

impl Figures {
    /// Opens what the settings ask for. The first sample's rates count from here.
    pub(super) fn open(settings: &SystemSource) -> Result<Self, SourceError> {
        let has = |group| settings.groups.contains(&group);
        let mut system = System::new().map_err(|error| SourceError::System {
            what: "figures",
            why: error.to_string(),
        })?;
        system.refresh_cpu_usage();
        Ok(Self {
            prefix: settings.prefix.clone(),
            groups: settings.groups.clone(),
            system,
            disks: has(SystemGroup::Disks)
                .then(|| part("disks", Disks::new()))
                .flatten(),
            network: has(SystemGroup::Network)
                .then(|| part("network", Network::open()))
                .flatten(),
            components: has(SystemGroup::Temperatures)
                .then(|| part("temperatures", Components::new()))
                .flatten(),
            refreshed: Instant::now(),
            metrics: HashMap::new(),
        })
    }

    /// All figures, now.
    pub(super) fn sample(&mut self) -> Vec<Reading> {
        let mut out = Vec::with_capacity(32);
        let seconds = self.refreshed.elapsed().as_secs_f64().max(1e-3);
        self.refreshed = Instant::now();
        for group in self.groups.clone() {
            match group {
                SystemGroup::Cpu => {
                    self.system.refresh_cpu_usage();
                    let usage = f64::from(self.system.global_cpu_usage()).clamp(0.0, 100.0);
                    self.put(&mut out, "cpu.usage", "%", Value::F64(decimal(usage, 2)));
                }
                SystemGroup::Memory => {
                    self.system.refresh_memory();
                    for (name, bytes) in [
                        ("memory.used", self.system.used_memory()),
                        ("memory.available", self.system.available_memory()),
                        ("swap.used", self.system.used_swap()),
                    ] {
                        self.put(&mut out, name, "By", whole(bytes as f64));
                    }
                }
                SystemGroup::Load => self.load(&mut out),
                SystemGroup::Disks => self.disks(&mut out),
                SystemGroup::Network => self.network(&mut out, seconds),
                SystemGroup::Temperatures => self.temperatures(&mut out),
            }
        }
        out
    }

    fn load(&mut self, out: &mut Vec<Reading>) {
        if let Ok(load) = System::load_average() {
            for (name, load) in [
                ("load.1m", load.one),
                ("load.5m", load.five),
                ("load.15m", load.fifteen),
            ] {
                self.put(out, name, "", Value::F64(decimal(load, 2)));
            }
        }
        if let Ok(seconds) = System::uptime() {
            self.put(out, "uptime", "s", whole(seconds as f64));
        }
    }

    fn disks(&mut self, out: &mut Vec<Reading>) {
        let Some(disks) = &mut self.disks else { return };
        disks.refresh_specifics(true, DiskRefreshKind::nothing().with_storage());
        // By device, its shortest mount point.
        let mut mounts = BTreeMap::new();
        for disk in disks.iter().filter(|disk| disk.total_space() > 0) {
            let mount = disk.mount_point().display().to_string();
            let figures = (mount, disk.total_space(), disk.available_space());
            let shortest = mounts
                .entry((disk.name().to_owned(), disk.total_space()))
                .or_insert(figures.clone());
            if (figures.0.len(), &figures.0) < (shortest.0.len(), &shortest.0) {
                *shortest = figures;
            }
        }
        for (mount, total, free) in mounts.into_values() {
            self.put(
                out,
                &format!("disk.{mount}.used"),
                "By",
                whole(total.saturating_sub(free) as f64),
            );
            self.put(out, &format!("disk.{mount}.free"), "By", whole(free as f64));
        }
    }

    fn network(&mut self, out: &mut Vec<Reading>, seconds: f64) {
        let Some(network) = &mut self.network else {
            return;
        };
        // It was there at the start; a moment without it is a moment without these figures.
        for (name, received, sent) in network.carried().unwrap_or_default() {
            self.put(
                out,
                &format!("net.{name}.rx"),
                "By/s",
                whole(received as f64 / seconds),
            );
            self.put(
                out,
                &format!("net.{name}.tx"),
                "By/s",
                whole(sent as f64 / seconds),
            );
        }
    }

    fn temperatures(&mut self, out: &mut Vec<Reading>) {
        let Some(components) = &mut self.components else {
            return;
        };
        components.refresh(true);
        let mut sensors: Vec<_> = components
            .iter()
            .filter_map(|sensor| {
                Some((
                    sensor.label().to_lowercase().replace(' ', "_"),
                    sensor.temperature()?,
                ))
            })
            .filter(|(_, temperature)| temperature.is_finite())
            .collect();
        sensors.sort_by(|a, b| a.0.cmp(&b.0));
        let mut last = (String::new(), 0);
        for (label, temperature) in sensors {
            last = if label == last.0 {
                (label, last.1 + 1)
            } else {
                (label, 1)
            };
            // Two sensors of one label.
            let number = if last.1 > 1 {
                format!("_{}", last.1)
            } else {
                String::new()
            };
            let name = format!("temperature.{}{number}", last.0);
            self.put(out, &name, "Cel", Value::F64(decimal(f64::from(temperature), 2)));
        }
    }

    fn put(&mut self, out: &mut Vec<Reading>, name: &str, unit: &str, value: Value) {
        let metric = match self.metrics.get(name) {
            Some(metric) => metric.clone(),
            None => {
                let metric = Metric::new(format!("{}{name}", self.prefix), unit);
                self.metrics.insert(name.to_string(), metric.clone());
                metric
            }
        };
        out.push(Reading::new(metric, value));
    }
}

/// What one machine lacks (a container has no sensors) is no reason to be without the rest.
fn part<T, E: std::fmt::Display>(what: &str, opened: Result<T, E>) -> Option<T> {
    opened
        .map_err(|error| log::warn!("the system does not tell its {what}: {error}; going on without"))
        .ok()
}

fn whole(value: f64) -> Value {
    Value::I64(value.round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_units_are_given_and_none_comes_twice() {
        let settings = SystemSource {
            prefix: "host.".into(),
            ..Default::default()
        };
        let mut figures = Figures::open(&settings).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(250));
        let names = |readings: &[Reading]| {
            readings
                .iter()
                .map(|reading| reading.metric.name.clone())
                .collect::<Vec<_>>()
        };
        let readings = figures.sample();
        let first = names(&readings);
        let unique: std::collections::BTreeSet<_> = first.iter().collect();
        assert_eq!(unique.len(), first.len(), "{first:?}");
        for name in ["cpu.usage", "memory.used", "load.1m", "uptime"] {
            assert!(
                first.contains(&format!("host.{name}")),
                "{name} is missing of {first:?}"
            );
        }
        for reading in &readings {
            headwater_proto::name::check_metric(&reading.metric.name).unwrap();
            if let Value::F64(value) = reading.value {
                assert_eq!(
                    value,
                    decimal(value, 2),
                    "{} has more than 2 digits",
                    reading.metric.name
                );
            }
        }
        assert_eq!(names(&figures.sample()), first);
    }

    #[test]
    fn groups_that_are_not_asked_for_are_left_out() {
        let settings = SystemSource {
            groups: vec![SystemGroup::Load],
            ..Default::default()
        };
        let readings = Figures::open(&settings).unwrap().sample();
        assert!(!readings.is_empty());
        assert!(
            readings
                .iter()
                .all(|reading| !reading.metric.name.starts_with("cpu"))
        );
    }
}
