//! The `headwater-relay` program: see the library.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use headwater_relay::serve::{self, Part};
use headwater_relay::settings::Settings;

/// The Headwater relay: sensor readings from MQTT through Kafka to dashboards.
#[derive(Parser)]
#[command(name = "headwater-relay", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bridge and gateway in one process.
    Run(Config),
    /// MQTT → Kafka.
    Bridge(Config),
    /// Kafka → WebSocket, and the dashboard page.
    Gateway(Config),
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

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<()> {
    let (config, parts): (Config, &[Part]) = match command {
        Command::Run(config) => (config, &[Part::Bridge, Part::Gateway]),
        Command::Bridge(config) => (config, &[Part::Bridge]),
        Command::Gateway(config) => (config, &[Part::Gateway]),
        #[cfg(feature = "demo")]
        Command::Demo(options) => {
            serve::log(&headwater_relay::demo::log_settings(&options))?;
            return run(headwater_relay::demo::run(options));
        }
    };
    let settings = Settings::load(config.config.as_deref())?;
    serve::log(&settings.log)?;
    run(serve::run(settings, parts))
}

fn run<E: Into<anyhow::Error>>(program: impl Future<Output = Result<(), E>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(program);
    // A request to an absent Kafka blocks its thread for seconds, and nobody waits for its answer any more.
    runtime.shutdown_background();
    ended.map_err(Into::into)
}
