//! Damaged files: whatever bytes are flipped, what is intact is delivered, what is not is a loss record that tells how many readings it
//! had, and nothing is made up.

use std::collections::BTreeMap;

use super::crash::Random;
use super::disk::model::Model;
use super::rig::{self, all, batch, bounds};
use super::store::{Store, Unwritten};
use super::{Content, Entry, Record};

pub(super) const STREAM: u64 = 0x1122_3344_5566_7788;

pub(super) fn unwritten(seq: u64, length: usize) -> Unwritten {
    let Entry::Batch {
        sealed,
        series,
        readings,
        oldest_us,
        clock,
    } = batch(STREAM, seq, length, 2 + seq % 5)
    else {
        unreachable!()
    };
    let record = Record {
        seq,
        through: seq,
        content: Content::Batch {
            sealed,
            series,
            clock,
        },
    };
    Unwritten {
        stream: STREAM,
        record,
        readings,
        oldest_us,
    }
}

/// A journal of so many batches, a write of four of them after the other.
fn journal(batches: u64, length: usize) -> BTreeMap<String, Vec<u8>> {
    let model = Model::default();
    let mut store = Store::open(model.clone(), bounds(1000)).unwrap();
    store.begin(STREAM);
    let records: Vec<Unwritten> = (1..=batches).map(|seq| unwritten(seq, length)).collect();
    for group in records.chunks(4) {
        store.write(group, &rig::sets()).unwrap();
    }
    store.end();
    store.write(&[], &[]).unwrap();
    model.content()
}

/// What is read from damaged files: how many batches came, how many readings were reported lost, and how many places were found damaged.
fn read(files: &BTreeMap<String, Vec<u8>>, batches: u64, length: usize) -> (u64, u64, u64) {
    let model = Model::of(files);
    let mut store = Store::open(model.clone(), bounds(1000)).unwrap();
    let (mut came, mut lost) = (0, 0);
    for (stream, chain) in all(&mut store) {
        assert_eq!(stream, STREAM, "a stream that never was");
        assert!(chain.last <= batches, "an end that never was: {chain:?}");
        for (seq, through, what) in chain.records {
            match what {
                Ok(body) => {
                    assert_eq!(body, rig::body(STREAM, seq, length));
                    came += 1;
                }
                Err((readings, _)) => {
                    let had: u64 = (seq..=through).map(|seq| 2 + seq % 5).sum();
                    assert_eq!(readings, had, "{seq}..={through}");
                    lost += readings;
                }
            }
        }
    }
    let damaged = store.quarantined();
    assert_eq!(store.unfinished(), 0, "all of it was written to the end");
    // And life goes on.
    store.begin(1);
    store.write(&[], &[]).unwrap();
    assert!(all(&mut Store::open(model, bounds(1000)).unwrap()).contains_key(&1));
    (came, lost, damaged)
}

#[test]
fn any_byte_flipped_costs_what_it_was_part_of_and_no_more() {
    let (batches, length) = (12, 40);
    let files = journal(batches, length);
    let (name, content) = files.iter().next().unwrap();
    assert_eq!((files.len(), read(&files, batches, length)), (1, (batches, 0, 0)));
    let used = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut worst = batches;
    for at in 0..used {
        // Each kind of flip meets each part of a record many times.
        let flip = [0x01, 0x80, 0xff][at % 3];
        let mut damaged = files.clone();
        damaged.get_mut(name).unwrap()[at] ^= flip;
        let (came, _, places) = read(&damaged, batches, length);
        // One batch, or all that one series set names.
        assert!(came + 4 >= batches, "{came} batches with byte {at} ^ {flip:#x}");
        assert!(places > 0, "byte {at} ^ {flip:#x} is not noticed");
        worst = worst.min(came);
    }
    println!("{used} flips; at least {worst} of {batches} batches came");
}

#[test]
fn a_large_journal_with_random_damage_delivers_what_is_intact() {
    let (batches, length) = (1500, 120);
    let files = journal(batches, length);
    let mut random = Random(7);
    for _ in 0..60 {
        let mut damaged = files.clone();
        let mut touched = 0;
        for _ in 0..1 + random.below(5) {
            let name = files.keys().nth(random.below(files.len())).unwrap();
            let content = damaged.get_mut(name).unwrap();
            match random.below(3) {
                0 => {
                    let at = random.below(content.len());
                    content[at] ^= 1 + random.below(255) as u8;
                    touched += 512;
                }
                1 => {
                    let at = random.below(content.len());
                    let end = (at + random.below(6000)).min(content.len());
                    content[at..end]
                        .iter_mut()
                        .for_each(|byte| *byte = random.below(256) as u8);
                    touched += end - at;
                }
                _ => {
                    content.truncate(random.below(content.len()));
                    touched += rig::SEGMENT as usize;
                }
            }
        }
        let (came, ..) = read(&damaged, batches, length);
        // A set that is gone takes a segment's share with it.
        let most = (touched / 100 + 5 * 150) as u64;
        assert!(
            came + most >= batches,
            "{came} of {batches} with {touched} bytes touched"
        );
    }
}

#[test]
fn what_a_newer_program_wrote_is_set_aside_whole() {
    let mut files = journal(12, 40);
    let content = files.values_mut().next().unwrap();
    // A ledger of version 2, as its own program would have written it.
    let mut newer = Vec::new();
    super::format::put_newer(&mut newer, 1);
    content[..newer.len()].copy_from_slice(&newer);
    let model = Model::of(&files);
    let mut store = Store::open(model.clone(), bounds(1000)).unwrap();
    assert!(all(&mut store).is_empty());
    assert_eq!((model.aside(), store.quarantined()), (1, 1));
    store.begin(9);
    store.write(&[], &[]).unwrap();
}
