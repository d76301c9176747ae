//! The program as a user meets it: arguments, refusals, signals.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::agent::program;
use crate::bridge::Bridge;
use crate::library::wait_for;
use crate::mosquitto::Mosquitto;

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = program().args(arguments).output().unwrap();
    (
        status.code(),
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    )
}

struct Settings(
    #[allow(dead_code, reason = "removed when dropped")] tempfile::TempDir,
    PathBuf,
);

fn settings(text: &str) -> Settings {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    std::fs::write(&path, text).unwrap();
    Settings(folder, path)
}

#[test]
fn help_and_version_go_to_standard_output() {
    let (code, out, _) = run(&["--help"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("headwater-agent run --config FILE"), "{out}");
    let (code, out, _) = run(&["--version"]);
    let mark = concat!(
        "headwater-agent ",
        env!("CARGO_PKG_VERSION"),
        " ",
        env!("TARGET"),
        "\n"
    );
    assert_eq!((code, out.as_str()), (Some(0), mark));
    // As it stands in the file of a release.
    let file = std::fs::read(env!("CARGO_BIN_EXE_headwater-agent")).unwrap();
    assert!(String::from_utf8_lossy(&file).contains(mark));
}

#[test]
fn what_is_wrong_is_said_in_one_line_with_exit_code_2() {
    let source = "[[source]]\ntype = 'simulated'\n";
    for (text, part) in [
        (
            format!("[uplink]\nbrokr = 'x'\n{source}"),
            "line 2: unknown key `brokr`; did you mean `broker`?",
        ),
        (
            format!("[batch]\nreadings = 'many'\n{source}"),
            "line 2: invalid type: string",
        ),
        (
            format!("[batch]\nage = 10\n{source}"),
            "line 2: invalid type: integer",
        ),
        ("this is no TOML".to_string(), "line 1"),
        (String::new(), "setting `source`: there is none"),
        (
            format!("device = 'a/b'\n{source}"),
            "device name \"a/b\": only A-Z",
        ),
        (
            format!("[uplink]\nuser = 'u'\npassword_file = '/nonexistent/p'\n{source}"),
            "cannot read the secret in /nonexistent/p",
        ),
        (
            "[[source]]\ntype = 'replay'\npath = '/nonexistent/t.csv'\n".into(),
            "source 1 (replay): cannot read /nonexistent/t.csv",
        ),
        (
            "[[source]]\ntype = 'replay'\npath = '/proc/cpuinfo'\n".into(),
            "source 1 (replay): /proc/cpuinfo: there is no column `time_ms`",
        ),
        (
            "[[source]]\ntype = 'replay'\nspeed = 'fast'\n".into(),
            "expected a number greater than 0 or \"max\"",
        ),
        (
            format!("device = 'a'\n{source}sensors = 0\n"),
            "source 1 (simulated): setting `sensors`: 0 is not in",
        ),
        ("[[source]]\ntype = 'sytem'\n".into(), "did you mean `system`"),
    ] {
        let Settings(_folder, path) = &settings(&text);
        let (code, out, error) = run(&["run", "--config", path.to_str().unwrap()]);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{text}: {error}");
        assert!(error.contains(part), "{text}: {error}");
        assert_eq!(error.trim_end().lines().count(), 1, "{text}: {error}");
    }
    for (arguments, part) in [
        (&["run"][..], "`run` needs --config FILE"),
        (
            &["run", "--config", "/nonexistent/agent.toml"],
            "cannot read the configuration /nonexistent/agent.toml",
        ),
        (&["run", "--config", "/"], "cannot read the configuration /"),
        (&["fly"], "unknown command \"fly\""),
    ] {
        let (code, _, error) = run(arguments);
        assert_eq!(code, Some(2), "{error}");
        assert!(
            error.contains(part) && error.trim_end().lines().count() == 1,
            "{error}"
        );
    }
}

#[test]
fn an_environment_variable_that_is_wrong_is_named() {
    let Settings(_folder, path) = &settings("[[source]]\ntype = 'simulated'\n");
    let output = program()
        .args(["run", "--config", path.to_str().unwrap()])
        .env("HEADWATER_AGENT_UPLINK__BROKR", "x")
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        error.contains("HEADWATER_AGENT_UPLINK__BROKR") && error.contains("`broker`"),
        "{error}"
    );
}

/// Waits for its end; returns exit code and what it logged.
fn wait(mut child: Child, limit: Duration) -> (Option<i32>, String) {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            let mut log = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                stderr.read_to_string(&mut log).unwrap();
            }
            return (status.code(), log);
        }
        if Instant::now() > until {
            child.kill().unwrap();
            panic!("still running after {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn terminate(child: &Child) {
    assert!(
        Command::new("kill")
            .args(["-TERM", &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
}

#[tokio::test]
async fn sigterm_sends_what_is_open_says_goodbye_and_ends_with_0() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    // A batch would stay open for an hour.
    let Settings(_folder, path) = &settings(&format!(
        "device = 'gw-01'\n[batch]\nage = '1h'\n[uplink]\nbroker = '{}'\n\
         [[source]]\ntype = 'simulated'\ninterval = '50ms'\n",
        broker.address()
    ));
    let child = program()
        .arg("run")
        .arg("--config")
        .arg(path)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("hello", || bridge.state(|state| !state.hellos.is_empty())).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(bridge.check_chains(), (0, 0));
    terminate(&child);
    let (code, log) = tokio::task::spawn_blocking(|| wait(child, Duration::from_secs(5)))
        .await
        .unwrap();
    assert_eq!(code, Some(0), "{log}");
    assert!(
        log.contains("SIGTERM: stopping") && !log.contains("ERROR"),
        "{log}"
    );
    wait_for("the goodbye", || {
        bridge.state(|state| !state.statuses.last().unwrap().1.online)
    })
    .await;
    let (taken, lost) = bridge.check_chains();
    assert!(taken >= 40 && lost == 0, "{taken} readings taken, {lost} lost");
    let last = bridge.state(|state| state.statuses.last().unwrap().1);
    assert!(
        last.waiting.is_some(),
        "the goodbye and not the Last Will: {last:?}"
    );
}

#[tokio::test]
async fn refused_credentials_are_said_and_tried_again() {
    let broker = Mosquitto::with_user("gw-01", "right");
    let Settings(folder, path) = &settings("");
    let (password, log) = (folder.path().join("password"), folder.path().join("log"));
    std::fs::write(&password, "wrong").unwrap();
    let text = format!(
        "device = 'gw-01'\n[uplink]\nbroker = '{}'\nuser = 'gw-01'\npassword_file = '{}'\n\
         [uplink.backoff]\nmin = '50ms'\nmax = '50ms'\n[[source]]\ntype = 'simulated'\n",
        broker.address(),
        password.display()
    );
    std::fs::write(path, text).unwrap();
    let child = program()
        .arg("run")
        .arg("--config")
        .arg(path)
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let said = || std::fs::read_to_string(&log).unwrap();
    let refusals = || said().matches("the broker refuses user \"gw-01\"").count();
    wait_for("two refusals", || refusals() >= 2).await;
    terminate(&child);
    let (code, _) = tokio::task::spawn_blocking(|| wait(child, Duration::from_secs(5)))
        .await
        .unwrap();
    let log = said();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("wrong"), "a password in the log: {log}");
}

#[tokio::test]
async fn sighup_reloads_the_file_and_a_wrong_one_is_refused() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let text = |rest: &str| {
        format!(
            "device = 'gw-01'\n[uplink]\nbroker = '{}'\n[[source]]\ntype = 'simulated'\n{rest}",
            broker.address()
        )
    };
    let Settings(folder, path) = &settings(&text(""));
    let log = folder.path().join("log");
    let child = program()
        .arg("run")
        .arg("--config")
        .arg(path)
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let hangup = || {
        let id = child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-HUP", &id])
                .status()
                .unwrap()
                .success()
        );
    };
    wait_for("hello", || bridge.state(|state| state.hellos.len() == 1)).await;
    std::fs::write(path, text("sensers = 3\n")).unwrap();
    hangup();
    let said = || std::fs::read_to_string(&log).unwrap();
    // A second signal while the first has not been seen would be none.
    wait_for("the refusal", || said().contains("stay as they were")).await;
    std::fs::write(path, text("sensors = 3\n")).unwrap();
    hangup();
    wait_for("hello with the new settings", || {
        bridge.state(|state| state.hellos.len() == 2)
    })
    .await;
    terminate(&child);
    let (code, _) = tokio::task::spawn_blocking(|| wait(child, Duration::from_secs(5)))
        .await
        .unwrap();
    let log = said();
    assert_eq!(code, Some(0), "{log}");
    assert!(
        log.contains("unknown key `sensers`; did you mean `sensors`?") && log.contains("stay as they were"),
        "{log}"
    );
    assert!(log.contains("settings reloaded: "), "{log}");
}
