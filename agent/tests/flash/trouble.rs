//! A medium that cannot be used for a while, or any more.

use std::fs;
use std::path::PathBuf;

use headwater_agent::{JournalFault, JournalMode};
use rustix::fs::{FallocateFlags, fallocate};

use crate::agent::{Agent, exported, journal, told, wait_for};
use crate::mount::{Mount, segments};

/// A batch every 500 ms, of several blocks.
const MANY: &str = "type = 'simulated'\ninterval = '5ms'\nsensors = 64";
/// Some readings all the time.
const FEW: &str = "type = 'simulated'\ninterval = '50ms'\nsensors = 8";
/// Metrics and rows of a trace.
const TRACE: (u64, u64) = (5, 30_000);

/// A trace, all of which is read at once; it takes more than a segment.
fn trace(folder: &tempfile::TempDir) -> (PathBuf, String) {
    let path = folder.path().join("trace.csv");
    let mut text = String::from("time_ms,a,b,c,d,e\n");
    let mut value = 1u64;
    for row in 0..TRACE.1 {
        text += &(row * 10).to_string();
        for _ in 0..TRACE.0 {
            value = value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            text += &format!(",{}", value >> 40);
        }
        text.push('\n');
    }
    fs::write(&path, text).unwrap();
    let source = format!(
        "type = 'replay'\npath = '{}'\nspeed = 'max'\nat_end = 'stop'",
        path.display()
    );
    (path, source)
}

#[test]
fn room_that_ends_within_a_record_and_comes_again_costs_nothing() {
    let mount = Mount::memory(1024);
    let state = mount.state();
    let mut agent = Agent::start(&state, MANY);
    agent.until("flash is written", |stats| stats.waiting_batches > 2);
    agent.signal("-STOP");
    // What is not yet written takes no room any more: as on a medium that gives room only when it is written to.
    let segment = segments(&state).pop().unwrap();
    let content = fs::read(&segment).unwrap();
    let used = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let hole = used.next_multiple_of(4096) as u64;
    fallocate(
        fs::File::options().write(true).open(&segment).unwrap(),
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        hole,
        content.len() as u64 - hole,
    )
    .unwrap();
    mount.fill();
    // One block of the next record, which has several.
    mount.free(4096);
    agent.signal("-CONT");
    let stats = agent.until("the fallback", |stats| {
        stats.journal.mode == JournalMode::Fallback
    });
    assert_eq!(stats.journal.fault, Some(JournalFault::Full));
    let part = &fs::read(&segment).unwrap()[hole as usize..];
    assert!(
        part.iter().any(|byte| *byte != 0),
        "nothing of the record was written"
    );
    let log = agent.log();
    assert!(
        log.contains("No space left") && log.contains("make room there"),
        "{log}"
    );
    let since = stats.sampled_readings;
    agent.until("more, in memory", |stats| stats.sampled_readings > since + 10_000);
    mount.free(u64::MAX);
    let back = agent.until("flash", |stats| stats.journal.mode == JournalMode::Flash);
    assert_eq!((back.lost_readings, back.journal.fault), (0, None));
    let log = agent.stop();
    assert!(log.contains("can be written again"), "{log}");
    assert_eq!(told(&log, "readings are lost"), 0, "{log}");
    let kept = told(&log, "unacknowledged readings are on flash");
    assert!(kept >= back.sampled_readings, "{log}");
    assert_eq!(exported(&state), (kept, 0));
    let (code, out, _) = journal(&["verify"], &state);
    // The record that was cut off was written again, behind.
    assert!(out.contains("damaged at byte") || code == Some(0), "{out}");
}

#[test]
fn at_a_stop_without_room_the_loss_is_told_exactly_and_with_room_again_there_is_none() {
    for room in [false, true] {
        let mount = Mount::memory(1024);
        let state = mount.state();
        let folder = tempfile::tempdir().unwrap();
        let (_, source) = trace(&folder);
        // A first segment, and no room for a second.
        let mut agent = Agent::start(&state, FEW);
        agent.until("flash is written", |stats| stats.waiting_batches > 2);
        agent.stop();
        let (before, _) = exported(&state);
        mount.fill();
        let mut agent = Agent::start(&state, &source);
        let total = TRACE.0 * TRACE.1;
        let stats = agent.until("all is sampled, and there is no room", |stats| {
            stats.sampled_readings == total && stats.journal.fault == Some(JournalFault::Full)
        });
        assert_eq!(stats.lost_readings, 0, "memory holds what there is no room for");
        if room {
            mount.free(u64::MAX);
        }
        let log = agent.stop();
        let lost = told(
            &log,
            "readings are lost: they are not acknowledged and not on flash",
        );
        assert_eq!(lost > 0, !room, "{log}");
        assert_eq!(exported(&state), (before + total - lost, 0), "{log}");
        let kept = told(&log, "unacknowledged readings are on flash");
        assert_eq!(kept + lost, before + total, "{log}");
    }
}

#[test]
fn a_file_system_that_may_only_be_read_is_used_again_when_it_may_be_written() {
    let mount = Mount::memory(8192);
    let state = mount.state();
    let mut agent = Agent::start(&state, FEW);
    agent.until("flash is written", |stats| stats.waiting_batches > 2);
    let found = told(&agent.stop(), "unacknowledged readings are on flash");
    mount.remount("ro");
    let mut agent = Agent::start(&state, FEW);
    let stats = agent.until("the fallback", |stats| {
        stats.journal.fault == Some(JournalFault::ReadOnly) && stats.sampled_readings > 100
    });
    assert_eq!(stats.journal.mode, JournalMode::Fallback);
    assert_eq!(stats.journal.found_readings, found, "what is there can be read");
    assert!(agent.log().contains("mount it writable"), "{}", agent.log());
    mount.remount("rw");
    let back = agent.until("flash", |stats| stats.journal.mode == JournalMode::Flash);
    assert_eq!(back.lost_readings, 0);
    let kept = told(&agent.stop(), "unacknowledged readings are on flash");
    assert!(kept >= found + back.sampled_readings);
    assert_eq!(exported(&state), (kept, 0));
}

#[test]
fn a_card_that_fails_under_it_is_left_as_it_is_and_the_loss_at_the_stop_is_told() {
    let mount = Mount::ext4();
    let state = mount.state();
    let mut agent = Agent::start(&state, FEW);
    agent.until("flash is written", |stats| stats.waiting_batches > 2);
    mount.fails();
    let stats = agent.until("the fallback", |stats| {
        stats.journal.mode == JournalMode::Fallback
    });
    let since = stats.sampled_readings;
    let stats = agent.until("more, in memory", |stats| stats.sampled_readings > since + 300);
    assert_eq!(stats.journal.fault, Some(JournalFault::ReadOnly));
    assert_eq!(stats.lost_readings, 0);
    let log = agent.stop();
    let lost = told(
        &log,
        "readings are lost: they are not acknowledged and not on flash",
    );
    let kept = told(&log, "unacknowledged readings are on flash");
    assert!(
        lost >= 300 && kept > 0 && lost + kept >= stats.sampled_readings,
        "{log}"
    );
    assert_eq!(exported(&state), (kept, 0), "{log}");
}

#[test]
fn a_directory_that_is_deleted_under_it_is_made_anew_and_what_was_in_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    for deleted in ["state/journal", "state"] {
        let state = folder.path().join("state");
        let mut agent = Agent::start(&state, FEW);
        agent.until("flash is written", |stats| stats.waiting_batches > 2);
        fs::remove_dir_all(folder.path().join(deleted)).unwrap();
        wait_for("it finds out", || agent.log().contains("can be written again"));
        let stats = agent.until("flash", |stats| stats.journal.mode == JournalMode::Flash);
        let since = stats.sampled_readings;
        agent.until("it goes on", |stats| stats.sampled_readings > since + 300);
        let log = agent.stop();
        assert_eq!(told(&log, "readings are lost"), 0, "{log}");
        let (readings, lost) = exported(&state);
        assert!(lost > 0 && readings > 300, "{readings} {lost} {log}");
        // Until it is read, what is gone counts with the rest.
        let waiting = told(&log, "unacknowledged readings are on flash");
        assert_eq!(readings + lost, waiting, "{log}");
        assert_eq!(journal(&["verify"], &state).0, Some(1), "what is lost is told");
        fs::remove_dir_all(&state).unwrap();
    }
}

#[test]
fn a_segment_whose_inode_is_broken_costs_what_it_held_and_the_journal_goes_on() {
    let mount = Mount::ext4();
    let state = mount.state();
    let mut agent = Agent::start(&state, MANY);
    agent.until("three segments", |_| segments(&state).len() >= 3);
    agent.stop();
    let all = segments(&state);
    let broken = all.last().unwrap();
    mount.break_inode(broken);
    let refused = fs::read(broken).unwrap_err();
    assert_eq!(
        refused.raw_os_error(),
        Some(rustix::io::Errno::BADMSG.raw_os_error())
    );

    let mut agent = Agent::start(&state, FEW);
    agent.until("flash is written", |stats| {
        stats.journal.mode == JournalMode::Flash && stats.journal.flash_written_bytes > 0
    });
    assert!(
        agent.log().contains("stays where it is until fsck"),
        "{}",
        agent.log()
    );
    agent.stop();
    let newest = segments(&state).pop().unwrap();
    assert!(newest > *broken, "its number is not used again");
    let (readings, _) = exported(&state);
    assert!(readings > 0);
    // Another start finds it broken still.
    let mut agent = Agent::start(&state, FEW);
    agent.until("flash is written", |stats| {
        stats.journal.mode == JournalMode::Flash && stats.journal.flash_written_bytes > 0
    });
    agent.stop();
}
