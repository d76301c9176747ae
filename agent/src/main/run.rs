//! `headwater-agent run`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use headwater_agent::{Agent, AgentHandle, Config};
use tokio::signal::unix::{SignalKind, signal};

pub(crate) fn run(config: &Path) -> ExitCode {
    // The library of the MQTT client logs as errors what is retried anyway.
    let filter = env_logger::Env::default().default_filter_or("info,rumqttc=off");
    env_logger::Builder::from_env(filter).format_target(false).init();
    match Config::load(config).and_then(Agent::new) {
        Err(error) => {
            eprintln!("headwater-agent: {error}");
            ExitCode::from(2)
        }
        Ok((agent, handle)) => match serve(agent, &handle, config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("headwater-agent: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

fn serve(agent: Agent, handle: &AgentHandle, config: &Path) -> anyhow::Result<()> {
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
