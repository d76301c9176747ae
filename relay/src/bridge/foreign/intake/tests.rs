use proptest::prelude::*;

use super::*;

const LINGER: Duration = Duration::from_millis(100);

fn intake(readings: usize) -> Intake {
    let bounds = Bounds {
        linger: LINGER,
        bytes: 100_000,
        readings,
        columns: 100,
        one_by_one: false,
    };
    Intake::new(bounds, || 7)
}

fn reading(value: f64) -> Reading {
    Reading {
        metric: "m".into(),
        device: String::new(),
        unit: String::new(),
        time_us: None,
        value: headwater_proto::Value::F64(value),
    }
}

/// A message with a reading of each of these devices.
fn message(intake: &mut Intake, now: Now, packet: u16, devices: &[u32]) -> u64 {
    let readings = devices.iter().map(|&device| {
        let key: Arc<str> = format!("d{device}").into();
        (device, key, device % 4, reading(f64::from(packet)))
    });
    let receipt = Receipt {
        connection: 1,
        packet,
    };
    intake.message(now, Some(receipt), readings.collect(), false, u64::from(packet))
}

fn acknowledged(intake: &mut Intake) -> Vec<u16> {
    std::iter::from_fn(|| intake.acknowledge())
        .map(|receipt| receipt.packet)
        .collect()
}

#[test]
fn a_message_is_acknowledged_when_all_of_it_and_all_before_it_is_in_kafka() {
    let (mut intake, now) = (intake(100), Now::read());
    message(&mut intake, now, 1, &[1, 2]);
    message(&mut intake, now, 2, &[2]);
    intake.close();
    message(&mut intake, now, 3, &[3]);
    intake.close();
    let records: Vec<_> = std::iter::from_fn(|| intake.next_record()).collect();
    let names: Vec<_> = records
        .iter()
        .map(|of| (&*of.key, of.name.seq, of.readings))
        .collect();
    assert_eq!(names, [("d1", 1, 1), ("d2", 1, 2), ("d3", 1, 1)]);
    intake.stored(records[2].number);
    assert_eq!(acknowledged(&mut intake), [0u16; 0]);
    intake.stored(records[1].number);
    assert_eq!(acknowledged(&mut intake), [0u16; 0]);
    intake.stored(records[0].number);
    assert_eq!(acknowledged(&mut intake), [1, 2, 3]);
    assert_eq!((intake.waiting(), intake.in_flight()), (0, 0));
}

#[test]
fn what_gives_nothing_is_acknowledged_at_once_and_a_dead_letter_when_it_is_stored() {
    let (mut intake, now) = (intake(100), Now::read());
    message(&mut intake, now, 1, &[]);
    assert_eq!(acknowledged(&mut intake), [1]);
    let receipt = Receipt {
        connection: 1,
        packet: 2,
    };
    let number = intake.message(now, Some(receipt), Vec::new(), true, 0);
    assert_eq!(acknowledged(&mut intake), [0u16; 0]);
    intake.letter_stored(number);
    assert_eq!(acknowledged(&mut intake), [2]);
}

#[test]
fn nothing_of_a_connection_that_is_gone_is_acknowledged() {
    let (mut intake, now) = (intake(100), Now::read());
    message(&mut intake, now, 1, &[1]);
    intake.disconnected();
    message(&mut intake, now, 1, &[1]);
    intake.close();
    let record = intake.next_record().unwrap();
    intake.stored(record.number);
    assert_eq!(acknowledged(&mut intake), [1]);
    assert_eq!(intake.waiting(), 0);
}

#[test]
fn a_batch_is_due_after_the_linger_or_when_nothing_more_comes() {
    let (mut intake, start) = (intake(100), Now::read());
    assert_eq!(intake.due(), None);
    message(&mut intake, start, 1, &[1]);
    assert_eq!(intake.due(), Some(start.at + LINGER / QUIET));
    for step in 1..20u32 {
        let now = Now {
            at: start.at + LINGER / QUIET / 2 * step,
            us: start.us,
        };
        message(&mut intake, now, 2, &[1]);
    }
    assert_eq!(intake.due(), Some(start.at + LINGER));
    intake.close();
    assert_eq!(intake.due(), None);
}

#[test]
fn a_full_batch_is_closed_at_once_and_the_stream_goes_on() {
    let (mut intake, now) = (intake(2), Now::read());
    for packet in 1..=5 {
        message(&mut intake, now, packet, &[1]);
    }
    intake.close();
    let records: Vec<_> = std::iter::from_fn(|| intake.next_record()).collect();
    let seqs: Vec<_> = records
        .iter()
        .map(|record| (record.name.seq, record.readings))
        .collect();
    assert_eq!(seqs, [(1, 2), (2, 2), (3, 1)]);
    assert_eq!(intake.due(), None);
}

#[test]
fn a_record_that_was_not_taken_is_the_next_again() {
    let (mut intake, now) = (intake(1), Now::read());
    message(&mut intake, now, 1, &[1]);
    message(&mut intake, now, 2, &[1]);
    let record = intake.next_record().unwrap();
    intake.put_back(record.clone());
    assert_eq!(intake.next_record().unwrap(), record);
    assert_eq!(intake.marks(record.number), [1]);
    intake.stored(record.number);
    assert_eq!(acknowledged(&mut intake), [1]);
}

proptest! {
    /// Whatever comes when, and in whatever order Kafka reports: acknowledgements go in receive order, each once, none before
    /// its records are stored, and all at last.
    #[test]
    fn acknowledgements_go_in_receive_order(
        steps in prop::collection::vec((0u8..4, prop::collection::vec(0u32..5, 0..4)), 1..60),
    ) {
        let (mut intake, now) = (intake(3), Now::read());
        let (mut sent, mut given, mut acked): (u16, Vec<Record>, Vec<u16>) = (0, Vec::new(), Vec::new());
        let mut unstored: HashMap<u16, usize> = HashMap::new();
        let mut holders: HashMap<u64, Vec<u16>> = HashMap::new();
        for (what, devices) in steps.into_iter().chain([(2, vec![]), (2, vec![])]) {
            match what {
                0 | 1 => {
                    sent += 1;
                    message(&mut intake, now, sent, &devices);
                }
                2 => {
                    intake.close();
                    while let Some(record) = intake.next_record() {
                        let marks: Vec<u16> = intake.marks(record.number).iter().map(|&mark| mark as u16).collect();
                        for &mark in &marks { *unstored.entry(mark).or_default() += 1; }
                        holders.insert(record.number, marks);
                        given.push(record);
                    }
                }
                _ => {
                    if let Some(record) = given.pop() {
                        for mark in holders.remove(&record.number).unwrap() {
                            *unstored.get_mut(&mark).unwrap() -= 1;
                        }
                        intake.stored(record.number);
                    }
                }
            }
            for packet in acknowledged(&mut intake) {
                prop_assert_eq!(unstored.get(&packet).copied().unwrap_or(0), 0);
                acked.push(packet);
            }
        }
        for record in given { intake.stored(record.number); }
        acked.extend(acknowledged(&mut intake));
        prop_assert_eq!(acked, (1..=sent).collect::<Vec<_>>());
    }
}
