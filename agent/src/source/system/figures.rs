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

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::cpu::Cpu;
use super::disks::Disks;
use super::memory;
use super::network::Network;
use super::shown::Shown;
use super::temperatures::Temperatures;
use crate::config::{SystemGroup, SystemSource};
use crate::source::{Metric, Reading, decimal};
use headwater_proto::Value;

/// Reads this machine's figures.
pub(super) struct Figures {
    prefix: String,
    groups: Vec<SystemGroup>,
    cpu: Option<Cpu>,
    memory: Option<Shown>,
    load: Option<Shown>,
    disks: Option<Disks>,
    network: Option<Network>,
    temperatures: Temperatures,
    refreshed: Instant,
    metrics: HashMap<String, Arc<Metric>>,
}

impl Figures {
    /// Opens what the settings ask for. The first sample's rates count from here.
    pub(super) fn open(settings: &SystemSource) -> Self {
        let has = |group| settings.groups.contains(&group);
        Self {
            prefix: settings.prefix.clone(),
            groups: settings.groups.clone(),
            cpu: part(has(SystemGroup::Cpu), "processors", Cpu::open),
            memory: part(has(SystemGroup::Memory), "memory", || {
                Shown::open("/proc/meminfo")
            }),
            load: part(has(SystemGroup::Load), "load", || Shown::open("/proc/loadavg")),
            disks: part(has(SystemGroup::Disks), "disks", Disks::open),
            network: part(has(SystemGroup::Network), "network", Network::open),
            temperatures: Temperatures::default(),
            refreshed: Instant::now(),
            metrics: HashMap::new(),
        }
    }

    /// All figures, now.
    pub(super) fn sample(&mut self) -> Vec<Reading> {
        let mut out = Vec::with_capacity(32);
        let seconds = self.refreshed.elapsed().as_secs_f64().max(1e-3);
        self.refreshed = Instant::now();
        for at in 0..self.groups.len() {
            match self.groups[at] {
                SystemGroup::Cpu => {
                    if let Some(usage) = self.cpu.as_mut().and_then(Cpu::usage) {
                        self.put(&mut out, "cpu.usage", "%", Value::F64(decimal(usage, 2)));
                    }
                }
                SystemGroup::Memory => self.memory(&mut out),
                SystemGroup::Load => self.load(&mut out),
                SystemGroup::Disks => self.disks(&mut out),
                SystemGroup::Network => self.network(&mut out, seconds),
                SystemGroup::Temperatures => {
                    for (name, temperature) in self.temperatures.read() {
                        let name = format!("temperature.{name}");
                        self.put(&mut out, &name, "Cel", Value::F64(decimal(temperature, 2)));
                    }
                }
            }
        }
        out
    }

    fn memory(&mut self, out: &mut Vec<Reading>) {
        let text = self.memory.as_mut().and_then(|shown| shown.beginning().ok());
        let Some(memory) = text.and_then(memory::parse) else {
            return;
        };
        for (name, bytes) in [
            ("memory.used", memory.used),
            ("memory.available", memory.available),
            ("swap.used", memory.swap_used),
        ] {
            self.put(out, name, "By", whole(bytes as f64));
        }
    }

    fn load(&mut self, out: &mut Vec<Reading>) {
        let text = self.load.as_mut().and_then(|shown| shown.beginning().ok());
        let mut means = text.unwrap_or_default().split_ascii_whitespace();
        let means = [means.next(), means.next(), means.next()].map(|mean| mean?.parse::<f64>().ok());
        for (name, mean) in ["load.1m", "load.5m", "load.15m"].into_iter().zip(means) {
            if let Some(mean) = mean {
                self.put(out, name, "", Value::F64(decimal(mean, 2)));
            }
        }
        let since_start = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        self.put(out, "uptime", "s", whole(since_start.tv_sec as f64));
    }

    fn disks(&mut self, out: &mut Vec<Reading>) {
        for disk in self.disks.as_mut().map(Disks::room).unwrap_or_default() {
            let point = disk.point;
            self.put(out, &format!("disk.{point}.used"), "By", whole(disk.used as f64));
            self.put(out, &format!("disk.{point}.free"), "By", whole(disk.free as f64));
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
fn part<T>(wanted: bool, what: &str, open: impl FnOnce() -> io::Result<T>) -> Option<T> {
    if !wanted {
        return None;
    }
    open()
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
        let mut figures = Figures::open(&settings);
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
        let readings = Figures::open(&settings).sample();
        assert!(!readings.is_empty());
        assert!(
            readings
                .iter()
                .all(|reading| !reading.metric.name.starts_with("cpu"))
        );
    }
}
