//! File systems and their room, from `/proc/self/mounts` (proc_pid_mounts(5)) and `statvfs`.

use std::collections::BTreeMap;
use std::io;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::statvfs;

use super::shown::Shown;

/// Where the kernel shows what is mounted.
const SHOWN: &str = "/proc/self/mounts";
/// Types that hold no files of their own, or only what is in memory, or cannot fill up; and those of other machines, where asking may hang.
const LEFT_OUT: [&str; 18] = [
    "autofs",
    "cgroup",
    "cgroup2",
    "cifs",
    "devpts",
    "devtmpfs",
    "hugetlbfs",
    "iso9660",
    "mqueue",
    "nfs",
    "nfs4",
    "proc",
    "pstore",
    "rootfs",
    "rpc_pipefs",
    "squashfs",
    "sysfs",
    "tmpfs",
];

/// What is mounted.
pub(super) struct Disks {
    shown: Shown,
    mounts: Vec<Mount>,
}

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    device: String,
    point: String,
}

/// The room on a disk, bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Disk {
    /// Where it is mounted.
    pub(super) point: String,
    pub(super) used: u64,
    /// For everyone.
    pub(super) free: u64,
}

impl Disks {
    pub(super) fn open() -> io::Result<Self> {
        let mut shown = Shown::open(SHOWN)?;
        let mounts = parse(&shown.all()?);
        Ok(Self { shown, mounts })
    }

    /// The disks now, by device and size; of a device that is mounted at several places the shortest.
    pub(super) fn room(&mut self) -> Vec<Disk> {
        // What is mounted is read when that has changed: it takes the kernel as long as all else that is read for a sample.
        if self.has_changed()
            && let Ok(text) = self.shown.all()
        {
            self.mounts = parse(&text);
        }
        let mut disks = BTreeMap::new();
        for mount in &self.mounts {
            let Ok(room) = statvfs(mount.point.as_str()) else {
                continue;
            };
            let total = room.f_frsize.saturating_mul(room.f_blocks);
            let free = room.f_frsize.saturating_mul(room.f_bavail);
            if total == 0 {
                continue;
            }
            let used = total.saturating_sub(free);
            let point = mount.point.clone();
            let disk = Disk { point, used, free };
            let shortest = disks
                .entry((mount.device.as_str(), total))
                .or_insert_with(|| disk.clone());
            if (disk.point.len(), &disk.point) < (shortest.point.len(), &shortest.point) {
                *shortest = disk;
            }
        }
        disks.into_values().collect()
    }

    /// Whether anything was mounted or unmounted since the last call (the kernel tells it as an exceptional condition). Where that
    /// cannot be asked it may have been.
    fn has_changed(&self) -> bool {
        let mut asked = [PollFd::new(self.shown.file(), PollFlags::PRI)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut asked, Some(&at_once)).is_err() || !asked[0].revents().is_empty()
    }
}

/// Lines of device, place, type and more.
fn parse(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (device, point, kind) = (fields.next()?, unescaped(fields.next()?), fields.next()?);
        let below = |place: &str| {
            let rest = point.strip_prefix(place);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        // What is below /run is as short-lived, but for what is plugged in.
        let left_out = LEFT_OUT.contains(&kind)
            || below("/sys")
            || below("/proc")
            || (below("/run") && !below("/run/media"));
        let device = device.to_string();
        (!left_out).then_some(Mount { device, point })
    };
    text.lines().filter_map(mount).collect()
}

/// A place as it is: the kernel shows what would break its lines as a backslash and three octal digits.
fn unescaped(shown: &str) -> String {
    let mut out = Vec::with_capacity(shown.len());
    let mut rest = shown.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after.get(..3).filter(|_| byte == b'\\');
        let value = escaped.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        out.push(value.unwrap_or(byte));
        rest = if value.is_some() { &after[3..] } else { after };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_told_from_what_only_looks_like_one() {
        let text = "\
proc /proc proc rw 0 0
/dev/mmcblk0p2 / ext4 rw,noatime 0 0
tmpfs /tmp tmpfs rw 0 0
/dev/mmcblk0p1 /boot/firmware vfat rw 0 0
/dev/sda1 /mnt/a\\040b\\134c ext4 rw 0 0
/dev/sdb1 /run/media/usb vfat rw 0 0
/dev/sdc1 /run/lock ext4 rw 0 0
/dev/sdd1 /runs ext4 rw 0 0
box:/export /mnt/far nfs4 rw 0 0
short
";
        let points: Vec<_> = parse(text).into_iter().map(|mount| mount.point).collect();
        assert_eq!(
            points,
            ["/", "/boot/firmware", "/mnt/a b\\c", "/run/media/usb", "/runs"]
        );
        assert_eq!(unescaped("a\\9b\\"), "a\\9b\\");
    }

    #[test]
    fn this_machine_s_disks_have_room_and_no_point_comes_twice() {
        let mut disks = Disks::open().unwrap();
        let first = disks.room();
        let mut points: Vec<_> = first.iter().map(|disk| disk.point.clone()).collect();
        points.dedup();
        assert_eq!(points.len(), first.len());
        let again: Vec<_> = disks.room().into_iter().map(|disk| disk.point).collect();
        assert_eq!(again, points);
    }
}
