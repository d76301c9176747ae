//! What can be wrong with TLS, for a person in the field.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::{self, AlertDescription, CertificateError};

use super::verifier::known;
use crate::clock::Clock;
use crate::config;

/// What is wrong with the files, before anything is sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot read {}: {source}; see [uplink.tls]", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} holds no {what} in PEM form: {why}; see [uplink.tls]", path.display())]
    NotPem {
        path: PathBuf,
        what: &'static str,
        why: String,
    },
    #[error("the key in {} is not that of the certificate in {}; see uplink.tls.key_file", key_file.display(), cert_file.display())]
    KeyMismatch { cert_file: PathBuf, key_file: PathBuf },
    #[error("the key in {} cannot be used: {why}", path.display())]
    Key { path: PathBuf, why: String },
    #[error("the certificate in {} cannot be used: {why:?}; it has to be X.509 of version 3 (openssl x509 -req makes one if it is given an -extfile)", path.display())]
    Unusable { path: PathBuf, why: CertificateError },
    #[error("this agent's certificate in {} {}; renew it: the file is read again at the next attempt", path.display(), dates(why))]
    Own { path: PathBuf, why: CertificateError },
    #[error("no certificate in {} can be an authority's; see uplink.tls.ca_file", .0.as_ref().map_or_else(|| "this system's store".into(), |path| path.display().to_string()))]
    NoAuthority(Option<PathBuf>),
    #[error(
        "this system has no certificates of authorities ({0}); install them (Debian: ca-certificates), or set uplink.tls.ca_file"
    )]
    NoSystemAuthorities(String),
    #[error("{0:?} is no name that a certificate can bear; see uplink.tls.server_name")]
    Name(String),
    #[error("the authorities cannot be used: {0}")]
    Verifier(String),
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// When a certificate is not valid.
fn dates(why: &CertificateError) -> String {
    match why {
        CertificateError::ExpiredContext { time, not_after } => {
            format!(
                "has expired on {} (this clock says {})",
                day(*not_after),
                day(*time)
            )
        }
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "is not valid before {} (this clock says {}: is it right?)",
            day(*not_before),
            day(*time)
        ),
        other => other.to_string(),
    }
}

/// An error of the socket's that is one of TLS.
pub(super) fn explain(error: &io::Error, settings: &config::Tls, clock: &Clock) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let authorities = match &settings.ca_file {
        Some(path) => format!("those in {}", path.display()),
        None if settings.pin.is_some() => "those that it sent, of which none is the one of enroll.pin".into(),
        None => "those that this system trusts (uplink.tls.ca_file is not set)".into(),
    };
    Some(match error {
        rustls::Error::InvalidCertificate(why) => {
            let what = match why {
                CertificateError::UnknownIssuer => format!(
                    "comes from an authority that is not among {authorities}; set uplink.tls.ca_file to that authority's certificate"
                ),
                CertificateError::NotValidForNameContext { expected, presented } => format!(
                    "is not for {}, but for {}; write that name in uplink.broker, or set uplink.tls.server_name",
                    expected.to_str(),
                    names(presented)
                ),
                CertificateError::NotValidForName => {
                    "is not for the host in uplink.broker; set uplink.tls.server_name to the name it bears"
                        .into()
                }
                CertificateError::ExpiredContext { .. } => {
                    format!("{}; it is for the broker's side to renew it", dates(why))
                }
                CertificateError::NotValidYetContext { .. } => dates(why),
                CertificateError::BadSignature => format!(
                    "is not signed by whom it says; is there another authority of the same name among {authorities}?"
                ),
                other => format!("cannot be accepted: {other}"),
            };
            format!("the broker's certificate {what}")
        }
        rustls::Error::AlertReceived(alert) => refused(*alert, settings, clock),
        rustls::Error::InvalidMessage(_) => {
            "what answers does not speak TLS; is the port one of the broker's TLS listeners?".into()
        }
        rustls::Error::PeerIncompatible(why) => {
            format!(
                "the broker and this agent have no form of TLS in common ({why:?}); this agent speaks TLS 1.2 and 1.3"
            )
        }
        other => format!("TLS: {other}"),
    })
}

/// What the broker's alert means here (RFC 8446, section 6.2).
fn refused(alert: AlertDescription, settings: &config::Tls, clock: &Clock) -> String {
    let Some(cert_file) = &settings.cert_file else {
        return match alert {
            AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity => {
                format!("the broker accepts no form of TLS that this agent speaks, 1.2 and 1.3 ({alert:?})")
            }
            AlertDescription::UnrecognisedName => {
                "the broker knows no host of the name asked for; see uplink.tls.server_name".into()
            }
            AlertDescription::CertificateRequired
            | AlertDescription::HandshakeFailure
            | AlertDescription::BadCertificate
            | AlertDescription::NoCertificate
            | AlertDescription::AccessDenied => format!(
                "the broker demands a certificate of this agent ({alert:?}); set uplink.tls.cert_file and uplink.tls.key_file"
            ),
            alert => format!("the broker ended the TLS handshake ({alert:?}); its log says why"),
        };
    };
    let path = cert_file.display();
    match alert {
        AlertDescription::CertificateExpired => format!(
            "the broker says that the certificate in {path} has expired, or is not valid yet; this clock says {}",
            day(known(clock))
        ),
        AlertDescription::CertificateRevoked => {
            format!("the broker says that the certificate in {path} is revoked; it needs a new one")
        }
        AlertDescription::UnknownCA => format!(
            "the broker does not know the authority of the certificate in {path}; is it one for another broker, or are the \
             certificates that lead to its authority missing from the file?"
        ),
        AlertDescription::CertificateUnknown
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRequired
        | AlertDescription::HandshakeFailure
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => format!(
            "the broker does not accept the certificate in {path} ({alert:?}): expired, revoked, not for clients, or of another \
             authority; its log says which"
        ),
        alert => format!("the broker ended the TLS handshake ({alert:?}); its log says why"),
    }
}

fn names(presented: &[String]) -> String {
    let mut out = String::new();
    for (at, name) in presented.iter().take(4).enumerate() {
        let name = name
            .strip_prefix("DnsName(\"")
            .and_then(|name| name.strip_suffix("\")"))
            .unwrap_or(name);
        let _ = write!(out, "{}{name}", if at > 0 { ", " } else { "" });
    }
    match presented.len() {
        0 => "no name at all".into(),
        1..=4 => out,
        more => format!("{out} and {} more", more - 4),
    }
}

/// The day of a time, as `2026-11-22` (the proleptic Gregorian calendar in UTC; the algorithm is Howard Hinnant's `civil_from_days`).
pub(super) fn day(time: UnixTime) -> String {
    let days = time.as_secs() / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_709_251_199, "2024-02-29"),
            (1_735_689_599, "2024-12-31"),
            (4_102_444_800, "2100-01-01"),
        ] {
            let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
            assert_eq!(day(time), text);
        }
    }
}
