//! The disk that the journal is to be on.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{statfs, statvfs};

use super::Finding;
use crate::Config;
use crate::journal::mount::Mount;

/// Whether the state directory can be written, and holds what the journal may take.
pub(super) fn disk(config: &Config) -> Finding {
    let Some(dir) = &config.state_dir else {
        let todo = "set state_dir, so that what waits outlives a restart";
        return Finding::failed("disk", "there is no state_dir: everything is in memory", todo);
    };
    let subject = format!("disk {}", dir.display());
    let todo = "make the directory, owned by the user that the agent runs as";
    if let Err(error) = writable(dir) {
        return Finding::failed(subject, format!("it cannot be written: {error}"), todo);
    }
    let figures = statvfs(dir).and_then(|space| Ok((space, statfs(dir)?)));
    let (space, kind) = match figures {
        Ok(figures) => figures,
        Err(error) => {
            return Finding::failed(
                subject,
                format!("its file system does not tell its size: {error}"),
                todo,
            );
        }
    };
    // Its type is another on each machine; the numbers have 32 bits.
    let kind = file_system(kind.f_type as u64 & 0xffff_ffff);
    let free = space.f_bavail * space.f_frsize;
    let held = held(&dir.join("journal"));
    let bound = config.journal.max_bytes.as_u64();
    let size = |bytes| headwater_config::ByteSize::b(bytes).to_string();
    let what = format!("writable, {}, {} free", kind, size(free));
    if matches!(kind, "tmpfs" | "ramfs") {
        let todo = "put state_dir on flash: this is memory, and ends with a restart of the machine";
        return Finding::failed(subject, what, todo);
    }
    if free + held < bound {
        let what = format!("{what}, where journal.max_bytes is {}", size(bound));
        return Finding::failed(subject, what, "make room, or set journal.max_bytes lower");
    }
    let finding = Finding::ok(subject, format!("{what}; the journal may take {}", size(bound)));
    Finding {
        todo: Mount::under(dir).and_then(|mount| mount.advice(config.journal.sync_after)),
        ..finding
    }
}

fn writable(dir: &Path) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    let file = dir.join(format!("check-{}", std::process::id()));
    let written = fs::write(&file, b"check").and_then(|()| fs::File::open(&file)?.sync_all());
    fs::remove_file(&file)?;
    written
}

/// Bytes of files in a folder.
fn held(folder: &PathBuf) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some(entry.metadata().ok()?.len()))
        .sum()
}

/// A file system by its number (statfs(2)).
fn file_system(kind: u64) -> &'static str {
    match kind {
        0xef53 => "ext2/3/4",
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x9123_683e => "btrfs",
        0xf2f5_2010 => "f2fs",
        0x5846_5342 => "xfs",
        0x794c_7630 => "overlayfs",
        0x4d44 => "vfat",
        0x2405_1905 => "ubifs",
        0x72b6 => "jffs2",
        0x6969 => "nfs",
        0x2fc1_2fc1 => "zfs",
        _ => "a file system of another kind",
    }
}
