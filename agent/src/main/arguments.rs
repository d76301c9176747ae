//! What the program is asked to do.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::ValueExt;
use lexopt::prelude::{Long, Short, Value};

pub(crate) const HELP: &str = "\
The Headwater edge agent: sensor readings to the relay, none lost on the way.

Usage: headwater-agent run --config FILE
       headwater-agent check --config FILE
       headwater-agent init [--output FILE] [--force]
       headwater-agent status [--json] [--socket PATH | --config FILE]
       headwater-agent journal inspect|verify|export [--json] (--dir DIR | --config FILE)
       headwater-agent enroll --config FILE [--url URL] [--token TOKEN | --token-file FILE] [--ca FILE | --pin PIN] [--wait SECONDS]
       headwater-agent enroll --config FILE (--csr FILE | --certificate FILE [--ca FILE])
       headwater-agent first-boot [--config FILE] [--boot DIR]... [--wait SECONDS]

Commands:
  run               samples, and sends until SIGTERM or SIGINT; SIGHUP reloads the settings
  check             tries the settings: reads each source once, reaches each broker, looks at clock and disk
  init              writes settings for this machine, with every key explained
  status            shows what a running agent does
  journal inspect   shows what waits on flash, beside a running agent or without one; nothing is changed
  journal verify    checks every record there; exit code 1 if one is damaged
  journal export    writes the readings that wait there as CSV
  enroll            makes the key, and gets its certificate from the relay, or by a signing request from an authority of your own
  first-boot        takes over headwater.toml from the boot partition, and enrols with the token in it; systemd runs it before the agent

Options:
  --config FILE     the settings; deploy/agent.toml shows all of them with their defaults
  --output FILE     where to; unset: standard output
  --force           also over a file that is there
  --json            as one JSON document; `journal export`: as a JSON document for each reading
  --dir DIR         the state directory, or the journal's folder in it
  --url URL         the relay's enrolment endpoint, https://host:8443; unset: enroll.url of the settings
  --token TOKEN     lets this agent in once. Other users of this machine can see arguments; --token-file FILE and
                    HEADWATER_AGENT_ENROLL__TOKEN they cannot
  --ca FILE         the endpoint's authority; with --certificate: the authorities to be trusted
  --pin PIN         that authority by its fingerprint: sha256:…
  --wait SECONDS    how long an endpoint that cannot be reached is tried; unset: 60
  --csr FILE        writes a signing request there
  --certificate FILE  takes over what an authority has made of it
  --boot DIR        where headwater.toml may lie; unset: /boot/firmware and /boot
  --socket PATH     the agent's status socket; unset: where its settings put it, or where systemd's unit does
  --help            this text
  --version         the version, and the target that it was built for

Environment:
  HEADWATER_AGENT_… overrides a key: HEADWATER_AGENT_UPLINK__BROKER is uplink.broker
  RUST_LOG          what is logged, to standard error: error, warn, info (default), debug

Exit codes: 0 stopped as asked, shown, or all well; 1 could not go on, no agent answers, or a check failed; 2 wrong arguments or settings.
";

/// What the arguments ask for.
#[derive(Debug, PartialEq)]
pub(crate) enum Call {
    Run {
        config: PathBuf,
    },
    Check {
        config: PathBuf,
    },
    Init {
        output: Option<PathBuf>,
        force: bool,
    },
    Status {
        config: Option<PathBuf>,
        socket: Option<PathBuf>,
        json: bool,
    },
    Journal {
        what: Look,
        config: Option<PathBuf>,
        dir: Option<PathBuf>,
        json: bool,
    },
    Enroll(Enroll),
    FirstBoot {
        config: PathBuf,
        boot: Vec<PathBuf>,
        wait: Duration,
    },
    Help,
    Version,
}

/// How to come by a certificate.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Enroll {
    pub(crate) config: PathBuf,
    pub(crate) url: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) pin: Option<String>,
    pub(crate) wait: Duration,
    pub(crate) csr: Option<PathBuf>,
    pub(crate) certificate: Option<PathBuf>,
}

/// What is wanted of a journal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Look {
    Inspect,
    Verify,
    Export,
}

const COMMANDS: [&str; 7] = [
    "run",
    "check",
    "init",
    "status",
    "journal",
    "enroll",
    "first-boot",
];
/// Where the unit of `deploy/systemd` looks for the settings.
const CONFIG: &str = "/etc/headwater/agent.toml";
/// Where Raspberry Pi OS mounts its boot partition: since Debian 12, and before.
const BOOT: [&str; 2] = ["/boot/firmware", "/boot"];
const WAIT: Duration = Duration::from_secs(60);

pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Call, lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut command: Option<String> = None;
    let (mut config, mut socket, mut output, mut dir) = (None, None, None, None);
    let mut look = None;
    let (mut enroll, mut boot, mut wait) = (Enroll::default(), Vec::new(), WAIT);
    let (mut json, mut force) = (false, false);
    // What was given, for the commands that do not know it.
    let mut given: Vec<&str> = Vec::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("help") | Short('h') => return Ok(Call::Help),
            Long("version") | Short('V') => return Ok(Call::Version),
            Long("config") | Short('c') => {
                given.push("--config");
                config = Some(PathBuf::from(parser.value()?));
            }
            Long("socket") => {
                given.push("--socket");
                socket = Some(PathBuf::from(parser.value()?));
            }
            Long("dir") => {
                given.push("--dir");
                dir = Some(PathBuf::from(parser.value()?));
            }
            Long("output") | Short('o') => {
                given.push("--output");
                output = Some(PathBuf::from(parser.value()?));
            }
            Long("url") => {
                given.push("--url");
                enroll.url = Some(parser.value()?.string()?);
            }
            Long("token") => {
                given.push("--token");
                enroll.token = Some(parser.value()?.string()?);
            }
            Long("token-file") => {
                given.push("--token-file");
                enroll.token_file = Some(PathBuf::from(parser.value()?));
            }
            Long("ca") => {
                given.push("--ca");
                enroll.ca = Some(PathBuf::from(parser.value()?));
            }
            Long("pin") => {
                given.push("--pin");
                enroll.pin = Some(parser.value()?.string()?);
            }
            Long("csr") => {
                given.push("--csr");
                enroll.csr = Some(PathBuf::from(parser.value()?));
            }
            Long("certificate") => {
                given.push("--certificate");
                enroll.certificate = Some(PathBuf::from(parser.value()?));
            }
            Long("boot") => {
                given.push("--boot");
                boot.push(PathBuf::from(parser.value()?));
            }
            Long("wait") => {
                given.push("--wait");
                wait = Duration::from_secs(parser.value()?.parse()?);
            }
            Long("json") => {
                given.push("--json");
                json = true;
            }
            Long("force") => {
                given.push("--force");
                force = true;
            }
            Value(word) if command.is_none() => {
                let word = word.to_string_lossy().into_owned();
                if !COMMANDS.contains(&&*word) {
                    let known = COMMANDS.join("`, `");
                    return Err(format!("unknown command {word:?}; the commands are `{known}`").into());
                }
                command = Some(word);
            }
            Value(word) if command.as_deref() == Some("journal") && look.is_none() => {
                look = Some(match &*word.to_string_lossy() {
                    "inspect" => Look::Inspect,
                    "verify" => Look::Verify,
                    "export" => Look::Export,
                    word => {
                        return Err(
                            format!("`journal` knows inspect, verify and export, not {word:?}").into(),
                        );
                    }
                });
            }
            other => return Err(other.unexpected()),
        }
    }
    let Some(command) = command else {
        return Err("there is no command".into());
    };
    let known: &[&str] = match &*command {
        "init" => &["--output", "--force"],
        "status" => &["--config", "--socket", "--json"],
        "journal" => &["--config", "--dir", "--json"],
        "enroll" if enroll.csr.is_some() => &["--config", "--csr"],
        "enroll" if enroll.certificate.is_some() => &["--config", "--certificate", "--ca"],
        "enroll" => &[
            "--config",
            "--url",
            "--token",
            "--token-file",
            "--ca",
            "--pin",
            "--wait",
        ],
        "first-boot" => &["--config", "--boot", "--wait"],
        _ => &["--config"],
    };
    if let Some(unknown) = given.iter().find(|option| !known.contains(option)) {
        return Err(format!("`{command}` has no option {unknown}").into());
    }
    match (&*command, config) {
        ("init", _) => Ok(Call::Init { output, force }),
        ("status", config) => Ok(Call::Status { config, socket, json }),
        ("journal", config) => match look {
            None => Err("`journal` needs inspect, verify or export".into()),
            Some(_) if config.is_none() && dir.is_none() => {
                Err("`journal` needs --dir DIR or --config FILE".into())
            }
            Some(what) => Ok(Call::Journal {
                what,
                config,
                dir,
                json,
            }),
        },
        ("first-boot", config) => Ok(Call::FirstBoot {
            config: config.unwrap_or_else(|| CONFIG.into()),
            boot: if boot.is_empty() {
                BOOT.map(PathBuf::from).to_vec()
            } else {
                boot
            },
            wait,
        }),
        ("enroll", Some(config)) => Ok(Call::Enroll(Enroll {
            config,
            wait,
            ..enroll
        })),
        ("check", Some(config)) => Ok(Call::Check { config }),
        (_, Some(config)) => Ok(Call::Run { config }),
        (command, None) => Err(format!("`{command}` needs --config FILE").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(line: &str) -> Result<Call, String> {
        let words = line.split_whitespace().map(OsString::from).collect();
        parse(words).map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_are_read_in_any_order() {
        let config = PathBuf::from("a.toml");
        for line in ["run --config a.toml", "--config=a.toml run", "run -c a.toml"] {
            let config = config.clone();
            assert_eq!(call(line), Ok(Call::Run { config }), "{line}");
        }
        let (config, socket) = (None, Some("s".into()));
        let json = true;
        let status = Call::Status { config, socket, json };
        assert_eq!(call("--json status --socket s"), Ok(status));
        let boot = ["/boot/firmware", "/boot"].map(PathBuf::from).to_vec();
        let (config, wait) = (
            PathBuf::from("/etc/headwater/agent.toml"),
            Duration::from_secs(60),
        );
        assert_eq!(call("first-boot"), Ok(Call::FirstBoot { config, boot, wait }));
        let Ok(Call::Enroll(enroll)) = call("enroll --token-file t --wait 5 -c a --pin sha256:0") else {
            panic!("it is understood");
        };
        assert_eq!(
            (enroll.wait.as_secs(), enroll.pin.as_deref()),
            (5, Some("sha256:0"))
        );
        assert_eq!(call("--help"), Ok(Call::Help));
        assert_eq!(call("run --version"), Ok(Call::Version));
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (line, part) in [
            ("", "no command"),
            ("run", "needs --config"),
            ("start", "unknown command \"start\""),
            ("run --confg a", "--confg"),
            ("run --config", "--config"),
            ("run again --config a", "again"),
            ("run --config a --json", "`run` has no option --json"),
            ("init --config a", "--config"),
            ("check", "needs --config"),
            ("--socket s run --config a", "--socket"),
            ("status --socket", "--socket"),
            ("enroll --url https://r", "needs --config"),
            ("enroll -c a --csr b --url https://r", "--url"),
            ("enroll -c a --wait soon", "soon"),
            ("first-boot --token x", "`first-boot` has no option --token"),
        ] {
            let error = call(line).err().unwrap();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
