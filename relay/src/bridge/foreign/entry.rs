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

#[cfg(test)]
mod tests {
    use super::*;

    const ZIGBEE: &str = "
        id = 'z'
        topics = ['zigbee2mqtt/#']
        except = ['zigbee2mqtt/bridge/#']
        device = '{2}'
        map = { time = '/last_seen', types = { power = 'number' } }
        [[availability]]
        topic = 'zigbee2mqtt/+/availability'
        device = '{2}'
        value = '/state'
    ";

    fn entry(text: &str, more: &str) -> Entry {
        let settings: ForeignSettings = toml::from_str(&format!("{more}\n{text}")).unwrap();
        settings.check().unwrap();
        Entry::new(&settings).unwrap()
    }

    /// What a message gives: device, metric and whether it has a time of its own.
    fn read(entry: &mut Entry, topic: &str, payload: &str, retained: bool) -> (Vec<String>, Found) {
        let found = entry.read(Now::read(), topic, payload.as_bytes(), payload.len(), retained);
        let shown = found.readings.iter();
        let shown = shown.map(|of| format!("{} {} {}", of.device, of.metric, of.time_us.is_some()));
        (shown.collect(), found)
    }

    #[test]
    fn topics_decide_what_a_message_is() {
        let mut zigbee = entry(ZIGBEE, "");
        let (readings, found) = read(&mut zigbee, "zigbee2mqtt/lamp", r#"{"power": 3}"#, false);
        assert_eq!(
            (readings, found.refusal),
            (vec!["lamp power false".to_string()], None)
        );
        for (payload, online) in [
            (r#"{"state": "online"}"#, true),
            (r#"{"state": "Offline"}"#, false),
        ] {
            let (_, found) = read(&mut zigbee, "zigbee2mqtt/lamp/availability", payload, true);
            assert_eq!(found.presence, [("lamp".to_string(), online)]);
        }
        for payload in [r#"{"state": "perhaps"}"#, "{}", "online"] {
            let (_, found) = read(&mut zigbee, "zigbee2mqtt/lamp/availability", payload, false);
            assert!(found.presence.is_empty() && found.refusal.is_some(), "{payload}");
        }
        for (topic, payload, skipped) in [
            ("zigbee2mqtt/bridge/state", "{", vec![]),
            ("zigbee2mqtt/lamp", "", vec![]),
            ("elsewhere/lamp", "{}", vec![("topic", 1)]),
        ] {
            let (readings, found) = read(&mut zigbee, topic, payload, false);
            assert_eq!(
                (readings, found.skipped, found.refusal),
                (vec![], skipped, None),
                "{topic}"
            );
        }
    }

    #[test]
    fn what_is_refused_is_refused_with_what_was_taken_all_the_same() {
        let mut zigbee = entry(ZIGBEE, "");
        let payload = r#"{"power": "much", "t": 2}"#;
        let (readings, found) = read(&mut zigbee, "zigbee2mqtt/lamp", payload, false);
        assert_eq!(readings, ["lamp t false"]);
        let why = found.refusal.unwrap();
        assert!(
            why.contains("\"power\"") && why.contains("1 refused, 1 readings taken"),
            "{why}"
        );
        let found = zigbee.read(Now::read(), "zigbee2mqtt/lamp", b"{", 70_000, false);
        assert!(found.refusal.unwrap().contains("70000 bytes"));
    }

    #[test]
    fn what_the_broker_kept_is_taken_as_the_settings_say() {
        let payload = r#"[{"a": 1}, {"b": 2, "last_seen": "2026-11-22T12:00:00Z"}]"#;
        for (retained, expected, left_out) in [
            ("timed", vec!["lamp b true"], vec![("retained", 1)]),
            ("take", vec!["lamp a false", "lamp b true"], vec![("time", 1)]),
            ("skip", vec![], vec![("retained", 1)]),
        ] {
            let mut zigbee = entry(ZIGBEE, &format!("retained = '{retained}'"));
            let (readings, found) = read(&mut zigbee, "zigbee2mqtt/lamp", payload, true);
            assert_eq!(readings, expected, "{retained}");
            let skipped = found
                .skipped
                .into_iter()
                .filter(|(why, _)| left_out.iter().any(|(of, _)| of == why));
            assert_eq!(skipped.collect::<Vec<_>>(), left_out, "{retained}");
        }
    }

    #[test]
    fn nodes_that_an_earlier_run_knew_are_asked_once() {
        let mut plant = entry("id = 's'\n[sparkplug]", "");
        let known = ["g/n", "g/n/d", "g/m/d", "odd"];
        let asks = plant.greet(Now::read(), known.into_iter());
        let topics: Vec<_> = asks.iter().map(|(topic, _)| topic.as_str()).collect();
        assert_eq!(topics, ["spBv1.0/g/NCMD/m", "spBv1.0/g/NCMD/n"]);
        assert_eq!(plant.greet(Now::read(), known.into_iter()), []);
        let (_, found) = read(&mut plant, "spBv1.0/g/NDATA/n", "", true);
        assert_eq!(found.skipped, [("retained", 1)]);
        let (_, found) = read(&mut plant, "spBv1.0/STATE/x", "{}", false);
        assert_eq!(found.skipped, [("topic", 1)]);
        assert_eq!(entry(ZIGBEE, "").greet(Now::read(), known.into_iter()), []);
    }
}
