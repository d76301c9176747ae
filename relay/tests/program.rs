//! The program as it is started: wrong settings are refused before anything is, once, with an exit code of their own.

use std::process::{Command, Output};

fn relay(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater-relay"));
    command
        .args(arguments)
        .env("HEADWATER_RELAY_ADMIN__LISTEN", "127.0.0.1:0");
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn wrong_settings_end_it_before_anything_is_started_and_are_told_once() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("relay.toml");
    for (settings, fact) in [
        (
            "[gateway]\nlisten = '0.0.0.0:0'",
            "no gateway.keys or gateway.key_sets are configured",
        ),
        (
            "[[gateway.keys]]\nalgorithm = 'EdDSA'\nfile = '/nonexistent/key.pem'",
            "No such file or directory",
        ),
        (
            "[mqtt]\nuser = 'relay'\npassword_file = '/nonexistent/secret'",
            "No such file or directory",
        ),
        (
            "[kafka.secrets]\n'sasl.password' = '/nonexistent/secret'",
            "No such file or directory",
        ),
        ("[mqtt]\nbroker = 'ftp://x'", "ftp:// is not supported"),
        ("[mqtt]\nusername = 'relay'", "unknown key `username`"),
        ("[gateway]\nkeep_alive = '0s'", "allowed is 1s to 1day"),
        ("[log]\nlevel = 'loud'", "\"loud\" is not a level"),
        ("[kafka]\npartitions = 7", "7 is not a power of two"),
        (
            "[kafka]\nprefix = 'a b'",
            "\"a b\" is no beginning of a topic's name",
        ),
        (
            "[kafka.properties]\n'linger.mss' = '5'",
            "No such configuration property",
        ),
        (
            "[kafka.properties]\n'security.protocol' = 'SASL_PLAINTEXT'\n'sasl.mechanism' = 'CARRIER-PIGEON'",
            "CARRIER-PIGEON",
        ),
    ] {
        std::fs::write(&config, settings).unwrap();
        let output = relay(&["run", "--config", config.to_str().unwrap()])
            .output()
            .unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(2), "{settings}: {said}");
        assert_eq!(said.matches(fact).count(), 1, "{settings}: {said}");
        assert_eq!(said.lines().count(), 1, "{settings}: {said}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_told_once() {
    let output = relay(&["run", "--config", "/nonexistent/relay.toml"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output),
        "error: cannot read the configuration /nonexistent/relay.toml: No such file or directory (os error 2)\n"
    );
}

#[test]
fn options_of_a_command_may_follow_its_words() {
    for option in [
        ["--file", "/nonexistent/agent.toml"],
        ["--config", "/nonexistent/relay.toml"],
    ] {
        let words = ["command", "gw-01", "config", "apply"];
        let output = relay(&[&words[..], &option].concat()).output().unwrap();
        let said = text(&output);
        assert!(said.contains(option[1]), "{option:?} gave {said}");
    }
}

#[test]
fn what_comes_after_the_start_has_another_exit_code() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let output = relay(&["gateway"])
        .env(
            "HEADWATER_RELAY_ADMIN__LISTEN",
            taken.local_addr().unwrap().to_string(),
        )
        .output()
        .unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.matches("in use").count(), 1, "{said}");
}

#[test]
fn a_demo_whose_kafka_never_answers_says_so_and_fails() {
    let output = relay(&[
        "demo",
        "--port",
        "0",
        "--agents",
        "1",
        "--kafka",
        "127.0.0.1:1",
        "--for",
        "1s",
    ])
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        text(&output).contains("no answer yet from 127.0.0.1:1"),
        "{output:?}"
    );
}

#[test]
fn a_demo_whose_reader_goes_away_goes_on_to_its_end() {
    let mut demo = relay(&["demo", "--port", "0", "--agents", "1", "--for", "2s"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(demo.stdout.take());
    assert_eq!(demo.wait().unwrap().code(), Some(0));
}
