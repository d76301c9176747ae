//! What a message of a foreign device says: readings, or whether the device is there. Pure.

use std::collections::BTreeSet;

use headwater_foreign::sparkplug::{Host, Options, Topic, rebirth};
use headwater_foreign::{Mapping, Reading, topic};
use headwater_proto::Value;

use super::settings::{AvailabilitySettings, ForeignSettings, Retained};
use crate::bridge::device::Now;

/// What a message gave.
#[derive(Debug, Default)]
pub struct Found {
    /// Readings; their `device` is what it is called there.
    pub readings: Vec<Reading>,
    /// Who is there, and who is not.
    pub presence: Vec<(String, bool)>,
    /// Why a part of it, or all of it, cannot be taken: the message is a dead letter then.
    pub refusal: Option<String>,
    /// Left out, with the reason.
    pub skipped: Vec<(&'static str, u64)>,
    /// What is to be published: topic and payload.
    pub asks: Option<(String, Vec<u8>)>,
    /// Whether a message before this one did not come.
    pub gap: bool,
}

/// How the messages of an entry are read.
#[derive(Debug)]
pub enum Entry {
    /// By a mapping of their own.
    Mapped(Box<Mapped>),
    /// As Sparkplug B.
    Sparkplug(Host),
}

/// How messages are read by a mapping.
#[derive(Debug)]
pub struct Mapped {
    topics: Vec<String>,
    except: Vec<String>,
    mapping: Mapping,
    retained: Retained,
    availability: Vec<(AvailabilitySettings, Mapping)>,
}

impl Entry {
    /// By these settings.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(settings: &ForeignSettings) -> Result<Self, String> {
        if let Some(sparkplug) = &settings.sparkplug {
            return Ok(Self::Sparkplug(Host::new(Options {
                rebirth_interval: sparkplug.rebirth_interval,
                transient: sparkplug.transient,
                nodes: settings.devices,
            })));
        }
        let availability = settings.availability.iter();
        let availability = availability.map(|of| Ok((of.clone(), of.mapping()?)));
        Ok(Self::Mapped(Box::new(Mapped {
            topics: settings.topics.clone(),
            except: settings.except.clone(),
            mapping: settings.mapping()?,
            retained: settings.retained,
            availability: availability.collect::<Result<_, String>>()?,
        })))
    }

    /// Reads a message. `length`: that of the payload before it was cut.
    pub fn read(&mut self, now: Now, topic: &str, payload: &[u8], length: usize, retained: bool) -> Found {
        if length > payload.len() {
            let longest = payload.len();
            return Found {
                refusal: Some(format!(
                    "a payload of {length} bytes is longer than map.max_payload ({longest})"
                )),
                ..Found::default()
            };
        }
        match self {
            Self::Mapped(mapped) => mapped.read(topic, payload, retained),
            Self::Sparkplug(host) => sparkplug(host, now, topic, payload, retained),
        }
    }

    /// A connection was made; `resumed`: of what was sent meanwhile nothing is missing.
    pub fn connected(&mut self, resumed: bool) {
        if let Self::Sparkplug(host) = self {
            host.connected(resumed);
        }
    }

    /// What to ask those that an earlier run knew, by what they are called there: topics and payloads.
    pub fn greet<'a>(&mut self, now: Now, known: impl Iterator<Item = &'a str>) -> Vec<(String, Vec<u8>)> {
        let Self::Sparkplug(host) = self else {
            return Vec::new();
        };
        let node = |source: &str| {
            let mut levels = source.splitn(3, '/');
            Some(format!("{}/{}", levels.next()?, levels.next()?))
        };
        let nodes: BTreeSet<String> = known.filter_map(node).collect();
        let nodes = nodes.iter().filter(|node| host.asks(node, now.at));
        nodes.filter_map(|node| ask(node, now)).collect()
    }
}

fn ask(node: &str, now: Now) -> Option<(String, Vec<u8>)> {
    Some((Topic::commands(node)?, rebirth((now.us / 1000) as u64)))
}

fn sparkplug(host: &mut Host, now: Now, topic: &str, payload: &[u8], retained: bool) -> Found {
    let Some(topic) = Topic::parse(topic) else {
        return Found {
            skipped: vec![("topic", 1)],
            ..Found::default()
        };
    };
    // Nodes retain nothing; what is kept all the same tells of another time.
    if retained {
        return Found {
            skipped: vec![("retained", 1)],
            ..Found::default()
        };
    }
    let heard = host.message(now.at, &topic, payload);
    Found {
        readings: heard.readings,
        presence: heard.presence,
        refusal: heard.refusal,
        skipped: heard.skipped,
        asks: heard.rebirth.and_then(|node| ask(&node, now)),
        gap: heard.gap,
    }
}

impl Mapped {
    fn read(&self, topic: &str, payload: &[u8], retained: bool) -> Found {
        let mut found = Found::default();
        // An empty message is how a retained one is taken back.
        if payload.is_empty() {
            return found;
        }
        let stands_for = |filter: &String| topic::matches(filter, topic);
        let availability = self.availability.iter().find(|(of, _)| stands_for(&of.topic));
        if let Some((settings, mapping)) = availability {
            let mapped = mapping.map(topic, payload);
            for reading in mapped.readings {
                let Value::String(said) = &reading.value else {
                    continue;
                };
                let is_one_of =
                    |words: &[String]| words.iter().any(|word| word.eq_ignore_ascii_case(said.trim()));
                match (is_one_of(&settings.online), is_one_of(&settings.offline)) {
                    (true, _) => found.presence.push((reading.device, true)),
                    (_, true) => found.presence.push((reading.device, false)),
                    _ => found.refusal = Some(format!("{said:?} says neither online nor offline")),
                }
            }
            found.refusal = found
                .refusal
                .or(mapped.refusal.map(|refusal| refusal.to_string()));
            return found;
        }
        if !self.topics.iter().any(stands_for) {
            // Of a subscription that the settings had once, and the broker still has.
            found.skipped.push(("topic", 1));
            return found;
        }
        if self.except.iter().any(stands_for) {
            return found;
        }
        if retained && self.retained == Retained::Skip {
            found.skipped.push(("retained", 1));
            return found;
        }
        let mapped = self.mapping.map(topic, payload);
        found.readings = mapped.readings;
        if retained && self.retained == Retained::Timed {
            let before = found.readings.len();
            found.readings.retain(|reading| reading.time_us.is_some());
            let left_out = before - found.readings.len();
            if left_out > 0 {
                found.skipped.push(("retained", left_out as u64));
            }
        }
        if mapped.untimed > 0 {
            found.skipped.push(("time", mapped.untimed));
        }
        if let Some(refusal) = mapped.refusal {
            found.refusal = Some(match found.readings.len() {
                0 => refusal.to_string(),
                taken => format!("{refusal} ({} refused, {taken} readings taken)", mapped.refused),
            });
        }
        found
    }
}
