//! `headwater-agent enroll` and `headwater-agent first-boot`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use headwater_agent::config::Token;
use headwater_agent::{Config, enroll as certificate, first_boot as boot};

use super::arguments::Enroll;

pub(crate) fn enroll(how: Enroll) -> ExitCode {
    match certify(how) {
        Ok(done) => {
            println!("{done}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("headwater-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn certify(how: Enroll) -> anyhow::Result<String> {
    let mut config = Config::load(&how.config)?;
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    if let Some(path) = how.csr {
        config.check()?;
        std::fs::write(&path, certificate::request(&config)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        return Ok(format!(
            "{} is written. Have your authority sign it, then: headwater-agent enroll --config {} --certificate SIGNED",
            path.display(),
            how.config.display()
        ));
    }
    if let Some(path) = how.certificate {
        config.check()?;
        certificate::install(&config, &path, how.ca.as_deref())?;
        return Ok("the certificate is in its place; a running agent finds it by itself".into());
    }
    if how.url.is_some() {
        config.enroll.url = how.url;
    }
    if let Some(path) = &how.ca {
        (config.enroll.ca, config.enroll.pin) = (Some(read(path)?), None);
    }
    if how.pin.is_some() {
        (config.enroll.pin, config.enroll.ca) = (how.pin, None);
    }
    if let Some(path) = &how.token_file {
        config.enroll.token = Some(Token(read(path)?.trim().to_string()));
    }
    if let Some(token) = how.token {
        config.enroll.token = Some(Token(token));
    }
    config.check()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let done = runtime.block_on(certificate::enroll(&config, how.wait));
    // A name server that does not answer must not hold up the end.
    runtime.shutdown_background();
    Ok(done?)
}

pub(crate) fn first_boot(config: &Path, folders: &[PathBuf], wait: Duration) -> ExitCode {
    // As the agent, so that the journal shows both alike.
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"))
        .format_target(false)
        .init();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("headwater-agent: cannot start the event loop: {error}");
            return ExitCode::FAILURE;
        }
    };
    let well = runtime.block_on(boot::run(folders, config, wait));
    runtime.shutdown_background();
    if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
