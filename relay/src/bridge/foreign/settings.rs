//! A table `[[foreign]]` of the settings: programs that publish by their own rules, and what becomes of their messages.

use std::time::Duration;

use headwater_foreign::{Format, Mapping, Settings as MapSettings, topic};
use serde::Deserialize;

/// Foreign devices whose messages are read alike.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ForeignSettings {
    /// Names the entry in logs, metrics, record headers and the MQTT client id: 1 to 32 of `a-z 0-9 -`. Not to be changed lightly: what
    /// the broker keeps for the entry goes by it.
    pub id: String,
    /// MQTT topic filters.
    pub topics: Vec<String>,
    /// Filters of topics under them that are left out. Default none.
    pub except: Vec<String>,
    /// Whose a reading is: text with `{2}` (the topic's second segment), `{-1}`, `{2..}`, `{/pointer}` (JSON), `{tag:host}`. What cannot stand
    /// in a device's name becomes `_`.
    pub device: String,
    /// How a message is read.
    pub map: MapSettings,
    /// Messages that the broker kept (retained). Default `timed`.
    pub retained: Retained,
    /// Whether all bridges share the messages among them. Default false: one of them reads all, in order.
    pub shared: bool,
    /// How long readings are gathered for a batch at most. Default 100 ms.
    #[serde(with = "headwater_config::duration")]
    pub linger: Duration,
    /// Messages that the broker may send before the oldest is acknowledged. Default 1,000.
    pub window: u16,
    /// Devices; those beyond are refused. Default 10,000.
    pub devices: usize,
    /// How long the broker keeps messages for a bridge that is away. Default 1 h; at most what the broker allows.
    #[serde(with = "headwater_config::duration")]
    pub session_expiry: Duration,
    /// A device of which nothing is heard for this long is taken as away. Default 1 h; 0 s: never.
    #[serde(with = "headwater_config::duration")]
    pub away_after: Duration,
    /// Topics that say whether a device is there.
    pub availability: Vec<AvailabilitySettings>,
    /// Instead of `topics`, `device` and `map`: the messages are Sparkplug B.
    pub sparkplug: Option<SparkplugSettings>,
}

impl Default for ForeignSettings {
    fn default() -> Self {
        Self {
            id: String::new(),
            topics: Vec::new(),
            except: Vec::new(),
            device: String::new(),
            map: MapSettings::default(),
            retained: Retained::Timed,
            shared: false,
            linger: Duration::from_millis(100),
            window: 1000,
            devices: 10_000,
            session_expiry: Duration::from_secs(3600),
            away_after: Duration::from_secs(3600),
            availability: Vec::new(),
            sparkplug: None,
        }
    }
}

/// Edge nodes that speak Sparkplug B. A node's device is called `group:node`, a device behind it `group:node:device`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SparkplugSettings {
    /// Groups; `+` is all of them. Default all.
    pub groups: Vec<String>,
    /// The host application that this relay is to edge nodes that wait for one: whether it is there is told under it, retained. Default
    /// empty: it tells nobody.
    pub host_id: String,
    /// How it is told. Default `v3`.
    pub state: StateTopic,
    /// A node of which something is missing is asked for its births at most once in this time. Default 10 s.
    #[serde(with = "headwater_config::duration")]
    pub rebirth_interval: Duration,
    /// Whether values that nodes call transient are readings. Default false.
    pub transient: bool,
}

impl Default for SparkplugSettings {
    fn default() -> Self {
        Self {
            groups: vec!["+".into()],
            host_id: String::new(),
            state: StateTopic::V3,
            rebirth_interval: Duration::from_secs(10),
            transient: false,
        }
    }
}

/// How a host application tells that it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateTopic {
    /// As Sparkplug 3.0: `spBv1.0/STATE/<host_id>`, JSON with a time.
    V3,
    /// As Sparkplug 2.2: `STATE/<host_id>`, `ONLINE` or `OFFLINE`.
    V2,
}

impl SparkplugSettings {
    fn check(&self) -> Result<(), String> {
        let is_level = |text: &str| !text.is_empty() && !text.contains(['/', '#', '+', '\0']);
        if self.groups.is_empty() || !self.groups.iter().all(|group| group == "+" || is_level(group)) {
            return Err(format!(
                "sparkplug.groups = {:?}: a group is one level of a topic, or \"+\"",
                self.groups
            ));
        }
        if !(self.host_id.is_empty() || is_level(&self.host_id)) {
            return Err(format!(
                "sparkplug.host_id = {:?}: it is one level of a topic",
                self.host_id
            ));
        }
        Ok(())
    }
}

/// What becomes of messages that the broker kept: they are old, how old nobody can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Retained {
    /// Readings that tell their own time are taken, others are not.
    Timed,
    /// They are taken, with the time they come at where they tell none.
    Take,
    /// They are left out.
    Skip,
}

/// Topics that say whether a device is there: a Last Will, a status.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AvailabilitySettings {
    /// The filter: `zigbee2mqtt/+/availability`, `tele/+/LWT`. What comes under it is no reading.
    pub topic: String,
    /// Whose it is, by segments of the topic: `{2}`.
    pub device: String,
    /// Where it stands in a message that is JSON, as a pointer: `/state`. Default empty: the whole message.
    pub value: String,
    /// What means that the device is there. Default `online`; upper and lower case are one.
    pub online: Vec<String>,
    /// What means that it is not. Default `offline`.
    pub offline: Vec<String>,
}

impl Default for AvailabilitySettings {
    fn default() -> Self {
        Self {
            topic: String::new(),
            device: String::new(),
            value: String::new(),
            online: vec!["online".into()],
            offline: vec!["offline".into()],
        }
    }
}

impl ForeignSettings {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// The key within the entry, its value and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=32).contains(&self.id.len()) || !self.id.bytes().all(allowed) {
            return Err(format!("id = {:?}: it is 1 to 32 of a-z 0-9 -", self.id));
        }
        if let Some(sparkplug) = &self.sparkplug {
            sparkplug.check()?;
            let own = Self {
                topics: Vec::new(),
                except: Vec::new(),
                device: String::new(),
                map: MapSettings::default(),
                retained: Retained::Timed,
                shared: false,
                availability: Vec::new(),
                ..self.clone()
            };
            if own != *self {
                return Err(
                    "sparkplug: its topics, names and births are its own; topics, except, device, map, retained, shared and \
                     availability are for other messages"
                        .into(),
                );
            }
        } else if self.topics.is_empty() {
            return Err("topics is missing: give the MQTT filters, such as [\"zigbee2mqtt/+\"]".into());
        }
        let availability = self.availability.iter().map(|of| &of.topic);
        for filter in self.topics.iter().chain(&self.except).chain(availability) {
            if !topic::is_filter(filter) || filter.starts_with("$share/") {
                return Err(format!(
                    "{filter:?} is not a topic filter such as \"zigbee2mqtt/+\" or \"tele/#\" (`shared` does what $share/ would)"
                ));
            }
        }
        if self.topics.iter().any(|filter| filter.starts_with("hw1/")) {
            return Err("topics: hw1/ is where Headwater's own agents publish".into());
        }
        if self.sparkplug.is_none() {
            self.mapping()?;
        }
        for availability in &self.availability {
            availability.check()?;
        }
        if self.shared && !self.availability.is_empty() {
            return Err(
                "availability: of messages that bridges share nobody knows which came first; write shared = false".into(),
            );
        }
        let within = |key: &str, value: Duration, least: u64, most: u64| {
            let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
            let text = |duration| humantime::format_duration(duration);
            (least..=most).contains(&value).then_some(()).ok_or_else(|| {
                format!(
                    "{key} = {}: allowed is {} to {}",
                    text(value),
                    text(least),
                    text(most)
                )
            })
        };
        let month = 31 * 24 * 3_600_000;
        if let Some(sparkplug) = &self.sparkplug {
            within(
                "sparkplug.rebirth_interval",
                sparkplug.rebirth_interval,
                100,
                3_600_000,
            )?;
        }
        within("linger", self.linger, 1, 10_000)?;
        within("session_expiry", self.session_expiry, 0, month)?;
        within("away_after", self.away_after, 0, 12 * month)?;
        if self.window == 0 {
            return Err("window = 0: allowed is 1 to 65535".into());
        }
        if !(1..=10_000_000).contains(&self.devices) {
            return Err(format!("devices = {}: allowed is 1 to 10000000", self.devices));
        }
        Ok(())
    }

    /// How messages are read. Where the settings name no metrics, these are called by their keys alone: the topic names the device.
    ///
    /// # Errors
    /// What is wrong with `map` or `device`.
    pub fn mapping(&self) -> Result<Mapping, String> {
        let mut map = self.map.clone();
        map.name = map.name.or_else(|| match map.format {
            Format::Influx => None,
            Format::Value => Some("{-1}".into()),
            _ => Some("{key}".into()),
        });
        Mapping::new(&map, true)
            .map_err(|error| format!("map: {error}"))?
            .naming_devices(&self.device)
            .map_err(|error| error.to_string())
    }
}

impl AvailabilitySettings {
    fn check(&self) -> Result<(), String> {
        self.mapping()?;
        if self.online.is_empty() && self.offline.is_empty() {
            return Err("availability: neither online nor offline says anything".into());
        }
        Ok(())
    }

    /// How messages are read: each gives one text.
    ///
    /// # Errors
    /// What is wrong.
    pub fn mapping(&self) -> Result<Mapping, String> {
        let map = MapSettings {
            format: if self.value.is_empty() {
                Format::Value
            } else {
                Format::Json
            },
            name: Some("online".into()),
            value: self.value.clone(),
            value_type: Some(headwater_foreign::Type::Text),
            ..MapSettings::default()
        };
        Mapping::new(&map, true)
            .map_err(|error| format!("availability: {error}"))?
            .naming_devices(&self.device)
            .map_err(|error| format!("availability: {error}"))
    }
}

/// Checks all entries.
///
/// # Errors
/// The entry's id, and what is wrong.
pub fn check(entries: &[ForeignSettings]) -> Result<(), (String, String)> {
    for (at, entry) in entries.iter().enumerate() {
        entry.check().map_err(|why| (entry.id.clone(), why))?;
        if entries[..at].iter().any(|other| other.id == entry.id) {
            return Err((entry.id.clone(), "id: there is another entry of this name".into()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct File {
        foreign: Vec<ForeignSettings>,
    }

    fn checked(text: &str) -> Result<(), String> {
        let file: File =
            headwater_config::parse(text, "relay.toml", "X_", []).map_err(|error| error.to_string())?;
        check(&file.foreign).map_err(|(id, why)| format!("{id}: {why}"))
    }

    #[test]
    fn the_reference_shows_every_key_with_its_default() {
        let reference = include_str!("../../../../deploy/relay.toml");
        let tables = reference
            .split_once("# [[foreign]]\n")
            .and_then(|(_, rest)| rest.split_once("\n[rows]"))
            .map(|(tables, _)| tables.lines().map(|line| line.strip_prefix("# ").unwrap_or("")))
            .unwrap();
        let text = tables.fold("[[foreign]]\n".to_string(), |text, line| text + line + "\n");
        checked(&text).unwrap();
        let file: toml::Table = text.parse().unwrap();
        let entries = file["foreign"].as_array().unwrap();
        let keys = |of: &toml::Value| {
            of.as_table()
                .unwrap()
                .keys()
                .cloned()
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            keys(&entries[0]),
            "availability away_after device devices except id linger map retained session_expiry shared topics window"
        );
        assert_eq!(
            keys(&entries[0]["availability"][0]),
            "device offline online topic value"
        );
        assert_eq!(
            keys(&entries[2]["sparkplug"]),
            "groups host_id rebirth_interval state transient"
        );
        let parsed: File = headwater_config::parse(&text, "relay.toml", "X_", []).unwrap();
        let (zigbee, default) = (&parsed.foreign[0], ForeignSettings::default());
        assert_eq!(
            (
                zigbee.retained,
                zigbee.shared,
                zigbee.linger,
                zigbee.window,
                zigbee.devices
            ),
            (
                default.retained,
                default.shared,
                default.linger,
                default.window,
                default.devices
            )
        );
        assert_eq!(
            (zigbee.session_expiry, zigbee.away_after),
            (default.session_expiry, default.away_after)
        );
        assert_eq!(parsed.foreign[2].sparkplug, Some(SparkplugSettings::default()));
    }

    #[test]
    fn what_is_wrong_is_refused_with_what_is_allowed() {
        let good = "[[foreign]]\nid = 'z'\ntopics = ['z/+']\ndevice = '{2}'\n";
        checked(good).unwrap();
        checked("[[foreign]]\nid = 's'\n[foreign.sparkplug]\ngroups = ['plant']").unwrap();
        for (text, part) in [
            ("[[foreign]]\nid = 'Z'".to_string(), "1 to 32 of a-z"),
            ("[[foreign]]\nid = 'z'".to_string(), "topics is missing"),
            (good.replace("z/+", "z/#/x"), "not a topic filter"),
            (good.replace("z/+", "$share/g/z"), "not a topic filter"),
            (good.replace("z/+", "hw1/+/+/data"), "own agents"),
            (good.replace("{2}", ""), "empty"),
            (good.replace("{2}", "{key}"), "names no device"),
            (format!("{good}window = 0"), "1 to 65535"),
            (format!("{good}devices = 0"), "devices = 0"),
            (format!("{good}linger = '0s'"), "1ms to 10s"),
            (format!("{good}session_expiry = '1y'"), "session_expiry"),
            (
                format!("{good}map.format = 'influx'\nmap.time = '/t'"),
                "map: `time`",
            ),
            (
                format!("{good}shared = true\n[[foreign.availability]]\ntopic = 'l'\ndevice = '{{1}}'"),
                "shared = false",
            ),
            (
                format!("{good}[[foreign.availability]]\ntopic = 'l'\ndevice = '{{0}}'"),
                "availability",
            ),
            (format!("{good}[foreign.sparkplug]"), "are for other messages"),
            (
                "[[foreign]]\nid = 's'\n[foreign.sparkplug]\ngroups = ['a/b']".to_string(),
                "one level",
            ),
            (
                "[[foreign]]\nid = 's'\n[foreign.sparkplug]\nhost_id = '+'".to_string(),
                "one level",
            ),
            (format!("{good}{good}"), "another entry"),
            (format!("{good}tops = []"), "did you mean"),
        ] {
            let error = checked(&text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
