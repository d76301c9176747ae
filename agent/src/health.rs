//! The agent's own figures as ordinary metrics `agent.*`: so a fleet's health travels the way of its readings, is kept as long and drawn by
//! the same page. Counters are whole numbers and everything else decimals of few digits, which is what encodes small.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_proto::Value;

use crate::AgentHandle;
use crate::process::Process;
use crate::source::{Metric, Output, Reading, Sample, Schedule};
use crate::stats::{AgentStats, JournalMode, SourceState, SourceStats};
use crate::task;

/// Every figure with its unit (UCUM), in the order of `docs/metrics.md`, which says what each is.
const FIGURES: [(&str, &str); 29] = [
    ("agent.sampled", ""),
    ("agent.acked", ""),
    ("agent.lost", ""),
    ("agent.waiting", ""),
    ("agent.waiting.bytes", "By"),
    ("agent.waiting.age", "s"),
    ("agent.sent", ""),
    ("agent.resent", ""),
    ("agent.reconnects", ""),
    ("agent.link.sent", "By"),
    ("agent.link.received", "By"),
    ("agent.journal.bytes", "By"),
    ("agent.journal.fallback", ""),
    ("agent.journal.quarantined", ""),
    ("agent.journal.unfinished", ""),
    ("agent.flash.written", "By"),
    ("agent.clock.synchronised", ""),
    ("agent.clock.offset", "s"),
    ("agent.clock.relay_ahead", "s"),
    ("agent.budget.used", "By"),
    ("agent.budget.limit", "By"),
    ("agent.thinning", ""),
    ("agent.other_boxes", ""),
    ("agent.sources.failing", ""),
    ("agent.update.failed", ""),
    ("agent.memory", "By"),
    ("agent.cpu", "%"),
    ("agent.certificate.days", "d"),
    ("agent.temperature", "Cel"),
];

/// Samples an agent's own figures until it is dropped.
pub(crate) async fn run(handle: AgentHandle, output: Output, interval: Duration) {
    let schedule = Schedule::every(interval);
    let mut health = Health::default();
    let mut previous = None;
    loop {
        let tick = schedule.tick(output.clock(), previous).await;
        previous = Some(tick);
        let (stats, sources) = (handle.stats(), handle.sources());
        // A sensor of the processor may answer slowly.
        let Ok(mut machine) = task::blocking(Machine::read).await else {
            continue;
        };
        machine.certificate_until_s = handle.certificate_until_s();
        machine.update_failed = update_failed(&handle.update().state);
        let readings = health.readings(Instant::now(), tick, &stats, &sources, &machine);
        let time_us = tick;
        output.send(Sample { time_us, readings }).await;
    }
}

/// What is read of the system for a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Machine {
    process: Option<Process>,
    /// Degrees Celsius.
    temperature: Option<f64>,
    /// Seconds since the Unix epoch.
    certificate_until_s: Option<i64>,
    /// What came of the last update over the air.
    update_failed: Option<bool>,
}

impl Machine {
    fn read() -> Self {
        Self {
            process: Process::read(),
            temperature: temperature(Path::new("/sys/class/thermal")),
            ..Self::default()
        }
    }
}

/// What has to be remembered from one sample to the next.
struct Health {
    /// Those of [`FIGURES`].
    metrics: Vec<Arc<Metric>>,
    /// When the processor time was last read, and how much it was.
    cpu: Option<(Instant, u64)>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            metrics: FIGURES.map(|(name, unit)| Metric::new(name, unit)).to_vec(),
            cpu: None,
        }
    }
}

impl Health {
    fn readings(
        &mut self,
        now: Instant,
        now_us: i64,
        stats: &AgentStats,
        sources: &[SourceStats],
        machine: &Machine,
    ) -> Vec<Reading> {
        let mut readings = Vec::with_capacity(FIGURES.len());
        let mut add = |name: &str, value: Value| {
            let known = self.metrics.iter().find(|metric| metric.name == name);
            debug_assert!(known.is_some(), "{name} is not in FIGURES");
            readings.extend(known.map(|metric| Reading::new(metric.clone(), value)));
        };
        let count = |value: u64| Value::I64(i64::try_from(value).unwrap_or(i64::MAX));
        add("agent.sampled", count(stats.sampled_readings));
        add("agent.acked", count(stats.acked_readings));
        add("agent.lost", count(stats.lost_readings));
        add("agent.waiting", count(stats.waiting_readings));
        add("agent.waiting.bytes", count(stats.waiting_bytes));
        let age_us = match stats.oldest_us {
            0 => 0,
            oldest_us => now_us.saturating_sub(oldest_us).max(0),
        };
        add("agent.waiting.age", Value::I64(age_us / 1_000_000));
        add("agent.sent", count(stats.sent_batches));
        add("agent.resent", count(stats.resent_batches));
        add("agent.reconnects", count(stats.reconnects));
        add("agent.link.sent", count(stats.link_sent_bytes));
        add("agent.link.received", count(stats.link_received_bytes));
        if stats.journal.mode != JournalMode::Memory {
            let in_memory = stats.journal.mode == JournalMode::Fallback;
            add("agent.journal.bytes", count(stats.journal.flash_bytes));
            add("agent.journal.fallback", Value::Bool(in_memory));
            add("agent.journal.quarantined", count(stats.journal.quarantined));
            add("agent.journal.unfinished", count(stats.journal.unfinished));
        }
        add("agent.flash.written", count(stats.journal.flash_written_bytes));
        add("agent.clock.synchronised", Value::Bool(stats.clock.synchronised));
        let offset_ms = stats.clock.offset_us / 1_000;
        add("agent.clock.offset", Value::F64(offset_ms as f64 / 1e3));
        if let Some(ahead_us) = stats.clock.relay_ahead_us {
            add("agent.clock.relay_ahead", Value::I64(ahead_us / 1_000_000));
        }
        if stats.budget.limit_bytes > 0 {
            add("agent.budget.used", count(stats.budget.used_bytes));
            add("agent.budget.limit", count(stats.budget.limit_bytes));
        }
        add("agent.thinning", count(u64::from(stats.thinning)));
        add("agent.other_boxes", count(stats.other_boxes));
        let failing = sources
            .iter()
            .filter(|source| matches!(source.state, SourceState::Failing | SourceState::Stalled))
            .count();
        add("agent.sources.failing", count(failing as u64));
        if let Some(process) = machine.process {
            add("agent.memory", count(process.rss_bytes));
            if let Some((at, cpu_us)) = self.cpu.replace((now, process.cpu_us)) {
                let passed_us = (now - at).as_micros().max(1) as f64;
                let percent = process.cpu_us.saturating_sub(cpu_us) as f64 * 100.0 / passed_us;
                add("agent.cpu", Value::F64((percent * 100.0).round() / 100.0));
            }
        }
        if let Some(failed) = machine.update_failed {
            add("agent.update.failed", Value::Bool(failed));
        }
        if let Some(until_s) = machine.certificate_until_s {
            let tenths = (until_s - now_us / 1_000_000) / 8_640;
            add("agent.certificate.days", Value::F64(tenths as f64 / 10.0));
        }
        if let Some(temperature) = machine.temperature {
            add("agent.temperature", Value::F64(temperature));
        }
        readings
    }
}

/// Whether the last update has failed, by its state; `None`: there was none yet, or it is under way.
fn update_failed(state: &str) -> Option<bool> {
    match state {
        "failed" => Some(true),
        "updated" => Some(false),
        _ => None,
    }
}

/// The temperature of the processor, degrees Celsius with one digit: of the thermal zone that is named for it, or else of the first. `None` on
/// machines without.
fn temperature(zones: &Path) -> Option<f64> {
    /// How kernels name it on boards and PCs.
    const NAMES: [&str; 6] = [
        "cpu-thermal",
        "cpu_thermal",
        "soc-thermal",
        "soc_thermal",
        "x86_pkg_temp",
        "cpu0-thermal",
    ];
    let mut found: Vec<_> = fs::read_dir(zones)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("thermal_zone"))
        })
        .collect();
    found.sort();
    let kind = |path: &Path| fs::read_to_string(path.join("type")).unwrap_or_default();
    let zone = found
        .iter()
        .find(|path| NAMES.contains(&kind(path).trim()))
        .or_else(|| found.first())?;
    let milli: f64 = fs::read_to_string(zone.join("temp")).ok()?.trim().parse().ok()?;
    Some((milli / 100.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(readings: &[Reading], name: &str) -> Option<Value> {
        let reading = readings.iter().find(|reading| reading.metric.name == name)?;
        Some(reading.value.clone())
    }

    #[test]
    fn figures_become_metrics_with_allowed_names_and_short_decimals() {
        let now = Instant::now();
        let stats = AgentStats {
            sampled_readings: 10,
            acked_readings: 7,
            sent_batches: 4,
            waiting_readings: 3,
            oldest_us: 1_000_000_000,
            ..AgentStats::default()
        };
        let failing = SourceStats {
            state: SourceState::Failing,
            ..SourceStats::default()
        };
        let machine = |cpu_us| Machine {
            process: Some(Process {
                rss_bytes: 3_000_000,
                cpu_us,
            }),
            temperature: Some(48.3),
            // Ten days and a half after the first sample.
            certificate_until_s: Some(1_042 + 10 * 86_400 + 43_200),
            update_failed: None,
        };
        let mut health = Health::default();
        let sources = [failing, SourceStats::default()];
        let first = health.readings(now, 1_042_900_000, &stats, &sources, &machine(1_000_000));
        assert_eq!(value(&first, "agent.waiting.age"), Some(Value::I64(42)));
        assert_eq!(value(&first, "agent.sent"), Some(Value::I64(4)));
        assert_eq!(value(&first, "agent.sources.failing"), Some(Value::I64(1)));
        assert_eq!(value(&first, "agent.certificate.days"), Some(Value::F64(10.5)));
        assert_eq!(value(&first, "agent.cpu"), None, "it takes two samples");
        assert_eq!(
            value(&first, "agent.journal.bytes"),
            None,
            "the journal is in memory"
        );
        let later = now + Duration::from_secs(3);
        let second = health.readings(later, 1_045_900_000, &stats, &sources, &machine(1_100_000));
        assert_eq!(value(&second, "agent.cpu"), Some(Value::F64(3.33)));
        assert_eq!(value(&second, "agent.memory"), Some(Value::I64(3_000_000)));
        for reading in second {
            headwater_proto::name::check_metric(&reading.metric.name).unwrap();
        }
    }

    #[test]
    fn what_came_of_an_update_is_a_metric_from_then_on() {
        let told = ["", "downloading", "failed", "trying", "updated"].map(update_failed);
        assert_eq!(told, [None, None, Some(true), None, Some(false)]);
    }

    /// With all that a figure may depend on.
    #[test]
    fn the_page_of_metrics_has_every_figure_with_its_unit_and_no_other() {
        let mut stats = AgentStats::default();
        stats.journal.mode = JournalMode::Flash;
        stats.clock.relay_ahead_us = Some(0);
        stats.budget.limit_bytes = 1;
        let machine = Machine {
            process: Some(Process::default()),
            temperature: Some(48.3),
            certificate_until_s: Some(1),
            update_failed: Some(false),
        };
        let (mut health, now) = (Health::default(), Instant::now());
        // The processor's load takes two samples.
        health.readings(now, 0, &stats, &[], &machine);
        let readings = health.readings(now, 0, &stats, &[], &machine);
        let told = readings
            .iter()
            .map(|reading| (&*reading.metric.name, &*reading.metric.unit));
        let mut told: Vec<_> = told.collect();
        assert_eq!(told.len(), FIGURES.len(), "a figure of FIGURES is never told");
        // Rows | `agent.memory`, `agent.cpu` | By, % | … |, and one unit where it is that of all.
        let page = include_str!("../../docs/metrics.md");
        let mut shown = Vec::new();
        for row in page.lines().filter(|line| line.starts_with("| `agent.")) {
            let mut cells = row.split('|').skip(1).map(str::trim);
            let (names, units) = (cells.next().unwrap(), cells.next().unwrap());
            let units: Vec<_> = units.split(", ").collect();
            for (at, name) in names.split(", ").enumerate() {
                shown.push((name.trim_matches('`'), *units.get(at).unwrap_or(&units[0])));
            }
        }
        told.sort_unstable();
        shown.sort_unstable();
        assert_eq!(shown, told, "docs/metrics.md, \"Agent, as readings: all\"");
    }

    #[test]
    fn the_processor_s_zone_is_preferred_and_none_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(temperature(folder.path()), None);
        assert_eq!(temperature(Path::new("/nonexistent")), None);
        for (zone, kind, temp) in [
            ("thermal_zone0", "acpitz\n", "27800\n"),
            ("thermal_zone1", "cpu-thermal\n", "48312\n"),
            ("cooling_device0", "Fan\n", "1\n"),
        ] {
            let zone = folder.path().join(zone);
            fs::create_dir(&zone).unwrap();
            fs::write(zone.join("type"), kind).unwrap();
            fs::write(zone.join("temp"), temp).unwrap();
        }
        assert_eq!(temperature(folder.path()), Some(48.3));
        fs::write(folder.path().join("thermal_zone1/type"), "wifi\n").unwrap();
        assert_eq!(temperature(folder.path()), Some(27.8));
    }
}
