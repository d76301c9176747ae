//! Whether a certificate can be trusted, by a clock that may be wrong.

use std::sync::{Arc, Mutex, PoisonError};

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::clock::Clock;

/// Longest chain whose beginnings are stepped through.
const CHAIN_MAX: usize = 8;

/// Verifies brokers' certificates against authorities that may be taken away between two handshakes.
#[derive(Debug)]
pub(super) struct Verifier {
    provider: Arc<CryptoProvider>,
    clock: Clock,
    authorities: Mutex<Option<Arc<WebPkiServerVerifier>>>,
}

impl Verifier {
    pub(super) fn new(provider: Arc<CryptoProvider>, clock: Clock) -> Self {
        Self {
            provider,
            clock,
            authorities: Mutex::default(),
        }
    }

    fn authorities(&self) -> Option<Arc<WebPkiServerVerifier>> {
        self.authorities
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn has_authorities(&self) -> bool {
        self.authorities().is_some()
    }

    pub(super) fn set_authorities(&self, authorities: Arc<WebPkiServerVerifier>) {
        *self.authorities.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorities);
    }

    pub(super) fn forget_authorities(&self) {
        *self.authorities.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Asks `verify` at the time that is known. While the clock is not known to be right, the beginning of a certificate counts as a time that
/// has passed.
fn at_known_time<T>(clock: &Clock, verify: impl Fn(UnixTime) -> Result<T, Error>) -> Result<T, Error> {
    let mut now = known(clock);
    for _ in 0..CHAIN_MAX {
        match verify(now) {
            Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }))
                if !clock.is_synchronised() && not_before > now =>
            {
                now = not_before;
            }
            answer => return answer,
        }
    }
    verify(now)
}

/// The latest time known.
pub(super) fn known(clock: &Clock) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_micros(clock.now_us().max(0) as u64))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authorities = self
            .authorities()
            .ok_or_else(|| Error::General("the authorities are not loaded".into()))?;
        at_known_time(&self.clock, |now| {
            authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Whether this agent's own certificate is valid now, as far as its dates go: webpki looks at them first, so without any authority what is
/// left is that none is known.
pub(super) fn check_dates(
    identity: &CertifiedKey,
    provider: &CryptoProvider,
    clock: &Clock,
) -> Result<(), CertificateError> {
    let Ok(certificate) = identity.end_entity_cert().and_then(ParsedCertificate::try_from) else {
        return Ok(());
    };
    let algorithms = provider.signature_verification_algorithms.all;
    let answer = at_known_time(clock, |now| {
        verify_server_cert_signed_by_trust_anchor(&certificate, &RootCertStore::empty(), &[], now, algorithms)
    });
    match answer {
        Err(Error::InvalidCertificate(
            why @ (CertificateError::ExpiredContext { .. }
            | CertificateError::Expired
            | CertificateError::NotValidYetContext { .. }
            | CertificateError::NotValidYet),
        )) => Err(why),
        _ => Ok(()),
    }
}
