//! Commands over the live channel. The bridge's side is played by the test: what is written is read from Kafka, and replies are put there.

use std::time::Duration;

use headwater_proto::{Message as _, pb};
use headwater_relay::gateway::commands::settings::CommandSettings;
use headwater_relay::gateway::settings::GatewaySettings;
use pb::client_frame::Frame as ClientFrame;
use pb::server_frame::Frame;
use pb::{ErrorCode, ReplyStatus};
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

use crate::client::Client;
use crate::kafka::{Kafka, PARTITIONS, now_us};
use crate::tokens::{connect, key_file, keyed, scoped};
use crate::{Gateway, settings};

/// A topic, read from its start on.
struct Topic(StreamConsumer);

impl Topic {
    fn open(kafka: &Kafka, name: &str, partitions: u32) -> Self {
        let consumer: StreamConsumer = ClientConfig::new()
            .set("bootstrap.servers", kafka.cluster.bootstrap_servers())
            .set("group.id", "test")
            .set("fetch.wait.max.ms", "10")
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions as i32 {
            list.add_partition_offset(name, partition, Offset::Beginning)
                .unwrap();
        }
        consumer.assign(&list).unwrap();
        Self(consumer)
    }

    /// The next record: its key and value.
    async fn next(&self) -> (String, Vec<u8>) {
        let record = async {
            loop {
                // That a broker is away is told as an error, and is what one test wants.
                if let Ok(message) = self.0.recv().await {
                    let key = String::from_utf8(message.key().unwrap_or_default().to_vec()).unwrap();
                    return (key, message.payload().unwrap().to_vec());
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), record)
            .await
            .expect("nothing was written for ten seconds")
    }

    async fn command(&self) -> pb::Command {
        let (key, value) = self.next().await;
        let command = pb::Command::decode(&value[..]).unwrap();
        assert_eq!(key, command.device);
        command
    }

    /// The next record of the audit, and some of its fields as one text.
    async fn audit(&self) -> String {
        let (_, value) = self.next().await;
        let record: Value = serde_json::from_slice(&value).unwrap();
        let field = |name: &str| record[name].as_str().unwrap().to_string();
        assert_eq!(field("address"), "127.0.0.1");
        let fields = ["event", "outcome", "subject", "device", "command", "id"];
        fields.map(field).join(" ")
    }

    /// Whether nothing more comes.
    async fn is_over(&self) -> bool {
        tokio::time::timeout(Duration::from_millis(300), self.0.recv())
            .await
            .is_err()
    }
}

fn commands(kafka: &Kafka) -> Topic {
    Topic::open(kafka, "headwater.commands", PARTITIONS)
}

fn audit(kafka: &Kafka) -> Topic {
    Topic::open(kafka, "headwater.audit", 1)
}

fn ping(id: &str, device: &str) -> ClientFrame {
    ClientFrame::Command(pb::Command {
        id: id.into(),
        device: device.into(),
        name: "ping".into(),
        ..pb::Command::default()
    })
}

fn reply(command: &pb::Command, status: ReplyStatus, output: &str) -> pb::Reply {
    pb::Reply {
        id: command.id.clone(),
        device: command.device.clone(),
        status: status.into(),
        output: output.into(),
        replied_us: now_us(),
    }
}

async fn replied(client: &mut Client) -> pb::Reply {
    match client.frame().await {
        Frame::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

/// With the token, hello said.
async fn open(gateway: &Gateway, subject: &str, command: &[&str]) -> Client {
    let mut client = connect(gateway, &scoped(subject, 600, &["*"], command)).await;
    let welcome = client.hello(None).await;
    assert_eq!(welcome.may_command, !command.is_empty());
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_goes_to_kafka_in_its_subjects_name_and_its_reply_comes_back() {
    let (kafka, file) = (Kafka::start(), key_file());
    let gateway = Gateway::start(&kafka, keyed(&file)).await;
    let (commands, audit) = (commands(&kafka), audit(&kafka));
    let mut client = open(&gateway, "ann", &["pump-*"]).await;
    client
        .send(ClientFrame::Command(pb::Command {
            id: "1".into(),
            device: "pump-1".into(),
            name: "set".into(),
            arguments: vec!["batch.age".into(), "10s".into()],
            issuer: "somebody else".into(),
            issued_us: 5,
            expires_us: i64::MAX,
        }))
        .await;
    let command = commands.command().await;
    assert_eq!((command.name.as_str(), command.issuer.as_str()), ("set", "ann"));
    assert_eq!(command.arguments, ["batch.age", "10s"]);
    let now = now_us();
    assert!((now - 60_000_000..=now).contains(&command.issued_us));
    let hour = 3_600_000_000;
    assert!(command.expires_us > now && command.expires_us <= now + hour);
    // That it was asked stands in the audit before the command does.
    assert_eq!(audit.audit().await, "asked  ann pump-1 set 1");
    kafka
        .reply(&reply(&command, ReplyStatus::Ok, "batch.age = 10s"))
        .await;
    let got = replied(&mut client).await;
    assert_eq!(
        (got.id.as_str(), got.status(), got.output.as_str()),
        ("1", ReplyStatus::Ok, "batch.age = 10s")
    );
    assert_eq!(audit.audit().await, "answered ok ann pump-1 set 1");

    // Repeated on this connection, and on another of the same subject: the reply, and nothing is written.
    client.send(ping("1", "pump-1")).await;
    assert_eq!(replied(&mut client).await.output, "batch.age = 10s");
    let mut again = open(&gateway, "ann", &["*"]).await;
    again.send(ping("1", "pump-1")).await;
    assert_eq!(replied(&mut again).await.output, "batch.age = 10s");
    assert!(commands.is_over().await);
    assert_eq!(audit.audit().await, "repeated  ann pump-1 ping 1");
    assert_eq!(audit.audit().await, "repeated  ann pump-1 ping 1");

    // Another subject's command under the same id is another command, and its reply nobody else's.
    let mut bob = open(&gateway, "bob", &["*"]).await;
    bob.send(ping("1", "pump-1")).await;
    let command = commands.command().await;
    assert_eq!(command.issuer, "bob");
    kafka.reply(&reply(&command, ReplyStatus::Failed, "bob's")).await;
    let got = replied(&mut bob).await;
    assert_eq!(
        (got.id.as_str(), got.status(), got.output.as_str()),
        ("1", ReplyStatus::Failed, "bob's")
    );
    assert!(again.soon().await.is_none());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_gateway_knows_the_reply_and_waits_for_one_that_is_not_there_yet() {
    let (kafka, file) = (Kafka::start(), key_file());
    let first = Gateway::start(&kafka, keyed(&file)).await;
    let commands = commands(&kafka);
    let mut client = open(&first, "ann", &["*"]).await;
    for id in ["done", "open"] {
        client.send(ping(id, "pump-1")).await;
    }
    let (done, open_one) = (commands.command().await, commands.command().await);
    kafka.reply(&reply(&done, ReplyStatus::Ok, "pong")).await;
    assert_eq!(replied(&mut client).await.id, "done");
    first.stop().await;

    let second = Gateway::start(&kafka, keyed(&file)).await;
    let mut client = open(&second, "ann", &["*"]).await;
    client.send(ping("done", "pump-1")).await;
    assert_eq!(replied(&mut client).await.output, "pong");
    // Written once more under the id that the bridge has already: it answers the first one.
    client.send(ping("open", "pump-1")).await;
    assert_eq!(commands.command().await.id, open_one.id);
    kafka.reply(&reply(&open_one, ReplyStatus::Ok, "once")).await;
    assert_eq!(replied(&mut client).await.output, "once");
    assert!(commands.is_over().await);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_allowed_is_refused_in_the_same_words_audited_and_not_written() {
    let (kafka, file) = (Kafka::start(), key_file());
    kafka
        .state(&pb::DeviceState {
            device: "theirs-1".into(),
            online: true,
            ..Default::default()
        })
        .await;
    let gateway = Gateway::start(&kafka, keyed(&file)).await;
    let (commands, audit) = (commands(&kafka), audit(&kafka));
    let mut client = open(&gateway, "ann", &["mine-*"]).await;
    let mut messages = Vec::new();
    for device in ["theirs-1", "nobodys-1", "not a name"] {
        client.send(ping("1", device)).await;
        let error = client.error().await;
        assert_eq!(
            (error.code(), error.command.as_str(), error.id),
            (ErrorCode::Forbidden, "1", 0)
        );
        messages.push(error.message);
        assert_eq!(
            audit.audit().await,
            format!("refused forbidden ann {device} ping 1")
        );
    }
    assert!(
        messages
            .iter()
            .all(|message| *message == messages[0] && !message.contains("theirs"))
    );

    for (bad, code) in [
        (ping("", "mine-1"), ErrorCode::BadRequest),
        (ping(&"x".repeat(65), "mine-1"), ErrorCode::BadRequest),
        (ping("1", "mine-1 and more"), ErrorCode::BadRequest),
    ] {
        client.send(bad).await;
        assert_eq!(client.error().await.code(), code);
        assert!(audit.audit().await.starts_with("refused bad_request ann"));
    }
    client
        .send(ClientFrame::Command(pb::Command {
            id: "late".into(),
            device: "mine-1".into(),
            name: "ping".into(),
            expires_us: now_us() - 1,
            ..pb::Command::default()
        }))
        .await;
    let late = replied(&mut client).await;
    assert_eq!((late.id.as_str(), late.status()), ("late", ReplyStatus::Expired));
    assert_eq!(audit.audit().await, "answered expired ann mine-1 ping late");

    // Without the scope altogether, and after a fresh token took it away.
    let mut none = open(&gateway, "eve", &[]).await;
    none.send(ping("1", "mine-1")).await;
    assert_eq!(none.error().await.code(), ErrorCode::Forbidden);
    client
        .send(ClientFrame::Token(pb::Token {
            token: scoped("ann", 600, &["*"], &["other-*"]),
        }))
        .await;
    assert!(matches!(client.frame().await, Frame::TokenAccepted(_)));
    client.send(ping("2", "mine-1")).await;
    assert_eq!(client.error().await.code(), ErrorCode::Forbidden);
    assert!(commands.is_over().await);
    assert_eq!(gateway.metric("commands_open"), 0.0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_are_refused_and_the_audit_is_not_flooded() {
    let (kafka, file) = (Kafka::start(), key_file());
    let limits = CommandSettings {
        per_subject: 2,
        rate: 5,
        ..CommandSettings::default()
    };
    let settings = GatewaySettings {
        commands: limits,
        ..keyed(&file)
    };
    let gateway = Gateway::start(&kafka, settings).await;
    let (commands, audit) = (commands(&kafka), audit(&kafka));
    let mut client = open(&gateway, "ann", &["*"]).await;
    client.send(ping("1", "a")).await;
    client.send(ping("2", "a")).await;
    let (first, _) = (commands.command().await, commands.command().await);
    for _ in 0..2 {
        assert!(audit.audit().await.starts_with("asked"));
    }
    // On another connection of the same subject, so that it is the subject's bound that is met.
    let mut other = open(&gateway, "ann", &["*"]).await;
    other.send(ping("3", "a")).await;
    let error = other.error().await;
    assert_eq!((error.code(), error.command.as_str()), (ErrorCode::Limit, "3"));
    assert!(error.message.contains("per_subject"), "{}", error.message);
    assert_eq!(audit.audit().await, "refused limit ann a ping 3");
    // Somebody else has room.
    let mut bob = open(&gateway, "bob", &["b"]).await;
    bob.send(ping("1", "b")).await;
    assert_eq!(commands.command().await.issuer, "bob");
    assert_eq!(audit.audit().await, "asked  bob b ping 1");
    // Far more than ten at once.
    for id in 0..200 {
        bob.send(ping(&format!("f{id}"), "foreign")).await;
    }
    let (mut forbidden, mut limit) = (0, 0);
    for _ in 0..200 {
        match bob.error().await.code() {
            ErrorCode::Forbidden => forbidden += 1,
            ErrorCode::Limit => limit += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(forbidden < 150 && limit > 50, "{forbidden} {limit}");
    let mut records = 0;
    while tokio::time::timeout(Duration::from_millis(500), audit.0.recv())
        .await
        .is_ok()
    {
        records += 1;
    }
    assert!(records < 150, "{records} records for 200 commands");
    // A reply makes room.
    kafka.reply(&reply(&first, ReplyStatus::Ok, "")).await;
    assert_eq!(replied(&mut client).await.id, "1");
    client.send(ping("4", "a")).await;
    assert_eq!(commands.command().await.device, "a");
    gateway.stop().await;
}

/// A command that is refused does not let those behind it pass those before it.
#[tokio::test(flavor = "multi_thread")]
async fn commands_are_written_in_their_order_with_refused_ones_between_them() {
    let (kafka, file) = (Kafka::start(), key_file());
    let settings = GatewaySettings {
        commands: CommandSettings {
            per_subject: 1000,
            rate: 1000,
            ..CommandSettings::default()
        },
        ..keyed(&file)
    };
    let gateway = Gateway::start(&kafka, settings).await;
    let commands = commands(&kafka);
    let mut client = open(&gateway, "ann", &["mine"]).await;
    for number in 0..200 {
        let device = if number % 2 == 0 { "mine" } else { "foreign" };
        let command = pb::Command {
            id: number.to_string(),
            device: device.into(),
            name: "set".into(),
            arguments: vec![number.to_string()],
            ..pb::Command::default()
        };
        client.send(ClientFrame::Command(command)).await;
    }
    for number in (0..200).step_by(2) {
        assert_eq!(commands.command().await.arguments, [number.to_string()]);
    }
    for _ in 0..100 {
        assert_eq!(client.error().await.code(), ErrorCode::Forbidden);
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_audited_though_its_client_has_left() {
    let (kafka, file) = (Kafka::start(), key_file());
    let gateway = Gateway::start(&kafka, keyed(&file)).await;
    let (commands, audit) = (commands(&kafka), audit(&kafka));
    let mut client = open(&gateway, "ann", &["*"]).await;
    client.send(ping("1", "a")).await;
    let command = commands.command().await;
    drop(client);
    kafka.reply(&reply(&command, ReplyStatus::Ok, "")).await;
    assert_eq!(audit.audit().await, "asked  ann a ping 1");
    assert_eq!(audit.audit().await, "answered ok ann a ping 1");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_kafka_is_away_a_command_is_neither_taken_nor_forgotten() {
    let (kafka, file) = (Kafka::start(), key_file());
    let mut of_kafka = kafka.settings();
    of_kafka.timeout = Duration::from_secs(1);
    let gateway = Gateway::with(of_kafka, keyed(&file)).await;
    let commands = commands(&kafka);
    let mut client = open(&gateway, "ann", &["*"]).await;
    // From here on commands are taken.
    client.send(ping("0", "a")).await;
    let command = commands.command().await;
    kafka.reply(&reply(&command, ReplyStatus::Ok, "")).await;
    assert_eq!(replied(&mut client).await.id, "0");
    kafka.cluster.broker_down(-1).unwrap();
    client.send(ping("1", "a")).await;
    let error = client.error().await;
    assert_eq!(
        (error.code(), error.command.as_str()),
        (ErrorCode::Unavailable, "1")
    );
    assert!(error.message.contains("audit"), "{}", error.message);
    kafka.cluster.broker_up(-1).unwrap();
    // The same again, as the message says; until Kafka is back.
    let command = loop {
        client.send(ping("1", "a")).await;
        tokio::select! {
            command = commands.command() => break command,
            error = client.error() => assert_eq!(error.code(), ErrorCode::Unavailable),
        }
    };
    kafka.reply(&reply(&command, ReplyStatus::Ok, "pong")).await;
    assert_eq!(replied(&mut client).await.output, "pong");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_this_machine_may_and_where_everybody_is_served_nobody() {
    let kafka = Kafka::start();
    let commands = commands(&kafka);
    let gateway = Gateway::start(&kafka, settings()).await;
    let mut client = Client::connect(gateway.address).await;
    assert!(client.hello(None).await.may_command);
    client.send(ping("mine", "a")).await;
    let command = commands.command().await;
    assert_eq!((command.id.as_str(), command.issuer.as_str()), ("mine", ""));
    kafka.reply(&reply(&command, ReplyStatus::Ok, "pong")).await;
    assert_eq!(replied(&mut client).await.output, "pong");
    gateway.stop().await;

    let everybody = GatewaySettings {
        allow_anonymous: true,
        ..settings()
    };
    let gateway = Gateway::start(&kafka, everybody).await;
    let mut client = Client::connect(gateway.address).await;
    assert!(!client.hello(None).await.may_command);
    client.send(ping("2", "a")).await;
    let error = client.error().await;
    assert_eq!(error.code(), ErrorCode::Forbidden);
    assert!(error.message.contains("allow_anonymous"), "{}", error.message);
    assert!(commands.is_over().await);
    gateway.stop().await;
}
