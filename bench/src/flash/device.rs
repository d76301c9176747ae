//! A block device of our own, whose counters the kernel keeps.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// A loop device with an ext4 of its own, mounted; both are gone when it is dropped.
pub(super) struct Device {
    device: String,
    mount: PathBuf,
    _folder: TempDir,
}

impl Device {
    /// One of so many MiB.
    pub(super) fn new(mebibytes: u64) -> Result<Self> {
        let folder = TempDir::new()?;
        let image = folder.path().join("image");
        File::create(&image)?.set_len(mebibytes * 1024 * 1024)?;
        let mount = folder.path().join("mount");
        fs::create_dir(&mount)?;
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(&image))
            .context("a loop device is needed, and root")?;
        let device = Self {
            device: device.trim().to_string(),
            mount,
            _folder: folder,
        };
        // Nothing is left to be done in the background.
        run(Command::new("mkfs.ext4")
            .args(["-q", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
            .arg(&device.device))?;
        run(Command::new("mount").arg(&device.device).arg(&device.mount))?;
        Ok(device)
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> &Path {
        &self.mount
    }

    /// Bytes that were written to it, everything that waits to be written among them.
    pub(super) fn written(&self) -> Result<u64> {
        rustix::fs::syncfs(File::open(&self.mount)?)?;
        let name = self.device.trim_start_matches("/dev/");
        let stat = fs::read_to_string(format!("/sys/block/{name}/stat"))?;
        // Documentation/block/stat.rst: the seventh field is sectors of 512 bytes written.
        let sectors: u64 = stat
            .split_whitespace()
            .nth(6)
            .context("no seventh field")?
            .parse()?;
        Ok(sectors * 512)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.mount).status();
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
