//! The `headwater-relay` program: see the library.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use headwater_relay::serve::{self, Part};
use headwater_relay::settings::Settings;

const EXIT_CODES: &str = "Exit codes: 0 stopped as asked; 1 could not go on; 2 wrong arguments or settings.";
const EXIT_CODES_OF_COMMAND: &str = "Exit codes: 0 carried out; 1 no reply, or Kafka cannot be reached; 2 wrong arguments or settings; \
    3 the reply says that it was not carried out: failed, refused, expired, unknown device, unknown command.";
const EXIT_CODES_OF_FLEET: &str = "Exit codes: 0 done; 1 Kafka cannot be reached; 2 wrong arguments or settings; 3 not every device that was meant \
    has it.";
const EXIT_CODES_OF_DEADLETTER: &str = "Exit codes: 0 done; 1 Kafka cannot be reached, or there is no such letter; 2 wrong arguments or settings; \
    3 not every letter could be retried.";

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
    /// Reads the settings and what they name, says whether `run` would go by them, and starts nothing.
    #[command(after_help = EXIT_CODES)]
    Check(Config),
    /// Signs devices' certificates, for tokens and for renewal. It runs once; `run` does it too, where enroll.listen is set.
    EnrollServer(Config),
    /// Many devices: their tokens and certificates, what SD cards need, what is revoked; and updates of their agents.
    #[command(after_help = EXIT_CODES_OF_FLEET)]
    Fleet {
        #[command(subcommand)]
        options: Fleet,
        #[command(flatten)]
        config: Config,
    },
    /// Sends a command to a device, waits for the reply and prints it.
    #[command(name = "command", after_help = EXIT_CODES_OF_COMMAND)]
    Send {
        #[command(flatten)]
        options: headwater_relay::command::Options,
        #[command(flatten)]
        config: Config,
    },
    /// Makes a token for the gateway, or a key to sign tokens with: for trying out.
    Token {
        #[command(flatten)]
        options: headwater_relay::mint::Options,
        #[command(flatten)]
        config: Config,
    },
    /// Makes and signs what agents are told of a release.
    #[command(after_help = EXIT_CODES)]
    Release {
        #[command(subcommand)]
        options: headwater_relay::release::Options,
    },
    /// Looks at what could not be taken in, and tries it again.
    #[command(after_help = EXIT_CODES_OF_DEADLETTER)]
    Deadletter {
        #[command(subcommand)]
        options: headwater_relay::deadletter::Options,
        #[command(flatten)]
        config: Config,
    },
    /// Shows readings as they come, from a gateway's live channel: `tail --device 'gw-*' --metric temp --since 10m --json`.
    #[command(after_help = EXIT_CODES)]
    Tail(headwater_relay::tail::Options),
    /// Everything in one process, embedded, for trying out: nothing to install, nothing kept.
    #[cfg(feature = "demo")]
    Demo(headwater_relay::demo::Options),
}

#[derive(Subcommand)]
enum Fleet {
    #[command(flatten)]
    Devices(headwater_relay::enroll::fleet::Options),
    #[command(flatten)]
    Releases(headwater_relay::fleet::Options),
}

#[derive(Args)]
struct Config {
    /// The settings (reference: deploy/relay.toml). Without it the defaults hold, and HEADWATER_RELAY_… variables.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

/// What ends the program, and with it its exit code.
enum Failure {
    /// Wrong settings: nothing was started.
    Settings(anyhow::Error),
    /// It could not go on.
    Run(anyhow::Error),
    /// Something that was asked for was not done; what is printed says why.
    NotDone,
}

fn main() -> ExitCode {
    let (error, code) = match dispatch(Cli::parse().command) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Settings(error)) => (error, 2),
        Err(Failure::Run(error)) => (error, 1),
        Err(Failure::NotDone) => return ExitCode::from(3),
    };
    // Where standard error is closed, the exit code is what is left to tell it.
    let _ = writeln!(std::io::stderr(), "error: {error:#}");
    ExitCode::from(code)
}

fn dispatch(command: Command) -> Result<(), Failure> {
    let (config, parts): (Config, &[Part]) = match command {
        Command::Run(config) => (config, &[Part::Bridge, Part::Gateway, Part::Rows, Part::Enroll]),
        Command::Bridge(config) => (config, &[Part::Bridge]),
        Command::Gateway(config) => (config, &[Part::Gateway]),
        Command::Rows(config) => (config, &[Part::Rows]),
        Command::Check(config) => return check(&config),
        Command::EnrollServer(config) => (config, &[Part::Enroll]),
        Command::Fleet {
            options: Fleet::Devices(options),
            config,
        } => {
            let settings = prepare(&config, &[]).map_err(Failure::Settings)?;
            let state = &settings.enroll.state;
            // What would be done in a register of its own is nothing that the endpoint knows.
            if config.config.is_none() && !state.exists() {
                let why = format!(
                    "enroll.state: there is no {}: give the endpoint's settings with --config /etc/headwater/relay.toml",
                    state.display()
                );
                return Err(Failure::Settings(anyhow::Error::msg(why)));
            }
            let done = headwater_relay::enroll::fleet::run(&options, &settings.enroll);
            let done = done.map_err(|error| Failure::Settings(error.into()))?;
            if done.is_empty() {
                return Ok(());
            }
            return writeln!(std::io::stdout(), "{done}").map_err(|error| Failure::Run(error.into()));
        }
        Command::Fleet {
            options: Fleet::Releases(options),
            config,
        } => return fleet(&options, &config),
        Command::Send { options, config } => return send(&options, &config),
        Command::Token { options, config } => return token(&options, &config),
        Command::Release { options } => {
            let made =
                headwater_relay::release::run(&options).map_err(|error| Failure::Settings(error.into()))?;
            return writeln!(std::io::stdout(), "{made}").map_err(|error| Failure::Run(error.into()));
        }
        Command::Deadletter { options, config } => {
            let settings = prepare(&config, &[]).map_err(Failure::Settings)?;
            let done = headwater_relay::deadletter::run(&options, &settings);
            return match done.map_err(|error| Failure::Run(error.into()))? {
                true => Ok(()),
                false => Err(Failure::NotDone),
            };
        }
        Command::Tail(options) => return tail(&options),
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

fn check(config: &Config) -> Result<(), Failure> {
    let settings = prepare(config, &[Part::Bridge, Part::Gateway, Part::Rows, Part::Enroll])
        .map_err(Failure::Settings)?;
    let enroll = &settings.enroll;
    if enroll.listen.is_some() {
        headwater_relay::enroll::check_way(enroll).map_err(|error| Failure::Settings(error.into()))?;
    }
    let devices = enroll.listen.map(|listen| format!(", devices enrol at {listen}"));
    let said = format!(
        "ok: brokers {}, Kafka {} with topics {}.*; dashboards at {}, health and metrics at {}{}",
        settings.mqtt.broker,
        settings.kafka.bootstrap,
        settings.kafka.prefix,
        settings.gateway.listen,
        settings.admin.listen,
        devices.unwrap_or_default()
    );
    writeln!(std::io::stdout(), "{said}").map_err(|error| Failure::Run(error.into()))
}

fn token(options: &headwater_relay::mint::Options, config: &Config) -> Result<(), Failure> {
    let settings = prepare(config, &[]).map_err(Failure::Settings)?;
    let made = headwater_relay::mint::run(options, &settings.gateway.tokens);
    let made = made.map_err(|error| Failure::Settings(error.into()))?;
    writeln!(std::io::stdout(), "{made}").map_err(|error| Failure::Run(error.into()))
}

fn send(options: &headwater_relay::command::Options, config: &Config) -> Result<(), Failure> {
    use headwater_relay::command::{self, Error};
    let settings = prepare(config, &[]).map_err(Failure::Settings)?;
    match command::run(options, &settings.kafka) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::NotDone),
        Err(error @ Error::Argument(_)) => Err(Failure::Settings(error.into())),
        Err(error) => Err(Failure::Run(error.into())),
    }
}

fn fleet(options: &headwater_relay::fleet::Options, config: &Config) -> Result<(), Failure> {
    use headwater_relay::fleet::{self, Error};
    let settings = prepare(config, &[]).map_err(Failure::Settings)?;
    match fleet::run(options, &settings) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::NotDone),
        Err(error @ Error::Argument(_)) => Err(Failure::Settings(error.into())),
        Err(error) => Err(Failure::Run(error.into())),
    }
}

fn tail(options: &headwater_relay::tail::Options) -> Result<(), Failure> {
    let ended = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::Run(error.into()))
        .map(|runtime| {
            let ended = runtime.block_on(headwater_relay::tail::run(options));
            // A name that is being looked up keeps its thread.
            runtime.shutdown_background();
            ended
        })?;
    ended.map_err(|error| {
        if error.is_argument() {
            Failure::Settings(error.into())
        } else {
            Failure::Run(error.into())
        }
    })
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
