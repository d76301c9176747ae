//! A second process beside a running agent, and on what is damaged.

use std::fs;

use crate::agent::{Agent, exported, journal, program, settings, told};
use crate::mount::segments;

const SOURCE: &str = "type = 'simulated'\ninterval = '20ms'\nsensors = 8";

#[test]
fn a_second_agent_on_one_state_directory_is_refused_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let mut agent = Agent::start(&state, SOURCE);
    agent.until("flash is written", |stats| stats.waiting_batches > 2);
    let other = tempfile::tempdir().unwrap();
    let config = settings(other.path(), &state, SOURCE);
    let second = program(&["run", "--config", config.to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{said}");
    let last = said.trim_end().lines().last().unwrap();
    for part in [
        state.to_str().unwrap(),
        &format!("process {}", agent.id()),
        "state_dir",
    ] {
        assert!(last.contains(part), "{part}: {last}");
    }
    // The first goes on, and its journal is as it was.
    let waiting = agent.until("it goes on", |_| true).waiting_batches;
    agent.until("it goes on", |stats| stats.waiting_batches > waiting + 2);
    let kept = told(&agent.stop(), "unacknowledged readings are on flash");
    assert_eq!(exported(&state), (kept, 0));
}

#[test]
fn a_journal_is_shown_checked_and_exported_beside_the_agent_that_writes_it() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let mut agent = Agent::start(&state, SOURCE);
    for _ in 0..20 {
        let before = agent.until("more is written", |stats| stats.waiting_batches > 2);
        let (code, out, said) = journal(&["inspect"], &state);
        assert_eq!(code, Some(0), "{said}");
        let row = out.lines().nth(1).unwrap();
        let oldest = row.split_whitespace().nth(7).unwrap();
        // As in 2026-11-22T13:14:15.678Z.
        assert!(
            oldest.len() == 24 && &oldest[10..11] == "T" && oldest.ends_with('Z'),
            "{out}"
        );
        let (code, out, _) = journal(&["verify"], &state);
        assert_eq!(code, Some(0), "{out}");
        let (readings, lost) = exported(&state);
        assert!(readings > 0 && lost == 0);
        let (code, out, _) = journal(&["export", "--json"], &state);
        assert_eq!(code, Some(0));
        assert!(out.lines().count() as u64 >= readings);
        assert!(
            out.lines()
                .all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
        );
        agent.until("it goes on", |stats| {
            stats.waiting_batches > before.waiting_batches
        });
    }
    let kept = told(&agent.stop(), "unacknowledged readings are on flash");
    assert_eq!(exported(&state), (kept, 0));
}

#[test]
fn of_a_damaged_journal_the_rest_is_shown_exported_and_drained() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let mut agent = Agent::start(&state, SOURCE);
    agent.until("flash is written", |stats| stats.waiting_batches > 8);
    let kept = told(&agent.stop(), "unacknowledged readings are on flash");
    let segment = segments(&state).remove(0);
    let mut content = fs::read(&segment).unwrap();
    // In the middle of what is written.
    let used = content.iter().rposition(|byte| *byte != 0).unwrap();
    content[used / 2 / 4096 * 4096 + 40] ^= 0x10;
    fs::write(&segment, &content).unwrap();
    fs::write(segment.with_file_name("notes.txt"), "of no concern").unwrap();
    fs::write(segment.with_file_name("00000000000000ff.segment"), [7; 5000]).unwrap();
    let (code, out, _) = journal(&["inspect"], &state);
    assert_eq!(code, Some(0), "{out}");
    let (code, out, _) = journal(&["verify"], &state);
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("damaged at byte"), "{out}");
    let (readings, lost) = exported(&state);
    assert!(
        readings > 0 && lost > 0 && readings + lost == kept,
        "{readings} {lost} {kept}"
    );
    // An agent starts with it, and counts the same.
    let mut agent = Agent::start(&state, SOURCE);
    let stats = agent.until("it runs", |stats| stats.sampled_readings > 100);
    assert_eq!(stats.journal.found_readings, kept);
    assert!(stats.journal.quarantined > 0);
    // Until it is read, what is damaged counts with the rest.
    let waiting = told(&agent.stop(), "unacknowledged readings are on flash");
    let (all, still) = exported(&state);
    assert!(all > readings, "{all} {readings}");
    assert_eq!((all + still, still), (waiting, lost));
}
