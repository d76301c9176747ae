//! An agent's state as one document: what `headwater-agent status` shows, and the command `status` answers.

mod update;

use std::fmt::Write as _;

use headwater_proto::pb;
use serde::{Deserialize, Serialize};

use crate::stats::{AgentStats, ClockState, JournalMode, SourceState, SourceStats};

pub use update::Update;

/// An agent's state.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Status {
    /// The device's name.
    pub device: String,
    /// The agent's version.
    pub version: String,
    /// The target triple it was built for.
    pub target: String,
    /// The id of this boot.
    pub boot_id: String,
    /// The process's id.
    pub pid: u32,
    /// When it was started, by the system's clock, microseconds since the Unix epoch.
    pub started_us: i64,
    /// When this was written.
    pub now_us: i64,
    /// Whether the task that moves readings answered in time. If it did not, the figures are those of its last step.
    pub answering: bool,
    /// What it runs by.
    pub settings: Settings,
    /// The way to the relay.
    pub link: Link,
    /// The last update over the air.
    pub update: Update,
    /// Other boxes that use this device's name, as the relay tells.
    pub other_boxes: Vec<OtherBox>,
    /// The figures of all parts.
    pub stats: AgentStats,
    /// The streams of which something is held; the newest last.
    pub streams: Vec<Stream>,
    /// Each source.
    pub sources: Vec<SourceStats>,
    /// Resident memory, bytes; 0: not known.
    pub rss_bytes: u64,
    /// Processor time used, microseconds.
    pub cpu_us: u64,
    /// All this as lines for a person. The status socket alone tells them: so `headwater-agent status` shows what an agent of any version
    /// says, and does not have to know what it means.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub shown: String,
}

/// What an agent runs by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Settings {
    /// The hash that hello tells.
    pub hash: String,
    /// The file they come from; empty: not from a file.
    pub origin: String,
    /// Keys that were changed by command, with their values.
    pub overrides: Vec<(String, String)>,
    /// The command whose settings are being tried: they are rolled back unless the relay answers.
    pub trial: Option<String>,
}

/// The way to the relay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Link {
    /// The broker's host and port.
    pub broker: String,
    /// Since when it is connected, microseconds since the Unix epoch; 0: it is not.
    pub since_us: i64,
    /// Why the last connection ended, or could not be made.
    pub last_error: Option<String>,
}

/// Another box that uses this device's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct OtherBox {
    /// Its host's name.
    pub hostname: String,
    /// The id of its boot; one like this box's means another agent on this very machine.
    pub boot_id: String,
    /// What its agent's start drew, hexadecimal, as logs have it.
    pub process: String,
}

impl OtherBox {
    /// Whether it is the one that the relay speaks of.
    pub(crate) fn is(&self, told: &pb::Box) -> bool {
        self.hostname == told.hostname
            && self.boot_id == told.boot_id
            && u64::from_str_radix(&self.process, 16) == Ok(told.process)
    }
}

impl From<&pb::Box> for OtherBox {
    fn from(told: &pb::Box) -> Self {
        Self {
            hostname: told.hostname.clone(),
            boot_id: told.boot_id.clone(),
            process: format!("{:016x}", told.process),
        }
    }
}

/// A stream of which something is held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Stream {
    /// Its id, hexadecimal, as logs have it.
    pub stream: String,
    /// The first sequence number that is held; what lies before is acknowledged.
    pub first_seq: u64,
    /// The last; `first_seq - 1` if none is held.
    pub last_seq: u64,
    /// The last of them that is on flash, so that a power cut does not take it; `first_seq - 1` if none is.
    pub durable_seq: u64,
}

impl Status {
    /// As JSON.
    pub fn json(&self) -> String {
        // Numbers, strings and lists of them: there is nothing in it that could fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// From JSON; what another version does not tell has its default.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text.as_bytes())
    }

    /// What an answer of the status socket shows a person.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn shown(text: &str) -> Result<String, serde_json::Error> {
        let mut document: serde_json::Value = serde_json::from_slice(text.as_bytes())?;
        match document.get_mut("shown").map(serde_json::Value::take) {
            Some(serde_json::Value::String(shown)) => Ok(shown),
            _ => Err(serde::de::Error::missing_field("shown")),
        }
    }

    /// As lines for a person.
    pub fn text(&self) -> String {
        let mut lines = Lines::default();
        let stats = &self.stats;
        lines.add(
            "agent",
            format!(
                "{} {}, {}, process {}",
                self.device, self.version, self.target, self.pid
            ),
        );
        lines.add("running", format!("for {}", span(self.now_us - self.started_us)));
        if !self.answering {
            lines.add(
                "WARNING",
                "the task that moves readings does not answer; figures are old",
            );
        }
        for other in &self.other_boxes {
            let place = if other.boot_id == self.boot_id {
                "on this very machine".to_string()
            } else {
                format!("host {:?}, boot {}", other.hostname, other.boot_id)
            };
            lines.add(
                "WARNING",
                format!(
                    "another box uses this device's name: {place}. No data is mixed up, but both show as one device: set `device` in the \
                     agent.toml of one of them, and restart it"
                ),
            );
        }
        lines.add("link", self.link_text());
        let waiting = match stats.waiting_readings {
            0 => "nothing".to_string(),
            readings => format!(
                "{readings} readings, {} of them in {} batches; the oldest is {} old",
                size(stats.waiting_bytes),
                stats.waiting_batches,
                span(self.now_us - stats.oldest_us)
            ),
        };
        lines.add("waiting", waiting);
        lines.add(
            "readings",
            format!(
                "{} sampled, {} acknowledged, {} lost",
                stats.sampled_readings, stats.acked_readings, stats.lost_readings
            ),
        );
        lines.add("journal", self.journal_text());
        for stream in &self.streams {
            let held = (stream.last_seq + 1).saturating_sub(stream.first_seq);
            let range = match held {
                0 => "nothing held".into(),
                _ if stream.durable_seq < stream.first_seq => {
                    format!("batches {} to {}, in memory", stream.first_seq, stream.last_seq)
                }
                _ => format!(
                    "batches {} to {}, on flash to {}",
                    stream.first_seq, stream.last_seq, stream.durable_seq
                ),
            };
            lines.add("stream", format!("{}: {range}", stream.stream));
        }
        for source in &self.sources {
            lines.add("source", source_text(source, self.now_us));
        }
        let evidence = match stats.clock.state {
            ClockState::Unknown => "not known to be right; readings are flagged",
            ClockState::Synchronised => "right, as a time daemon says",
            ClockState::Hardware => {
                "right, as a real-time clock or a virtual machine's host has it; no time daemon runs"
            }
            ClockState::Trusted => "right, as the settings say",
            ClockState::Holdover => "was right, and nobody vouches for it now",
        };
        let mut clock = match stats.clock.offset_us {
            0 => evidence.to_string(),
            offset_us => format!("{evidence}; readings were corrected by {} ms", offset_us / 1000),
        };
        if let Some(ahead_us) = stats.clock.relay_ahead_us.filter(|_| stats.clock.is_doubtful()) {
            let way = if ahead_us > 0 { "ahead of" } else { "behind" };
            let apart = span(ahead_us.saturating_abs());
            let _ = write!(
                clock,
                "; BUT the relay's is {apart} {way} it: one of them is wrong. Check what sets this machine's clock, and the relay's"
            );
        }
        lines.add("clock", clock);
        if !self.update.state.is_empty() {
            lines.add("update", self.update.text());
        }
        let budget = &stats.budget;
        let thinned = match stats.thinning {
            0 | 1 => String::new(),
            factor => format!("; one reading of {factor} is taken"),
        };
        match budget.limit_bytes {
            0 => lines.add("budget", format!("none{thinned}")),
            limit => lines.add(
                "budget",
                format!(
                    "{} of {} used this month{thinned}",
                    size(budget.used_bytes),
                    size(limit)
                ),
            ),
        }
        lines.add(
            "process",
            format!(
                "{} of memory, {} of processor time",
                size(self.rss_bytes),
                span(self.cpu_us as i64)
            ),
        );
        let origin = match &*self.settings.origin {
            "" => String::new(),
            origin => format!(" from {origin}"),
        };
        lines.add("settings", format!("{}{origin}", self.settings.hash));
        for (key, value) in &self.settings.overrides {
            lines.add("override", format!("{key} = {value}"));
        }
        if let Some(id) = &self.settings.trial {
            lines.add(
                "on trial",
                format!("settings of command {id}: rolled back unless the relay answers"),
            );
        }
        lines.0
    }

    fn link_text(&self) -> String {
        let Link {
            broker,
            since_us,
            last_error,
        } = &self.link;
        let state = match (*since_us, self.stats.connected) {
            (0, _) => format!("not connected to {broker}"),
            (since_us, answered) => {
                let relay = if answered {
                    "the relay has answered"
                } else {
                    "the relay has not answered"
                };
                format!(
                    "connected to {broker} for {}, {relay}",
                    span(self.now_us - since_us)
                )
            }
        };
        match last_error {
            Some(error) if *since_us == 0 => format!("{state}: {error}"),
            _ => format!("{state}; {} connection(s) lost", self.stats.reconnects),
        }
    }

    fn journal_text(&self) -> String {
        let journal = &self.stats.journal;
        let flash = format!(
            "{} on flash, {} written since the start",
            size(journal.flash_bytes),
            size(journal.flash_written_bytes)
        );
        let mut text = match journal.mode {
            JournalMode::Memory => "in memory: what waits ends with the process".to_string(),
            JournalMode::Flash => flash,
            JournalMode::Fallback => match journal.fault {
                Some(fault) => format!("in memory, because flash cannot be written ({fault}); {flash}"),
                None => format!("in memory, because flash cannot be written; {flash}"),
            },
        };
        if journal.quarantined > 0 {
            let _ = write!(text, "; {} piece(s) set aside as unreadable", journal.quarantined);
        }
        if journal.unfinished > 0 {
            let _ = write!(
                text,
                "; {} write(s) left unfinished by a power cut",
                journal.unfinished
            );
        }
        text
    }
}

fn source_text(source: &SourceStats, now_us: i64) -> String {
    let state = match source.state {
        SourceState::Starting => "starting",
        SourceState::Running => "running",
        SourceState::Stalled => "STALLED",
        SourceState::Failing => "FAILING",
        SourceState::Ended => "ended",
    };
    let newest = match source.newest_us {
        0 => String::new(),
        newest_us => format!(", the newest {} ago", span(now_us - newest_us)),
    };
    let mut text = format!("{}: {state}, {} readings{newest}", source.name, source.readings);
    if source.dropped_readings > 0 {
        let _ = write!(text, ", {} dropped beyond its rate", source.dropped_readings);
    }
    if let Some(error) = &source.last_error {
        let _ = write!(text, "; failed {} time(s), last: {error}", source.failures);
    }
    text
}

/// Lines of a name and a value.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{name:<9} {value}");
    }
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    headwater_config::ByteSize::b(bytes).to_string()
}

/// A length of time as people read it, to the second.
fn span(us: i64) -> String {
    let seconds = us.max(0).unsigned_abs() / 1_000_000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{minutes} min {} s", seconds % 60),
        3_600..86_400 => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_has_two_figures_at_most() {
        for (seconds, text) in [
            (-5, "0 s"),
            (59, "59 s"),
            (61, "1 min 1 s"),
            (7_199, "1 h 59 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(span(seconds * 1_000_000), text);
        }
    }

    #[test]
    fn what_is_wrong_is_shown() {
        let mut status = Status {
            device: "gw-01".into(),
            link: Link {
                broker: "broker.example:1883".into(),
                last_error: Some("connection refused".into()),
                ..Link::default()
            },
            sources: vec![SourceStats {
                name: "source 1 (modbus)".into(),
                state: SourceState::Failing,
                failures: 3,
                last_error: Some("no answer".into()),
                ..SourceStats::default()
            }],
            ..Status::default()
        };
        status
            .settings
            .overrides
            .push(("source.1.interval".into(), "\"5s\"".into()));
        let text = status.text();
        for part in [
            "not connected to broker.example:1883: connection refused",
            "does not answer",
            "FAILING, 0 readings; failed 3 time(s), last: no answer",
            "override  source.1.interval = \"5s\"",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let json: serde_json::Value = serde_json::from_str(&status.json()).unwrap();
        assert_eq!(json["sources"][0]["state"], "failing");
        assert_eq!(json["stats"]["journal"]["mode"], "memory");
        assert!(
            json.get("shown").is_none() && Status::shown(&status.json()).is_err(),
            "the socket alone tells the lines, not the command's reply, which goes over the link"
        );
        status.shown.clone_from(&text);
        assert_eq!(Status::shown(&status.json()).unwrap(), text);
        for other in ["[]", "7", "{}", "{\"shown\": 1}", "{"] {
            assert!(Status::shown(other).is_err(), "{other}");
        }
    }

    #[test]
    fn a_clock_is_doubted_where_the_relay_s_is_far_from_it_and_it_is_taken_to_be_right() {
        let text = |synchronised, relay_ahead_us| {
            let mut status = Status::default();
            status.stats.clock.synchronised = synchronised;
            status.stats.clock.relay_ahead_us = relay_ahead_us;
            status.text()
        };
        assert!(text(true, Some(-90_000_000_000)).contains("the relay's is 1 d 1 h behind it"));
        assert!(text(true, Some(61_000_000)).contains("the relay's is 1 min 1 s ahead of it"));
        for (synchronised, relay_ahead_us) in
            [(true, None), (true, Some(-59_000_000)), (false, Some(i64::MIN))]
        {
            assert!(!text(synchronised, relay_ahead_us).contains("relay's"));
        }
    }

    #[test]
    fn another_box_is_named() {
        let mut status = Status {
            boot_id: "b1".into(),
            ..Status::default()
        };
        for (hostname, boot_id) in [("pole-7", "b2"), ("pole-8", "b1")] {
            let told = pb::Box {
                process: 0xabc,
                hostname: hostname.into(),
                boot_id: boot_id.into(),
            };
            let other = OtherBox::from(&told);
            assert!(other.is(&told) && other.process == "0000000000000abc");
            status.other_boxes.push(other);
        }
        let text = status.text();
        assert!(
            text.contains("device's name: host \"pole-7\", boot b2."),
            "{text}"
        );
        assert!(text.contains("device's name: on this very machine."), "{text}");
    }
}
