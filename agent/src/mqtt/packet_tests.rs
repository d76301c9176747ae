use bytes::BufMut;
use proptest::prelude::*;

use super::*;

fn bytes(write: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::new();
    write(&mut out);
    out
}

const CONNECT: Connect<'_> = Connect {
    client_id: "gw-01",
    credentials: Some(("user", "secret")),
    keep_alive: 30,
    will: Some(("hw1/7/gw-01/status", b"gone")),
    incoming_max: 1 << 20,
};

#[test]
fn what_is_written_is_what_a_library_reads_in_mqtt_5() {
    let mut out = bytes(|out| {
        connect(out, Version::V5, &CONNECT);
        subscribe(out, Version::V5, 1, &["a".into(), "b".into()]);
        let mut message = Publish {
            topic: "hw1/7/gw-01/data",
            alias: Some(1),
            packet_id: None,
            retain: false,
            payload: &[7; 300],
        };
        publish(out, Version::V5, &message);
        (message.topic, message.payload) = ("", &[8; 3]);
        publish(out, Version::V5, &message);
        (message.topic, message.alias, message.packet_id, message.retain) = ("t", None, Some(9), true);
        publish(out, Version::V5, &message);
        confirm(out, 513);
        ping(out);
    });
    let mut next = || v5::Packet::read(&mut out, None).unwrap();
    let v5::Packet::Connect(connect, Some(will), Some(login)) = next() else {
        panic!();
    };
    assert!(connect.clean_start && connect.client_id == "gw-01" && connect.keep_alive == 30);
    let properties = connect.properties.unwrap();
    assert_eq!(properties.max_packet_size, Some(1 << 20));
    assert_eq!(
        (properties.topic_alias_max, properties.session_expiry_interval),
        (None, None)
    );
    assert_eq!(
        (&will.topic[..], &will.message[..], will.retain),
        (&b"hw1/7/gw-01/status"[..], &b"gone"[..], true)
    );
    assert_eq!(
        (login.username.as_str(), login.password.as_str()),
        ("user", "secret")
    );
    let v5::Packet::Subscribe(subscribe) = next() else {
        panic!()
    };
    let filters: Vec<_> = subscribe
        .filters
        .iter()
        .map(|filter| (filter.path.as_str(), filter.qos as u8))
        .collect();
    assert_eq!((subscribe.pkid, filters), (1, vec![("a", 1), ("b", 1)]));
    for (topic, alias, pkid, retain, length) in [
        ("hw1/7/gw-01/data", Some(1), 0, false, 300),
        ("", Some(1), 0, false, 3),
        ("t", None, 9, true, 3),
    ] {
        let v5::Packet::Publish(publish) = next() else {
            panic!()
        };
        assert_eq!(publish.topic, topic);
        assert_eq!(
            publish.properties.and_then(|properties| properties.topic_alias),
            alias
        );
        assert_eq!(
            (publish.pkid, publish.retain, publish.payload.len()),
            (pkid, retain, length)
        );
        assert_eq!(publish.qos as u8, u8::from(pkid > 0));
    }
    assert!(matches!(next(), v5::Packet::PubAck(ack) if ack.pkid == 513));
    assert_eq!(next(), v5::Packet::PingReq(v5::PingReq));
    assert!(out.is_empty());
}

#[test]
fn what_is_written_is_what_a_library_reads_in_mqtt_3_1_1() {
    let mut out = bytes(|out| {
        connect(out, Version::V311, &CONNECT);
        subscribe(out, Version::V311, 1, &["a".into(), "b".into()]);
        let message = Publish {
            topic: "hw1/7/gw-01/data",
            alias: None,
            packet_id: None,
            retain: false,
            payload: &[7; 20_000],
        };
        publish(out, Version::V311, &message);
        confirm(out, 513);
        ping(out);
        disconnect(out);
    });
    let mut next = || v4::Packet::read(&mut out, 1 << 20).unwrap();
    let v4::Packet::Connect(connect) = next() else {
        panic!()
    };
    assert!(connect.clean_session && connect.client_id == "gw-01" && connect.keep_alive == 30);
    let will = connect.last_will.unwrap();
    assert_eq!(
        (will.topic.as_str(), &will.message[..], will.retain),
        ("hw1/7/gw-01/status", &b"gone"[..], true)
    );
    assert_eq!(connect.login.unwrap().password, "secret");
    assert!(matches!(next(), v4::Packet::Subscribe(subscribe) if subscribe.filters.len() == 2));
    let v4::Packet::Publish(publish) = next() else {
        panic!()
    };
    assert_eq!(
        (publish.topic.as_str(), publish.payload.len()),
        ("hw1/7/gw-01/data", 20_000)
    );
    assert_eq!(next(), v4::Packet::PubAck(v4::PubAck::new(513)));
    assert_eq!(next(), v4::Packet::PingReq);
    assert_eq!(next(), v4::Packet::Disconnect);
    assert!(out.is_empty());
}

fn all(version: Version, bytes: &[u8]) -> Result<Vec<Packet>, Malformed> {
    let mut input = BytesMut::from(bytes);
    let mut packets = Vec::new();
    while let Some(packet) = read(&mut input, version, 1 << 20)? {
        packets.push(packet);
    }
    Ok(packets)
}

#[test]
fn answers_are_read_with_what_binds_the_agent() {
    // CONNACK: session expiry, topic alias maximum 10, server keep-alive 60, maximum packet 256 KiB, user property.
    let connack = [
        0x20, 28, 0, 0, 25, 0x11, 0, 0, 0, 0, 0x22, 0, 10, 0x13, 0, 60, 0x27, 0, 4, 0, 0, 0x26, 0, 1, b'a',
        0, 2, b'b', b'c', 0,
    ];
    let connack = &connack[..connack.len() - 1];
    let mut fixed = connack.to_vec();
    fixed[1] = (fixed.len() - 2) as u8;
    fixed[4] = (fixed.len() - 5) as u8;
    let limits = Limits {
        topic_alias_max: 10,
        keep_alive: Some(60),
        packet_max: Some(256 * 1024),
    };
    assert_eq!(all(Version::V5, &fixed).unwrap(), [Packet::Connected(Ok(limits))]);
    // Refused with the broker's words, SUBACK of two topics, PUBACK without and with a reason, DISCONNECT in its shortest form.
    let refused = [0x20, 8, 0, 0x87, 5, 0x1f, 0, 2, b'n', b'o'];
    let text = Some("no".to_string());
    assert_eq!(
        all(Version::V5, &refused).unwrap(),
        [Packet::Connected(Err(Reason::new(0x87, text)))]
    );
    let rest = [
        0x90, 5, 0, 1, 0, 1, 0x87, 0x40, 2, 0, 1, 0x40, 3, 0, 1, 0x97, 0xd0, 0, 0xe0, 0,
    ];
    assert_eq!(
        all(Version::V5, &rest).unwrap(),
        [
            Packet::Subscribed(vec![Ok(()), Err(Reason::new(0x87, None))]),
            Packet::Confirmed(Ok(())),
            Packet::Confirmed(Err(Reason::new(0x97, None))),
            Packet::Pong,
            Packet::Disconnected(Reason::new(0, None)),
        ]
    );
    let taken_over = [0xe0, 2, 0x8e, 0];
    let [Packet::Disconnected(reason)] = &all(Version::V5, &taken_over).unwrap()[..] else {
        panic!();
    };
    assert!(
        reason.to_string().contains("another client with this client id"),
        "{reason}"
    );
}

#[test]
fn a_broker_of_3_1_1_is_understood_when_it_refuses_5() {
    let refused = Packet::Connected(Err(Reason::new(Reason::UNSUPPORTED_VERSION, None)));
    for version in [Version::V5, Version::V311] {
        assert_eq!(
            all(version, &[0x20, 2, 0, 1]).unwrap(),
            std::slice::from_ref(&refused)
        );
    }
    assert_eq!(all(Version::V5, &[0x20, 3, 0, 0x84, 0]).unwrap(), [refused]);
}

#[test]
fn what_no_broker_may_send_is_refused() {
    for (bytes, what) in [
        (&[0x20, 0xff, 0xff, 0xff, 0xff, 1][..], "not MQTT"),
        (&[0x30, 0xff, 0xff, 0x7f], "more than this agent takes"),
        (&[0x34, 6, 0, 1, b'a', 0, 1, 0], "QoS 2"),
        (&[0x82, 0], "type Subscribe"),
        (&[0x20, 1, 0], "not MQTT"),
        (&[0x20, 4, 0, 0, 1, 0x7f], "not MQTT"),
        (&[0x00, 0], "not MQTT"),
    ] {
        let error = all(Version::V5, bytes).unwrap_err().to_string();
        assert!(error.contains(what), "{bytes:x?}: {error}");
    }
}

proptest! {
    /// Bytes from outside never panic, and are read the same however they are cut.
    #[test]
    fn any_bytes_end_in_packets_or_an_error(
        kind in 1u8..16,
        flags in 0u8..16,
        body in prop::collection::vec(prop_oneof![any::<u8>(), 0u8..3, Just(0x26), Just(0x1f)], 0..40),
        more in prop::collection::vec(any::<u8>(), 0..20),
        v5 in any::<bool>(),
    ) {
        let version = if v5 { Version::V5 } else { Version::V311 };
        let mut bytes = vec![kind << 4 | flags, body.len() as u8];
        bytes.extend(&body);
        bytes.extend(&more);
        let whole = all(version, &bytes);
        let mut input = BytesMut::new();
        let mut packets = Vec::new();
        let mut error = None;
        'bytes: for byte in bytes {
            input.put_u8(byte);
            loop {
                match read(&mut input, version, 1 << 20) {
                    Ok(Some(packet)) => packets.push(packet),
                    Ok(None) => break,
                    Err(malformed) => {
                        error = Some(malformed);
                        break 'bytes;
                    }
                }
            }
        }
        prop_assert_eq!(whole, error.map_or(Ok(packets), Err));
    }

    /// What a library writes as PUBLISH is read as that message.
    #[test]
    fn messages_of_a_library_are_read(topic in "[a-z/]{1,30}", payload in prop::collection::vec(any::<u8>(), 0..300), id in 0u16..3) {
        let qos = if id > 0 { rumqttc::v5::mqttbytes::QoS::AtLeastOnce } else { rumqttc::v5::mqttbytes::QoS::AtMostOnce };
        let mut publish = v5::Publish::new(topic.clone(), qos, payload.clone(), Some(v5::PublishProperties {
            user_properties: vec![("a".into(), "b".into())],
            message_expiry_interval: Some(5),
            content_type: Some("x".into()),
            subscription_identifiers: vec![300],
            ..Default::default()
        }));
        publish.pkid = id;
        publish.retain = id % 2 == 1;
        let out = bytes(|out| {
            publish.write(out).unwrap();
        });
        let message = Packet::Message {
            topic: topic.into_bytes().into(),
            packet_id: (id > 0).then_some(id),
            payload: payload.into(),
            retained: id % 2 == 1,
        };
        prop_assert_eq!(all(Version::V5, &out).unwrap(), vec![message]);
    }
}
