//! The relay's enrolment endpoint.

use std::time::Duration;

use tokio::time::Instant;

use super::files::Files;
use crate::clock::Clock;
use crate::http::client::{self, Request, Url};
use crate::mqtt::socket::Ways;
use crate::{Config, config, task};

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest answer that is read, bytes: some certificates.
const ANSWER_MAX: usize = 64 * 1024;

/// Why there is no certificate. For a person.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// The endpoint has refused, and will refuse the same again.
    #[error("the relay refuses: {0}")]
    Refused(String),
    /// It could not be reached, or could not answer just now.
    #[error("{0}")]
    Later(String),
    /// Something on this machine.
    #[error("{0}")]
    Local(String),
}

impl Failure {
    /// Whether trying again makes no sense before somebody has done something.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

/// What the endpoint has signed.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Signed {
    /// In PEM, with what leads to its authority.
    pub(super) certificate: String,
    /// In PEM: those whom to trust.
    pub(super) authorities: String,
}

/// Has a request signed: with a token, or for renewal with the certificate that there is.
pub(super) async fn ask(
    config: &Config,
    files: &Files,
    token: Option<&str>,
    request: &[u8],
    clock: &Clock,
) -> Result<Signed, Failure> {
    let local = |why: &str| Failure::Local(format!("setting `enroll.url`: it {why}"));
    let address = config.enroll.url.as_deref().ok_or_else(|| local("is missing"))?;
    let path = if token.is_some() {
        "/v1/enroll"
    } else {
        "/v1/renew"
    };
    let url = Url::parse(&format!("{}{path}", address.trim_end_matches('/'))).map_err(local)?;
    let mut tls = config::Tls {
        ca_file: config.uplink.tls.ca_file.clone(),
        pin: config.enroll.pinned().map_err(local)?,
        ..config::Tls::default()
    };
    if tls.pin.is_some() {
        tls.ca_file = None;
    } else if let Some(text) = config.enroll.ca.clone() {
        let files = files.clone();
        let writing = task::blocking(move || files.endpoint_ca(&text)).await;
        let written = writing.map_err(|error| Failure::Local(error.to_string()))?;
        tls.ca_file = Some(written.map_err(Failure::Local)?);
    }
    if token.is_none() {
        (tls.cert_file, tls.key_file) = (Some(files.cert.clone()), Some(files.key.clone()));
    }
    let bearer = token.map(|token| format!("Bearer {token}"));
    let mut headers = vec![("Content-Type", "application/pkcs10")];
    headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
    let ways = Ways::new(&tls, clock.another());
    let by = Instant::now() + PATIENCE;
    let request = Request {
        method: "POST",
        url: &url,
        headers: &headers,
        body: request,
    };
    let later = |why: String| {
        let why = why
            .replace("uplink.tls.ca_file", "enroll.ca")
            .replace("uplink.broker", "enroll.url");
        Failure::Later(format!("{address}: {why}"))
    };
    let mut answer = client::ask(&ways, request, by).await.map_err(later)?;
    let body = answer.whole(ANSWER_MAX, by).await.map_err(later)?;
    if answer.status == 200 {
        return serde_json::from_slice(&body).map_err(|error| {
            later(format!(
                "its answer makes no sense ({error}); is it the relay's enrolment endpoint?"
            ))
        });
    }
    let told = serde_json::from_slice::<Refusal>(&body).map(|refusal| refusal.error);
    let why = told.unwrap_or_else(|_| "is it the relay's enrolment endpoint?".into());
    match answer.status {
        400..=499 if ![408, 425, 429].contains(&answer.status) => {
            Err(Failure::Refused(format!("{why} (status {})", answer.status)))
        }
        status => {
            let after = answer
                .header("retry-after")
                .map_or(String::new(), |after| format!(", not before {after} s"));
            Err(later(format!("{why} (status {status}{after})")))
        }
    }
}

#[derive(serde::Deserialize)]
struct Refusal {
    error: String,
}
