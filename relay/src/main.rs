//! The `headwater-relay` program: see the library.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use headwater_relay::serve::{self, Part};
use headwater_relay::settings::Settings;

const EXIT_CODES: &str = "Exit codes: 0 stopped as asked; 1 could not go on; 2 wrong arguments or settings.";

/// The Headwater relay: sensor readings from MQTT through Kafka to dashboards.
#[derive(Parser)]
#[command(name = "headwater-relay", version, about, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bridge and gateway in one process.
    Run(Config),
    /// MQTT → Kafka. Any number of bridges share the work.
    Bridge(Config),
    /// Kafka → WebSocket, and the dashboard page.
    Gateway(Config),
    /// Kafka → Kafka: one record a reading, for programs that want rows. Any number may run.
    Rows(Config),
    /// Everything in one process, embedded, for trying out: nothing to install, nothing kept.
    #[cfg(feature = "demo")]
    Demo(headwater_relay::demo::Options),
}

#[derive(Args)]
struct Config {
    /// The settings (reference: deploy/relay.toml). Without it the defaults hold, and HEADWATER_RELAY_… variables.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What ends the program, and with it its exit code.
enum Failure {
    /// Wrong settings: nothing was started.
    Settings(anyhow::Error),
    /// It could not go on.
    Run(anyhow::Error),
}

fn main() -> ExitCode {
    let (error, code) = match dispatch(Cli::parse().command) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Settings(error)) => (error, 2),
        Err(Failure::Run(error)) => (error, 1),
    };
    // Where standard error is closed, the exit code is what is left to tell it.
    let _ = writeln!(std::io::stderr(), "error: {error:#}");
    ExitCode::from(code)
}

fn dispatch(command: Command) -> Result<(), Failure> {
    let (config, parts): (Config, &[Part]) = match command {
        Command::Run(config) => (config, &[Part::Bridge, Part::Gateway, Part::Rows]),
        Command::Bridge(config) => (config, &[Part::Bridge]),
        Command::Gateway(config) => (config, &[Part::Gateway]),
        Command::Rows(config) => (config, &[Part::Rows]),
        #[cfg(feature = "demo")]
        Command::Demo(options) => {
            serve::log(&headwater_relay::demo::log_settings(&options))
                .map_err(|error| Failure::Settings(error.into()))?;
            return run(headwater_relay::demo::run(options)).map_err(Failure::Run);
        }
    };
    let settings = prepare(&config, parts).map_err(Failure::Settings)?;
    run(serve::run(settings, parts)).map_err(Failure::Run)
}

/// Reads and checks the settings, and sets up logging, before anything is started.
fn prepare(config: &Config, parts: &[Part]) -> anyhow::Result<Settings> {
    let settings = Settings::load(config.config.as_deref())?;
    serve::log(&settings.log)?;
    serve::check(&settings, parts)?;
    Ok(settings)
}

fn run<E: Into<anyhow::Error>>(program: impl Future<Output = Result<(), E>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(program);
    // A request to an absent Kafka blocks its thread for seconds, and nobody waits for its answer any more.
    runtime.shutdown_background();
    ended.map_err(Into::into)
}
