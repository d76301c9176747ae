//! An update of many devices: whom to send it next, whom to ask how it goes, when to stop. Pure; time is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headwater_proto::pb::ReplyStatus;
use ring::digest::{SHA256, digest};
use serde_json::Value;

use crate::bridge::commands::MAY_HAVE_RUN;

/// How an agent begins the refusal of a program that was rolled back there.
const FAILED_BEFORE: &str = "this program has failed here already";

/// Whether a device is among the first `percent` of those that a release goes to. Each has a place of its own in the row, the same every time, and
/// another one for another version: so ten in a hundred are among the fifty, and it is not always the same ones who go first.
pub fn is_among(device: &str, version: &str, percent: f64) -> bool {
    let hash = digest(&SHA256, format!("{version}/{device}").as_bytes());
    let first = hash
        .as_ref()
        .iter()
        .take(8)
        .fold(0u64, |all, byte| all << 8 | u64::from(*byte));
    (first as f64 / u64::MAX as f64) * 100.0 < percent || percent >= 100.0
}

/// How far a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is to be sent.
    Waits,
    /// It is sent, and there is no reply yet.
    Sent,
    /// The device has accepted it; what it said last.
    UnderWay(String),
    /// The new version holds.
    Updated,
    /// It does not, and why.
    Failed(String),
    /// The device refused it, since it was rolled back there by an earlier command; what was said then.
    FailedBefore(String),
    /// The device refused it, and why.
    Refused(String),
    /// The device took it, and did not say what came of it in time; what it said last. It may be slow, or lost.
    Overdue(String),
    /// The device was not there.
    Silent(String),
}

impl Stage {
    /// Whether it counts against the pace: the release did harm there, or would not go in, or nobody knows. A device that never took it says nothing
    /// of the release.
    fn is_failure(&self) -> bool {
        matches!(
            self,
            Self::Failed(_) | Self::FailedBefore(_) | Self::Refused(_) | Self::Overdue(_)
        )
    }

    /// Nothing more will come of it.
    pub fn is_over(&self) -> bool {
        !matches!(self, Self::Waits | Self::Sent | Self::UnderWay(_))
    }

    /// The word for a table.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Waits => "not sent",
            Self::Sent => "sent",
            Self::UnderWay(_) => "under way",
            Self::Updated => "updated",
            Self::Failed(_) => "failed",
            Self::FailedBefore(_) => "failed before",
            Self::Overdue(_) => "overdue",
            Self::Refused(_) => "refused",
            Self::Silent(_) => "no answer",
        }
    }

    /// What there is to say beyond the word.
    pub fn why(&self) -> &str {
        match self {
            Self::UnderWay(why)
            | Self::Failed(why)
            | Self::FailedBefore(why)
            | Self::Refused(why)
            | Self::Overdue(why)
            | Self::Silent(why) => why,
            Self::Waits | Self::Sent | Self::Updated => "",
        }
    }
}

/// How a rollout is made.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Devices under way at a time.
    pub at_once: usize,
    /// With more failures than this nothing more is sent.
    pub failures: usize,
    /// How often a device is asked how it goes.
    pub every: Duration,
    /// How long a device may take in all.
    pub within: Duration,
}

/// What to send now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Send {
    /// The update, to this device.
    Update(String),
    /// The question how it goes, to this device.
    Question(String),
}

#[derive(Debug)]
struct Entry {
    stage: Stage,
    begun: Option<Instant>,
    /// When it is asked next; `None` while a question is open.
    ask: Option<Instant>,
}

/// An update of many devices.
#[derive(Debug)]
pub struct Rollout {
    version: String,
    pace: Pace,
    entries: BTreeMap<String, Entry>,
}

impl Rollout {
    /// To these devices.
    pub fn new(version: &str, devices: impl IntoIterator<Item = String>, pace: Pace) -> Self {
        let entry = |device| {
            let entry = Entry {
                stage: Stage::Waits,
                begun: None,
                ask: None,
            };
            (device, entry)
        };
        Self {
            version: version.into(),
            pace,
            entries: devices.into_iter().map(entry).collect(),
        }
    }

    /// Whether too many have failed.
    pub fn is_stopped(&self) -> bool {
        let failed = self.entries.values().filter(|entry| entry.stage.is_failure());
        failed.count() > self.pace.failures
    }

    /// Whether nothing is to be sent or waited for any more.
    pub fn is_over(&self) -> bool {
        let stopped = self.is_stopped();
        let over = |entry: &Entry| entry.stage.is_over() || (stopped && entry.stage == Stage::Waits);
        self.entries.values().all(over)
    }

    /// Each device and how far it is, by name.
    pub fn stages(&self) -> impl Iterator<Item = (&str, &Stage)> {
        self.entries
            .iter()
            .map(|(device, entry)| (device.as_str(), &entry.stage))
    }

    /// What is to be sent now. Whoever takes longer than the pace allows is given up.
    pub fn next(&mut self, now: Instant) -> Vec<Send> {
        let mut sends = Vec::new();
        for (device, entry) in &mut self.entries {
            let late = entry
                .begun
                .is_some_and(|begun| now.saturating_duration_since(begun) >= self.pace.within);
            if late && !entry.stage.is_over() {
                let last = entry.stage.why();
                let last = if last.is_empty() {
                    String::new()
                } else {
                    format!(", the last: {last}")
                };
                let why = format!("it has not told the end within {:?}{last}", self.pace.within);
                entry.stage = match entry.stage {
                    Stage::UnderWay(_) => Stage::Overdue(why),
                    _ => Stage::Silent(why),
                };
            }
            if matches!(entry.stage, Stage::UnderWay(_)) && entry.ask.is_some_and(|at| now >= at) {
                entry.ask = None;
                sends.push(Send::Question(device.clone()));
            }
        }
        let busy = |entry: &&Entry| matches!(entry.stage, Stage::Sent | Stage::UnderWay(_));
        let mut room = self
            .pace
            .at_once
            .saturating_sub(self.entries.values().filter(busy).count());
        if self.is_stopped() {
            room = 0;
        }
        let waiting = self
            .entries
            .iter_mut()
            .filter(|(_, entry)| entry.stage == Stage::Waits);
        for (device, entry) in waiting.take(room) {
            entry.stage = Stage::Sent;
            entry.begun = Some(now);
            sends.push(Send::Update(device.clone()));
        }
        sends
    }

    /// A reply to what was sent. Returns whether the device is at another stage.
    pub fn reply(&mut self, now: Instant, to: &Send, status: ReplyStatus, output: &str) -> bool {
        let (Send::Update(device) | Send::Question(device)) = to;
        let Some(entry) = self
            .entries
            .get_mut(device)
            .filter(|entry| !entry.stage.is_over())
        else {
            return false;
        };
        entry.ask = Some(now + self.pace.every);
        let next = match (to, status) {
            (Send::Update(_), ReplyStatus::Ok) if output.ends_with("runs already") => Stage::Updated,
            (Send::Update(_), ReplyStatus::Ok) => Stage::UnderWay(output.into()),
            (Send::Update(_), ReplyStatus::Failed) => Stage::Failed(output.into()),
            (Send::Update(_), ReplyStatus::Refused) if output.starts_with(FAILED_BEFORE) => {
                Stage::FailedBefore(output.into())
            }
            (Send::Update(_), ReplyStatus::Refused | ReplyStatus::UnknownCommand) => {
                Stage::Refused(output.into())
            }
            // It was there, and has perhaps begun.
            (Send::Update(_), ReplyStatus::Expired) if output.ends_with(MAY_HAVE_RUN) => {
                Stage::Overdue(output.into())
            }
            (Send::Update(_), _) => Stage::Silent(output.into()),
            (Send::Question(_), ReplyStatus::Ok) => stage(&self.version, output),
            // It may be starting just now: it is asked again.
            (Send::Question(_), _) => return false,
        };
        let changed = entry.stage != next;
        entry.stage = next;
        changed
    }
}

/// How far a device is that says this of its update.
fn stage(version: &str, output: &str) -> Stage {
    let told: Value = serde_json::from_str(output).unwrap_or_default();
    let text = |key: &str| told[key].as_str().unwrap_or_default();
    match text("state") {
        _ if text("version") != version => Stage::Failed(format!("it knows nothing of {version}: {output}")),
        "updated" => Stage::Updated,
        "failed" => Stage::Failed(text("what").into()),
        "downloading" => {
            let share = told["have"].as_u64().unwrap_or(0) * 100 / told["size"].as_u64().unwrap_or(0).max(1);
            let what = if text("what").is_empty() {
                String::new()
            } else {
                format!(", {}", text("what"))
            };
            Stage::UnderWay(format!("downloading, {share} %{what}"))
        }
        state => Stage::UnderWay(state.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> Pace {
        Pace {
            at_once: 2,
            failures: 1,
            every: Duration::from_secs(10),
            within: Duration::from_secs(600),
        }
    }

    fn rollout(devices: &[&str]) -> Rollout {
        Rollout::new("0.2.0", devices.iter().map(ToString::to_string), pace())
    }

    fn update(device: &str) -> Send {
        Send::Update(device.into())
    }

    fn question(device: &str) -> Send {
        Send::Question(device.into())
    }

    #[test]
    fn a_share_is_stable_grows_and_is_about_as_large_as_it_says() {
        let devices: Vec<String> = (0..10_000).map(|number| format!("gw-{number}")).collect();
        let among = |version, percent| -> Vec<&String> {
            devices
                .iter()
                .filter(|device| is_among(device, version, percent))
                .collect()
        };
        let (ten, fifty) = (among("0.2.0", 10.0), among("0.2.0", 50.0));
        assert!((900..1_100).contains(&ten.len()), "{}", ten.len());
        assert!((4_800..5_200).contains(&fifty.len()), "{}", fifty.len());
        assert!(ten.iter().all(|device| fifty.contains(device)));
        assert_eq!(
            (among("0.2.0", 0.0).len(), among("0.2.0", 100.0).len()),
            (0, 10_000)
        );
        assert_eq!(among("0.2.0", 10.0), ten);
        let other = among("0.3.0", 10.0);
        let both = other.iter().filter(|device| ten.contains(device)).count();
        assert!((50..200).contains(&both), "{both}");
    }

    #[test]
    fn so_many_go_at_a_time_and_are_asked_until_it_is_over() {
        let (mut rollout, now) = (rollout(&["a", "b", "c"]), Instant::now());
        assert_eq!(rollout.next(now), [update("a"), update("b")]);
        assert_eq!(rollout.next(now), []);
        assert!(rollout.reply(
            now,
            &update("a"),
            ReplyStatus::Ok,
            "accepted: from 0.1.0 to 0.2.0, 3 bytes"
        ));
        assert!(rollout.reply(now, &update("b"), ReplyStatus::Ok, "0.2.0 runs already"));
        assert_eq!(rollout.next(now), [update("c")]);
        let later = now + pace().every;
        assert_eq!(rollout.next(later), [question("a")]);
        assert_eq!(rollout.next(later + pace().every), [], "the question is open");
        let half = r#"{"state": "downloading", "version": "0.2.0", "have": 5, "size": 10, "what": ""}"#;
        assert!(rollout.reply(later, &question("a"), ReplyStatus::Ok, half));
        assert_eq!(
            rollout.entries["a"].stage,
            Stage::UnderWay("downloading, 50 %".into())
        );
        assert!(!rollout.reply(later, &question("a"), ReplyStatus::Expired, "it was away"));
        assert_eq!(rollout.next(later + pace().every), [question("a")]);
        let done = r#"{"state": "updated", "version": "0.2.0"}"#;
        assert!(rollout.reply(later, &question("a"), ReplyStatus::Ok, done));
        assert!(!rollout.is_over());
        assert!(rollout.reply(later, &update("c"), ReplyStatus::UnknownDevice, "nobody"));
        assert!(rollout.is_over() && !rollout.is_stopped());
        let words: Vec<&str> = rollout.stages().map(|(_, stage)| stage.word()).collect();
        assert_eq!(words, ["updated", "updated", "no answer"]);
    }

    #[test]
    fn with_too_many_failures_nothing_more_is_sent_but_what_is_under_way_is_followed() {
        let (mut rollout, now) = (rollout(&["a", "b", "c", "d"]), Instant::now());
        rollout.next(now);
        rollout.reply(now, &update("a"), ReplyStatus::Refused, "no key");
        assert_eq!(rollout.next(now), [update("c")], "one failure is allowed");
        rollout.reply(now, &update("b"), ReplyStatus::Ok, "accepted");
        rollout.reply(now, &update("c"), ReplyStatus::Failed, "rolled back");
        assert!(rollout.is_stopped() && !rollout.is_over());
        let later = now + pace().every;
        assert_eq!(rollout.next(later), [question("b")]);
        let failed = r#"{"state": "failed", "version": "0.2.0", "what": "rolled back: it hung"}"#;
        rollout.reply(later, &question("b"), ReplyStatus::Ok, failed);
        assert_eq!(
            rollout.entries["b"].stage,
            Stage::Failed("rolled back: it hung".into())
        );
        assert!(rollout.is_over());
        assert_eq!(rollout.entries["d"].stage, Stage::Waits);
    }

    #[test]
    fn who_took_it_and_is_not_heard_of_again_counts_as_a_failure() {
        let one_by_one = |first: (ReplyStatus, &str)| {
            let pace = Pace {
                at_once: 1,
                failures: 0,
                ..pace()
            };
            let devices = ["a", "b", "c"].map(String::from);
            let (mut rollout, now) = (Rollout::new("0.2.0", devices, pace.clone()), Instant::now());
            assert_eq!(rollout.next(now), [update("a")]);
            rollout.reply(now, &update("a"), first.0, first.1);
            rollout.reply(now, &question("a"), ReplyStatus::Expired, "it was away");
            let sent = rollout.next(now + pace.within);
            (rollout, sent)
        };
        let expired = format!("sent 2 times, and no reply came in time: {MAY_HAVE_RUN}");
        for first in [
            (ReplyStatus::Ok, "accepted: from 0.1.0 to 0.2.0, 3 bytes"),
            (ReplyStatus::Expired, &expired),
        ] {
            let (rollout, sent) = one_by_one(first);
            assert_eq!(
                sent,
                [],
                "{first:?}: it may have been the release that took it away"
            );
            assert_eq!(rollout.entries["a"].stage.word(), "overdue", "{first:?}");
            assert!(rollout.is_stopped() && rollout.is_over(), "{first:?}");
            assert_eq!(rollout.entries["b"].stage, Stage::Waits);
        }
        // Who was never there says nothing of it.
        let (rollout, sent) = one_by_one((ReplyStatus::Expired, "it was away"));
        assert_eq!(sent, [update("b")]);
        assert!(!rollout.is_stopped());
    }

    #[test]
    fn who_rolled_it_back_before_is_told_apart_and_counts() {
        let (mut rollout, now) = (rollout(&["a", "b"]), Instant::now());
        rollout.next(now);
        let before =
            "this program has failed here already (rolled back: it hung); --force installs it all the same";
        rollout.reply(now, &update("a"), ReplyStatus::Refused, before);
        assert_eq!(rollout.entries["a"].stage, Stage::FailedBefore(before.into()));
        assert!(!rollout.is_stopped(), "one failure is allowed");
        rollout.reply(now, &update("b"), ReplyStatus::Refused, before);
        assert!(rollout.is_stopped());
    }

    #[test]
    fn who_says_nothing_is_given_up_and_who_speaks_of_something_else_has_failed() {
        let (mut rollout, now) = (rollout(&["a", "b"]), Instant::now());
        rollout.next(now);
        rollout.reply(now, &update("b"), ReplyStatus::Ok, "accepted");
        rollout.reply(
            now,
            &question("b"),
            ReplyStatus::Ok,
            r#"{"state": "", "version": ""}"#,
        );
        assert!(
            rollout.entries["b"]
                .stage
                .why()
                .contains("knows nothing of 0.2.0")
        );
        assert_eq!(rollout.next(now + pace().within), []);
        assert!(matches!(rollout.entries["a"].stage, Stage::Silent(_)));
        assert!(rollout.is_over());
    }
}
