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
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        use std::sync::OnceLock;
        static START: OnceLock<Instant> = OnceLock::new();
        let start = *START.get_or_init(Instant::now);
        Now {
            at: start + Duration::from_secs(seconds),
            us: 1_000_000 * seconds as i64 + 1,
        }
    }

    fn hello(session: u64, streams: &[(u64, u32, u64)]) -> pb::Hello {
        let streams = streams.iter().map(|&(stream, short, acked_seq)| pb::HelloStream {
            stream,
            short,
            first_seq: acked_seq + 1,
            last_seq: acked_seq,
            acked_seq,
            torn: false,
        });
        pb::Hello {
            session,
            streams: streams.collect(),
            agent: None,
        }
    }

    fn status(online: bool, session: u64) -> pb::Status {
        pb::Status {
            online,
            session,
            waiting: None,
        }
    }

    #[test]
    fn the_will_of_a_replaced_connection_is_not_the_end() {
        let mut device = Device::new("a", 0);
        device.hello(hello(1, &[]), false, 9, at(0));
        device.hello(hello(2, &[]), false, 9, at(1));
        assert!(!device.status(&status(false, 1), false, at(2)));
        assert!(device.online);
        assert!(device.status(&status(false, 2), false, at(3)));
        assert!(!device.online);
        assert_eq!(device.state().since_us, at(3).us);
    }

    #[test]
    fn a_retained_hello_says_nothing_about_now() {
        let mut device = Device::new("a", 0);
        device.hello(hello(1, &[(7, 1, 3)]), true, 9, at(0));
        assert!(!device.online);
        assert_eq!((device.stream(1), device.position(7).seq), (Some(7), 3));
    }

    #[test]
    fn a_torn_stream_is_news_once() {
        let mut device = Device::new("a", 0);
        let torn = || vec![(7, 3), (9, 1)];
        device.hello(hello(1, &[(7, 1, 3), (8, 2, 0)]), true, 9, at(0));
        // One that no hello lists is none of its streams.
        assert_eq!(device.tear(torn()), [(7, 3)]);
        device.hello(hello(2, &[(7, 1, 3), (8, 2, 0)]), false, 9, at(1));
        assert_eq!(device.tear(torn()), []);
    }

    #[test]
    fn a_position_never_goes_back_and_drained_streams_are_forgotten() {
        let mut device = Device::new("a", 0);
        device.hello(hello(1, &[(7, 1, 3)]), false, 9, at(0));
        device.streams.get_mut(&7).unwrap().deliver(9);
        device.hello(hello(1, &[(7, 2, 3), (8, 1, 0)]), false, 9, at(0));
        assert_eq!(
            (device.stream(1), device.stream(2), device.position(7).seq),
            (Some(8), Some(7), 9)
        );
        // Another box under this name: a hello that does not list a stream does not undo what is in Kafka.
        device.hello(hello(2, &[(8, 1, 0)]), false, 9, at(0));
        assert_eq!(
            (device.streams.len(), device.stream(2), device.position(7).seq),
            (2, None, 9)
        );
        device.hello(hello(1, &[(7, 2, 3)]), false, 9, at(1));
        assert_eq!(device.position(7).seq, 9);
        device.hello(hello(2, &[(8, 1, 0)]), false, 9, at(2));
        device.hello(hello(2, &[(8, 1, 0)]), false, 9, at(603));
        assert_eq!((device.streams.len(), device.position(7).seq), (1, 0));
    }

    #[test]
    fn streams_that_are_not_listed_are_bounded() {
        let mut device = Device::new("a", 0);
        for start in 1..=20 {
            device.hello(hello(start, &[(start, 1, 5)]), false, 4, at(start));
        }
        assert_eq!(
            (
                device.streams.len(),
                device.position(20).seq,
                device.position(17).seq
            ),
            (4, 5, 5)
        );
    }

    /// The hello of a process: its session, and its streams by short number.
    fn hello_of(process: u64, session: u64, streams: &[(u64, u32)]) -> pb::Hello {
        let streams: Vec<_> = streams
            .iter()
            .map(|&(stream, short)| (stream, short, 0))
            .collect();
        let agent = pb::AgentInfo {
            process,
            ..Default::default()
        };
        pb::Hello {
            agent: Some(agent),
            ..hello(session, &streams)
        }
    }

    #[test]
    fn two_boxes_under_one_name_keep_the_numbers_of_their_streams() {
        let mut device = Device::new("a", 0);
        let say = |device: &mut Device, process, session, streams: &[(u64, u32)]| {
            let hello = hello_of(process, session, streams);
            let log = device.meet(&hello, at(session));
            device.hello(hello, false, 9, at(session));
            log
        };
        // Stream 5 stands in both journals.
        assert!(!say(&mut device, 1, 1, &[(5, 50), (7, 70)]));
        assert!(!say(&mut device, 2, 2, &[(5, 51), (8, 80)]));
        assert_eq!(
            (device.stream(70), device.stream(80)),
            (None, Some(8)),
            "a new start, it seems"
        );
        assert!(say(&mut device, 1, 3, &[(5, 50), (7, 70)]));
        assert_eq!(
            [50, 51, 70, 80].map(|short| device.stream(short)),
            [Some(5), Some(5), Some(7), Some(8)]
        );
        assert_eq!(device.state().boxes.len(), 2);
        // One number for two streams means neither.
        say(&mut device, 2, 4, &[(5, 52), (8, 70)]);
        assert_eq!([70, 80, 51].map(|short| device.stream(short)), [None, None, None]);
        // The second box is gone.
        device.heard(at(700));
        say(&mut device, 1, 800, &[(7, 71)]);
        assert_eq!((device.stream(52), device.stream(71)), (None, Some(7)));
        assert!(device.state().boxes.is_empty());
    }

    #[test]
    fn streams_beyond_the_limit_are_told() {
        let mut device = Device::new("a", 0);
        let many: Vec<_> = (1..=5).map(|id| (id, id as u32, 0)).collect();
        assert_eq!(device.hello(hello(1, &many), false, 3, at(0)), 2);
        assert_eq!(
            (device.streams.len(), device.stream(5), device.stream(1)),
            (3, Some(5), None)
        );
    }

    #[test]
    fn whoever_gives_no_sign_of_life_after_a_reconnect_is_away() {
        let mut device = Device::new("a", 0);
        device.heard(at(0));
        device.doubt();
        assert!(device.give_up(at(30)));
        assert!(!device.online);
        assert!(device.heard(at(31)));
        assert!(!device.give_up(at(60)) && device.online);
    }

    #[test]
    fn a_state_survives_its_record() {
        let mut device = Device::new("a", 3);
        device.hello(hello(1, &[(7, 1, 3), (8, 2, 0)]), false, 9, at(5));
        (device.newest, device.lost_readings) = (12, 40);
        let state = device.state();
        assert_eq!(Device::restore(state.clone(), 3).state(), state);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("ä".repeat(150)).len(), 200);
        assert_eq!(cut("ab".into()), "ab");
    }
}
