//! A serial line between two programs on this machine: socat with a pseudo terminal at each end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Plugged in as long as it lives; its ends keep their paths when it is plugged in again.
pub(in crate::source) struct Cable {
    socat: Option<Child>,
    dir: TempDir,
}

impl Cable {
    pub(in crate::source) fn plugged() -> Self {
        let mut cable = Self {
            socat: None,
            dir: TempDir::new().unwrap(),
        };
        cable.plug();
        cable
    }

    pub(in crate::source) fn agent_end(&self) -> PathBuf {
        self.dir.path().join("agent")
    }

    pub(in crate::source) fn device_end(&self) -> PathBuf {
        self.dir.path().join("device")
    }

    pub(in crate::source) fn plug(&mut self) {
        self.unplug();
        let end = |path: &Path| format!("pty,rawer,link={}", path.display());
        let socat = Command::new("socat")
            .args([end(&self.agent_end()), end(&self.device_end())])
            .stderr(Stdio::null())
            .spawn()
            .expect("socat is missing; `scripts/test --only packages` installs it");
        self.socat = Some(socat);
        let limit = Instant::now() + Duration::from_secs(20);
        while !(self.agent_end().exists() && self.device_end().exists()) {
            assert!(Instant::now() < limit, "socat makes no pseudo terminals");
            sleep(Duration::from_millis(5));
        }
    }

    pub(in crate::source) fn unplug(&mut self) {
        if let Some(mut socat) = self.socat.take() {
            let _ = socat.kill();
            let _ = socat.wait();
            // Killed, it leaves its links.
            let _ = fs::remove_file(self.agent_end());
            let _ = fs::remove_file(self.device_end());
        }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.unplug();
    }
}
