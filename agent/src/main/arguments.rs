//! What the program is asked to do.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::{Long, Short, Value};

pub(crate) const HELP: &str = "\
The Headwater edge agent: sensor readings to the relay, none lost on the way.

Usage: headwater-agent run --config FILE
       headwater-agent status [--json] [--socket PATH | --config FILE]

Commands:
  run               samples, and sends until SIGTERM or SIGINT; SIGHUP reloads the settings
  status            shows what a running agent does

Options:
  --config FILE     the settings; deploy/agent.toml shows all of them with their defaults
  --json            as one JSON document
  --socket PATH     the agent's status socket; unset: where its settings put it, or where systemd's unit does
  --help            this text
  --version         the version

Environment:
  HEADWATER_AGENT_… overrides a key: HEADWATER_AGENT_UPLINK__BROKER is uplink.broker
  RUST_LOG          what is logged, to standard error: error, warn, info (default), debug

Exit codes: 0 stopped as asked, or shown; 1 could not go on, or no agent answers; 2 wrong arguments or settings.
";

/// What the arguments ask for.
#[derive(Debug, PartialEq)]
pub(crate) enum Call {
    Run {
        config: PathBuf,
    },
    Status {
        config: Option<PathBuf>,
        socket: Option<PathBuf>,
        json: bool,
    },
    Help,
    Version,
}

const COMMANDS: [&str; 2] = ["run", "status"];

pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Call, lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut command: Option<String> = None;
    let (mut config, mut socket) = (None, None);
    let mut json = false;
    while let Some(argument) = parser.next()? {
        let for_status = command.as_deref().is_none_or(|command| command == "status");
        match argument {
            Long("help") | Short('h') => return Ok(Call::Help),
            Long("version") | Short('V') => return Ok(Call::Version),
            Long("config") | Short('c') => config = Some(PathBuf::from(parser.value()?)),
            Long("socket") if for_status => socket = Some(PathBuf::from(parser.value()?)),
            Long("json") if for_status => json = true,
            Value(word) if command.is_none() => {
                let word = word.to_string_lossy().into_owned();
                if !COMMANDS.contains(&&*word) {
                    let known = COMMANDS.join("`, `");
                    return Err(format!("unknown command {word:?}; the commands are `{known}`").into());
                }
                command = Some(word);
            }
            other => return Err(other.unexpected()),
        }
    }
    match command.as_deref() {
        Some("run") if socket.is_some() || json => {
            Err("--socket and --json are for the command `status`".into())
        }
        Some("run") => match config {
            Some(config) => Ok(Call::Run { config }),
            None => Err("`run` needs --config FILE".into()),
        },
        Some(_) => Ok(Call::Status { config, socket, json }),
        None => Err("there is no command".into()),
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
            ("run --config a --json", "--json"),
            ("--socket s run --config a", "--socket"),
            ("status --socket", "--socket"),
        ] {
            let error = call(line).err().unwrap();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
