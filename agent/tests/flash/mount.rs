//! A small file system of the test's own.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// A mounted file system; unmounted when it is dropped.
pub(crate) struct Mount {
    folder: tempfile::TempDir,
    device: Option<String>,
}

impl Mount {
    fn new() -> Self {
        let root = fs::metadata("/proc/self").unwrap().uid() == 0;
        assert!(root, "this test mounts a file system of its own: run it as root");
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mount")).unwrap();
        Self { folder, device: None }
    }

    /// In memory, of so many KiB.
    pub(crate) fn memory(kibibytes: u64) -> Self {
        let mount = Self::new();
        let size = format!("size={kibibytes}k");
        run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &mount.text()]);
        mount
    }

    /// An ext4 on a loop device, which becomes read-only when it finds an error.
    pub(crate) fn ext4() -> Self {
        let mut mount = Self::new();
        let image = mount.folder.path().join("image");
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let device = run("losetup", &["--find", "--show", image.to_str().unwrap()]);
        let device = device.trim().to_string();
        run("mkfs.ext4", &["-q", &device]);
        run("mount", &["-o", "errors=remount-ro", &device, &mount.text()]);
        mount.device = Some(device);
        mount
    }

    /// What stands on the device of this file's inode is garbage from now on, and the file system goes on when it finds that.
    pub(crate) fn break_inode(&self, file: &Path) {
        let inode = fs::metadata(file).unwrap().ino();
        let block_size = rustix::fs::statvfs(file).unwrap().f_bsize;
        run("umount", &[&self.text()]);
        let place = run("debugfs", &["-R", &format!("imap <{inode}>"), self.device()]);
        let (_, place) = place.split_once("located at block ").unwrap();
        let (block, offset) = place.trim().split_once(", offset 0x").unwrap();
        let offset = u64::from_str_radix(offset, 16).unwrap();
        // The time of its last access: its checksum is wrong then.
        let at = block.parse::<u64>().unwrap() * block_size + offset + 8;
        // Whoever has made a mount namespace meanwhile (a container, say) may have this mount in it, and the kernel what is cached of it.
        let until = Instant::now() + Duration::from_secs(60);
        let device = loop {
            let exclusive = fs::File::options()
                .write(true)
                .custom_flags(rustix::fs::OFlags::EXCL.bits() as i32)
                .open(self.device());
            match exclusive {
                Ok(device) => break device,
                Err(error) => assert!(Instant::now() < until, "{}: {error}", self.device()),
            }
            thread::sleep(Duration::from_millis(50));
        };
        device.write_all_at(&[0xa5; 4], at).unwrap();
        device.sync_all().unwrap();
        drop(device);
        run("mount", &["-o", "errors=continue", self.device(), &self.text()]);
    }

    /// The loop device.
    pub(crate) fn device(&self) -> &str {
        self.device.as_deref().unwrap()
    }

    fn text(&self) -> String {
        self.path().to_str().unwrap().to_string()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("mount")
    }

    /// The state directory in it.
    pub(crate) fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    pub(crate) fn remount(&self, option: &str) {
        run("mount", &["-o", &format!("remount,{option}"), &self.text()]);
    }

    /// The file system finds an error in itself, as it does on a card that fails.
    pub(crate) fn fails(&self) {
        let device = self.device().trim_start_matches("/dev/");
        fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1").unwrap();
    }

    /// Takes all the room that is left.
    pub(crate) fn fill(&self) {
        let mut ballast = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path().join("ballast"))
            .unwrap();
        while ballast.write_all(&[1; 4096]).is_ok() {}
    }

    /// Gives so many bytes back.
    pub(crate) fn free(&self, bytes: u64) {
        let path = self.path().join("ballast");
        let length = fs::metadata(&path).unwrap().len();
        let ballast = fs::File::options().write(true).open(path).unwrap();
        ballast.set_len(length.saturating_sub(bytes)).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
        if let Some(device) = &self.device {
            let _ = Command::new("losetup").args(["--detach", device]).status();
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} cannot be run: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// The segments of a journal, the oldest first.
pub(crate) fn segments(state: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(state.join("journal")) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut segments: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|is| is == "segment"))
        .collect();
    segments.sort();
    segments
}
