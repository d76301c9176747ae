//! Tokens: missing, expired, of other devices, refreshed.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headwater_proto::pb;
use headwater_relay::gateway::settings::{
    Algorithm, GatewaySettings, KeySettings, LimitSettings, TokenSettings,
};
use headwater_relay::gateway::{self, token::Keys};
use jsonwebtoken::{EncodingKey, Header, encode};
use pb::client_frame::Frame as ClientFrame;
use pb::server_frame::Frame;
use pb::{ErrorCode, Mode, start::At};
use serde_json::json;

use crate::client::{Client, DEFLATE, Received, from, subscribe};
use crate::kafka::{Kafka, batch};
use crate::{Gateway, settings};

const SECRET: &str = "a secret of at least thirty-two bytes";

pub(crate) fn key_file() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{SECRET}").unwrap();
    file
}

pub(crate) fn keyed(file: &tempfile::NamedTempFile) -> GatewaySettings {
    let key = KeySettings {
        algorithm: Algorithm::HS256,
        file: file.path().into(),
        id: String::new(),
    };
    let tokens = TokenSettings {
        leeway: Duration::ZERO,
        ..TokenSettings::default()
    };
    GatewaySettings {
        keys: vec![key],
        tokens,
        ..settings()
    }
}

pub(crate) fn token(subject: &str, seconds: i64, read: &[&str]) -> String {
    scoped(subject, seconds, read, &[])
}

pub(crate) fn scoped(subject: &str, seconds: i64, read: &[&str], command: &[&str]) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let claims = json!({"sub": subject, "exp": now + seconds, "hw": {"read": read, "command": command}});
    encode(
        &Header::new(jsonwebtoken::Algorithm::HS256),
        &claims,
        &EncodingKey::from_secret(SECRET.as_bytes()),
    )
    .unwrap()
}

pub(crate) async fn connect(gateway: &Gateway, token: &str) -> Client {
    let protocols = format!("Sec-WebSocket-Protocol: headwater.v1, headwater.token.{token}");
    let offer = format!("Sec-WebSocket-Extensions: {DEFLATE}");
    Client::with(gateway.address, &[&protocols, &offer]).await
}

pub(crate) fn hello(token: String) -> ClientFrame {
    ClientFrame::Hello(pb::ClientHello {
        client: "test".into(),
        token,
        window: None,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_served_without_a_good_token() {
    let (kafka, file) = (Kafka::start(), key_file());
    let gateway = Gateway::start(&kafka, keyed(&file)).await;
    // In the subprotocol list: refused at once.
    for bad in [
        "x.y.z".to_string(),
        token("ann", -5, &["*"]),
        token("ann", 60, &["*"]) + "x",
    ] {
        let mut client = connect(&gateway, &bad).await;
        let (code, reason) = client.close().await;
        assert_eq!((code, client.decoded), (4401, 0), "{reason}");
    }
    let mut client = connect(&gateway, &token("ann", -5, &["*"])).await;
    assert!(client.close().await.1.contains("expired"));
    // In the hello.
    for bad in [String::new(), "x".into(), token("ann", -5, &["*"])] {
        let mut client = Client::connect(gateway.address).await;
        client.send(hello(bad)).await;
        let (code, reason) = client.close().await;
        assert_eq!((code, client.decoded), (4401, 0), "{reason}");
    }
    let mut client = Client::connect(gateway.address).await;
    client.send(hello(token("ann", 60, &["*"]))).await;
    let Frame::Welcome(welcome) = client.frame().await else {
        panic!()
    };
    assert_eq!(welcome.subject, "ann");
    assert!(welcome.token_expires_us > welcome.time_us);
    assert!(
        !client.head.contains("headwater.token"),
        "the server selects headwater.v1"
    );
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_its_devices_are_seen_in_every_mode() {
    let (kafka, file) = (Kafka::start(), key_file());
    for device in ["mine-1", "theirs-1"] {
        kafka.put(&batch(device, 1, 2)).await;
        kafka
            .state(&pb::DeviceState {
                device: device.into(),
                online: true,
                ..Default::default()
            })
            .await;
    }
    let gateway = Gateway::start(&kafka, keyed(&file)).await;
    let mut client = connect(&gateway, &token("ann", 60, &["mine-*"])).await;
    client.hello(None).await;
    // Its partitions are read from here on: what is asked for next begins at once.
    client.subscribe(subscribe(9, Mode::All)).await;
    client
        .send(ClientFrame::Unsubscribe(pb::Unsubscribe { id: 9 }))
        .await;
    let snapshot = || from(At::Snapshot(true));
    let (devices, start) = (vec!["*".to_string()], from(At::TimeUs(0)));
    for subscribe in [
        pb::Subscribe {
            start: snapshot(),
            ..subscribe(1, Mode::Latest)
        },
        pb::Subscribe {
            start: snapshot(),
            ..subscribe(2, Mode::All)
        },
        subscribe(3, Mode::Presence),
        pb::Subscribe {
            devices,
            start,
            ..subscribe(4, Mode::All)
        },
    ] {
        client.send(ClientFrame::Subscribe(subscribe)).await;
    }
    kafka.put(&batch("theirs-1", 2, 2)).await;
    kafka.put(&batch("mine-1", 2, 2)).await;
    let (mut latest, mut data, mut presence) = (0, 0, 0);
    while let Some(received) = client.soon().await {
        let Received::Frame(frame) = received else {
            panic!("{received:?}")
        };
        match frame {
            Frame::Latest(frame) => {
                latest += 1;
                assert!(frame.batches.iter().all(|batch| batch.device == "mine-1"));
            }
            Frame::Data(frame) => {
                data += 1;
                let batch =
                    headwater_proto::protobuf::decode(&frame.batch, &headwater_proto::Limits::default());
                assert_eq!(batch.unwrap().device, "mine-1");
            }
            Frame::Presence(frame) => {
                presence += 1;
                assert!(frame.devices.iter().all(|device| device.device == "mine-1"));
            }
            Frame::CaughtUp(_) | Frame::Subscribed(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(
        latest >= 2 && data >= 3 && presence >= 1,
        "{latest} {data} {presence}"
    );
    // A plain name that is not allowed is said to be so.
    client
        .send(ClientFrame::Subscribe(pb::Subscribe {
            devices: vec!["theirs-1".into()],
            ..subscribe(9, Mode::All)
        }))
        .await;
    let error = loop {
        match client.frame().await {
            Frame::Error(error) => break error,
            Frame::Presence(_) | Frame::CaughtUp(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((error.id, error.code()), (9, ErrorCode::Forbidden));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_token_unless_a_fresh_one_comes() {
    let (kafka, file) = (Kafka::start(), key_file());
    let gateway = Gateway::start(&kafka, keyed(&file)).await;
    let mut expires = connect(&gateway, &token("ann", 2, &["*"])).await;
    expires.hello(None).await;
    let mut refreshed = connect(&gateway, &token("ann", 2, &["*"])).await;
    refreshed.hello(None).await;
    refreshed.subscribe(subscribe(1, Mode::All)).await;
    refreshed.caught_up().await;
    refreshed
        .send(ClientFrame::Token(pb::Token {
            token: token("ann", 60, &["mine"]),
        }))
        .await;
    let Frame::TokenAccepted(accepted) = refreshed.frame().await else {
        panic!()
    };
    assert!(accepted.token_expires_us > crate::kafka::now_us() + 50_000_000);
    let (code, reason) = expires.close().await;
    assert_eq!((code, reason.contains("expired")), (4401, true), "{reason}");
    // The fresh one holds from now on, for what is open already too.
    kafka.put(&batch("other", 1, 1)).await;
    kafka.put(&batch("mine", 2, 1)).await;
    let batch =
        headwater_proto::protobuf::decode(&refreshed.data().await.batch, &headwater_proto::Limits::default());
    assert_eq!(batch.unwrap().device, "mine");
    refreshed
        .send(ClientFrame::Token(pb::Token {
            token: token("bob", 60, &["*"]),
        }))
        .await;
    assert_eq!(refreshed.close().await.0, 4401);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_others_are_not_served_unless_that_is_wanted() {
    let kafka = Kafka::start();
    let run = |settings: GatewaySettings| async {
        let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
        let shutdown = tokio_util::sync::CancellationToken::new();
        let stop = shutdown.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            stop.cancel();
        });
        let monitor = headwater_relay::admin::Monitor::new();
        gateway::run(
            settings,
            kafka.settings(),
            monitor,
            axum::Router::new(),
            listener,
            shutdown,
        )
        .await
    };
    let error = run(settings()).await.unwrap_err().to_string();
    assert!(
        error.contains("gateway.keys") && error.contains("allow_anonymous"),
        "{error}"
    );
    run(GatewaySettings {
        allow_anonymous: true,
        ..settings()
    })
    .await
    .unwrap();
    run(keyed(&key_file())).await.unwrap();
}

#[test]
fn public_keys_of_both_kinds() {
    let keys = |algorithm, name: &str| {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/keys")
            .join(name);
        Keys::load(
            &[KeySettings {
                algorithm,
                file,
                id: String::new(),
            }],
            &TokenSettings::default(),
        )
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({"sub": "ann", "exp": now + 60, "hw": {"read": ["*"]}});
    let ed = EncodingKey::from_ed_pem(include_bytes!("../keys/ed.pem")).unwrap();
    let ed = encode(&Header::new(jsonwebtoken::Algorithm::EdDSA), &claims, &ed).unwrap();
    let rsa = EncodingKey::from_rsa_pem(include_bytes!("../keys/rsa.pem")).unwrap();
    let rsa256 = encode(&Header::new(jsonwebtoken::Algorithm::RS256), &claims, &rsa).unwrap();
    let rsa512 = encode(&Header::new(jsonwebtoken::Algorithm::RS512), &claims, &rsa).unwrap();
    let (ed_keys, rsa_keys) = (
        keys(Algorithm::EdDSA, "ed.pub.pem").unwrap(),
        keys(Algorithm::RS256, "rsa.pub.pem").unwrap(),
    );
    assert_eq!(ed_keys.check(Some(&ed)).unwrap().subject, "ann");
    assert_eq!(rsa_keys.check(Some(&rsa256)).unwrap().subject, "ann");
    assert!(rsa_keys.check(Some(&rsa512)).is_err(), "one key, one algorithm");
    assert!(rsa_keys.check(Some(&ed)).is_err() && ed_keys.check(Some(&rsa256)).is_err());
    // The public key's text as a secret: an old trick.
    let public = include_bytes!("../keys/rsa.pub.pem");
    let forged = encode(
        &Header::new(jsonwebtoken::Algorithm::HS256),
        &claims,
        &EncodingKey::from_secret(public),
    )
    .unwrap();
    assert!(rsa_keys.check(Some(&forged)).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_has_so_many_connections() {
    let (kafka, file) = (Kafka::start(), key_file());
    let settings = GatewaySettings {
        limits: LimitSettings {
            per_subject: 1,
            ..LimitSettings::default()
        },
        ..keyed(&file)
    };
    let gateway = Gateway::start(&kafka, settings).await;
    let welcomed = async |subject: &str| {
        let mut client = connect(&gateway, &token(subject, 60, &["*"])).await;
        client.send(hello(String::new())).await;
        client
    };
    let mut ann = welcomed("ann").await;
    assert!(matches!(ann.frame().await, Frame::Welcome(_)));
    let (code, reason) = welcomed("ann").await.close().await;
    assert_eq!((code, reason.contains("subject")), (4429, true), "{reason}");
    assert!(matches!(welcomed("bob").await.frame().await, Frame::Welcome(_)));
    gateway.stop().await;
}
