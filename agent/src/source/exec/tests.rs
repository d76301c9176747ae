//! Real programs that misbehave as real programs do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use headwater_foreign::{Format, Settings};

use super::super::probe::Probe;
use super::*;

struct Script {
    folder: tempfile::TempDir,
    settings: ExecSource,
}

impl Script {
    /// A shell script of this body, run every 100 ms with a time limit as long.
    fn new(body: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script");
        // Written by another process: while a thread of this one forks, a file it has open for writing cannot be run.
        let text = format!("#!/bin/sh\n{body}\n");
        let source = folder.path().join("source");
        fs::write(&source, text).unwrap();
        fs::set_permissions(&source, fs::Permissions::from_mode(0o755)).unwrap();
        let status = std::process::Command::new("cp").arg(&source).arg(&path).status();
        assert!(status.unwrap().success());
        let settings = ExecSource {
            command: vec![path.display().to_string(), folder.path().display().to_string()],
            interval: Duration::from_millis(100),
            timeout: Duration::from_millis(100),
            dir: folder.path().into(),
            map: Settings {
                format: Format::Pairs,
                max_payload: headwater_config::ByteSize::kib(8),
                ..Settings::default()
            },
            ..ExecSource::default()
        };
        Self { folder, settings }
    }

    fn patient(mut self) -> Self {
        self.settings.interval = Duration::from_secs(20);
        self.settings.timeout = Duration::from_secs(20);
        // The first tick would be as far away.
        self.settings.interval = Duration::from_millis(500);
        self.settings.timeout = Duration::from_millis(500);
        self
    }

    fn persistent(mut self) -> Self {
        self.settings.persistent = true;
        self
    }

    fn start(&self) -> Probe {
        Probe::start(Exec::open(&self.settings).unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The process numbers that a script has written into file `name`.
    async fn pids(&self, name: &str, number: usize) -> Vec<i32> {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let text = fs::read_to_string(self.file(name)).unwrap_or_default();
            let pids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
            if pids.len() >= number {
                return pids;
            }
            assert!(Instant::now() < until, "{name}: {text:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn lives(pid: i32) -> bool {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    // A zombie whose parent has not looked yet has ended all the same.
    status.is_ok_and(|text| {
        !text
            .rsplit(')')
            .next()
            .unwrap_or("")
            .trim_start()
            .starts_with('Z')
    })
}

async fn ends(pid: i32) {
    let until = Instant::now() + Duration::from_secs(30);
    while lives(pid) {
        assert!(Instant::now() < until, "{pid} lives");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn output_is_readings_at_the_tick() {
    let script = Script::new("echo temp 21.37; echo hum 40").patient();
    let mut probe = script.start();
    let readings = probe.timed(4).await;
    let names: Vec<_> = readings.iter().map(|(_, reading)| reading.as_str()).collect();
    assert_eq!(names, ["temp=21.37", "hum=40", "temp=21.37", "hum=40"]);
    assert!(
        readings.iter().all(|(time, _)| time % 500_000 == 0),
        "{readings:?}"
    );
}

#[tokio::test]
async fn arguments_and_environment_are_what_the_settings_say() {
    let mut script = Script::new(r#"printf '{"args":"%s","env":"%s","cwd":"%s","in":"%s"}' "$2" "$(env | cut -d= -f1 | sort | tr '\n' ' ')" "$PWD" "$(cat)""#).patient();
    script.settings.map = Settings::default();
    script.settings.command.push("$(touch pwned); `x` *".into());
    script.settings.environment.insert("SENSOR".into(), "1".into());
    let mut probe = script.start();
    let readings = probe.readings(4).await;
    assert_eq!(readings[0], "args=\"$(touch pwned); `x` *\"");
    assert_eq!(readings[1], format!("cwd=\"{}\"", script.folder.path().display()));
    // The shell itself adds PWD, and dash on some systems OLDPWD.
    assert!(
        readings[2].starts_with("env=\"LANG ") && readings[2].contains("PATH PWD SENSOR"),
        "{readings:?}"
    );
    assert_eq!(readings[3], "in=\"\"");
    assert!(!script.file("pwned").exists());
}

#[tokio::test]
async fn a_failure_is_reported_with_its_status_and_the_last_line_it_complained() {
    let script =
        Script::new("echo first >&2; echo temp 1; echo 'bus error: no device' >&2; echo >&2; exit 3")
            .patient();
    let mut probe = script.start();
    probe
        .reports(1, "it failed (exit status: 3): \"bus error: no device\"")
        .await;
    probe.reports(2, "exit status: 3").await;
    assert!(probe.is_silent());
    let script = Script::new("kill -SEGV $$").patient();
    script.start().reports(1, "it failed (signal: 11").await;
}

#[tokio::test]
async fn rubbish_is_reported_and_costs_nothing_else() {
    let script = Script::new("head -c 200 /dev/urandom; echo; echo temp 4 5 6").patient();
    let probe = script.start();
    probe.reports(2, "").await;
    assert!(probe.output.meter().stats().readings == 0);
}

#[tokio::test]
async fn what_takes_too_long_is_ended_with_its_children() {
    let script = Script::new("sh -c 'echo $$ >>children; exec sleep 1000' & echo $$ >>parents; sleep 1000");
    let probe = script.start();
    probe.reports(2, "it took longer than timeout (100ms)").await;
    let (parents, children) = (script.pids("parents", 2).await, script.pids("children", 1).await);
    drop(probe);
    for pid in parents.into_iter().chain(children) {
        ends(pid).await;
    }
}

#[tokio::test]
async fn what_ignores_sigterm_is_killed_and_never_runs_twice() {
    let script = Script::new(
        "trap '' TERM\n\
         mkdir only-one || echo twice >>twice\n\
         echo $$ >>parents; sh -c 'echo $$ >>children; while :; do sleep 1; done' & while :; do sleep 1; done",
    );
    let probe = script.start();
    probe.reports(1, "longer than timeout").await;
    let pid = script.pids("parents", 1).await[0];
    let child = script.pids("children", 1).await[0];
    ends(pid).await;
    ends(child).await;
    fs::remove_dir(script.file("only-one")).unwrap();
    probe.reports(2, "longer than timeout").await;
    assert!(!script.file("twice").exists());
}

#[tokio::test]
async fn what_writes_without_end_is_ended() {
    let script = Script::new("echo $$ >>pids; exec cat /dev/zero").patient();
    let probe = script.start();
    probe
        .reports(1, "it wrote more than max_payload (8192 bytes)")
        .await;
    ends(script.pids("pids", 1).await[0]).await;
    // Complaints are read, kept short and thrown away.
    let script = Script::new("yes complaint >&2");
    script.start().reports(1, "timeout (100ms): \"complaint").await;
}

#[tokio::test]
async fn what_is_left_behind_in_the_background_is_killed() {
    let script =
        Script::new("sh -c 'echo $$ >>children; exec sleep 1000' & sleep 0.05; echo temp 1").patient();
    let mut probe = script.start();
    assert_eq!(probe.readings(1).await, ["temp=1"]);
    ends(script.pids("children", 1).await[0]).await;
}

#[tokio::test]
async fn who_leaves_the_group_and_keeps_the_pipe_open_delays_nothing() {
    let mut script =
        Script::new("setsid sh -c 'echo $$ >>escaped; exec sleep 1000' & sleep 0.05; echo temp 1").patient();
    script.settings.interval = Duration::from_secs(2);
    script.settings.timeout = Duration::from_secs(2);
    let mut probe = script.start();
    assert_eq!(probe.readings(1).await, ["temp=1"]);
    drop(probe);
    for pid in script.pids("escaped", 1).await {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

#[tokio::test]
async fn stopping_the_agent_ends_all() {
    let script =
        Script::new("echo $$ >>pids; sh -c 'echo $$ >>pids; exec sleep 1000' & sleep 1000").persistent();
    let probe = script.start();
    let pids = script.pids("pids", 2).await;
    assert!(pids.iter().all(|pid| lives(*pid)));
    drop(probe);
    for pid in pids {
        ends(pid).await;
    }
}

#[tokio::test]
async fn a_persistent_program_streams_lines_until_it_ends() {
    let script = Script::new(
        "for i in 1 2 3; do echo count $i; done; printf 'x%.0s' $(seq 9000); echo; echo 'out of memory' >&2; echo last 1; exit 2",
    )
    .persistent();
    let mut probe = script.start();
    assert_eq!(
        probe.readings(4).await,
        ["count=1", "count=2", "count=3", "last=1"]
    );
    let failure = probe.failure().await;
    assert!(
        failure.ends_with("it has ended (exit status: 2): \"out of memory\""),
        "{failure}"
    );
    assert_eq!(
        probe.output.meter().stats().errors,
        1,
        "the line that was too long"
    );
}

/// It has ended while its readings had to wait: a pipe holds more of them than one payload may.
#[tokio::test]
async fn what_a_persistent_program_wrote_last_is_taken_all_of_it() {
    let script = Script::new("i=0; while [ $i -lt 5000 ]; do i=$((i+1)); echo count $i; done; touch $1/done");
    let script = script.persistent();
    let mut probe = script.start();
    while !script.folder.path().join("done").exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let expected: Vec<_> = (1..=5000).map(|number| format!("count={number}")).collect();
    assert_eq!(probe.readings(5000).await, expected);
}

#[tokio::test]
async fn a_persistent_program_that_floods_is_slowed_down() {
    let script = Script::new("i=0; while :; do i=$((i+1)); echo count $i; done").persistent();
    let mut probe = Probe::limited(Exec::open(&script.settings).unwrap(), Some(20));
    let readings = probe.readings(220).await;
    let expected: Vec<_> = (1..=220).map(|number| format!("count={number}")).collect();
    assert_eq!(readings, expected, "in order, none left out");
    assert_eq!(probe.output.meter().stats().dropped_readings, 0);
}

#[tokio::test]
async fn what_cannot_be_started_fails_with_a_reason() {
    let mut script = Script::new("");
    script.settings.command = vec!["/nonexistent/program".into()];
    let failure = script.start().failure().await;
    assert!(
        failure.starts_with("/nonexistent/program: it cannot be started: No such file"),
        "{failure}"
    );
}

#[test]
fn settings_that_make_no_sense_are_refused_by_key() {
    let refused = |change: fn(&mut ExecSource)| {
        let mut settings = Script::new("").settings;
        change(&mut settings);
        Exec::open(&settings).err().unwrap().to_string()
    };
    for (error, part) in [
        (
            refused(|settings| settings.command.clear()),
            "`command`: it is missing",
        ),
        (
            refused(|settings| settings.command = vec!["sh".into()]),
            "`command`: \"sh\" is not an absolute path",
        ),
        (
            refused(|settings| settings.interval = Duration::from_millis(1)),
            "`interval`",
        ),
        (
            refused(|settings| settings.timeout = Duration::from_secs(60)),
            "`timeout`: 60s is not between 0 and interval (100ms)",
        ),
        (
            refused(|settings| {
                settings.environment.insert("A=B".into(), String::new());
            }),
            "`environment`",
        ),
    ] {
        assert!(error.contains(part), "{error}");
    }
}
