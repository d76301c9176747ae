//! Mosquitto on a free port of the loopback, with a folder of its own, stopped when dropped.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::port::free_port;

/// Debian's place for it.
const BINARY: &str = "/usr/sbin/mosquitto";

pub(crate) struct Mosquitto {
    folder: TempDir,
    port: u16,
    process: Option<Child>,
}

impl Mosquitto {
    /// Ready to start; nothing listens yet.
    pub(crate) fn stopped() -> Self {
        assert!(
            Path::new(BINARY).exists(),
            "{BINARY} is missing: these tests need a real broker; apt-get install mosquitto (scripts/test does)"
        );
        let broker = Self {
            folder: tempfile::tempdir().unwrap(),
            port: free_port(),
            process: None,
        };
        broker.configure("allow_anonymous true\n");
        broker
    }

    pub(crate) fn started() -> Self {
        let mut broker = Self::stopped();
        broker.start();
        broker
    }

    /// Only `user` with `password` may connect.
    pub(crate) fn with_user(user: &str, password: &str) -> Self {
        let mut broker = Self::stopped();
        let file = broker.folder.path().join("passwords");
        let status = Command::new("mosquitto_passwd")
            .arg("-b")
            .arg("-c")
            .arg(&file)
            .args([user, password])
            .status();
        assert!(status.unwrap().success());
        broker.configure(&format!(
            "allow_anonymous false\npassword_file {}\n",
            file.display()
        ));
        broker.start();
        broker
    }

    /// Begins with settings of its plain listener; others may follow.
    pub(crate) fn configure(&self, rest: &str) {
        let text = format!(
            "listener {} 127.0.0.1\nuser root\npersistence false\n{rest}",
            self.port
        );
        std::fs::write(self.folder.path().join("mosquitto.conf"), text).unwrap();
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn address(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    pub(crate) fn start(&mut self) {
        let child = Command::new(BINARY)
            .arg("-c")
            .arg(self.folder.path().join("mosquitto.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let process = self.process.insert(child.unwrap());
        let until = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = process.try_wait().unwrap();
            assert!(ended.is_none(), "mosquitto ended at its start: {ended:?}");
            assert!(
                Instant::now() < until,
                "mosquitto does not listen on {}",
                self.port
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// As with -9: nothing is kept.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}
