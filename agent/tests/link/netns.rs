//! A box of its own, as far as the network goes: a namespace (ip-netns(8)) with the agent's program in it, joined by a cable to this
//! machine, where the broker is. A cable is a pair of `veth`, which can be pulled, or a [`Wire`], which loses and delays packets.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use headwater_agent::Status;

use crate::agent;
use crate::port::free_port;
use crate::status::read_status;

/// Runs `ip` with these words.
fn ip(words: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(words.split_whitespace())
        .output()
        .map_err(|error| format!("`ip` is missing: {error}; apt-get install iproute2 (scripts/test does)"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "`ip {words}`: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

/// The namespace. Taken down, with all that is in it, when dropped.
pub(crate) struct Namespace {
    name: String,
    /// The end of the cable at this machine.
    near: String,
    /// The end of the cable in the namespace.
    far: String,
    /// This machine's address on the cable.
    pub(crate) address: String,
    port: u16,
    folder: tempfile::TempDir,
    wire: Option<Wire>,
    program: Option<Child>,
}

/// What stands in front of the process id in the names of namespaces: what a killed test left behind is known by it.
const PREFIX: &str = "headwater-test-";

impl Namespace {
    /// With a pair of `veth` as cable.
    pub(crate) fn with_veth() -> Self {
        Self::new(|name, near, far| {
            ip(&format!("link add {near} type veth peer name {far} netns {name}"))?;
            Ok(None)
        })
    }

    /// With a wire whose packets pass through a program of the test's.
    pub(crate) fn with_wire() -> Self {
        Self::new(|name, near, far| {
            let wire = Wire::start(near, far);
            ip(&format!("link set {far} netns {name}"))?;
            Ok(Some(wire))
        })
    }

    fn new(join: impl FnOnce(&str, &str, &str) -> Result<Option<Wire>, String>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "this test makes network namespaces and needs root: run the tests as root (CI does), or under \
             `unshare --user --map-root-user --net --mount`"
        );
        let (id, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        sweep();
        let name = format!("{PREFIX}{id}-{count}");
        let (near, far) = (format!("hw{id}n{count}"), format!("hw{id}f{count}"));
        // Of the range for tests of networks (RFC 2544), four addresses for each cable.
        let subnet = u32::from_be_bytes([198, 18, 0, 0]) + (id.wrapping_mul(8) + count) % (1 << 15) * 4;
        let address = |host| std::net::Ipv4Addr::from(subnet + host).to_string();
        let mut namespace = Self {
            address: address(1),
            port: free_port(),
            folder: tempfile::tempdir().unwrap(),
            wire: None,
            program: None,
            name,
            near,
            far,
        };
        let Self { name, near, far, .. } = &namespace;
        let made = ip(&format!("netns add {name}"))
            .and_then(|()| join(name, near, far))
            .unwrap_or_else(|why| {
                panic!("{why}; this test needs root, and a kernel with namespaces, veth and tun")
            });
        for words in [
            format!("address add {}/30 dev {near}", address(1)),
            format!("link set {near} up"),
            format!("-n {name} address add {}/30 dev {far}", address(2)),
            format!("-n {name} link set {far} up"),
            format!("-n {name} link set lo up"),
        ] {
            ip(&words).unwrap();
        }
        namespace.wire = made;
        namespace
    }

    /// The cable is pulled out of this machine: nobody in the box is told, not even by a packet. Or it is put in again.
    pub(crate) fn pull(&self, out: bool) {
        let state = if out { "down" } else { "up" };
        ip(&format!("link set {} {state}", self.near)).unwrap();
    }

    /// The box's own interface is taken down, and its route with it; or it is up again.
    pub(crate) fn take_down(&self, down: bool) {
        let state = if down { "down" } else { "up" };
        ip(&format!("-n {} link set {} {state}", self.name, self.far)).unwrap();
    }

    /// How packets fare on the wire from now on.
    pub(crate) fn wire(&mut self, loss_percent: u32, delay_ms: u32, jitter_ms: u32) {
        let wire = self.wire.as_mut().unwrap();
        writeln!(wire.orders, "{loss_percent} {delay_ms} {jitter_ms}").unwrap();
    }

    /// What a broker's settings need so that it listens at this end of the cable.
    pub(crate) fn listener(&self) -> String {
        format!("allow_anonymous true\nlistener {} {}\n", self.port, self.address)
    }

    /// The broker as the box sees it.
    pub(crate) fn broker(&self) -> String {
        format!("mqtt://{}:{}", self.address, self.port)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn socket(&self) -> PathBuf {
        self.folder().join("state/agent.sock")
    }

    /// Starts the agent's program in the box.
    pub(crate) fn run(&mut self, settings: &str) {
        let config = self.folder().join("agent.toml");
        std::fs::write(&config, settings).unwrap();
        let log = File::create(self.folder().join("log")).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.name])
            .arg(agent::path())
            .args(["run", "--config"])
            .arg(&config)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        self.program = Some(child.unwrap());
    }

    /// What the agent tells of itself.
    pub(crate) async fn status(&self) -> Option<Status> {
        read_status(self.socket()).await
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(mut program) = self.program.take() {
            let _ = program.kill();
            let _ = program.wait();
        }
        self.wire = None;
        let _ = ip(&format!("netns delete {}", self.name));
    }
}

/// Takes down what tests left behind that were killed.
fn sweep() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let id = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if id.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}

/// A cable whose packets a program carries from one end to the other (`wire.py`): it can lose and delay them. The kernel's own means for
/// that (`netem`) is not in every kernel.
struct Wire {
    process: Child,
    orders: ChildStdin,
}

impl Wire {
    fn start(near: &str, far: &str) -> Self {
        let mut process = Command::new("python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/link/wire.py"))
            .args([near, far])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("python3: {error}; apt-get install python3 (scripts/test does)"));
        let mut line = String::new();
        let out = process.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        assert_eq!(
            line.trim(),
            "ready",
            "wire.py makes two tun devices: it needs root, and /dev/net/tun"
        );
        Self {
            orders: process.stdin.take().unwrap(),
            process,
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
