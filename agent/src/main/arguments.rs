//! What the program is asked to do.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::{Long, Short, Value};

pub(crate) const HELP: &str = "\
The Headwater edge agent: sensor readings to the relay, none lost on the way.

Usage: headwater-agent run --config FILE
       headwater-agent check --config FILE
       headwater-agent init [--output FILE] [--force]
       headwater-agent status [--json] [--socket PATH | --config FILE]
       headwater-agent journal inspect|verify|export [--json] (--dir DIR | --config FILE)

Commands:
  run               samples, and sends until SIGTERM or SIGINT; SIGHUP reloads the settings
  check             tries the settings: reads each source once, reaches each broker, looks at clock and disk
  init              writes settings for this machine, with every key explained
  status            shows what a running agent does
  journal inspect   shows what waits on flash, beside a running agent or without one; nothing is changed
  journal verify    checks every record there; exit code 1 if one is damaged
  journal export    writes the readings that wait there as CSV

Options:
  --config FILE     the settings; deploy/agent.toml shows all of them with their defaults
  --output FILE     where to; unset: standard output
  --force           also over a file that is there
  --json            as one JSON document; `journal export`: as a JSON document for each reading
  --dir DIR         the state directory, or the journal's folder in it
  --socket PATH     the agent's status socket; unset: where its settings put it, or where systemd's unit does
  --help            this text
  --version         the version

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
    Help,
    Version,
}

/// What is wanted of a journal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Look {
    Inspect,
    Verify,
    Export,
}

const COMMANDS: [&str; 5] = ["run", "check", "init", "status", "journal"];

pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Call, lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut command: Option<String> = None;
    let (mut config, mut socket, mut output, mut dir) = (None, None, None, None);
    let mut look = None;
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
        ] {
            let error = call(line).err().unwrap();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
