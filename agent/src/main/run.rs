//! `headwater-agent run`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
#[cfg(feature = "update")]
use headwater_agent::update;
use headwater_agent::{Agent, AgentHandle};
use tokio::signal::unix::{SignalKind, signal};

use super::notify;

pub(crate) fn run(config: &Path) -> ExitCode {
    // The library of the MQTT client logs as errors what is retried anyway.
    let filter = env_logger::Env::default().default_filter_or("info,rumqttc=off");
    env_logger::Builder::from_env(filter).format_target(false).init();
    #[cfg(feature = "update")]
    update::launch(config);
    match Agent::from_file(config) {
        Err(error) => {
            #[cfg(feature = "update")]
            if update::gave_up(config, &error) {
                return restart();
            }
            eprintln!("headwater-agent: {error}");
            ExitCode::from(2)
        }
        Ok((agent, handle)) => match serve(agent, &handle) {
            Ok(()) => {
                #[cfg(feature = "update")]
                update::stopped(config);
                if handle.is_restarting() {
                    return restart();
                }
                ExitCode::SUCCESS
            }
            Err(error) => {
                #[cfg(feature = "update")]
                if update::gave_up(config, &error) {
                    return restart();
                }
                eprintln!("headwater-agent: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

/// Becomes a new agent, with the arguments and in the place of this one: so it works with and without a service manager.
fn restart() -> ExitCode {
    let error = headwater_agent::process::replace();
    eprintln!("headwater-agent: cannot start anew: {error}");
    ExitCode::FAILURE
}

fn serve(agent: Agent, handle: &AgentHandle) -> anyhow::Result<()> {
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
            notify::stopping();
        };
        tokio::select! {
            result = agent.run(shutdown) => Ok(result?),
            never = reload_on(SignalKind::hangup(), handle) => never,
            () = notify::watch(handle) => Ok(()),
        }
    });
    // A name server that does not answer must not hold up the end.
    runtime.shutdown_background();
    result
}

/// Reloads the settings whenever the signal comes.
async fn reload_on(kind: SignalKind, handle: &AgentHandle) -> anyhow::Result<()> {
    let mut hangup = signal(kind).context("cannot listen for SIGHUP")?;
    loop {
        hangup.recv().await;
        log::info!("SIGHUP: reading the settings again");
        notify::reloading(false);
        // The agent itself says how it went.
        let _ = handle.reload_file().await;
        notify::reloading(true);
    }
}
