//! The mount under a journal: whether it makes each write dear, and what to write into `/etc/fstab` about it.
//!
//! ext4 commits its own journal within `commit=` seconds of each change of a file, were it the time of its last change alone, and that is most
//! of what a write of the agent's journal costs: `headwater-bench flash` measures it, `ARCHITECTURE.md` ("The journal on flash") has the table.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{major, minor};

use crate::config::SyncAfter;

/// Seconds between ext4's commits, unless its mount says otherwise.
const COMMIT: u64 = 5;
/// Where they are no more frequent than this they are a small part of what a day writes.
const COMMIT_ENOUGH: u64 = 600;

/// A mounted ext4, as `/proc/self/mountinfo` tells of it (proc(5)).
#[derive(Debug, PartialEq)]
pub(crate) struct Mount {
    /// Where, spaces and the like as octal escapes, which is how `/etc/fstab` wants them too.
    at: String,
    /// What of, likewise.
    of: String,
    /// The options to keep: the file system's, and whether it notes when a file is read.
    options: Vec<String>,
    /// Seconds within which it commits its own journal after a change.
    commit: u64,
}

impl Mount {
    /// The one that a folder is on, if it is ext4.
    pub(crate) fn under(folder: &Path) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        Self::on(&mounts, folder.metadata().ok()?.dev())
    }

    /// The one of this device, if it is ext4.
    fn on(mounts: &str, device: u64) -> Option<Self> {
        let device = format!("{}:{}", major(device), minor(device));
        let mounts = mounts.lines().filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let mut mount = mount.split(' ').skip(2);
            let (number, root, at, options) = (mount.next()?, mount.next()?, mount.next()?, mount.next()?);
            let mut file_system = file_system.split(' ');
            let (kind, of, own) = (file_system.next()?, file_system.next()?, file_system.next()?);
            let commit = own.split(',').find_map(|option| option.strip_prefix("commit="));
            let mount = Self {
                at: at.to_string(),
                of: of.to_string(),
                options: kept(options, own).map(str::to_string).collect(),
                commit: commit.map_or(Some(COMMIT), |seconds| seconds.parse().ok())?,
            };
            (number == device && kind == "ext4").then_some((root != "/", mount))
        });
        // A part of it may be mounted elsewhere too.
        mounts.min_by_key(|(is_part, _)| *is_part).map(|(_, mount)| mount)
    }

    /// What a journal costs here and what to do about it; `None` where nothing is to be done.
    pub(crate) fn advice(&self, sync_after: SyncAfter) -> Option<String> {
        if self.commit >= COMMIT_ENOUGH || sync_after.duration().is_none() {
            return None;
        }
        let options: String = self.options.iter().flat_map(|option| [",", option]).collect();
        let of = match &*self.of {
            // What the kernel calls a root file system that it mounted itself; the table has its real name.
            "/dev/root" => "PARTUUID=...",
            of => of,
        };
        let pass = if self.at == "/" { 1 } else { 2 };
        Some(format!(
            "to spare the flash: in /etc/fstab, `{of} {at} ext4 defaults{options},commit=1800 0 {pass}`; at once: mount -o remount,commit=1800 {shell}. As \
             {at} is mounted, ext4 commits {commit} s after each write of the journal. By our measurement a day offline (8 sensors, a reading a \
             second) writes 36.7 MB with sync_after = \"60s\" and 7.5 MB with \"300s\" at commit=5, 14.2 and 3.6 MB at commit=1800. Files that \
             other programs there do not sync may then be half an hour old after a power cut",
            at = self.at,
            shell = self.at.replace("\\040", "\\ "),
            commit = self.commit,
        ))
    }
}

/// Of a mount's own options only one: the others are what the agent's service sees, which may be stricter than the table has it.
fn kept<'a>(of_mount: &'a str, of_file_system: &'a str) -> impl Iterator<Item = &'a str> {
    let of_file_system = of_file_system.split(',');
    let of_file_system =
        of_file_system.filter(|option| !matches!(*option, "rw" | "ro") && !option.starts_with("commit="));
    of_mount
        .split(',')
        .filter(|option| *option == "noatime")
        .chain(of_file_system)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MOUNTS: &str = "\
        22 27 0:21 / /proc rw,relatime - proc proc rw\n\
        26 1 254:0 /srv /mnt rw,relatime - ext4 /dev/vda rw,discard\n\
        27 1 254:0 / / rw,relatime - ext4 /dev/root rw,discard\n\
        31 27 179:3 / /var/lib/head\\040water rw,noatime shared:7 - ext4 /dev/mmcblk0p3 rw,commit=600\n\
        32 27 179:5 / /var/lib/head\\040water/old rw,nosuid,noatime shared:8 master:1 - ext4 /dev/mmcblk0p5 rw,errors=remount-ro,commit=30\n\
        33 27 179:4 / /data rw - f2fs /dev/mmcblk0p4 rw\n\
        34 27 179:6 / /odd rw - ext4 /dev/mmcblk0p6 rw,commit=often\n\
        torn\n";

    fn on(major: u32, minor: u32) -> Option<Mount> {
        Mount::on(MOUNTS, rustix::fs::makedev(major, minor))
    }

    fn minute() -> SyncAfter {
        SyncAfter::After(Duration::from_secs(60))
    }

    #[test]
    fn the_line_for_fstab_is_exact_and_what_it_saves_is_told() {
        let root = on(254, 0).unwrap();
        assert_eq!(
            (root.at.as_str(), root.commit),
            ("/", 5),
            "the whole, not the part of it"
        );
        let advice = root.advice(minute()).unwrap();
        for part in [
            "`PARTUUID=... / ext4 defaults,discard,commit=1800 0 1`",
            "remount,commit=1800 /.",
            "5 s after",
            "36.7 MB",
            "14.2",
        ] {
            assert!(advice.contains(part), "{part}: {advice}");
        }
        let advice = on(179, 5).unwrap().advice(minute()).unwrap();
        for part in [
            "`/dev/mmcblk0p5 /var/lib/head\\040water/old ext4 defaults,noatime,errors=remount-ro,commit=1800 0 2`",
            "commit=1800 /var/lib/head\\ water/old.",
            "30 s after",
        ] {
            assert!(advice.contains(part), "{part}: {advice}");
        }
    }

    #[test]
    fn nothing_is_said_where_nothing_is_to_be_done() {
        assert_eq!(on(254, 0).unwrap().advice(SyncAfter::Never), None, "memory only");
        let own = on(179, 3).unwrap();
        assert_eq!((own.commit, own.advice(minute())), (600, None));
        // Another file system, one whose options are not understood, and none at all.
        assert_eq!((on(179, 4), on(179, 6), on(1, 1)), (None, None, None));
    }

    #[test]
    fn the_mount_under_a_folder_of_this_machine_is_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let kind = rustix::fs::statfs(folder.path()).unwrap().f_type as u64 & 0xffff_ffff;
        // ext2 and ext3 have ext4's number.
        assert!(Mount::under(folder.path()).is_none() || kind == 0xef53);
        assert_eq!(Mount::under(Path::new("/proc")), None);
        assert_eq!(Mount::under(&folder.path().join("gone")), None);
    }
}
