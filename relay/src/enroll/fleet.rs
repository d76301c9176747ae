//! `headwater-relay fleet`: what an operator does about devices' certificates.

mod cards;
mod listing;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Subcommand;
use globset::Glob;
use ring::rand::{SecureRandom, SystemRandom};

use super::Error;
use super::authority::check_name;
use super::desk::{self, Desk, Unlisted};
use super::register::{Register, Token};
use super::settings::EnrollSettings;
pub use cards::Provision;

/// What is asked for.
#[derive(Debug, Subcommand)]
pub enum Options {
    /// Makes what SD cards need: a folder with headwater.toml for each device, and labels.csv. Overwrites nothing.
    Provision(Provision),
    /// Prints a token for a device whose card is not made here, for headwater-agent enroll.
    Token {
        /// Its name, or a glob of names of which it lets one in.
        device: String,
        /// How long it can be used.
        #[arg(long, value_name = "TIME", default_value = "7days", value_parser = expires)]
        expires: Duration,
    },
    /// Prints the list of revoked certificates, made anew, for a broker that does not read enroll.crl_file where it lies.
    Crl,
    /// Takes back the tokens of a device that nobody has used: of a card that was lost before its first boot.
    Withdraw {
        /// Its name, or the glob that the token is for.
        device: String,
    },
    /// Shows devices, until when their certificates are good, and tokens that wait.
    List {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Takes all certificates of a device back, and lets it get no others.
    Revoke {
        /// Its name.
        device: String,
        /// Also a name that the register does not know: of a certificate that another hand has signed.
        #[arg(long)]
        unknown: bool,
    },
    /// Lets a revoked device enrol again, with a new token. What was taken back stays so.
    Allow {
        /// Its name.
        device: String,
    },
}

/// How long a token can be used: by whom it is to be, and no longer than its card can lie about.
fn expires(text: &str) -> Result<Duration, String> {
    const LEAST: Duration = Duration::from_secs(60);
    const MOST: Duration = Duration::from_secs(3_650 * 86_400);
    let expires = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (LEAST..=MOST).contains(&expires) {
        return Ok(expires);
    }
    Err("a token is good for a minute to ten years: 7days, 12h".into())
}

/// Does it. Returns what is to be printed.
///
/// # Errors
/// [`Error`].
pub fn run(options: &Options, settings: &EnrollSettings) -> Result<String, Error> {
    let now_s = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs() as i64;
    match options {
        Options::Provision(what) => cards::provision(what, settings, now_s, &mut std::io::stdout().lock()),
        Options::Token { device, expires } => {
            let glob = Glob::new(device).map_err(|error| Error::Argument(error.to_string()))?;
            if glob.glob().chars().all(|letter| !"*?[{\\".contains(letter)) {
                check_name(device).map_err(Error::Argument)?;
            }
            let register = Register::open(&settings.state)?;
            let _lock = register.lock()?;
            let (text, token) = new_token(device, *expires, now_s)?;
            register.put_token(&desk::hash(&text), &token)?;
            Ok(text)
        }
        Options::Withdraw { device } => {
            let register = Register::open(&settings.state)?;
            let _lock = register.lock()?;
            let mut count = 0;
            for (hash, _) in (register.waiting()?.iter()).filter(|(_, token)| token.device == *device) {
                register.remove_token(hash)?;
                count += 1;
            }
            if count == 0 {
                return Err(Error::Argument(format!(
                    "no token for {device} waits. If somebody else has used it: headwater-relay fleet revoke {device}"
                )));
            }
            tracing::info!(%device, tokens = count, "withdrawn by the operator");
            Ok(format!("{count} token(s) for {device} let nobody in any more"))
        }
        Options::Crl => {
            let (lists, unlisted) = Desk::open(settings)?.crl(now_s)?;
            for one in &unlisted {
                tracing::warn!("{}", still_good(std::slice::from_ref(one), &one.device));
            }
            Ok(lists.trim_end().to_string())
        }
        Options::List { json } => listing::list(&Register::open(&settings.state)?, *json, now_s),
        Options::Revoke { device, unknown } => {
            check_name(device).map_err(Error::Argument)?;
            let desk = Desk::open(settings)?;
            if !unknown && !desk.knows(device)? {
                return Err(Error::Argument(format!(
                    "there is no device called {device} here, so nothing was revoked: see headwater-relay fleet list. (--unknown revokes a name whose \
                     certificate another hand has signed.)"
                )));
            }
            let (count, unlisted) = desk.revoke(device, now_s).map_err(|error| match desk.register.revoked(device) {
                Ok(Some(_)) => Error::Argument(format!(
                    "{device} is given no certificates any more, but the list of what is revoked is not written, so the broker still lets it in: \
                     {error}. Mend that, and do this again."
                )),
                _ => error,
            })?;
            tracing::info!(%device, certificates = count, "revoked by the operator");
            if !unlisted.is_empty() {
                return Err(Error::Argument(still_good(&unlisted, device)));
            }
            let list = settings.crl_file.as_deref().unwrap_or(Path::new("")).display();
            Ok(format!(
                "{device} is revoked: {count} certificate(s) taken back, no others are given. Put {list} on the broker, if it is not there, and \
                 restart it: connections that stand end then. (SIGHUP alone keeps out who comes anew.)"
            ))
        }
        Options::Allow { device } => {
            check_name(device).map_err(Error::Argument)?;
            let register = Register::open(&settings.state)?;
            let _lock = register.lock()?;
            if !register.allow(device)? {
                return Err(Error::Argument(format!("{device} is not revoked")));
            }
            tracing::info!(%device, "allowed by the operator");
            Ok(format!(
                "{device} may enrol again; it needs a new token: headwater-relay fleet token {device}"
            ))
        }
    }
}

/// What is to be said of certificates of a revoked device that are in no list.
fn still_good(unlisted: &[Unlisted], device: &str) -> String {
    let until_s = unlisted.iter().map(|one| one.until_s).max().unwrap_or(0);
    let issuer = unlisted.first().map_or("", |one| &one.issuer);
    format!(
        "{device} is given no certificates any more, but {} of those that it has was signed by {issuer}, whose key is not in enroll.ca_key_file, \
         and no other key can take it back: until {} the broker lets it in. Append that authority's certificate and key to enroll.ca_cert_file and \
         enroll.ca_key_file, behind the ones that sign now, and do this again: headwater-relay fleet revoke {device}",
        unlisted.len(),
        day(until_s)
    )
}

/// A new token, which the register does not know yet.
fn new_token(device: &str, expires: Duration, now_s: i64) -> Result<(String, Token), Error> {
    let mut secret = [0; 32];
    SystemRandom::new()
        .fill(&mut secret)
        .map_err(|_| Error::Argument("the system gives no random numbers".into()))?;
    let text = URL_SAFE_NO_PAD.encode(secret);
    let token = Token {
        device: device.to_string(),
        expires_s: now_s.saturating_add(i64::try_from(expires.as_secs()).unwrap_or(i64::MAX)),
        made_s: now_s,
    };
    Ok((text, token))
}

/// The day of a time, seconds since the Unix epoch.
fn day(seconds: i64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(seconds.clamp(0, 253_402_300_799).unsigned_abs());
    humantime::format_rfc3339_seconds(time).to_string()[..10].to_string()
}

#[cfg(test)]
mod tests;
