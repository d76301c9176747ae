//! The authority of devices' certificates: reads requests, signs, and lists what is revoked.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use headwater_proto::name;
use rcgen::{
    CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData as _, RevokedCertParams, SerialNumber,
    SubjectPublicKeyInfo,
};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, CertificateSigningRequestDer, PrivateKeyDer,
};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{CertificateRevocationList, FromDer, ParsedExtension, X509Certificate, X509Name};
use x509_parser::x509::SubjectPublicKeyInfo as Public;

use super::Error;
use super::register::Issued;
use super::settings::EnrollSettings;
use crate::mqtt::tls as pem;

/// The longest common name (RFC 5280, appendix A.1: `ub-common-name`).
pub(super) const NAME_MAX: usize = 64;
/// What the relay is called by the broker, which no device may be.
const RELAY: &str = "headwater-relay";
/// Clocks of brokers may be behind by so much.
const BEHIND: Duration = Duration::from_secs(300);
/// Nobody but the broker has the list, and it is told of a new one: an early end would only lock every device out some day.
const LIST_LIFETIME: Duration = Duration::from_secs(3_650 * 86_400);
/// Kinds of keys that brokers take everywhere, and that are of today: ECDSA P-256 and P-384, Ed25519.
const KINDS: [&[u64]; 3] = [
    &[1, 2, 840, 10045, 4, 3, 2],
    &[1, 2, 840, 10045, 4, 3, 3],
    &[1, 3, 101, 112],
];

/// What is asked for: a name, and the key that it is to be for, which has signed this.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) device: String,
    /// The SHA-256 of the public key, hexadecimal.
    pub(super) key: String,
    public: SubjectPublicKeyInfo,
}

/// A certificate that a device has shown.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) device: String,
    pub(super) issued: Issued,
}

/// The authorities of devices: one that signs, and those before it whose keys are still here, so that each can list what it has signed.
pub(super) struct Authority {
    /// The first signs.
    signers: Vec<Signer>,
    lifetime: Duration,
}

struct Signer {
    issuer: Issuer<'static, KeyPair>,
    /// By which a list says whose it is: brokers look for that of the authority's certificate.
    key_id: KeyIdMethod,
    /// Its public key (as SubjectPublicKeyInfo), in DER.
    public: Vec<u8>,
    until_s: i64,
}

/// What is revoked: a serial number, and since when.
pub(super) type Revoked = (Vec<u8>, i64);

/// What a file of lists says is revoked.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// By each of these authorities.
    pub(super) own: Vec<Vec<Revoked>>,
    /// Those that others have signed, in PEM.
    pub(super) others: String,
}

/// Without its key.
impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Reads certificates and keys. Of several certificates the first signs, and the first key is its; others may follow, each of one of the
    /// certificates.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn load(settings: &EnrollSettings) -> Result<Self, Error> {
        let cert_file = settings.file("enroll.ca_cert_file", &settings.ca_cert_file)?;
        let key_file = settings.file("enroll.ca_key_file", &settings.ca_key_file)?;
        let wrong = |key: &'static str, path: &Path, why: String| Error::File {
            key,
            path: path.to_path_buf(),
            why,
        };
        let of_cert = |why: String| wrong("enroll.ca_cert_file", cert_file, why);
        let of_key = |why: String| wrong("enroll.ca_key_file", key_file, why);
        let certificates = pem::certificates("ca_cert_file", cert_file)?;
        let mut parsed = Vec::new();
        for certificate in &certificates {
            let (_, one) =
                X509Certificate::from_der(certificate).map_err(|error| of_cert(error.to_string()))?;
            parsed.push((certificate, one));
        }
        match parsed.first() {
            None => return Err(of_cert("it holds no certificate".into())),
            Some((_, first)) if !first.is_ca() => {
                return Err(of_cert("it is no authority's certificate (CA:TRUE)".into()));
            }
            Some(_) => {}
        }
        let text = std::fs::read(key_file).map_err(|error| of_key(error.to_string()))?;
        let mode = std::fs::metadata(key_file).map_err(|error| of_key(error.to_string()))?;
        if mode.permissions().mode() & 0o007 != 0 {
            return Err(of_key(format!(
                "every user of this machine can read it, or write to it, and who has it can be any device: chmod o= {}",
                key_file.display()
            )));
        }
        let none = |why: &dyn std::fmt::Display| {
            of_key(format!(
                "it holds no private key that can sign (PKCS #8, without a password): {why}"
            ))
        };
        let mut signers: Vec<Signer> = Vec::new();
        for key in PrivateKeyDer::pem_slice_iter(&text) {
            let key = key.map_err(|error| none(&error))?;
            let key = KeyPair::try_from(key.secret_der()).map_err(|error| none(&error))?;
            let public = key.subject_public_key_info();
            let mut its = parsed.iter().filter(|(_, one)| one.public_key().raw == public);
            let found = match signers.is_empty() {
                true => parsed.first().filter(|(_, one)| one.public_key().raw == public),
                false => its.next(),
            };
            let Some((certificate, one)) = found else {
                return Err(of_key(match signers.is_empty() {
                    true => format!("it is not the key of {}", cert_file.display()),
                    false => format!(
                        "key number {} in it is of none of the certificates in {}",
                        signers.len() + 1,
                        cert_file.display()
                    ),
                }));
            };
            let key_id = one
                .extensions()
                .iter()
                .find_map(|extension| match extension.parsed_extension() {
                    ParsedExtension::SubjectKeyIdentifier(id) => {
                        Some(KeyIdMethod::PreSpecified(id.0.to_vec()))
                    }
                    _ => None,
                });
            let issuer =
                Issuer::from_ca_cert_der(certificate, key).map_err(|error| of_cert(error.to_string()))?;
            signers.push(Signer {
                issuer,
                key_id: key_id.unwrap_or(KeyIdMethod::Sha256),
                public,
                until_s: one.validity().not_after.timestamp(),
            });
        }
        if signers.is_empty() {
            return Err(none(&"there is none in it"));
        }
        Ok(Self {
            signers,
            lifetime: settings.lifetime,
        })
    }

    /// Signs for `device`, from now on. Of the request it takes the public key alone.
    ///
    /// # Errors
    /// What is wrong, for the log.
    pub(super) fn sign(&self, request: &Request, device: &str, now_s: i64) -> Result<Issued, String> {
        let mut serial = [0; 16];
        SystemRandom::new()
            .fill(&mut serial)
            .map_err(|_| "the system gives no random numbers".to_string())?;
        // Positive, and of one length.
        serial[0] = 1;
        let signer = &self.signers[0];
        let behind = (self.lifetime / 100).min(BEHIND).as_secs() as i64;
        let (from_s, until_s) = (
            now_s - behind,
            (now_s + self.lifetime.as_secs() as i64).min(signer.until_s),
        );
        if until_s <= now_s {
            return Err("the authority's own certificate has expired".into());
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, device);
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = at(from_s).into();
        params.not_after = at(until_s).into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let made = params
            .signed_by(&request.public, &signer.issuer)
            .map_err(|error| format!("the authority cannot sign: {error}"))?;
        Ok(Issued {
            serial: hex(&serial),
            key: request.key.clone(),
            certificate: made.pem(),
            from_s,
            until_s,
            revoked_s: None,
        })
    }

    /// The lists of what is revoked, in PEM: of each authority, what it has signed.
    ///
    /// # Errors
    /// What is wrong, for a person.
    pub(super) fn list(&self, revoked: &[Vec<Revoked>], now_s: i64) -> Result<String, String> {
        let of = |(serial, since_s): &Revoked| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: at(*since_s).into(),
            reason_code: None,
            invalidity_date: None,
        };
        let mut lists = String::new();
        for (signer, revoked) in self.signers.iter().zip(revoked) {
            let params = CertificateRevocationListParams {
                this_update: at(now_s).into(),
                next_update: (at(now_s) + LIST_LIFETIME).into(),
                // It grows with each list.
                crl_number: SerialNumber::from_slice(&now_s.to_be_bytes()),
                issuing_distribution_point: None,
                revoked_certs: revoked.iter().map(of).collect(),
                key_identifier_method: signer.key_id.clone(),
            };
            let list = params
                .signed_by(&signer.issuer)
                .map_err(|error| error.to_string())?;
            lists += &list.pem().map_err(|error| error.to_string())?;
        }
        Ok(lists)
    }

    /// Reads what [`Authority::list`] has made, here and for other authorities.
    ///
    /// # Errors
    /// There is something else in it.
    pub(super) fn lists(&self, text: &[u8]) -> Result<Lists, String> {
        let publics = self.publics()?;
        let mut lists = Lists {
            own: vec![Vec::new(); publics.len()],
            others: String::new(),
        };
        for der in CertificateRevocationListDer::pem_slice_iter(text) {
            let der = der.map_err(|error| error.to_string())?;
            let (_, list) = CertificateRevocationList::from_der(&der).map_err(|error| error.to_string())?;
            match (publics.iter()).position(|public| list.verify_signature(public).is_ok()) {
                Some(signer) => lists.own[signer].extend(entries(&list)),
                None => lists.others += &pem_of("X509 CRL", &der),
            }
        }
        Ok(lists)
    }

    /// Which of the authorities has signed a certificate (in PEM), by its place.
    ///
    /// # Errors
    /// None of them: who says that he has.
    pub(super) fn signer(&self, certificate: &str) -> Result<usize, String> {
        let der =
            CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|error| error.to_string())?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
        (self.publics()?.iter())
            .position(|public| parsed.verify_signature(Some(public)).is_ok())
            .ok_or_else(|| parsed.issuer().to_string())
    }

    fn publics(&self) -> Result<Vec<Public<'_>>, String> {
        (self.signers.iter())
            .map(|signer| Public::from_der(&signer.public).map(|(_, public)| public))
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())
    }
}

/// Reads a request, in DER or PEM, and checks its signature: who asks has the key.
///
/// # Errors
/// What is wrong with it, for whoever sent it.
pub(super) fn request(bytes: &[u8]) -> Result<Request, String> {
    let text = bytes
        .starts_with(b"-----")
        .then(|| CertificateSigningRequestDer::from_pem_slice(bytes));
    let der = match &text {
        Some(Ok(der)) => der.as_ref(),
        Some(Err(error)) => return Err(format!("the signing request is no PEM: {error}")),
        None => bytes,
    };
    let (rest, parsed) = X509CertificationRequest::from_der(der)
        .map_err(|_| "this is no signing request (PKCS #10)".to_string())?;
    if !rest.is_empty() {
        return Err("there is something behind the signing request".into());
    }
    let algorithm: Vec<u64> = parsed
        .signature_algorithm
        .algorithm
        .iter()
        .map(Iterator::collect)
        .unwrap_or_default();
    if !KINDS.contains(&&*algorithm) {
        return Err("the key is neither ECDSA P-256, P-384 nor Ed25519".into());
    }
    parsed
        .verify_signature()
        .map_err(|_| "the signing request is not signed by its own key".to_string())?;
    let info = &parsed.certification_request_info;
    let device = device(&info.subject)?;
    let public = SubjectPublicKeyInfo::from_der(info.subject_pki.raw)
        .map_err(|error| format!("the key cannot be used: {error}"))?;
    Ok(Request {
        device,
        key: hex(digest(&SHA256, info.subject_pki.raw).as_ref()),
        public,
    })
}

/// Reads a certificate that TLS has verified.
///
/// # Errors
/// What is wrong with it.
pub(super) fn shown(der: &[u8]) -> Result<Shown, String> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    let validity = parsed.validity();
    let issued = Issued {
        serial: hex(parsed.raw_serial()),
        key: hex(digest(&SHA256, parsed.public_key().raw).as_ref()),
        certificate: pem_of("CERTIFICATE", der),
        from_s: validity.not_before.timestamp(),
        until_s: validity.not_after.timestamp(),
        revoked_s: None,
    };
    Ok(Shown {
        device: device(parsed.subject())?,
        issued,
    })
}

/// What lists in PEM say is revoked, whoever has signed them: serial numbers, and since when.
///
/// # Errors
/// There is something else in it.
pub(super) fn listed(text: &[u8]) -> Result<Vec<Revoked>, String> {
    let mut revoked = Vec::new();
    for list in CertificateRevocationListDer::pem_slice_iter(text) {
        let list = list.map_err(|error| error.to_string())?;
        let (_, list) = CertificateRevocationList::from_der(&list).map_err(|error| error.to_string())?;
        revoked.extend(entries(&list));
    }
    Ok(revoked)
}

fn entries(list: &CertificateRevocationList<'_>) -> Vec<Revoked> {
    list.iter_revoked_certificates()
        .map(|entry| (entry.raw_serial().to_vec(), entry.revocation_date.timestamp()))
        .collect()
}

/// The name that a subject bears.
fn device(subject: &X509Name<'_>) -> Result<String, String> {
    let names: Vec<_> = subject.iter_common_name().map(|name| name.as_str()).collect();
    let [Ok(name)] = names[..] else {
        return Err("the subject has to bear one common name, the device's".into());
    };
    check_name(name)?;
    Ok(name.to_string())
}

/// Whether a device with a certificate can be called so.
///
/// # Errors
/// Why not.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    name::check_device(name).map_err(|error| error.to_string())?;
    if name.len() > NAME_MAX {
        return Err(format!(
            "{name:?}: a name in a certificate has {NAME_MAX} characters at most"
        ));
    }
    // Names of certificates are compared without regard to case here and there.
    if name.eq_ignore_ascii_case(RELAY) {
        return Err(format!("{RELAY} is the relay's name, and no device's"));
    }
    Ok(())
}

fn at(seconds: i64) -> std::time::SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.max(0).unsigned_abs())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of what [`hex`] has written.
pub(super) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .map(|digit| digit as u8)
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
        .collect()
}

fn pem_of(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len())
        .step_by(64)
        .map(|at| &text[at..text.len().min(at + 64)])
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}
