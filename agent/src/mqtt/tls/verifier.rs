//! Whether a certificate can be trusted, by a clock that may be wrong.

use std::sync::{Arc, Mutex, PoisonError};

use ring::digest::{SHA256, digest};
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
    /// The SHA-256 of the only authority there is, which the other side sends along.
    pin: Option<[u8; 32]>,
    authorities: Mutex<Option<Arc<WebPkiServerVerifier>>>,
}

impl Verifier {
    pub(super) fn new(provider: Arc<CryptoProvider>, clock: Clock, pin: Option<[u8; 32]>) -> Self {
        Self {
            provider,
            clock,
            pin,
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
        self.pin.is_some() || self.authorities().is_some()
    }

    /// The authority of the pin, if it is among what was sent.
    fn pinned(&self, pin: [u8; 32], sent: &[CertificateDer<'_>]) -> Result<Arc<WebPkiServerVerifier>, Error> {
        let is_it = |certificate: &&CertificateDer<'_>| digest(&SHA256, certificate).as_ref() == pin;
        let found = sent.iter().find(is_it);
        let found = found.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut store = RootCertStore::empty();
        store.add(found.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(store), self.provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))
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
        let authorities = match self.pin {
            Some(pin) => self.pinned(pin, intermediates)?,
            None => self
                .authorities()
                .ok_or_else(|| Error::General("the authorities are not loaded".into()))?,
        };
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

/// From when to when a certificate is valid, seconds since the Unix epoch: what webpki says of it before all times and after them.
#[cfg(feature = "enroll")]
pub(super) fn dates(identity: &CertifiedKey, provider: &CryptoProvider) -> Option<(i64, i64)> {
    /// The year 9999 has passed (RFC 5280, section 4.1.2.5).
    const LAST: u64 = 253_402_300_800;
    let certificate = identity
        .end_entity_cert()
        .and_then(ParsedCertificate::try_from)
        .ok()?;
    let algorithms = provider.signature_verification_algorithms.all;
    let at = |seconds| {
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &RootCertStore::empty(),
            &[],
            time,
            algorithms,
        )
    };
    let seconds = |time: UnixTime| i64::try_from(time.as_secs()).ok();
    let from = match at(0) {
        Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
            seconds(not_before)?
        }
        _ => 0,
    };
    match at(LAST) {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            Some((from, seconds(not_after)?))
        }
        // For ever (section 4.1.2.5: 99991231235959Z).
        _ => Some((from, LAST as i64 - 1)),
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
        let verifier = Verifier::new(provider.clone(), clock.clone(), None);
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
    fn a_pin_is_the_only_authority_and_vouches_for_names_and_dates_too() {
        let make = |name: &str| {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            let key = KeyPair::generate().unwrap();
            (params.self_signed(&key).unwrap(), Issuer::new(params, key))
        };
        let ((root, issuer), (other, _)) = (make("root"), make("other"));
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["relay".to_string()]).unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(ring::default_provider());
        let sha256 = |der: &[u8]| <[u8; 32]>::try_from(digest(&SHA256, der).as_ref()).unwrap();
        let verify = |pin, name: &'static str, sent: &[CertificateDer<'_>]| {
            let verifier = Verifier::new(provider.clone(), Clock::default(), Some(pin));
            let name = ServerName::try_from(name).unwrap();
            let now = UnixTime::since_unix_epoch(std::time::Duration::ZERO);
            verifier
                .verify_server_cert(leaf.der(), sent, &name, &[], now)
                .is_ok()
        };
        let (root, other) = (root.der().clone(), other.der().clone());
        assert!(verify(sha256(&root), "relay", &[other.clone(), root.clone()]));
        assert!(!verify(sha256(&root), "another", std::slice::from_ref(&root)));
        assert!(!verify(sha256(&root), "relay", &[]), "it has to be sent");
        assert!(
            !verify(sha256(&other), "relay", &[root.clone(), other.clone()]),
            "it has not signed this"
        );
        assert!(!verify([0; 32], "relay", &[root]));
    }

    #[cfg(feature = "enroll")]
    #[test]
    fn dates_are_those_of_the_certificate() {
        let mut params = CertificateParams::new(["gw-01".to_string()]).unwrap();
        params.not_before = date_time_ymd(2030, 1, 1);
        params.not_after = date_time_ymd(2031, 1, 1);
        let key = KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        let provider = ring::default_provider();
        let key = key.serialize_der().try_into().unwrap();
        let identity = CertifiedKey::from_der(vec![made.der().clone()], key, &provider).unwrap();
        assert_eq!(dates(&identity, &provider), Some((1_893_456_000, 1_924_992_000)));
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
