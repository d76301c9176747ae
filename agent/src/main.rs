//! The `headwater-agent` program: see the library.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use headwater_agent::{Agent, AgentHandle, Config};
use tokio::signal::unix::{SignalKind, signal};

const HELP: &str = "\
The Headwater edge agent: sensor readings to the relay, none lost on the way.

Usage: headwater-agent run --config FILE

Commands:
  run               samples, and sends until SIGTERM or SIGINT; SIGHUP reloads the settings

Options:
  --config FILE     the settings; deploy/agent.toml shows all of them with their defaults
  --help            this text
  --version         the version

Environment:
  HEADWATER_AGENT_… overrides a key: HEADWATER_AGENT_UPLINK__BROKER is uplink.broker
  RUST_LOG          what is logged, to standard error: error, warn, info (default), debug

Exit codes: 0 stopped as asked; 1 could not go on; 2 wrong arguments or settings.
";

/// What the arguments ask for.
enum Call {
    Run { config: PathBuf },
    Help,
    Version,
}

fn main() -> ExitCode {
    // The library of the MQTT client logs as errors what is retried anyway.
    let filter = env_logger::Env::default().default_filter_or("info,rumqttc=off");
    env_logger::Builder::from_env(filter).format_target(false).init();
    match arguments(std::env::args_os().skip(1).collect()) {
        Err(error) => {
            eprintln!("headwater-agent: {error}; see headwater-agent --help");
            ExitCode::from(2)
        }
        Ok(Call::Help) => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        Ok(Call::Version) => {
            println!("headwater-agent {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Ok(Call::Run { config }) => match Config::load(&config).and_then(Agent::new) {
            Err(error) => {
                eprintln!("headwater-agent: {error}");
                ExitCode::from(2)
            }
            Ok((agent, handle)) => match run(agent, &handle, &config) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("headwater-agent: {error:#}");
                    ExitCode::FAILURE
                }
            },
        },
    }
}

fn arguments(arguments: Vec<OsString>) -> Result<Call, lexopt::Error> {
    use lexopt::prelude::{Long, Short, Value, ValueExt};
    let mut parser = lexopt::Parser::from_args(arguments);
    let (mut config, mut run) = (None, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("help") | Short('h') => return Ok(Call::Help),
            Long("version") | Short('V') => return Ok(Call::Version),
            Long("config") | Short('c') => config = Some(parser.value()?),
            Value(command) if !run && command == "run" => run = true,
            Value(command) if !run => {
                return Err(format!("unknown command {:?}; the command is `run`", command.string()?).into());
            }
            other => return Err(other.unexpected()),
        }
    }
    match (run, config) {
        (true, Some(config)) => Ok(Call::Run {
            config: Path::new(&config).to_path_buf(),
        }),
        (true, None) => Err("`run` needs --config FILE".into()),
        (false, _) => Err("there is no command".into()),
    }
}

fn run(agent: Agent, handle: &AgentHandle, config: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let shutdown = async {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            log::info!("{name}: stopping");
        };
        tokio::select! {
            result = agent.run(shutdown) => Ok(result?),
            never = reload_on(SignalKind::hangup(), handle, config) => never,
        }
    });
    // A name server that does not answer must not hold up the end.
    runtime.shutdown_background();
    result
}

/// Reloads the settings whenever the signal comes.
async fn reload_on(kind: SignalKind, handle: &AgentHandle, config: &Path) -> anyhow::Result<()> {
    let mut hangup = signal(kind).context("cannot listen for SIGHUP")?;
    loop {
        hangup.recv().await;
        let path = config.to_path_buf();
        let config = tokio::task::spawn_blocking(move || Config::load(&path)).await?;
        match config {
            // The agent itself says how it went.
            Ok(config) => drop(handle.reload(config).await),
            Err(error) => log::error!("SIGHUP: {error}; the settings stay as they were"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(line: &str) -> Result<Call, String> {
        let words = line.split_whitespace().map(OsString::from).collect();
        arguments(words).map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_are_read_in_any_order() {
        for line in ["run --config a.toml", "--config=a.toml run", "run -c a.toml"] {
            assert!(
                matches!(call(line), Ok(Call::Run { config }) if config == Path::new("a.toml")),
                "{line}"
            );
        }
        assert!(matches!(call("--help"), Ok(Call::Help)));
        assert!(matches!(call("run --version"), Ok(Call::Version)));
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
        ] {
            let error = call(line).err().unwrap();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
