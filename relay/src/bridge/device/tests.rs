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
