//! Two tenants on one gateway, and everything that one could try to see of the other.

use headwater_proto::{Limits, Message as _, pb, protobuf};
use pb::client_frame::Frame as ClientFrame;
use pb::server_frame::Frame;
use pb::{Mode, start::At};

use crate::Gateway;
use crate::client::{Client, Received, from, subscribe};
use crate::kafka::{Kafka, batch, now_us};
use crate::tokens::{connect, key_file, keyed, scoped};

/// The names of devices in a frame, wherever they may stand.
fn devices(frame: &Frame) -> Vec<String> {
    match frame {
        Frame::Data(data) => vec![protobuf::decode(&data.batch, &Limits::default()).unwrap().device],
        Frame::Latest(latest) => latest.batches.iter().map(|batch| batch.device.clone()).collect(),
        Frame::Series(series) => series
            .columns
            .iter()
            .map(|column| column.device.clone())
            .collect(),
        Frame::Presence(presence) => presence
            .devices
            .iter()
            .map(|device| device.device.clone())
            .collect(),
        _ => vec![],
    }
}

/// Everything that comes until nothing does: none of it names the other tenant in any byte.
async fn all(client: &mut Client, other: &str) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some(received) = client.soon().await {
        let Received::Frame(frame) = received else {
            panic!("{received:?}")
        };
        let bytes = pb::ServerFrame {
            frame: Some(frame.clone()),
        }
        .encode_to_vec();
        let named = bytes
            .windows(other.len())
            .any(|window| window == other.as_bytes());
        assert!(!named, "{frame:?}");
        frames.push(frame);
    }
    frames
}

async fn put(kafka: &Kafka, device: &str, seq: u64) {
    kafka.put(&batch(device, seq, 3)).await;
    kafka
        .state(&pb::DeviceState {
            device: device.into(),
            online: true,
            since_us: now_us(),
            ..Default::default()
        })
        .await;
}

async fn subscribe_all(client: &mut Client, globs: &[&str]) {
    let devices: Vec<String> = globs.iter().map(ToString::to_string).collect();
    let mut id = 0;
    for (mode, start) in [
        (Mode::All, from(At::Snapshot(true))),
        (Mode::All, from(At::TimeUs(0))),
        (Mode::Latest, from(At::Snapshot(true))),
        (Mode::Presence, None),
        (Mode::Series, None),
    ] {
        id += 1;
        let asked = pb::Subscribe {
            devices: devices.clone(),
            start,
            interval_ms: 100,
            ..subscribe(id, mode)
        };
        client.send(ClientFrame::Subscribe(asked)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_another_tenants_devices_is_visible() {
    let (kafka, file) = (Kafka::start(), key_file());
    // In the one's partition there is something of the other that cannot be read, too.
    let (red, blue) = ("red-1", "blue-1");
    for seq in 1..=3 {
        put(&kafka, red, seq).await;
        put(&kafka, blue, seq).await;
    }
    kafka.raw(blue, b"\xff\xff not a batch", now_us()).await;
    let gateway = Gateway::start(&kafka, keyed(&file)).await;
    let token = |tenant: &str| scoped(tenant, 600, &[&format!("{tenant}-*")], &[&format!("{tenant}-*")]);

    // Globs of every shape, with everything in them that could reach over.
    for globs in [
        &[][..],
        &["*"],
        &["*-1"],
        &["{red,blue}-1"],
        &["[a-z]*-?"],
        &["blue-*", "red-*"],
        &["blue-?"],
    ] {
        let mut client = connect(&gateway, &token("red")).await;
        let welcome = client.hello(None).await;
        assert_eq!(welcome.subject, "red");
        subscribe_all(&mut client, globs).await;
        put(&kafka, blue, 9).await;
        kafka.raw(blue, b"\xff\xff not a batch", now_us()).await;
        put(&kafka, red, 9).await;
        kafka.delete_state("blue-2").await;
        let frames = all(&mut client, "blue").await;
        assert!(
            !frames.iter().any(|frame| matches!(frame, Frame::Gap(_))),
            "a gap of the other's record"
        );
        let reaches_own = !globs.contains(&"blue-?");
        let own = frames
            .iter()
            .flat_map(devices)
            .filter(|device| device == red)
            .count();
        assert_eq!(own > 0, reaches_own, "{globs:?}: {own}");
    }

    // What exists and what does not: the same answer but for the name that was asked for.
    let mut client = connect(&gateway, &token("red")).await;
    client.hello(None).await;
    let mut answers = Vec::new();
    for name in [blue, "blue-none", "nobodys"] {
        for mode in [Mode::All, Mode::Latest, Mode::Presence, Mode::Series] {
            let asked = pb::Subscribe {
                devices: vec![name.to_string()],
                ..subscribe(1, mode)
            };
            client.send(ClientFrame::Subscribe(asked)).await;
            let mut error = client.error().await;
            error.message = error.message.replace(name, "NAME");
            answers.push(error);
        }
        client
            .send(ClientFrame::Command(pb::Command {
                id: "1".into(),
                device: name.into(),
                name: "ping".into(),
                ..pb::Command::default()
            }))
            .await;
        let error = client.error().await;
        assert!(!error.message.contains(name));
        answers.push(error);
    }
    for asked in answers.chunks(5) {
        assert_eq!(asked, &answers[..5]);
    }

    // What is seen from outside names neither devices nor subjects.
    let metrics = gateway.monitor.metrics();
    for name in ["red", "blue"] {
        let told = metrics.lines().find(|line| line.contains(&format!("\"{name}")));
        assert_eq!(told, None);
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_swapped_mid_session() {
    let (kafka, file) = (Kafka::start(), key_file());
    put(&kafka, "red-1", 1).await;
    put(&kafka, "blue-1", 1).await;
    let gateway = Gateway::start(&kafka, keyed(&file)).await;
    let fresh = |subject: &str, read: &[&str]| {
        ClientFrame::Token(pb::Token {
            token: scoped(subject, 600, read, &[]),
        })
    };
    // Another's token: the connection ends, and nothing of the other comes before.
    let mut client = connect(&gateway, &scoped("red", 600, &["red-*"], &[])).await;
    client.hello(None).await;
    subscribe_all(&mut client, &["*"]).await;
    all(&mut client, "blue").await;
    client.send(fresh("blue", &["blue-*"])).await;
    put(&kafka, "blue-1", 2).await;
    let code = loop {
        match client.next().await {
            Received::Close(code, _) => break code,
            Received::Frame(frame) => assert!(!devices(&frame).contains(&"blue-1".to_string()), "{frame:?}"),
            Received::End => panic!("no close frame"),
        }
    };
    assert_eq!(code, 4401);

    // The same subject with other scopes: what is open shows the new ones only, from the answer on.
    let mut client = connect(&gateway, &scoped("ann", 600, &["red-*"], &[])).await;
    client.hello(None).await;
    subscribe_all(&mut client, &["*"]).await;
    all(&mut client, "blue").await;
    client.send(fresh("ann", &["blue-*"])).await;
    while !matches!(client.frame().await, Frame::TokenAccepted(_)) {}
    put(&kafka, "red-1", 5).await;
    put(&kafka, "blue-1", 5).await;
    let frames = all(&mut client, "red").await;
    assert!(
        frames.iter().any(|frame| matches!(frame, Frame::Data(_))),
        "its new devices are seen"
    );
    // And nothing at all.
    client.send(fresh("ann", &[])).await;
    while !matches!(client.frame().await, Frame::TokenAccepted(_)) {}
    put(&kafka, "red-1", 6).await;
    put(&kafka, "blue-1", 6).await;
    let seen: Vec<String> = all(&mut client, "-1").await.iter().flat_map(devices).collect();
    assert!(seen.is_empty(), "{seen:?}");
    gateway.stop().await;
}
