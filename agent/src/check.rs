//! Tries settings on the machine that they are for, before an agent runs by them or beside one that does: the settings themselves, each source
//! read once, each broker, the clock, the disk.
//!
//! It disturbs nothing. To a broker it goes under a client id of its own, without a Last Will, and publishes nothing; so whether the relay
//! answers is not tried, since a second hello under one name would look like a second box. A running agent tells that:
//! `headwater-agent status`.

mod disk;

use std::fs;
use std::path::Path;
use std::time::Duration;

use headwater_proto::topic::{Kind, topic};
use headwater_proto::{Value, name};

use crate::broker::Broker;
use crate::clock::Clock;
use crate::config::SourceKind;
use crate::control::FileSettings;
use crate::mqtt::socket::Ways;
use crate::mqtt::{Connection, Event, Options, Version};
use crate::setup::Setup;
use crate::source::{Cadence, Opened, Output, Sample};
use crate::stats::ClockState;
use crate::task;
use crate::uplink::link::{Address, INCOMING_MAX};
use crate::{Config, config};

/// How long opening a source may take.
const OPENING: Duration = Duration::from_secs(10);
/// How long a source that waits for others is listened to.
const LISTENING: Duration = Duration::from_secs(2);
/// The longest that is waited for a source's first readings.
const READING: Duration = Duration::from_secs(20);
/// Readings that are shown of a source.
const SHOWN: usize = 6;

/// What was found about one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub subject: String,
    /// Whether it is well.
    pub ok: bool,
    /// What was found.
    pub what: String,
    /// What to do about it.
    pub todo: Option<String>,
}

impl Finding {
    fn ok(subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            ok: true,
            what: what.into(),
            todo: None,
        }
    }

    fn failed(subject: impl Into<String>, what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            ok: false,
            what: what.into(),
            todo: Some(todo.into()),
        }
    }
}

/// Tries the settings in a file.
pub async fn check(path: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let settings = match FileSettings::look(path) {
        Ok(settings) => settings,
        Err(error) => {
            let todo = "put it right; deploy/agent.toml shows every key with its default";
            return vec![Finding::failed("configuration", error.to_string(), todo)];
        }
    };
    let setup = match Setup::new(settings.config) {
        Ok(setup) => setup,
        Err(error) => {
            let todo = "put it right; deploy/agent.toml shows every key with its default";
            return vec![Finding::failed("configuration", error.to_string(), todo)];
        }
    };
    let changed = match settings.overrides.list().len() {
        0 => String::new(),
        number => format!(", {number} key(s) changed by command"),
    };
    let what = format!("{}{changed}; hash {}", settings.origin, setup.config.hash());
    findings.push(Finding::ok("configuration", what));
    #[cfg(feature = "update")]
    findings.extend(crate::update::instead(path).map(|what| Finding::ok("program", what)));
    findings.push(Finding::ok("device", setup.device()));
    findings.extend(sources(&setup.config, setup.device()).await);
    let trusted = setup.config.clock.clone();
    // It asks hardware.
    let time = task::blocking(move || Clock::open(&trusted, None))
        .await
        .unwrap_or_default();
    for broker in &setup.address.brokers {
        findings.push(reach(broker, &setup.address, &time).await);
    }
    findings.push(clock(&time));
    findings.push(disk::disk(&setup.config));
    findings
}

/// The client id to check under: under the agent's own a broker would end the agent's connection.
fn own_id(client_id: &str) -> String {
    format!("{client_id}-check-{}", std::process::id())
}

/// Opens each source and waits for its first readings, all side by side.
async fn sources(config: &Config, device: &str) -> Vec<Finding> {
    let names = config::Source::names(&config.sources);
    let mut tries = Vec::new();
    for (source, name) in config.sources.iter().zip(names) {
        let (source, device) = (source.clone(), device.to_string());
        tries.push((name.clone(), task::spawn(try_source(source, name, device))));
    }
    let mut findings = Vec::new();
    for (name, task) in tries {
        findings.push(task.await.unwrap_or_else(|error| {
            Finding::failed(
                format!("source {name}"),
                format!("it has failed beyond repair: {error}"),
                "report this",
            )
        }));
    }
    findings
}

async fn try_source(mut settings: config::Source, name: String, device: String) -> Finding {
    let subject = format!("source {name}");
    if let SourceKind::Mqtt(mqtt) = &mut settings.kind {
        mqtt.client_id = mqtt.client_id.as_deref().map(own_id);
    }
    let nothing = match &settings.kind {
        SourceKind::Sysfs(sysfs) => format!("nothing to read was found under {}", sysfs.root.display()),
        _ => "no reading".to_string(),
    };
    let wanted = vec![settings];
    let open = task::blocking(move || crate::source::open_all(&wanted, &device));
    let opened = match tokio::time::timeout(OPENING, open).await {
        Ok(Ok(Ok(mut opened))) => opened.pop(),
        Ok(Ok(Err(error))) => {
            return Finding::failed(subject, error.to_string(), "check its settings and its device");
        }
        Ok(Err(_)) => None,
        Err(_) => {
            let what = format!("it is not open after {OPENING:?}");
            return Finding::failed(subject, what, "its device or file system hangs");
        }
    };
    let Some(opened) = opened else {
        return Finding::failed(subject, "it cannot be opened", "report this");
    };
    first_readings(subject, opened, &nothing).await
}

/// Waits for the first ones; `nothing` says that none came.
async fn first_readings(subject: String, mut opened: Opened, nothing: &str) -> Finding {
    let (output, mut samples) = Output::new(Clock::default());
    let cadence = opened.source.cadence();
    let limit = match cadence {
        Cadence::Every(interval) => (interval * 2 + Duration::from_secs(2)).min(READING),
        Cadence::Own => READING.min(Duration::from_secs(5)),
        Cadence::Fed | Cadence::Pushed => LISTENING,
    };
    let output = output.of(&opened);
    let meter = opened.meter.clone();
    let running = async {
        tokio::select! {
            sample = async {
                loop {
                    match samples.recv().await {
                        Some(sample) if sample.readings.is_empty() => {}
                        other => return other,
                    }
                }
            } => Ok(sample),
            ended = opened.source.run(&output) => ended.map(|()| None),
        }
    };
    match tokio::time::timeout(limit, running).await {
        Ok(Ok(Some(sample))) => Finding::ok(subject, shown(&sample)),
        // It may have ended before what it gave was looked at.
        Ok(Ok(None)) => match samples.try_recv() {
            Ok(sample) => Finding::ok(subject, shown(&sample)),
            Err(_) => Finding::failed(subject, "it has ended without a reading", "check its settings"),
        },
        Ok(Err(error)) => Finding::failed(subject, error.to_string(), "check its settings and its device"),
        Err(_) => match (cadence, meter.stats().last_error) {
            (_, Some(error)) => Finding::failed(subject, error, "check its settings and its device"),
            (Cadence::Every(interval), None) if interval * 2 > limit => Finding::ok(
                subject,
                format!(
                    "open; its interval of {interval:?} is longer than this check waits, so nothing was read"
                ),
            ),
            (Cadence::Every(_), None) => Finding::failed(
                subject,
                format!("{nothing} within {limit:?}"),
                "check its settings and its device",
            ),
            _ => Finding::ok(
                subject,
                format!("open; nothing came within {limit:?}, which is no fault of its"),
            ),
        },
    }
}

fn shown(sample: &Sample) -> String {
    let mut shown: Vec<String> = sample
        .readings
        .iter()
        .take(SHOWN)
        .map(|reading| {
            let value = match &reading.value {
                Value::F64(value) => value.to_string(),
                Value::I64(value) => value.to_string(),
                Value::Bool(value) => value.to_string(),
                Value::String(value) => format!("{value:?}"),
            };
            let mut text = format!("{} = {value}", reading.metric.name);
            if !reading.metric.unit.is_empty() {
                text.push(' ');
                text.push_str(&reading.metric.unit);
            }
            if reading.suspect {
                text.push_str(" (not plausible)");
            }
            if let Err(error) = name::check_metric(&reading.metric.name) {
                text.push_str(&format!(" (left out: {error})"));
            }
            text
        })
        .collect();
    let more = sample.readings.len().saturating_sub(SHOWN);
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    shown.join(", ")
}

/// Reaches a broker: name, TCP, TLS, CONNECT, the subscriptions that an agent needs.
async fn reach(broker: &Broker, address: &Address, clock: &Clock) -> Finding {
    let subject = format!("broker {broker}");
    let mut version = match address.protocol {
        config::Protocol::Auto | config::Protocol::V5 => Version::V5,
        config::Protocol::V311 => Version::V311,
    };
    loop {
        let options = Options {
            version,
            client_id: own_id(&address.client_id),
            credentials: address.credentials.clone(),
            keep_alive: address.keep_alive,
            connect_timeout: address.connect_timeout,
            will: None,
            topics: vec![
                topic(&address.device, Kind::Ack),
                topic(&address.device, Kind::Command),
            ],
            needed: 1,
            incoming_max: INCOMING_MAX,
        };
        let ways = Ways::new(&address.tls, clock.clone());
        let mut connection = Connection::open(ways, broker.clone(), options);
        let end = loop {
            match connection.event().await {
                Event::Open => {
                    connection.disconnect();
                    while !matches!(connection.event().await, Event::Closed(_)) {}
                    let spoken = if version == Version::V5 {
                        "MQTT 5"
                    } else {
                        "MQTT 3.1.1"
                    };
                    return Finding::ok(
                        subject,
                        format!("reached, credentials taken, subscriptions allowed ({spoken})"),
                    );
                }
                Event::Closed(end) => break end,
                _ => {}
            }
        };
        let older = matches!(
            end.cause,
            crate::mqtt::Cause::Version | crate::mqtt::Cause::Unanswered
        );
        if older && version == Version::V5 && address.protocol == config::Protocol::Auto {
            version = Version::V311;
            continue;
        }
        let todo = "check the address, the network, the broker's log and its access rules";
        return Finding::failed(subject, end.why, todo);
    }
}

/// Whether the clock is known to be right, and what tells that: as an agent judges it when it starts.
fn clock(clock: &Clock) -> Finding {
    let evidence = match clock.stats().state {
        ClockState::Unknown => {
            let todo = "run a time daemon, such as systemd-timesyncd or chrony; until the clock is known readings are flagged";
            return Finding::failed("clock", "not known to be right", todo);
        }
        ClockState::Synchronised | ClockState::Holdover => {
            format!("a time daemon vouches for it{}", by_whom())
        }
        ClockState::Hardware => format!(
            "taken to be right: {}. No time daemon runs that would set it; run one for times better than a few seconds \
             (systemd-timesyncd, chrony)",
            keeper(Path::new("/sys/class/rtc"))
        ),
        ClockState::Trusted => "clock.trust says that it is right".to_string(),
    };
    Finding::ok("clock", evidence)
}

/// What other than a time daemon keeps the clock.
fn keeper(clocks: &Path) -> &'static str {
    let has_clock = fs::read_dir(clocks).is_ok_and(|mut clocks| clocks.next().is_some());
    match has_clock {
        true => "the machine's real-time clock, which a battery keeps going, shows the same time",
        false => "this is a virtual machine, and its host keeps its clock",
    }
}

/// Which time service runs, as far as its files tell.
fn by_whom() -> String {
    let services = [
        ("/run/systemd/timesync/synchronized", "systemd-timesyncd"),
        ("/run/chrony/chronyd.pid", "chrony"),
        ("/run/chronyd.pid", "chrony"),
        ("/run/ntpd.pid", "ntpd"),
        ("/run/gpsd.sock", "gpsd"),
    ];
    let running = services.iter().find(|(file, _)| Path::new(file).exists());
    running.map_or(String::new(), |(_, service)| {
        format!(", by {service} as it seems")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Trust;

    #[test]
    fn what_vouches_for_the_clock_is_said_with_what_to_do() {
        let settings = |trust| config::Clock {
            trust,
            ..config::Clock::default()
        };
        // In 2096: later than this program was made.
        let shown = |vouched| (20_000_000, 4_000_000_000_000_000, vouched);
        let unknown = clock(&Clock::fake(&settings(Trust::Kernel), None, shown(false)));
        assert!(!unknown.ok && unknown.todo.unwrap().contains("run a time daemon"));
        let vouched = clock(&Clock::fake(&settings(Trust::Kernel), None, shown(true)));
        assert!(vouched.ok && vouched.what.contains("a time daemon vouches for it"));
        let trusted = clock(&Clock::fake(&settings(Trust::Always), None, shown(false)));
        assert!(trusted.ok && trusted.what.contains("clock.trust"));
        let folder = tempfile::tempdir().unwrap();
        assert!(keeper(folder.path()).contains("virtual machine"));
        fs::create_dir(folder.path().join("rtc0")).unwrap();
        assert!(keeper(folder.path()).contains("battery"));
    }

    #[tokio::test]
    async fn a_tree_without_a_sensor_is_named() {
        let root = tempfile::tempdir().unwrap();
        let text = format!("type = \"sysfs\"\ninterval = \"10ms\"\nroot = {:?}", root.path());
        let source: config::Source = toml::from_str(&text).unwrap();
        let finding = try_source(source, "sysfs".into(), "gw-01".into()).await;
        let expected = format!("nothing to read was found under {}", root.path().display());
        assert!(!finding.ok && finding.what.starts_with(&expected), "{finding:?}");
    }
}
