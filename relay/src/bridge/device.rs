//! A device as the bridge knows it: its streams, what it said of itself, whether it is there.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_proto::{SeriesSet, pb};

use super::boxes::Boxes;
use super::stream::Stream;

/// A moment on both clocks: one that only runs forward, and the one on the wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For intervals.
    pub at: Instant,
    /// Microseconds since the Unix epoch.
    pub us: i64,
}

impl Now {
    /// This moment.
    pub fn read() -> Self {
        let us = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_micros() as i64);
        Self {
            at: Instant::now(),
            us,
        }
    }
}

/// A stream that no hello lists any more is remembered for so long: a second box under the same name, or a stray hello, must
/// not make the bridge forget what of it is in Kafka.
const REMEMBER: Duration = Duration::from_secs(600);
/// Agents are told the time so often, and with every answer to hello.
const TELL_TIME: Duration = Duration::from_secs(600);
/// The longest text that is kept of what an agent says of itself, bytes.
const INFO: usize = 200;

/// The state of a device.
#[derive(Debug)]
pub struct Device {
    /// Its name.
    pub name: Arc<str>,
    /// Its partition.
    pub partition: u32,
    /// Its streams, by their ids.
    pub streams: HashMap<u64, Stream>,
    /// The newest record of it in telemetry: offset + 1.
    pub newest: i64,
    /// Readings it reported as lost.
    pub lost_readings: u64,
    /// Whether it is there.
    pub online: bool,
    since_us: i64,
    last_seen_us: i64,
    session: u64,
    agent: Option<pb::AgentInfo>,
    waiting: Option<pb::Waiting>,
    /// What data frames call its streams: stream and process.
    shorts: HashMap<u32, (u64, u64)>,
    /// Those that use its name.
    pub boxes: Boxes,
    /// When it was last told the time.
    timed: Option<Instant>,
    /// Last heard of.
    heard_at: Option<Instant>,
    series: Vec<Arc<SeriesSet>>,
    /// Heard of since the MQTT connection was made.
    confirmed: bool,
    asked: HashMap<u32, Instant>,
    dead_letter: Option<Instant>,
}

impl Device {
    /// One that was never heard of.
    pub fn new(name: &str, partition: u32) -> Self {
        Self {
            name: name.into(),
            partition,
            streams: HashMap::new(),
            newest: 0,
            lost_readings: 0,
            online: false,
            since_us: 0,
            last_seen_us: 0,
            session: 0,
            agent: None,
            waiting: None,
            shorts: HashMap::new(),
            boxes: Boxes::default(),
            timed: None,
            heard_at: None,
            series: Vec::new(),
            confirmed: false,
            asked: HashMap::new(),
            dead_letter: None,
        }
    }

    /// What the next ack says of the time; 0: nothing.
    pub fn tell_time(&mut self, now: Now, answers_hello: bool) -> i64 {
        let due = self
            .timed
            .is_none_or(|told| now.at.saturating_duration_since(told) >= TELL_TIME);
        if !due && !answers_hello {
            return 0;
        }
        self.timed = Some(now.at);
        now.us
    }

    /// As an earlier bridge left it.
    pub fn restore(state: pb::DeviceState, partition: u32) -> Self {
        let streams = state
            .positions
            .iter()
            .map(|at| (at.stream, Stream::new(at.seq)))
            .collect();
        Self {
            streams,
            newest: state.newest_offset_plus_1,
            lost_readings: state.lost_readings,
            online: state.online,
            since_us: state.since_us,
            last_seen_us: state.last_seen_us,
            session: state.session,
            agent: state.agent,
            waiting: state.waiting,
            ..Self::new(&state.device, partition)
        }
    }

    /// As `headwater.devices` holds it.
    pub fn state(&self) -> pb::DeviceState {
        let mut positions: Vec<_> = self.streams.keys().map(|&stream| self.position(stream)).collect();
        positions.sort_by_key(|at| at.stream);
        pb::DeviceState {
            device: self.name.to_string(),
            online: self.online,
            since_us: self.since_us,
            last_seen_us: self.last_seen_us,
            agent: self.agent.clone(),
            positions,
            newest_offset_plus_1: self.newest,
            waiting: self.waiting,
            lost_readings: self.lost_readings,
            session: self.session,
            boxes: self.heard_at.map(|at| self.boxes.rivals(at)).unwrap_or_default(),
            foreign: None,
            checkpoint: None,
        }
    }

    /// What of a stream is in Kafka.
    pub fn position(&self, stream: u64) -> pb::StreamPosition {
        pb::StreamPosition {
            stream,
            seq: self.streams.get(&stream).map_or(0, Stream::delivered),
        }
    }

    /// The stream that data frames call by this number.
    pub fn stream(&self, short: u32) -> Option<u64> {
        self.shorts.get(&short).map(|(stream, _)| *stream)
    }

    /// A frame of this stream came: its box is there.
    pub fn frame(&mut self, short: u32, now: Instant) {
        if let Some((_, process)) = self.shorts.get(&short) {
            self.boxes.heard(*process, now);
        }
    }

    /// Something came from it that only a live agent sends. Returns whether it was thought to be away.
    pub fn heard(&mut self, now: Now) -> bool {
        self.last_seen_us = now.us;
        self.heard_at = Some(now.at);
        self.confirmed = true;
        self.presence(true, now)
    }

    /// A live hello came, before it is taken in. Returns whether it is time to log that several boxes use the name.
    pub fn meet(&mut self, hello: &pb::Hello, now: Now) -> bool {
        let agent = hello.agent.clone().map(short_info).unwrap_or_default();
        self.boxes.hello(&agent, now.at)
    }

    /// Takes in a hello. `retained`: the broker kept it, so it says nothing about now. Streams that it does not list
    /// have drained, and are forgotten after a while; at most `limit` are kept, those listed first, then the newest. Returns how many were too many.
    pub fn hello(&mut self, hello: pb::Hello, retained: bool, limit: usize, now: Now) -> usize {
        if !retained {
            self.heard(now);
        }
        self.session = hello.session;
        self.agent = hello.agent.map(short_info);
        let over = hello.streams.len().saturating_sub(limit);
        let process = self.agent.as_ref().map_or(0, |agent| agent.process);
        // What another box calls its streams stays valid: its frames come between this one's.
        let boxes = &self.boxes;
        self.shorts
            .retain(|_, (_, other)| *other != process && boxes.is_rival(*other, now.at));
        for held in &hello.streams[over..] {
            let stream = self.streams.entry(held.stream).or_default();
            stream.list();
            stream.deliver(held.acked_seq);
            stream.holds_from(held.first_seq);
            match self.shorts.get(&held.short) {
                // Two boxes happen to use one number. It means neither: both are asked for hello, and draw again.
                Some((other, _)) if *other != held.stream => drop(self.shorts.remove(&held.short)),
                _ => drop(self.shorts.insert(held.short, (held.stream, process))),
            }
        }
        let listed: HashSet<u64> = self.shorts.values().map(|(stream, _)| *stream).collect();
        let mut unlisted: Vec<(Instant, u64)> = Vec::new();
        for (id, stream) in &mut self.streams {
            // What is in flight is kept until its report.
            if !listed.contains(id) && stream.accepted() == stream.delivered() {
                unlisted.push((stream.unlist(now.at), *id));
            }
        }
        unlisted.sort_unstable_by(|a, b| b.cmp(a));
        let room = limit.saturating_sub(listed.len());
        for (place, (since, id)) in unlisted.into_iter().enumerate() {
            if place >= room || now.at.duration_since(since) >= REMEMBER {
                self.streams.remove(&id);
            }
        }
        over
    }

    /// Takes note of the streams that a hello, which was taken in, tells as torn: each with its last number. Returns those that were not
    /// known to be.
    pub fn tear(&mut self, torn: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
        let mut news = torn;
        news.retain(|(id, _)| self.streams.get_mut(id).is_some_and(Stream::tear));
        news
    }

    /// Takes in a status. Returns whether its presence changed.
    pub fn status(&mut self, status: &pb::Status, retained: bool, now: Now) -> bool {
        if !status.online {
            // The will of a connection that a newer one has replaced says nothing.
            let of_another = status.session != 0 && self.session != 0 && status.session != self.session;
            if of_another {
                return false;
            }
            self.confirmed = true;
            return self.presence(false, now);
        }
        if status.waiting.is_some() {
            self.waiting = status.waiting;
        }
        if retained {
            // Its last will would have replaced this, had it gone.
            self.confirmed = true;
            return self.presence(true, now);
        }
        self.heard(now)
    }

    /// The connection to the broker is new: what was known of its presence needs a sign of life, or a retained status.
    pub fn doubt(&mut self) {
        self.confirmed = false;
    }

    /// No sign of life came since the connection was made. Returns whether its presence changed.
    pub fn give_up(&mut self, now: Now) -> bool {
        !self.confirmed && self.presence(false, now)
    }

    /// Keeps a series set, forgetting the oldest beyond `limit`.
    pub fn keep_series(&mut self, set: SeriesSet, limit: usize) {
        self.series.retain(|kept| kept.hash() != set.hash());
        self.series.push(Arc::new(set));
        if self.series.len() > limit {
            self.series.remove(0);
        }
    }

    /// The series set of this hash.
    pub fn series(&self, hash: u32) -> Option<Arc<SeriesSet>> {
        self.series.iter().find(|set| set.hash() == hash).cloned()
    }

    /// Whether to ask for this series set now (0: for hello), not having asked within `interval`.
    pub fn asks(&mut self, hash: u32, now: Instant, interval: Duration) -> bool {
        self.asked.retain(|_, at| now.duration_since(*at) < interval);
        if self.asked.contains_key(&hash) {
            return false;
        }
        self.asked.insert(hash, now);
        true
    }

    /// Whether a payload of it that names no batch may go to the dead letters: one in each `interval`.
    pub fn dead_letter(&mut self, now: Instant, interval: Duration) -> bool {
        let may = self
            .dead_letter
            .is_none_or(|at| now.duration_since(at) >= interval);
        if may {
            self.dead_letter = Some(now);
        }
        may
    }

    fn presence(&mut self, online: bool, now: Now) -> bool {
        let changed = self.online != online || self.since_us == 0;
        if changed {
            self.online = online;
            self.since_us = now.us;
        }
        changed
    }
}

fn short_info(agent: pb::AgentInfo) -> pb::AgentInfo {
    pb::AgentInfo {
        version: cut(agent.version),
        target: cut(agent.target),
        boot_id: cut(agent.boot_id),
        config_hash: cut(agent.config_hash),
        hostname: cut(agent.hostname),
        process: agent.process,
    }
}

fn cut(mut text: String) -> String {
    let end = (0..=INFO.min(text.len()))
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0);
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests;
