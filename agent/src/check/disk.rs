//! The disk that the journal is to be on.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor, statfs, statvfs};

use super::Finding;
use crate::Config;

/// Seconds between ext4's commits, unless its mount says otherwise.
const COMMIT: u64 = 5;
/// Where they are no more frequent than this they are a small part of what a day writes.
const COMMIT_ENOUGH: u64 = 600;

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
    let mount = fs::read_to_string("/proc/self/mountinfo").ok();
    match mount.and_then(|mounts| Mount::of(&mounts, dir.metadata().ok()?.dev())) {
        Some(mount) if kept_on_flash(config) => mount.advise(finding),
        _ => finding,
    }
}

fn kept_on_flash(config: &Config) -> bool {
    config.journal.sync_after.duration().is_some()
}

/// A mounted ext4, as `/proc/self/mountinfo` tells of it (proc(5)).
#[derive(Debug, PartialEq)]
struct Mount {
    at: String,
    /// Seconds within which it commits its own journal after a change, were it the time of a file's last change alone.
    commit: u64,
}

impl Mount {
    /// The one on this device, if it is ext4.
    fn of(mounts: &str, device: u64) -> Option<Self> {
        let device = format!("{}:{}", major(device), minor(device));
        let mounts = mounts.lines().filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let mut mount = mount.split(' ').skip(2);
            let (of, root, at) = (mount.next()?, mount.next()?, mount.next()?);
            let mut file_system = file_system.split(' ');
            let (kind, options) = (file_system.next()?, file_system.nth(1)?);
            let commit = options
                .split(',')
                .find_map(|option| option.strip_prefix("commit="));
            let mount = Self {
                at: at.to_string(),
                commit: commit.map_or(Some(COMMIT), |seconds| seconds.parse().ok())?,
            };
            (of == device && kind == "ext4").then_some((root != "/", mount))
        });
        // A part of it may be mounted elsewhere too.
        mounts.min_by_key(|(is_part, _)| *is_part).map(|(_, mount)| mount)
    }

    fn advise(&self, finding: Finding) -> Finding {
        if self.commit >= COMMIT_ENOUGH {
            return finding;
        }
        let todo = format!(
            "to spare the flash: mount {} with commit=1800 (in /etc/fstab; at once: mount -o remount,commit=1800 {}). As it is, ext4 commits {} s \
             after each write of the journal, which more than doubles what an offline day writes. Files that other programs there do not sync \
             may then be half an hour old after a power cut",
            self.at, self.at, self.commit
        );
        Finding {
            todo: Some(todo),
            ..finding
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
        22 27 0:21 / /proc rw,relatime - proc proc rw\n\
        26 1 254:0 /srv /mnt rw,relatime - ext4 /dev/vda rw,discard\n\
        27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
        31 27 179:3 / /var/lib/head\\040water rw,noatime shared:7 - ext4 /dev/mmcblk0p3 rw,commit=600\n\
        33 27 179:4 / /data rw - f2fs /dev/mmcblk0p4 rw\n";

    #[test]
    fn an_ext4_tells_how_often_it_commits_and_another_file_system_nothing() {
        let of = |major, minor| Mount::of(MOUNTS, rustix::fs::makedev(major, minor));
        let finding = || Finding::ok("disk", "writable");
        let root = of(254, 0).unwrap();
        assert_eq!((root.at.as_str(), root.commit), ("/", 5));
        let advised = root.advise(finding());
        assert!(advised.ok && advised.todo.unwrap().contains("remount,commit=1800 /)"));
        let own = of(179, 3).unwrap();
        assert_eq!(own.commit, 600);
        assert_eq!(own.advise(finding()), finding());
        assert_eq!((of(179, 4), of(1, 1)), (None, None));
    }
}
