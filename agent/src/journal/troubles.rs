//! The journal on flash in trouble, and what it writes when there is none.

use std::time::{Duration, Instant};

use super::contract::Subject;
use super::disk::model::{Model, Trouble};
use super::rig::{self, terms};
use super::{Content, Forgotten};

fn fill(subject: &mut Subject, batches: usize) {
    for _ in 0..batches {
        subject.append(200, 5);
    }
    subject.now += Duration::from_secs(61);
    subject.settle();
}

#[test]
fn what_is_acknowledged_in_time_is_never_written() {
    let model = Model::default();
    let mut subject = Subject::flash(&model, 1 << 20, 8, Duration::from_secs(60));
    let at_start = subject.journal.figures().flash_written;
    for _ in 0..500 {
        subject.append(200, 5);
        subject.now += Duration::from_secs(10);
        subject.settle();
        let extent = subject.journal.streams()[0];
        subject.forget(1, extent.last);
    }
    assert_eq!(subject.journal.figures().flash_written, at_start);
    assert_eq!(subject.forgotten.delivered, 2500);
}

/// Nothing can be written, in any of the ways there are: everything new is in memory, up to its bound, and what is on flash still drains
/// where it can be read. When it is over, what is in memory is written.
#[test]
fn without_flash_it_is_the_journal_in_memory_until_flash_is_back() {
    for (trouble, readable) in [
        (Trouble::Full, true),
        (Trouble::ReadOnly, true),
        (Trouble::Broken, false),
    ] {
        let model = Model::default();
        let mut subject = Subject::flash(&model, 8_000, 8, Duration::from_secs(60));
        fill(&mut subject, 100);
        assert_eq!(subject.journal.figures().fault, None);
        model.trouble(Some(trouble));
        fill(&mut subject, 100);
        let figures = subject.journal.figures();
        assert!(figures.fault.is_some(), "{trouble:?}");
        assert!(figures.memory_bytes < 20_000, "{trouble:?} {figures:?}");
        assert_eq!(
            subject.journal.streams().iter().any(|extent| extent.stream == 1),
            readable
        );
        let waiting = subject.journal.waiting();
        assert_eq!(waiting.readings + waiting.lost, 1000, "{trouble:?}");
        assert!(waiting.lost > 0, "{trouble:?}: memory is bounded");
        if readable {
            assert_eq!(subject.read(1, 50).unwrap().seq, 50);
        }
        model.trouble(None);
        subject.now += Duration::from_secs(61);
        subject.settle();
        subject.settle();
        let figures = subject.journal.figures();
        assert_eq!(figures.fault, None, "{trouble:?}");
        let waiting = subject.journal.waiting();
        assert_eq!(waiting.readings + waiting.lost, 1000, "{trouble:?}");
        subject.chains();
        // It is on flash: another start finds it.
        drop(subject);
        let mut next = Subject::flash(&model, 8_000, 8, Duration::from_secs(60));
        let waiting = next.journal.waiting();
        assert_eq!(waiting.readings + waiting.lost, 1000, "{trouble:?}");
        next.chains();
    }
}

#[test]
fn files_that_are_deleted_are_loss_records_and_it_goes_on() {
    let model = Model::default();
    let mut subject = Subject::flash(&model, 1 << 20, 8, Duration::from_secs(60));
    fill(&mut subject, 100);
    model.wipe();
    fill(&mut subject, 50);
    subject.now += Duration::from_secs(5);
    subject.settle();
    subject.settle();
    assert_eq!(subject.journal.figures().fault, None);
    let chains = subject.chains();
    let lost: u64 = chains
        .iter()
        .filter_map(|record| record.1.2.as_ref().err())
        .map(|loss| loss.0)
        .sum();
    let came = chains.iter().filter(|record| record.1.2.is_ok()).count() as u64;
    assert!(lost > 0 && came >= 50 && lost + came * 5 == 750, "{lost} {came}");
    drop(subject);
    let mut next = Subject::flash(&model, 1 << 20, 8, Duration::from_secs(60));
    assert_eq!(next.chains(), chains);
}

/// The drain of what is there, to its end: batches that came, and readings that are lost.
fn drained(subject: &mut Subject) -> (u64, u64) {
    let chains = subject.chains();
    let lost = chains.iter().filter_map(|(_, record)| record.2.as_ref().err());
    let came = chains.iter().filter(|(_, record)| record.2.is_ok()).count();
    (came as u64, lost.map(|loss| loss.0).sum())
}

#[test]
fn a_file_of_which_nothing_can_be_read_is_set_aside_and_its_readings_are_lost_by_number() {
    for newest in [false, true] {
        let model = Model::default();
        let mut subject = Subject::flash(&model, 1 << 20, 20, Duration::from_secs(60));
        for _ in 0..5 {
            fill(&mut subject, 40);
        }
        let names: Vec<String> = model.content().into_keys().collect();
        assert!(names.len() > 3, "{names:?}");
        let name = if newest { names.last().unwrap() } else { &names[1] };
        if newest {
            drop(subject);
            model.spoil(name);
            subject = Subject::start(2, &model, 20, terms(1 << 20, Some(Duration::from_secs(60))));
        } else {
            model.spoil(name);
        }
        let (came, lost) = drained(&mut subject);
        // What the end of a stream held is known from the file that is gone alone.
        assert!(came > 100 && (newest || came * 5 + lost == 1000), "{came} {lost}");
        assert_eq!(subject.journal.figures().fault, None);
        assert_eq!((model.aside(), subject.journal.figures().quarantined), (1, 1));
        fill(&mut subject, 40);
        assert_eq!(subject.journal.figures().unwritten.batches, 0);
        assert_eq!(drained(&mut subject), (came + 40, lost));
        drop(subject);
        let mut next = Subject::start(3, &model, 20, terms(1 << 20, Some(Duration::from_secs(60))));
        assert_eq!(drained(&mut next), (came + 40, lost), "newest: {newest}");
    }
}

/// As with a broken inode: the file can be neither opened nor moved nor removed.
#[test]
fn a_file_that_cannot_even_be_moved_costs_its_own_readings_and_nothing_else() {
    for newest in [false, true] {
        let model = Model::default();
        let mut subject = Subject::flash(&model, 1 << 20, 20, Duration::from_secs(60));
        for _ in 0..5 {
            fill(&mut subject, 40);
        }
        drop(subject);
        let names: Vec<String> = model.content().into_keys().collect();
        let name = if newest { names.last().unwrap() } else { &names[1] };
        model.damage(name);
        let (mut before, mut start) = (None, 2);
        while start < 5 {
            let mut subject =
                Subject::start(start, &model, 20, terms(1 << 20, Some(Duration::from_secs(60))));
            let (came, lost) = drained(&mut subject);
            assert!(
                came > 100 && (newest || came * 5 + lost == 1000 + (start - 2) * 200),
                "{came} {lost}"
            );
            assert_eq!(
                *before.get_or_insert((came, lost)),
                (came, lost),
                "each start comes to the same"
            );
            let figures = subject.journal.figures();
            assert_eq!((figures.fault, model.aside()), (None, 0));
            assert!(
                figures.quarantined > 0 || (newest && start > 2),
                "nobody needs it then"
            );
            fill(&mut subject, 40);
            assert_eq!(subject.journal.figures().unwritten.batches, 0, "life goes on");
            before = Some(drained(&mut subject));
            assert_eq!(before, Some((came + 40, lost)));
            start += 1;
        }
        // What waits is acknowledged, and the files it was in are removed, but for the one.
        let mut subject = Subject::start(9, &model, 20, terms(1 << 20, Some(Duration::from_secs(60))));
        for extent in subject.journal.streams() {
            subject.forget(extent.stream, extent.last);
        }
        subject.settle();
        let figures = subject.journal.figures();
        assert_eq!((figures.fault, subject.journal.waiting().readings), (None, 0));
        assert!(model.content().len() <= 2, "{:?}", model.content().into_keys());
    }
}

#[test]
fn the_bound_holds_when_the_size_of_a_segment_is_another_than_at_the_last_start() {
    let model = Model::default();
    let mut before = 0;
    for (start, segment) in [(1, 1), (2, 4), (3, 2)] {
        let bounds = super::store::Bounds {
            segment: segment * rig::SEGMENT,
            bytes: 10 * rig::SEGMENT,
            age_us: None,
        };
        let terms = terms(1 << 20, Some(Duration::from_secs(60)));
        let now = Instant::now();
        let (flash, desk) = rig::flash(&model, start, bounds, terms, now);
        let mut subject = Subject {
            journal: Box::new(flash),
            desk: Some(desk),
            now,
            forgotten: Forgotten::default(),
        };
        subject.settle();
        let on_flash = |model: &Model| {
            model
                .content()
                .values()
                .map(|file| file.len() as u64)
                .sum::<u64>()
        };
        assert_eq!(subject.journal.figures().flash_bytes, on_flash(&model));
        for _ in 0..30 {
            fill(&mut subject, 40);
            let bytes = subject.journal.figures().flash_bytes;
            assert_eq!(bytes, on_flash(&model));
            assert!(bytes <= bounds.bytes, "{bytes} with segments of {segment}");
        }
        let bytes = subject.journal.figures().flash_bytes;
        assert!(
            bytes + 4 * rig::SEGMENT > bounds.bytes,
            "{bytes}: room is not used"
        );
        let waiting = subject.journal.waiting();
        before += 30 * 40 * 5;
        assert_eq!(waiting.readings + waiting.lost, before);
    }
}

#[test]
fn at_the_end_it_is_tried_once_more_and_what_memory_alone_holds_is_known_exactly() {
    for over in [true, false] {
        let model = Model::default();
        let mut subject = Subject::flash(&model, 1 << 20, 20, Duration::from_secs(60));
        model.trouble(Some(Trouble::Full));
        // More than the segment that is there takes.
        for _ in 0..4 {
            fill(&mut subject, 40);
        }
        assert!(subject.journal.figures().fault.is_some());
        let unwritten = subject.journal.figures().unwritten.readings;
        assert!(unwritten > 0);
        if over {
            model.trouble(None);
        }
        subject.journal.close();
        // No time goes by: it is not the next try that is due anyway.
        subject.settle();
        assert!(subject.journal.is_closed());
        let left = subject.journal.figures().unwritten.readings;
        drop(subject);
        let next = Subject::start(2, &model, 20, terms(1 << 20, Some(Duration::from_secs(60))));
        let found = next.journal.waiting().readings;
        assert_eq!(found + left, 800, "{found} on flash");
        assert_eq!(left, if over { 0 } else { unwritten });
    }
}

#[test]
fn a_stream_is_torn_unless_it_was_closed_and_until_the_relay_knows() {
    let model = Model::default();
    let start = |stream| Subject::start(stream, &model, 8, terms(1 << 20, Some(Duration::from_secs(60))));
    let torn = |subject: &Subject| -> Vec<u64> {
        let streams = subject.journal.streams();
        streams
            .iter()
            .filter(|extent| extent.torn)
            .map(|extent| extent.stream)
            .collect()
    };
    // Killed before anything was written; and after it has given way to another.
    start(1).append(100, 5);
    let mut second = start(2);
    assert_eq!(torn(&second), [1]);
    second.journal.open_stream(3);
    second.settle();
    drop(second);
    let mut third = start(4);
    assert_eq!(torn(&third), [1, 3]);
    third.journal.told();
    third.settle();
    assert_eq!(torn(&third), Vec::<u64>::new());
    third.append(100, 5);
    third.journal.close();
    third.settle();
    assert!(third.journal.is_closed());
    drop(third);
    let mut fourth = start(5);
    assert_eq!(torn(&fourth), Vec::<u64>::new());
    assert_eq!(fourth.journal.streams().len(), 2);
    assert_eq!(fourth.journal.figures().found, 5);
    assert_eq!(fourth.chains().len(), 1);
}

/// With `sync_after = "never"` nothing is written, and what an earlier start left still drains.
#[test]
fn never_writes_nothing_and_drains_what_is_there() {
    let model = Model::default();
    let mut first = Subject::flash(&model, 1 << 20, 8, Duration::ZERO);
    fill(&mut first, 20);
    drop(first);
    let written = model.operations();
    let mut second = Subject::start(2, &model, 8, terms(1 << 20, None));
    fill(&mut second, 20);
    assert_eq!(second.chains().len(), 40);
    second.forget(1, 20);
    second.settle();
    assert_eq!(second.forgotten.delivered, 100);
    assert_eq!(model.operations(), written);
}

/// What is read ahead is not sent when it has made way since: its numbers may have become part of a loss record's.
#[test]
fn what_made_way_since_it_was_read_is_read_again_and_what_was_sent_keeps_its_numbers() {
    for sent_first in [0, 3] {
        let model = Model::default();
        let mut subject = Subject::flash(&model, 1 << 20, 3, Duration::from_secs(60));
        fill(&mut subject, 40);
        for seq in 1..=sent_first {
            subject.read(1, seq).unwrap();
            assert!(subject.journal.sent(1, seq));
        }
        subject.read(1, sent_first + 1).unwrap();
        // The store gives up the oldest for what is newer; the pipeline has the record still.
        for _ in 0..4 {
            fill(&mut subject, 40);
        }
        assert!(subject.journal.waiting().lost > 0);
        assert!(!subject.journal.sent(1, sent_first + 1));
        let again = subject.read(1, sent_first + 1).unwrap();
        assert!(matches!(again.content, Content::Loss(_)) && again.through > again.seq);
        assert!(subject.journal.sent(1, sent_first + 1));
        for seq in 1..=sent_first {
            assert_eq!(subject.read(1, seq).unwrap().through, seq);
            assert!(subject.journal.sent(1, seq), "it may be sent again as it was");
        }
    }
}
