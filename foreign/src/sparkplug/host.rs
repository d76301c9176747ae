//! Which nodes and devices are there, what their aliases mean, and whether a message of theirs is missing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_proto::name;
use prost::Message as _;

use super::metric::{self, Given};
use super::pb;
use super::topic::{Kind, Topic};
use crate::mapping::Reading;
use crate::settings::TimeFormat;
use crate::time;

/// A node's number of its birth and of the death that belongs to it.
const BD_SEQ: &str = "bdSeq";
/// The property that names a unit, as its makers agree (the specification has none).
const UNIT: &str = "engUnit";
/// Metrics of one node or device.
const METRICS_MAX: usize = 20_000;

/// What the settings say.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A node is asked for a rebirth at most once in this time.
    pub rebirth_interval: Duration,
    /// Whether values that say they are transient are readings.
    pub transient: bool,
    /// Nodes; those beyond are refused.
    pub nodes: usize,
}

/// What a message gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heard {
    /// Readings; their device is `group/node` or `group/node/device`.
    pub readings: Vec<Reading>,
    /// Who is there, and who is not.
    pub presence: Vec<(String, bool)>,
    /// Why a part of the message, or all of it, gives no reading.
    pub refusal: Option<String>,
    /// What is left out, and how often.
    pub skipped: Vec<(&'static str, u64)>,
    /// The node (`group/node`) that is to be asked for a rebirth.
    pub rebirth: Option<String>,
    /// Whether the message before this one did not come.
    pub gap: bool,
}

/// The nodes heard of.
#[derive(Debug)]
pub struct Host {
    options: Options,
    nodes: HashMap<String, Node>,
}

#[derive(Debug, Default)]
struct Node {
    born: bool,
    bd_seq: Option<u64>,
    /// Of the last message.
    seq: Option<u8>,
    /// Messages may be missing before the next one, which its number cannot tell.
    doubted: bool,
    asked: Option<Instant>,
    own: Metrics,
    devices: HashMap<String, Device>,
}

#[derive(Debug, Default)]
struct Device {
    born: bool,
    metrics: Metrics,
}

/// What births have told.
#[derive(Debug, Default)]
struct Metrics {
    by_name: HashMap<Arc<str>, Told>,
    by_alias: HashMap<u64, Arc<str>>,
}

#[derive(Clone, Debug)]
struct Told {
    datatype: u32,
    unit: Arc<str>,
}

impl Host {
    /// Nobody yet.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            nodes: HashMap::new(),
        }
    }

    /// A connection was made; `resumed`: of what was sent meanwhile nothing is missing, but what was not acknowledged comes again.
    pub fn connected(&mut self, resumed: bool) {
        for node in self.nodes.values_mut() {
            node.seq = None;
            node.doubted |= !resumed;
        }
    }

    /// Whether a node (`group/node`) is to be asked for its births, since nothing is known of it.
    pub fn asks(&mut self, address: &str, now: Instant) -> bool {
        let interval = self.options.rebirth_interval;
        let known = self.nodes.len() < self.options.nodes || self.nodes.contains_key(address);
        known
            && self
                .nodes
                .entry(address.to_owned())
                .or_default()
                .asks(now, interval)
    }

    /// A message came.
    pub fn message(&mut self, now: Instant, topic: &Topic<'_>, payload: &[u8]) -> Heard {
        let mut heard = Heard::default();
        let payload = match pb::Payload::decode(payload) {
            Ok(payload) => payload,
            Err(error) => {
                heard.refusal = Some(format!("not a Sparkplug B payload: {error}"));
                return heard;
            }
        };
        let address = topic.address();
        if !self.nodes.contains_key(&address) && self.nodes.len() >= self.options.nodes {
            heard.refusal = Some(format!(
                "the node {address:?} would be one more than {}",
                self.options.nodes
            ));
            return heard;
        }
        let (options, node) = (self.options, self.nodes.entry(address.clone()).or_default());
        match topic.kind {
            Kind::NodeDeath => {
                node.death(&address, &payload, &mut heard);
                return heard;
            }
            Kind::NodeBirth => node.birth(&address, &payload, &mut heard),
            _ => heard.gap = node.misses(payload.seq),
        }
        // What a node sends before its birth, or after something is missing, is taken as far as it tells; then all is told anew.
        let mut wants = heard.gap || !node.born || std::mem::take(&mut node.doubted);
        let source = topic.source();
        let metrics = match topic.device {
            None => &mut node.own,
            Some(device) => {
                if node.devices.len() >= options.nodes && !node.devices.contains_key(device) {
                    heard.refusal = Some(format!(
                        "{source:?} would be one device more than {}",
                        options.nodes
                    ));
                    return heard;
                }
                let device = node.devices.entry(device.to_owned()).or_default();
                match topic.kind {
                    Kind::DeviceBirth => {
                        device.born = true;
                        device.metrics = Metrics::default();
                    }
                    Kind::DeviceDeath => device.born = false,
                    _ => wants |= !device.born,
                }
                &mut device.metrics
            }
        };
        heard
            .presence
            .push((source.clone(), topic.kind != Kind::DeviceDeath));
        let is_birth = matches!(topic.kind, Kind::NodeBirth | Kind::DeviceBirth);
        if topic.kind != Kind::DeviceDeath {
            let mut left_out = LeftOut::default();
            for metric in &payload.metrics {
                if is_birth {
                    metrics.tell(metric, &mut left_out);
                }
                match metrics.reading(
                    metric,
                    &source,
                    payload.timestamp,
                    options.transient,
                    &mut left_out,
                ) {
                    Ok(reading) => heard.readings.extend(reading),
                    Err(Unread::Unknown(why)) => {
                        wants = true;
                        left_out.refuse(why);
                    }
                    Err(Unread::Wrong(why)) => left_out.refuse(why),
                }
            }
            left_out.close(&mut heard);
        }
        if wants && node.asks(now, options.rebirth_interval) {
            heard.rebirth = Some(address);
        }
        heard
    }
}

impl Node {
    fn birth(&mut self, address: &str, payload: &pb::Payload, heard: &mut Heard) {
        self.born = true;
        self.doubted = false;
        self.seq = payload.seq.map(|seq| seq as u8);
        self.bd_seq = bd_seq(payload);
        self.own = Metrics::default();
        self.devices_are_away(address, heard);
    }

    fn death(&mut self, address: &str, payload: &pb::Payload, heard: &mut Heard) {
        // A death that the broker kept back until now may belong to an earlier birth.
        if let (true, Some(born), Some(died)) = (self.born, self.bd_seq, bd_seq(payload))
            && born != died
        {
            heard.skipped.push(("death of an earlier birth", 1));
            return;
        }
        (self.born, self.seq) = (false, None);
        heard.presence.push((address.to_owned(), false));
        self.devices_are_away(address, heard);
    }

    fn devices_are_away(&mut self, address: &str, heard: &mut Heard) {
        for (name, device) in &mut self.devices {
            if std::mem::take(&mut device.born) {
                heard.presence.push((format!("{address}/{name}"), false));
            }
        }
    }

    /// Whether the message before the one with this number did not come.
    fn misses(&mut self, seq: Option<u64>) -> bool {
        let seq = seq.map(|seq| seq as u8);
        let before = std::mem::replace(&mut self.seq, seq);
        match (before, seq) {
            (Some(before), Some(seq)) => before.wrapping_add(1) != seq,
            _ => false,
        }
    }

    fn asks(&mut self, now: Instant, interval: Duration) -> bool {
        let asks = self
            .asked
            .is_none_or(|asked| now.saturating_duration_since(asked) >= interval);
        if asks {
            self.asked = Some(now);
        }
        asks
    }
}

/// Why a metric gives no reading.
enum Unread {
    /// Its birth was not heard.
    Unknown(String),
    /// It is wrong.
    Wrong(String),
}

#[derive(Default)]
struct LeftOut {
    refused: u64,
    why: Option<String>,
    types: u64,
    transient: u64,
    untimed: u64,
}

impl LeftOut {
    fn refuse(&mut self, why: String) {
        self.refused += 1;
        self.why.get_or_insert(why);
    }

    fn close(self, heard: &mut Heard) {
        for (reason, count) in [
            ("datatype", self.types),
            ("transient", self.transient),
            ("time", self.untimed),
        ] {
            if count > 0 {
                heard.skipped.push((reason, count));
            }
        }
        heard.refusal = self.why.map(|why| {
            let (refused, taken) = (self.refused, heard.readings.len());
            format!("{why} ({refused} refused, {taken} readings taken)")
        });
    }
}

impl Metrics {
    /// A birth tells of a metric.
    fn tell(&mut self, metric: &pb::Metric, left_out: &mut LeftOut) {
        let (Some(name), Some(datatype)) = (&metric.name, metric.datatype) else {
            return;
        };
        if self.by_name.len() >= METRICS_MAX {
            return left_out.refuse(format!("more than {METRICS_MAX} metrics"));
        }
        let name: Arc<str> = name.as_str().into();
        let unit = unit(metric).unwrap_or_default().into();
        self.by_name.insert(Arc::clone(&name), Told { datatype, unit });
        if let Some(alias) = metric.alias {
            self.by_alias.insert(alias, name);
        }
    }

    fn reading(
        &self,
        metric: &pb::Metric,
        source: &str,
        sent_ms: Option<u64>,
        transient: bool,
        left_out: &mut LeftOut,
    ) -> Result<Option<Reading>, Unread> {
        let name = match (&metric.name, metric.alias) {
            (Some(name), _) if !name.is_empty() => name.as_str(),
            (_, Some(alias)) => self.by_alias.get(&alias).ok_or_else(|| {
                Unread::Unknown(format!(
                    "alias {alias} means nothing yet: its birth was not heard, and is asked for"
                ))
            })?,
            _ => return Err(Unread::Wrong("a metric has neither name nor alias".into())),
        };
        if name == BD_SEQ || name.starts_with("Node Control/") || name.starts_with("Device Control/") {
            return Ok(None);
        }
        let told = self.by_name.get(name);
        let datatype = metric
            .datatype
            .or(told.map(|told| told.datatype))
            .ok_or_else(|| {
                Unread::Unknown(format!(
                    "the datatype of {:?} is not told: its birth was not heard, and is asked for",
                    crate::refusal::shortened(name)
                ))
            })?;
        if metric.is_transient() && !transient {
            left_out.transient += 1;
            return Ok(None);
        }
        let wrong = |why| Unread::Wrong(format!("{:?}: {why}", crate::refusal::shortened(name)));
        let value = match metric::value(metric, datatype).map_err(wrong)? {
            Given::Value(value) => value,
            Given::Null => return Ok(None),
            Given::Unsupported => {
                left_out.types += 1;
                return Ok(None);
            }
        };
        name::check_metric(name).map_err(|error| Unread::Wrong(error.to_string()))?;
        let at = metric.timestamp.or(sent_ms);
        let time_us = at.and_then(|at| time::of_integer(i64::try_from(at).ok()?, TimeFormat::Ms));
        left_out.untimed += u64::from(at.is_some() && time_us.is_none());
        Ok(Some(Reading {
            metric: name.to_owned(),
            device: source.to_owned(),
            unit: told.map(|told| told.unit.to_string()).unwrap_or_default(),
            time_us,
            value,
        }))
    }
}

/// The number that joins a birth to its death.
fn bd_seq(payload: &pb::Payload) -> Option<u64> {
    let metric = payload.metrics.iter().find(|metric| metric.name() == BD_SEQ)?;
    match metric.value {
        Some(pb::metric::Value::LongValue(number)) => Some(number),
        Some(pb::metric::Value::IntValue(number)) => Some(number.into()),
        _ => None,
    }
}

fn unit(metric: &pb::Metric) -> Option<&str> {
    let properties = metric.properties.as_ref()?;
    let at = properties.keys.iter().position(|key| key == UNIT)?;
    match properties.values.get(at)?.value.as_ref()? {
        pb::property_value::Value::StringValue(unit) if unit.len() <= name::METRIC_MAX => Some(unit),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
