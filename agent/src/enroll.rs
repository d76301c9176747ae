//! This agent's certificate: how it comes by one, and keeps it.
//!
//! The agent makes its key (ECDSA P-256: every broker's TLS takes it), which never leaves the machine. It asks the relay's endpoint for a
//! certificate with a token that lets it in once, and later, long before the certificate ends, with the certificate itself.
//!
//! **Power.** Each file is replaced whole, and in this order: key, authorities, certificate; then the token goes. Cut at any step, what is
//! missing is done at the next start, with the same key and the same token, to which the endpoint gives the same answer.
//!
//! **The key stays when the certificate is renewed.** So a renewal is one file replaced by one rename, and a certificate can never
//! meet a key that is not its own; and the endpoint signs a renewal for no other key than that which asked. A key that may be known to
//! somebody is answered by revoking it, and by enrolling anew: whoever has it could renew as well as the agent could.
//!
//! **The clock.** A certificate is renewed by the latest time known. Where this machine's clock is not known to be right, that is the
//! relay's, as soon as that has told it, and never before the certificate's own beginning.
//!
//! `plan` decides what is to be done when, `request` is what is signed, `files` is where it all is, `desk` is the endpoint.

mod desk;
pub(crate) mod files;
mod plan;
mod request;

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Clock;
use crate::{AgentHandle, Config, host, task};
use files::{Files, Held};
use plan::{Plan, Standing, Step};

pub use desk::Failure;

/// How often it is looked at what is there.
const LOOK: Duration = Duration::from_secs(60);
/// Between two attempts of a person who waits, or of a first boot.
const AGAIN: Duration = Duration::from_secs(3);

/// Enrols by these settings, which were checked: with the token that they hold, or that waits beside the key. Where the endpoint cannot
/// be reached it is tried again for as long as `wait`. Returns what was done, for a person.
///
/// # Errors
/// [`Failure`].
pub async fn enroll(config: &Config, wait: Duration) -> Result<String, Failure> {
    let (enrolling, clock) = (Enrolling::of(config)?, Clock::open(&config.clock, None));
    let by = Instant::now() + wait;
    loop {
        match enrolling.enroll(&clock).await {
            Err(Failure::Later(_)) if Instant::now() + AGAIN < by => tokio::time::sleep(AGAIN).await,
            done => return done,
        }
    }
}

/// A signing request for an authority of the operator's own, in PEM. A key is made if there is none.
///
/// # Errors
/// [`Failure::Local`].
pub fn request(config: &Config) -> Result<String, Failure> {
    let enrolling = Enrolling::of(config)?;
    let _lock = enrolling.files.lock().map_err(Failure::Local)?;
    let key = enrolling.files.key().map_err(Failure::Local)?;
    let request = request::request(&enrolling.device, &*key).map_err(Failure::Local)?;
    Ok(request::pem("CERTIFICATE REQUEST", &request))
}

/// Puts a certificate, with what leads to its authority, and the authorities to be trusted where the settings say, if it is that of this
/// agent's key.
///
/// # Errors
/// [`Failure::Local`].
pub fn install(config: &Config, certificate: &Path, authorities: Option<&Path>) -> Result<(), Failure> {
    let read = |path: &Path| {
        std::fs::read_to_string(path)
            .map_err(|error| Failure::Local(format!("cannot read {}: {error}", path.display())))
    };
    let authorities = authorities.map(read).transpose()?.unwrap_or_default();
    let files = Enrolling::of(config)?.files;
    let _lock = files.lock().map_err(Failure::Local)?;
    files
        .install(&read(certificate)?, &authorities)
        .map_err(Failure::Local)
}

/// Keeps the certificate for as long as the agent runs; never returns.
pub(crate) async fn keep(config: &Config, handle: AgentHandle, clock: Clock) {
    let Some(files) = Files::of(config) else {
        return std::future::pending().await;
    };
    let enrolling = match config.enroll.url.is_some().then(|| Enrolling::of(config)) {
        Some(Ok(enrolling)) => Some(enrolling),
        Some(Err(why)) => {
            log::error!("this agent cannot be enrolled: {why}");
            None
        }
        None => None,
    };
    let mut plan = Plan::new(getrandom::u32().unwrap_or(0));
    let mut said = String::new();
    loop {
        let of = files.clone();
        let Ok(held) = task::blocking(move || of.held()).await else {
            tokio::time::sleep(LOOK).await;
            continue;
        };
        handle.set_certificate_until(held.dates.map_or(0, |(_, until)| until));
        let Some(enrolling) = &enrolling else {
            tokio::time::sleep(LOOK).await;
            continue;
        };
        let standing = Standing {
            // That of the settings nobody takes away: it counts until there is a certificate.
            token: held.token || held.dates.is_none() && config.enroll.token().is_some(),
            dates: held.dates,
        };
        let (now, wall) = (Instant::now(), known_s(&clock));
        let result = match plan.next(now.into_std(), wall, &standing) {
            Step::Wait(pause) => {
                tokio::time::sleep(pause.min(LOOK)).await;
                continue;
            }
            Step::Stuck(why) => {
                let why = held
                    .why
                    .map_or_else(|| why.to_string(), |other| format!("{why} ({other})"));
                if said != why {
                    log::error!("{why}");
                    said = why;
                }
                tokio::time::sleep(LOOK).await;
                continue;
            }
            Step::Enroll => enrolling.enroll(&clock).await,
            Step::Renew => enrolling.renew(&clock).await,
        };
        said.clear();
        match result {
            Ok(done) => {
                log::info!("{done}");
                plan.succeeded();
            }
            Err(why) => {
                let pause = plan.failed(now.into_std(), wall, &standing, why.is_final());
                let left = standing.dates.map(|(_, until)| (until - wall) / 86_400);
                let left = left.map_or_else(String::new, |days| {
                    format!("; the certificate is good for {days} more days")
                });
                log::warn!(
                    "no certificate from the relay: {why}{left}. Next attempt in {}s",
                    pause.as_secs()
                );
                if why.is_final() && standing.dates.is_some_and(|(_, until)| until > wall) && held.token {
                    // It lets nobody in, and there is a certificate without it.
                    let of = files.clone();
                    let _ = task::blocking(move || of.drop_token()).await;
                }
            }
        }
    }
}

/// The latest time known, seconds since the Unix epoch.
fn known_s(clock: &Clock) -> i64 {
    let stats = clock.stats();
    let ahead_us = if stats.synchronised {
        0
    } else {
        stats.relay_ahead_us.unwrap_or(0).max(0)
    };
    clock.now_us().saturating_add(ahead_us) / 1_000_000
}

/// What enrolling goes by.
#[derive(Clone, Debug)]
struct Enrolling {
    device: String,
    files: Files,
    config: Config,
}

impl Enrolling {
    fn of(config: &Config) -> Result<Self, Failure> {
        let local = |why: String| Failure::Local(why);
        let device = config.device.clone().or_else(host::name);
        let device = device.ok_or_else(|| local(crate::Error::NoDevice.to_string()))?;
        headwater_proto::name::check_device(&device).map_err(|error| local(error.to_string()))?;
        if device.len() > request::NAME_MAX {
            return Err(local(format!(
                "the device's name has {} characters, and a certificate's name {} at most; set another `device`",
                device.len(),
                request::NAME_MAX
            )));
        }
        let files = Files::of(config).ok_or_else(|| {
            local("where the key and the certificate are to be put is not said: set uplink.tls.key_file and uplink.tls.cert_file".into())
        })?;
        Ok(Self {
            device,
            files,
            config: config.clone(),
        })
    }

    /// With the token; then it goes.
    async fn enroll(&self, clock: &Clock) -> Result<String, Failure> {
        let (files, device) = (self.files.clone(), self.device.clone());
        let in_settings = self.config.enroll.token().cloned();
        let (_lock, token, request) = blocking(move || {
            let lock = files.lock()?;
            let token = match files.token()? {
                Some(token) => Some(token),
                None => in_settings,
            };
            let request = request::request(&device, &*files.key()?)?;
            Ok((lock, token, request))
        })
        .await?;
        let token = token
            .ok_or_else(|| Failure::Local("there is no token to enrol with; set enroll.token".into()))?;
        let answer = desk::ask(&self.config, &self.files, Some(&token.0), &request, clock).await?;
        self.take(answer, true).await
    }

    /// With the certificate that there is.
    async fn renew(&self, clock: &Clock) -> Result<String, Failure> {
        let (files, device) = (self.files.clone(), self.device.clone());
        let (_lock, request) =
            blocking(move || Ok((files.lock()?, request::request(&device, &*files.key()?)?))).await?;
        let answer = desk::ask(&self.config, &self.files, None, &request, clock).await?;
        self.take(answer, false).await
    }

    async fn take(&self, answer: desk::Signed, enrolled: bool) -> Result<String, Failure> {
        let files = self.files.clone();
        let held = blocking(move || {
            files.install(&answer.certificate, &answer.authorities)?;
            if enrolled {
                files.drop_token()?;
            }
            Ok(files.held())
        })
        .await?;
        let what = if enrolled {
            "is enrolled"
        } else {
            "has renewed its certificate"
        };
        let until = match held {
            Held {
                dates: Some((_, until)),
                ..
            } => crate::mqtt::tls::day_of(until),
            _ => String::new(),
        };
        Ok(format!("{} {what}: it is good until {until}", self.device))
    }
}

/// Files may be on a disk that hangs.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, Failure> {
    let result = task::blocking(work)
        .await
        .map_err(|error| Failure::Local(error.to_string()))?;
    result.map_err(Failure::Local)
}
