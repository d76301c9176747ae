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

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
    use tokio_rustls::rustls::crypto::ring;

    use super::*;
    use crate::config;

    const DAY_US: i64 = 86_400_000_000;
    /// 2030-01-01.
    const YEAR_2030_US: i64 = 1_893_456_000_000_000;

    /// Verifies a certificate that is valid in the year 2030, by a clock that shows `wall_us` and may be known to be right.
    fn verify(wall_us: i64, synchronised: bool) -> Result<(), Error> {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = authority.self_signed(&key).unwrap();
        let issuer = Issuer::new(authority, key);
        let mut params = CertificateParams::new(["broker".to_string()]).unwrap();
        params.not_before = date_time_ymd(2030, 1, 1);
        params.not_after = date_time_ymd(2030, 12, 31);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();

        let provider = Arc::new(ring::default_provider());
        let settings = config::Clock {
            trust: config::Trust::Kernel,
            ..config::Clock::default()
        };
        let clock = Clock::fake(&settings, None, (1_000_000, wall_us, synchronised));
        let mut store = RootCertStore::empty();
        store.add(root.der().clone()).unwrap();
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone());
        let verifier = Verifier::new(provider.clone(), clock.clone());
        verifier.set_authorities(authorities.build().unwrap());
        let name = ServerName::try_from("broker").unwrap();
        let now = UnixTime::since_unix_epoch(std::time::Duration::ZERO);
        let broker = verifier.verify_server_cert(certificate.der(), &[], &name, &[], now);

        // This agent's own certificate is judged by the same rule.
        let own = CertifiedKey::from_der(
            vec![certificate.der().clone()],
            key.serialize_der().try_into().unwrap(),
            &provider,
        );
        let own = check_dates(&own.unwrap(), &provider, &clock);
        assert_eq!(broker.is_ok(), own.is_ok(), "{broker:?} {own:?}");
        broker.map(|_| ())
    }

    #[test]
    fn while_the_clock_is_not_known_to_be_right_a_certificate_may_begin_in_its_future() {
        // As on a box without a battery, in 1970.
        verify(5_000_000, false).unwrap();
        verify(YEAR_2030_US + 100 * DAY_US, false).unwrap();
        verify(YEAR_2030_US + 100 * DAY_US, true).unwrap();
        assert!(matches!(
            verify(YEAR_2030_US - 10 * DAY_US, true),
            Err(Error::InvalidCertificate(
                CertificateError::NotValidYetContext { .. }
            ))
        ));
    }

    #[test]
    fn what_has_expired_by_any_clock_has_expired() {
        for synchronised in [false, true] {
            assert!(matches!(
                verify(YEAR_2030_US + 400 * DAY_US, synchronised),
                Err(Error::InvalidCertificate(CertificateError::ExpiredContext { .. }))
            ));
        }
    }
}
