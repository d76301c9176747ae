//! A journal that version 0.1.0 has left behind: whatever comes later reads it, and finds in it what was put there.
//!
//! `golden/` is kept as it is. When the form on flash changes, a journal of the new one is put beside it.

use std::fs;

use crate::agent::journal;

/// As the agent makes them; what it has not written to is zeros, and left out in `golden/`.
const SEGMENT_BYTES: usize = 256 << 10;

#[test]
fn a_journal_of_the_first_version_is_read_to_the_last_bit() {
    let state = tempfile::tempdir().unwrap();
    let folder = state.path().join("journal");
    fs::create_dir(&folder).unwrap();
    let mut segment = include_bytes!("golden/0000000000000001.segment").to_vec();
    segment.resize(SEGMENT_BYTES, 0);
    fs::write(folder.join("0000000000000001.segment"), segment).unwrap();

    let (code, shown, said) = journal(&["verify"], state.path());
    assert_eq!(code, Some(0), "{shown}{said}");
    assert!(
        shown.contains("1 segments, 5 records, 0 places damaged"),
        "{shown}"
    );

    let (code, readings, said) = journal(&["export", "--json"], state.path());
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(readings, include_str!("golden/export.jsonl"));
}
