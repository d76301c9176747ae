use std::cell::RefCell;
use std::sync::atomic::AtomicUsize;

use headwater_proto::pb::Command;
use headwater_proto::{Message as _, frame};
use prometheus_client::registry::Registry;

use super::request::{Queued, Request};
use bytes::Bytes;

use super::*;
use crate::bridge::settings::CommandSettings;

mod bounds;
mod model;

const SECOND: i64 = 1_000_000;
/// One name for each partition would do; there is one partition.
const DEVICE: &str = "pump-1";

/// A Kafka partition of commands with its replies, a bridge, and agents that carry out what they get.
struct World {
    now: Now,
    shared: Shared,
    term: u64,
    commands: Commands,
    /// The topic, as bytes of keys and values.
    topic: Vec<(String, Vec<u8>)>,
    read: i64,
    queued: Arc<AtomicUsize>,
    committed: (i64, String),
    replies: Vec<Reply>,
    dead: Vec<String>,
    online: BTreeMap<String, bool>,
    /// What the broker has for the devices.
    down: Vec<(String, Command)>,
    room: usize,
}

fn shared(settings: CommandSettings) -> Shared {
    Shared {
        bytes: Budget::new(settings.memory.as_u64() as usize),
        settings,
        partitions: 1,
        writer: "hw.bridge.0".into(),
        metrics: Metrics::new(&mut Registry::default()),
    }
}

impl World {
    fn new() -> Self {
        Self::with(CommandSettings::default())
    }

    fn with(settings: CommandSettings) -> Self {
        let shared = shared(settings);
        let mut world = Self {
            now: Now {
                at: Instant::now(),
                us: 1_000 * SECOND,
            },
            commands: Commands::new(&shared, 0, 1, Position::default()),
            shared,
            term: 1,
            topic: Vec::new(),
            read: 0,
            queued: Arc::default(),
            committed: (0, String::new()),
            replies: Vec::new(),
            dead: Vec::new(),
            online: BTreeMap::from([(DEVICE.to_string(), true)]),
            down: Vec::new(),
            room: usize::MAX,
        };
        world.commands.listen(true);
        world
    }

    fn pass(&mut self, duration: Duration) {
        self.now.at += duration;
        self.now.us += duration.as_micros() as i64;
    }

    fn ask(&mut self, device: &str, id: &str, expires_in: i64) {
        let command = Command {
            id: id.into(),
            name: "ping".into(),
            expires_us: self.now.us + expires_in * SECOND,
            ..Command::default()
        };
        self.topic.push((device.into(), command.encode_to_vec()));
    }

    /// Reads on, and sends what can be sent.
    fn step(&mut self) {
        while let Some((key, value)) = self.topic.get(self.read as usize) {
            let content = Command::decode(value.as_slice())
                .map_err(|error| (error.to_string(), Bytes::copy_from_slice(value)));
            self.commands.read(Read {
                partition: 0,
                term: self.term,
                offset: self.read,
                key: key.clone(),
                written_us: Some(self.now.us),
                content,
                held: Held::new(&self.shared.bytes, value.len()),
                queued: Queued::new(&self.queued),
            });
            self.read += 1;
        }
        let sent = RefCell::new(Vec::new());
        let (online, room) = (&self.online, &mut self.room);
        self.commands.step(
            self.now,
            |device| online.get(device).copied(),
            |topic, payload| {
                if *room == 0 {
                    return false;
                }
                *room -= 1;
                let (device, kind) = topic::parse(&topic).unwrap();
                assert_eq!(kind, Kind::Command);
                let command: Command = open_control("command", payload).unwrap();
                assert_eq!(command.device, device);
                sent.borrow_mut().push((device.to_string(), command));
                true
            },
        );
        self.down.extend(sent.into_inner());
    }

    /// Writes what there is to write, and commits it.
    fn write(&mut self) {
        while let Some(batch) = self.commands.answers() {
            self.commit(&batch);
            self.commands.written(true);
        }
    }

    fn commit(&mut self, batch: &Batch) {
        for answer in &batch.answers {
            match &answer.kind {
                answer::Kind::Reply(_) => self.replies.push(Reply::decode(answer.value.clone()).unwrap()),
                answer::Kind::DeadLetter(why) => self.dead.push(why.clone()),
            }
        }
        self.committed = (batch.offset, batch.metadata.clone());
    }

    /// Another bridge takes over; what is not committed is gone.
    fn take_over(&mut self) {
        self.term += 1;
        let position = Position::read(self.committed.0, &self.committed.1);
        self.read = position.offset();
        self.commands = Commands::new(&self.shared, 0, self.term, position);
        self.commands.listen(true);
    }

    fn say(&mut self, device: &str, id: &str) {
        let reply = Reply {
            id: id.into(),
            status: ReplyStatus::Ok.into(),
            ..Reply::default()
        };
        self.commands
            .reply(self.now, device, &frame::seal_control(&reply));
    }

    /// The devices carry out what there is, and reply.
    fn devices_reply(&mut self) {
        for (device, command) in std::mem::take(&mut self.down) {
            self.say(&device, &command.id);
        }
    }

    fn sent(&self) -> Vec<&str> {
        self.down.iter().map(|(_, command)| &*command.id).collect()
    }

    fn statuses(&self) -> Vec<(&str, ReplyStatus)> {
        let status = |reply: &'_ Reply| reply.status();
        self.replies
            .iter()
            .map(|reply| (&*reply.id, status(reply)))
            .collect()
    }
}

#[test]
fn a_device_gets_one_command_at_a_time_and_in_order() {
    let mut world = World::new();
    for id in ["a", "b", "c"] {
        world.ask(DEVICE, id, 60);
    }
    world.step();
    assert_eq!(world.sent(), ["a"]);
    world.devices_reply();
    world.step();
    assert_eq!(world.sent(), ["b"]);
    world.devices_reply();
    world.step();
    world.devices_reply();
    world.write();
    let ok = ReplyStatus::Ok;
    assert_eq!(world.statuses(), [("a", ok), ("b", ok), ("c", ok)]);
    assert_eq!(world.committed, (3, "hw.bridge.0;".into()));
    assert!(world.commands.is_idle() && world.shared.bytes.used() == 0);
}

#[test]
fn a_device_that_is_away_is_waited_for_and_holds_nobody_up() {
    let mut world = World::new();
    world.online.insert("away".into(), false);
    world.ask("away", "first", 60);
    world.ask(DEVICE, "second", 60);
    world.step();
    assert_eq!(world.sent(), ["second"]);
    world.devices_reply();
    world.write();
    assert_eq!(world.statuses(), [("second", ReplyStatus::Ok)]);
    // The first is open still, and Kafka knows that the second is not.
    assert_eq!(world.committed, (0, "hw.bridge.0;2".into()));
    world.take_over();
    world.pass(Duration::from_secs(30));
    world.online.insert("away".into(), true);
    world.step();
    assert_eq!(world.sent(), ["first"]);
    world.devices_reply();
    world.write();
    assert_eq!(
        world.statuses(),
        [("second", ReplyStatus::Ok), ("first", ReplyStatus::Ok)]
    );
    assert_eq!(world.committed.0, 2);
}

#[test]
fn who_does_not_come_back_in_time_gets_nothing_and_the_sender_is_told() {
    let mut world = World::new();
    world.online.insert("away".into(), false);
    world.ask("away", "a", 10);
    world.ask(DEVICE, "b", 20);
    world.ask(DEVICE, "c", 20);
    world.step();
    world.pass(Duration::from_secs(9));
    world.step();
    world.write();
    assert_eq!(world.statuses(), []);
    world.pass(Duration::from_secs(1));
    world.step();
    world.write();
    assert_eq!(world.statuses(), [("a", ReplyStatus::Expired)]);
    assert!(
        world.replies[0].output.contains("not on line"),
        "{}",
        world.replies[0].output
    );
    world.pass(Duration::from_secs(10));
    world.step();
    world.write();
    assert!(
        world.replies[1].output.contains("sent 1 times"),
        "{}",
        world.replies[1].output
    );
    assert!(
        world.replies[2].output.contains("offset 1"),
        "{}",
        world.replies[2].output
    );
    // Too late: counted, not written.
    world.say(DEVICE, "b");
    world.say(DEVICE, "never asked");
    world.step();
    world.write();
    assert_eq!(world.replies.len(), 3);
    let ignored = |reason| {
        world
            .shared
            .metrics
            .ignored
            .get_or_create(&metrics::Reason { reason })
            .get()
    };
    assert_eq!((ignored("late or repeated"), ignored("unknown id")), (1, 1));
}

#[test]
fn what_was_late_before_it_was_read_is_not_sent() {
    let mut world = World::new();
    world.ask(DEVICE, "late", -3);
    world.step();
    world.write();
    assert_eq!(world.statuses(), [("late", ReplyStatus::Expired)]);
    assert!(world.sent().is_empty());
}

#[test]
fn without_a_time_of_its_own_or_with_a_far_one_a_command_gets_ours() {
    let mut world = World::new();
    world.online.insert(DEVICE.into(), false);
    let endless = Command {
        id: "endless".into(),
        ..Command::default()
    };
    world.topic.push((DEVICE.into(), endless.encode_to_vec()));
    world.ask(DEVICE, "far", 365 * 24 * 3600);
    world.step();
    world.pass(Duration::from_secs(60));
    world.step();
    world.write();
    assert_eq!(world.statuses(), [("endless", ReplyStatus::Expired)]);
    world.pass(Duration::from_secs(24 * 3600));
    world.step();
    world.write();
    assert_eq!(world.statuses()[1], ("far", ReplyStatus::Expired));
}

#[test]
fn an_unknown_device_is_told_at_once_but_not_before_the_broker_has_told_what_it_keeps() {
    let mut world = World::new();
    world.commands.listen(false);
    world.ask("stranger", "a", 60);
    world.ask(DEVICE, "b", 60);
    world.step();
    world.write();
    assert_eq!(world.statuses(), []);
    world.commands.listen(true);
    world.step();
    world.write();
    assert_eq!(world.statuses(), [("a", ReplyStatus::UnknownDevice)]);
    assert_eq!(world.sent(), ["b"]);
}

#[test]
fn what_got_lost_is_sent_again_at_hello_on_a_new_connection_and_ever_more_seldom() {
    let mut world = World::new();
    world.ask(DEVICE, "a", 3600);
    world.step();
    let sent = |world: &mut World| {
        world.step();
        std::mem::take(&mut world.down).len()
    };
    assert_eq!((sent(&mut world), sent(&mut world)), (1, 0));
    world.commands.hello(DEVICE, world.now.at);
    assert_eq!((sent(&mut world), sent(&mut world)), (1, 0));
    world.commands.listen(false);
    assert_eq!(sent(&mut world), 0);
    world.commands.listen(true);
    assert_eq!((sent(&mut world), sent(&mut world)), (1, 0));
    let mut later = 0;
    for _ in 0..3000 {
        world.pass(Duration::from_secs(1));
        later += sent(&mut world);
    }
    assert_eq!(later, 13);
    world.say(DEVICE, "a");
    world.write();
    assert_eq!(world.statuses(), [("a", ReplyStatus::Ok)]);
}

#[test]
fn with_no_room_on_the_connection_it_is_sent_later() {
    let mut world = World::new();
    world.room = 0;
    world.ask(DEVICE, "a", 60);
    world.step();
    assert!(world.sent().is_empty());
    world.room = 1;
    world.step();
    assert_eq!(world.sent(), ["a"]);
}

#[test]
fn what_is_no_command_becomes_a_dead_letter_and_what_is_a_wrong_one_is_refused() {
    let mut world = World::new();
    let command = |id: &str, device: &str| {
        let command = Command {
            id: id.into(),
            device: device.into(),
            ..Command::default()
        };
        command.encode_to_vec()
    };
    world.topic.push((DEVICE.into(), b"\xff\xff\xff".to_vec()));
    world.topic.push((DEVICE.into(), command("", "")));
    world.topic.push((DEVICE.into(), command(&"x".repeat(65), "")));
    world.topic.push((DEVICE.into(), command("a", "pump-2")));
    world.topic.push(("not/a/name".into(), command("b", "")));
    let long = Command {
        id: "c".into(),
        arguments: vec!["x".repeat(request::LONGEST)],
        ..Command::default()
    };
    world.topic.push((DEVICE.into(), long.encode_to_vec()));
    world.ask(DEVICE, "good", 60);
    world.step();
    world.devices_reply();
    world.write();
    assert_eq!(world.dead.len(), 3);
    let refused = ReplyStatus::Refused;
    assert_eq!(
        world.statuses(),
        [
            ("a", refused),
            ("b", refused),
            ("c", refused),
            ("good", ReplyStatus::Ok)
        ]
    );
    assert_eq!(world.committed.0, 7);
}

#[test]
fn a_record_in_the_wrong_partition_is_refused_with_the_way_out() {
    let settings = CommandSettings::default();
    let now = World::new().now;
    let own = headwater_proto::shard::partition(DEVICE, 4);
    let command = Command {
        id: "a".into(),
        ..Command::default()
    };
    let place = ((own + 1) % 4, 4);
    match request::judge(DEVICE, command, None, place, &settings, now) {
        Request::Refuse { why, .. } => assert!(why.contains("murmur2_random"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_repeat_of_an_open_command_has_no_answer_of_its_own() {
    let mut world = World::new();
    world.ask(DEVICE, "a", 60);
    world.ask(DEVICE, "a", 60);
    world.step();
    world.devices_reply();
    world.step();
    world.write();
    assert_eq!(world.statuses(), [("a", ReplyStatus::Ok)]);
    assert_eq!((world.committed.0, world.shared.metrics.repeated.get()), (2, 1));
}

#[test]
fn an_answer_that_kafka_did_not_take_is_written_again_unless_it_is_there() {
    let mut world = World::new();
    world.online.insert("other".into(), true);
    world.ask(DEVICE, "a", 60);
    world.ask("other", "b", 60);
    world.step();
    world.say(DEVICE, "a");
    let batch = world.commands.answers().unwrap();
    assert!(world.commands.answers().is_none(), "one at a time");
    world.commands.written(false);
    world.write();
    assert_eq!(world.statuses(), [("a", ReplyStatus::Ok)]);
    assert_eq!((batch.offset, &*batch.metadata), (1, "hw.bridge.0;1"));
    // The commit went through, and nobody told.
    world.say("other", "b");
    let batch = world.commands.answers().unwrap();
    world.commit(&batch);
    world.commands.written(false);
    let position = Position::read(batch.offset, &batch.metadata);
    world.commands.committed(&position);
    world.write();
    assert_eq!(world.statuses(), [("a", ReplyStatus::Ok), ("b", ReplyStatus::Ok)]);
}

#[test]
fn commands_that_retention_took_do_not_hold_the_offset_back() {
    let mut world = World::new();
    world.ask(DEVICE, "a", 60);
    world.ask(DEVICE, "b", 60);
    world.ask(DEVICE, "c", 60);
    // "a" and "b" were open; Kafka has only "c" now.
    world.committed = (0, "w;1.1".into());
    world.take_over();
    world.read = 2;
    world.step();
    world.devices_reply();
    world.write();
    assert_eq!(world.statuses(), [("c", ReplyStatus::Ok)]);
    assert_eq!(world.committed.0, 3);
}

#[test]
fn a_stopped_partition_sends_and_writes_nothing() {
    let mut world = World::new();
    world.ask(DEVICE, "a", 60);
    world.step();
    world.devices_reply();
    world.ask(DEVICE, "b", 60);
    world.commands.stop();
    world.step();
    assert!(world.commands.answers().is_none() && world.sent().is_empty());
}
