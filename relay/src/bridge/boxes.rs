//! The boxes that speak under one device's name. One, as it should be; several when an SD card was cloned, or a name given twice.
//!
//! Each start of an agent draws a number, `process`. A box that starts again is a new process and the old one never speaks
//! again. So a process that says hello anew after another did is the proof of two boxes. (Nothing is redelivered: the bridge's MQTT
//! sessions are clean, and a hello that the broker kept does not count.)

use std::time::{Duration, Instant};

use headwater_proto::pb;

/// A box that said nothing for so long is gone.
const GONE: Duration = Duration::from_secs(600);
/// While there are several, all of them are told so often, and with every answer to hello.
const TELL: Duration = Duration::from_secs(60);
/// Boxes that are remembered.
const MOST: usize = 8;

/// The boxes of one name.
#[derive(Debug, Default)]
pub struct Boxes {
    /// The one that said hello last is the last.
    known: Vec<Known>,
    told: Option<Instant>,
    logged: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    info: pb::Box,
    heard: Instant,
    /// Proved to be one of several.
    rival: bool,
}

impl Boxes {
    /// A live hello came. Returns whether it is time to log that there are several boxes.
    pub fn hello(&mut self, agent: &pb::AgentInfo, now: Instant) -> bool {
        let process = agent.process;
        // An agent that draws none cannot be told from its next start.
        if process == 0 {
            return false;
        }
        self.known
            .retain(|known| now.saturating_duration_since(known.heard) < GONE);
        let at = self.known.iter().position(|known| known.info.process == process);
        let returns = at.is_some_and(|at| at + 1 < self.known.len());
        let mut known = match at {
            Some(at) => self.known.remove(at),
            None => Known {
                info: pb::Box::default(),
                heard: now,
                rival: false,
            },
        };
        if returns {
            known.rival = true;
            // Whoever spoke in between is there as well.
            for other in self.known.iter_mut().skip(at.unwrap_or(0)) {
                other.rival = true;
            }
        }
        known.info = pb::Box {
            process,
            boot_id: agent.boot_id.clone(),
            hostname: agent.hostname.clone(),
        };
        known.heard = now;
        self.known.push(known);
        if self.known.len() > MOST {
            self.known.remove(0);
        }
        let log = !self.rivals(now).is_empty()
            && self
                .logged
                .is_none_or(|at| now.saturating_duration_since(at) >= GONE);
        if log {
            self.logged = Some(now);
        }
        log
    }

    /// A frame came in a stream of this process.
    pub fn heard(&mut self, process: u64, now: Instant) {
        if let Some(known) = self.known.iter_mut().find(|known| known.info.process == process) {
            known.heard = now;
        }
    }

    /// Whether this process is one of several that speak at present.
    pub fn is_rival(&self, process: u64, now: Instant) -> bool {
        self.rivals(now).iter().any(|rival| rival.process == process)
    }

    /// The boxes, if there are several.
    pub fn rivals(&self, now: Instant) -> Vec<pb::Box> {
        let here = |known: &&Known| known.rival && now.saturating_duration_since(known.heard) < GONE;
        let rivals: Vec<_> = self
            .known
            .iter()
            .filter(here)
            .map(|known| known.info.clone())
            .collect();
        if rivals.len() > 1 { rivals } else { Vec::new() }
    }

    /// What the next ack says of them.
    pub fn tell(&mut self, now: Instant, answers_hello: bool) -> Vec<pb::Box> {
        let due = self
            .told
            .is_none_or(|told| now.saturating_duration_since(told) >= TELL);
        if !due && !answers_hello {
            return Vec::new();
        }
        let rivals = self.rivals(now);
        if !rivals.is_empty() {
            self.told = Some(now);
        }
        rivals
    }
}

/// Says that several boxes use one name.
pub fn tell(device: &str, boxes: &[pb::Box]) {
    let boxes: Vec<_> = boxes
        .iter()
        .map(|other| {
            let (host, boot, process) = (&other.hostname, &other.boot_id, other.process);
            format!("host {host:?} (boot {boot}, process {process:016x})")
        })
        .collect();
    tracing::error!(
        %device,
        "{} boxes use this device's name: {}. Nothing is lost or mixed up, but each needs a name of its own: was an SD card \
         cloned? Set `device` in the agent.toml of all but one",
        boxes.len(),
        boxes.join(", ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(process: u64) -> pb::AgentInfo {
        pb::AgentInfo {
            process,
            hostname: format!("box-{process}"),
            ..Default::default()
        }
    }

    fn names(boxes: &Boxes, now: Instant) -> Vec<String> {
        boxes
            .rivals(now)
            .into_iter()
            .map(|rival| rival.hostname)
            .collect()
    }

    #[test]
    fn a_box_that_starts_again_and_again_is_one_box() {
        let (mut boxes, start) = (Boxes::default(), Instant::now());
        for process in 1..50 {
            // Each says hello more than once: new connections, and the relay's asking.
            for _ in 0..3 {
                assert!(!boxes.hello(&agent(process), start));
            }
        }
        assert!(boxes.rivals(start).is_empty() && boxes.known.len() <= MOST);
        // An agent that draws no number.
        boxes.hello(&agent(0), start);
        boxes.hello(&agent(0), start);
        assert!(boxes.rivals(start).is_empty());
    }

    #[test]
    fn whoever_comes_back_after_another_is_a_second_box() {
        let (mut boxes, start) = (Boxes::default(), Instant::now());
        boxes.hello(&agent(1), start);
        boxes.hello(&agent(2), start);
        assert!(boxes.tell(start, true).is_empty());
        assert!(boxes.hello(&agent(1), start), "time to log it");
        assert_eq!(names(&boxes, start), ["box-2", "box-1"]);
        assert_eq!(boxes.tell(start, false).len(), 2);
        assert!(boxes.tell(start, false).is_empty(), "not with every ack");
        assert_eq!(boxes.tell(start, true).len(), 2, "but with every answer to hello");
        assert_eq!(boxes.tell(start + TELL, false).len(), 2);
        assert!(!boxes.hello(&agent(2), start), "logged just now");
        assert!(boxes.is_rival(1, start) && boxes.is_rival(2, start) && !boxes.is_rival(3, start));
    }

    #[test]
    fn it_is_over_when_only_one_is_heard_of() {
        let (mut boxes, start) = (Boxes::default(), Instant::now());
        for process in [1, 2, 1] {
            boxes.hello(&agent(process), start);
        }
        let later = start + GONE / 2;
        boxes.heard(1, later);
        assert_eq!(boxes.rivals(later).len(), 2);
        assert!(boxes.rivals(start + GONE).is_empty());
        // Both are heard of, without a hello: it goes on.
        boxes.heard(2, later);
        assert_eq!(boxes.rivals(start + GONE).len(), 2);
    }
}
