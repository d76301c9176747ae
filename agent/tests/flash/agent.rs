//! The program with a journal in a directory of the test's choice, and a broker that is never there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use headwater_agent::{AgentStats, Status};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(90);

/// The program, with arguments.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater-agent"));
    command
        .env_remove("RUST_LOG")
        .args(arguments)
        .stdin(Stdio::null());
    command
}

/// `headwater-agent journal`: its exit code, what it shows, what it says.
pub(crate) fn journal(arguments: &[&str], state: &Path) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = program(&["journal"])
        .args(arguments)
        .arg("--dir")
        .arg(state)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// What `journal export` has: readings, and those that are lost. Numbers of each stream follow one another without a hole, but for loss.
pub(crate) fn exported(state: &Path) -> (u64, u64) {
    let (code, out, said) = journal(&["export"], state);
    assert_eq!(code, Some(0), "{said}");
    let readings = out.lines().count() as u64 - 1;
    let lost = said.trim().rsplit_once("readings; ").unwrap().1;
    let lost = lost.split(' ').next().unwrap().parse().unwrap();
    assert!(said.starts_with(&format!("{readings} readings")), "{said}");
    let mut last = (String::new(), 0);
    for line in out.lines().skip(1) {
        let mut fields = line.split(',');
        let (stream, seq) = (fields.next().unwrap(), fields.next().unwrap().parse().unwrap());
        if stream == last.0 && lost == 0 {
            assert!(seq == last.1 || seq == last.1 + 1, "{} is missing", last.1 + 1);
        }
        last = (stream.to_string(), seq);
    }
    (readings, lost)
}

/// A running agent; killed when a test fails.
pub(crate) struct Agent {
    child: Child,
    folder: tempfile::TempDir,
    log: PathBuf,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Settings of an agent that writes every batch at once.
pub(crate) fn settings(folder: &Path, state: &Path, source: &str) -> PathBuf {
    let config = folder.join("agent.toml");
    let text = format!(
        "device = 'gw-01'\nstate_dir = '{}'\n[uplink]\nbroker = 'mqtt://127.0.0.1:9'\n[batch]\nage = '500ms'\n\
         [journal]\nsync_after = '0s'\n[control]\nsocket = '{}'\n[[source]]\n{source}\n",
        state.display(),
        folder.join("agent.sock").display()
    );
    fs::write(&config, text).unwrap();
    config
}

impl Agent {
    pub(crate) fn start(state: &Path, source: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = settings(folder.path(), state, source);
        let log = folder.path().join("log");
        let child = program(&["run", "--config", config.to_str().unwrap()])
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, folder, log }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn stats(&self) -> Option<AgentStats> {
        let socket = self.folder.path().join("agent.sock");
        let shown = program(&["status", "--json", "--socket"]).arg(socket).output();
        let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
        Some(Status::from_json(&shown).ok()?.stats)
    }

    /// Waits until the figures are as asked for.
    pub(crate) fn until(&mut self, what: &str, done: impl Fn(&AgentStats) -> bool) -> AgentStats {
        let until = Instant::now() + LIMIT;
        loop {
            let stats = self.stats();
            if let Some(stats) = stats.filter(&done) {
                return stats;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{what}: it has ended\n{}", self.log());
            assert!(Instant::now() < until, "{what}: {stats:#?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    /// Stops it as a service manager does, and returns its log.
    pub(crate) fn stop(mut self) -> String {
        self.signal("-TERM");
        let until = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "it does not end\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(status.code(), Some(0), "{}", self.log());
        self.log()
    }
}

/// Waits until something is so.
pub(crate) fn wait_for(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The number in front of `words` in the last line that has them; 0: none has.
pub(crate) fn told(log: &str, words: &str) -> u64 {
    let line = log.lines().rev().find_map(|line| line.split_once(words));
    line.map_or(0, |(before, _)| {
        let number = before.trim().rsplit(' ').next().unwrap();
        number.parse().unwrap()
    })
}
