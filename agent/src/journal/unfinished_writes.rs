//! Writes that were not finished: whatever sectors of one are missing, it is no damage, at the next start and at all that follow; and what is
//! damage stays that.

use std::collections::BTreeMap;

use super::crash::Random;
use super::damage::{STREAM, unwritten};
use super::disk::model::Model;
use super::rig::{self, all};
use super::store::{Bounds, Store};
use super::view::View;

const SECTOR: usize = 512;
/// Where the second write begins.
const SECOND: usize = 4096;
const LONG: usize = 1500;

type Files = BTreeMap<String, Vec<u8>>;

fn open(model: &Model) -> Store<Model> {
    let (segment, bytes, age_us) = (32 * 1024, 1 << 20, None);
    let bounds = Bounds {
        segment,
        bytes,
        age_us,
    };
    Store::open(model.clone(), bounds).unwrap()
}

/// A write of four batches in one block, and one of six in several.
fn two_writes() -> Files {
    let model = Model::default();
    let mut store = open(&model);
    store.begin(STREAM);
    let first: Vec<_> = (1..=4).map(|seq| unwritten(seq, 100)).collect();
    let second: Vec<_> = (5..=10).map(|seq| unwritten(seq, LONG)).collect();
    store.write(&first, &rig::sets()).unwrap();
    store.write(&second, &rig::sets()).unwrap();
    model.content()
}

/// What `headwater-agent journal verify` says: how many places are damaged, and its text.
fn verify(files: &Files) -> (u64, String) {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let mut text = Vec::new();
    let damaged = View::open(folder.path()).unwrap().verify(&mut text).unwrap();
    (damaged, String::from_utf8(text).unwrap())
}

/// An agent starts with these files, and writes; twice. Returns what it leaves.
fn lived_on(files: &Files, why: &str) -> Files {
    let model = Model::of(files);
    for stream in [1, 2] {
        let mut store = open(&model);
        let chains = all(&mut store);
        let came = chains[&STREAM].records.iter().filter(|record| record.2.is_ok());
        for (seq, _, body) in came.clone() {
            let length = if *seq <= 4 { 100 } else { LONG };
            assert_eq!(*body.as_ref().unwrap(), rig::body(STREAM, *seq, length));
        }
        assert!(came.count() >= 4, "what was promised: {why}");
        assert_eq!(store.quarantined(), 0, "{why}");
        assert_eq!(store.unfinished(), u64::from(stream == 1), "once: {why}");
        store.begin(stream);
        store.write(&[], &[]).unwrap();
    }
    model.content()
}

#[test]
fn whatever_sectors_are_missing_it_is_no_damage_also_with_newer_segments_behind_it() {
    let files = two_writes();
    let (name, content) = files.first_key_value().unwrap();
    let used = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    assert!(files.len() == 1 && used > SECOND + 2 * 4096, "{used}");
    let sectors: Vec<usize> = (SECOND..used).step_by(SECTOR).collect();
    let count = sectors.len();
    let mut cuts: Vec<Vec<usize>> = Vec::new();
    for at in 0..count {
        cuts.push(vec![at]);
        cuts.push((at..count).collect());
        cuts.push((0..at).collect());
    }
    let mut random = Random(11);
    for _ in 0..40 {
        cuts.push((0..count).filter(|_| random.below(2) == 1).collect());
    }
    // Nothing of it is missing, or nothing of it is there.
    cuts.retain(|missing| !missing.is_empty() && missing.len() < count);
    for missing in cuts {
        let mut torn = files.clone();
        for at in &missing {
            torn.get_mut(name).unwrap()[sectors[*at]..][..SECTOR].fill(0);
        }
        let why = format!("without the sectors {missing:?}");
        let (damaged, text) = verify(&torn);
        assert!(damaged == 0 && text.contains("not finished"), "{why}: {text}");
        let lived = lived_on(&torn, &why);
        assert!(lived.len() > 1, "{why}");
        let (damaged, text) = verify(&lived);
        assert!(damaged == 0 && text.contains("not finished"), "{why}: {text}");
        // What changes later is damage: in what was promised, and in what is left of what was not.
        let left = &lived[name];
        let rest: Vec<usize> = (SECOND..used).filter(|at| left[*at] != 0).collect();
        for at in [600, rest[random.below(rest.len())]] {
            let mut damaged = lived.clone();
            damaged.get_mut(name).unwrap()[at] ^= 0x10;
            let (damaged, text) = verify(&damaged);
            assert!(damaged > 0, "{why}, byte {at} changed: {text}");
        }
    }
}

#[test]
fn sectors_that_are_missing_where_something_was_written_later_are_damage() {
    let files = two_writes();
    let name = files.keys().next().unwrap();
    let without = |files: &Files, at: usize| {
        let mut files = files.clone();
        files.get_mut(name).unwrap()[at..at + SECTOR].fill(0);
        files
    };
    // In the first write: the second is there.
    for at in (0..1024).step_by(SECTOR) {
        let damaged = without(&files, at);
        let (count, text) = verify(&damaged);
        assert!(count > 0 && !text.contains("was not finished, at"), "{text}");
        let mut store = open(&Model::of(&damaged));
        all(&mut store);
        assert!(store.quarantined() > 0 && store.unfinished() == 0);
    }
    // In the second, when an agent has gone on behind it, and found it whole.
    let model = Model::of(&files);
    let mut store = open(&model);
    store.begin(1);
    let more: Vec<_> = (1..=20).map(|seq| unwritten(seq, LONG)).collect();
    let more: Vec<_> = (more.into_iter())
        .map(|mut record| {
            record.stream = 1;
            record
        })
        .collect();
    for group in more.chunks(4) {
        store.write(group, &rig::sets()).unwrap();
    }
    let lived = model.content();
    assert!(lived.len() > 1);
    for at in [SECOND, SECOND + 3 * SECTOR, SECOND + 9 * SECTOR] {
        let damaged = without(&lived, at);
        let (count, text) = verify(&damaged);
        assert!(count > 0 && !text.contains("was not finished, at"), "{text}");
        let mut store = open(&Model::of(&damaged));
        all(&mut store);
        assert!(store.quarantined() > 0 && store.unfinished() == 0);
    }
}

#[test]
fn a_segment_of_which_nothing_was_finished_goes_without_a_word_of_damage() {
    let mut files = two_writes();
    // The first write of the next segment, without its beginning.
    let next = format!("{:016x}.segment", 2);
    let mut content = vec![0; 32 * 1024];
    content[SECTOR..2 * SECTOR].fill(0xa5);
    files.insert(next.clone(), content.clone());
    let model = Model::of(&files);
    let mut store = open(&model);
    assert_eq!(all(&mut store)[&STREAM].records.len(), 10);
    assert_eq!(
        (store.quarantined(), store.unfinished(), model.aside()),
        (0, 1, 0)
    );
    // All of it there, and no record: that is damage.
    content[..].fill(0xa5);
    files.insert(next, content);
    let model = Model::of(&files);
    let mut store = open(&model);
    assert_eq!(all(&mut store)[&STREAM].records.len(), 10);
    assert_eq!((store.unfinished(), model.aside()), (0, 1));
    assert!(store.quarantined() > 0);
}

#[test]
fn a_block_that_begins_with_a_record_begins_a_write() {
    // For one of these lengths the first batch ends just where a block does.
    for length in 3600..4096 {
        let model = Model::default();
        let mut store = open(&model);
        store.begin(STREAM);
        let records = [unwritten(1, length), unwritten(2, 100)];
        store.write(&records, &rig::sets()).unwrap();
        let segment = store.segments()[0];
        assert_eq!(store.look(segment).unwrap().last_write, 0, "{length}");
        assert_eq!(all(&mut store)[&STREAM].records.len(), 2);
        store.write(&[unwritten(3, 100)], &rig::sets()).unwrap();
        assert!(store.look(segment).unwrap().last_write > 0);
    }
}
