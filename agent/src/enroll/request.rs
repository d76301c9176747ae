//! A certificate signing request (PKCS #10, RFC 2986): a name, a public key, and the key's signature over both. It asks for no extensions,
//! since what a device's certificate may do is the authority's to say. Written out here because the only crate at hand for it
//! would add more to the program than all of enrolment is.

use tokio_rustls::rustls::SignatureScheme;
use tokio_rustls::rustls::sign::SigningKey;

/// The longest common name (RFC 5280, appendix A.1: `ub-common-name`).
pub(super) const NAME_MAX: usize = 64;

const INTEGER_0: &[u8] = &[0x02, 0x01, 0x00];
/// 2.5.4.3, `id-at-commonName`.
const COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];
/// 1.2.840.10045.4.3.2, `ecdsa-with-SHA256` (RFC 5758).
const ECDSA: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
/// 1.3.101.112, `id-Ed25519` (RFC 8410).
const ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
/// No attributes; the field has to be there.
const ATTRIBUTES: &[u8] = &[0xa0, 0x00];

/// A request in DER for the device of this name, of at most [`NAME_MAX`] bytes.
///
/// # Errors
/// The key is of a kind that is not known here.
pub(super) fn request(name: &str, key: &dyn SigningKey) -> Result<Vec<u8>, String> {
    const KINDS: &str = "the key is neither ECDSA P-256 nor Ed25519; move it away, and a new one is made";
    let signer = key
        .choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519])
        .ok_or(KINDS)?;
    let algorithm = match signer.scheme() {
        SignatureScheme::ED25519 => ED25519,
        _ => ECDSA,
    };
    let public = key.public_key().ok_or(KINDS)?;
    let name = der(0x30, &[COMMON_NAME, &der(0x0c, &[name.as_bytes()])]);
    let subject = der(0x30, &[&der(0x31, &[&name])]);
    let info = der(0x30, &[INTEGER_0, &subject, &public, ATTRIBUTES]);
    let signature = signer
        .sign(&info)
        .map_err(|error| format!("the key cannot sign: {error}"))?;
    Ok(der(
        0x30,
        &[&info, &der(0x30, &[algorithm]), &der(0x03, &[&[0], &signature])],
    ))
}

/// A value with its tag and length; of less than 64 KiB.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..=0x7f => out.push(length as u8),
        0x80..=0xff => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend(content);
    out
}

/// As text (RFC 7468).
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for three in line.chunks(3) {
            let bits = three
                .iter()
                .enumerate()
                .fold(0, |bits, (at, byte)| bits | usize::from(*byte) << (16 - 8 * at));
            for letter in 0..4 {
                out.push(match letter {
                    _ if letter > three.len() => '=',
                    _ => char::from(LETTERS[bits >> (18 - 6 * letter) & 63]),
                });
            }
        }
        out.push('\n');
    }
    out + &format!("-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject;

    use super::*;

    /// What openssl says of a request, and whether it takes it.
    fn openssl(pem: &str) -> (bool, String) {
        let mut child = Command::new("openssl")
            .args([
                "req", "-verify", "-noout", "-subject", "-text", "-nameopt", "RFC2253",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl is installed (Debian: openssl)");
        child.stdin.take().unwrap().write_all(pem.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    #[test]
    fn openssl_takes_what_is_requested() {
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519] {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let der = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            let key = ring::default_provider()
                .key_provider
                .load_private_key(der)
                .unwrap();
            for name in ["g", "gw-01", "a:b.c_d-e", &"x".repeat(NAME_MAX)] {
                let request = request(name, &*key).unwrap();
                let (good, text) = openssl(&pem("CERTIFICATE REQUEST", &request));
                assert!(good && text.contains(&format!("CN={name}")), "{name}: {text}");
                // A bit that was changed is found.
                let mut changed = request.clone();
                let at = request
                    .windows(name.len())
                    .position(|part| part == name.as_bytes())
                    .unwrap();
                changed[at] ^= 1;
                let (good, text) = openssl(&pem("CERTIFICATE REQUEST", &changed));
                assert!(!good || text.contains("verify failure"), "{name}: {text}");
            }
        }
        let rsa = "openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048";
        let output = Command::new("sh").args(["-c", rsa]).output().unwrap();
        let rsa = PrivateKeyDer::from_pem_slice(&output.stdout).unwrap();
        let rsa = ring::default_provider()
            .key_provider
            .load_private_key(rsa)
            .unwrap();
        assert!(
            request("gw-01", &*rsa)
                .unwrap_err()
                .contains("neither ECDSA P-256 nor Ed25519")
        );
    }

    #[test]
    fn lengths_and_text_are_as_their_standards_say() {
        for (length, head) in [
            (0, &[4, 0][..]),
            (127, &[4, 127]),
            (128, &[4, 0x81, 128]),
            (300, &[4, 0x82, 1, 44]),
        ] {
            assert!(der(4, &[&vec![7; length]]).starts_with(head), "{length}");
        }
        // RFC 4648, section 10.
        for (bytes, text) in [
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ] {
            assert_eq!(
                pem("X", bytes.as_bytes()),
                format!("-----BEGIN X-----\n{text}\n-----END X-----\n")
            );
        }
        let long = pem("X", &[0xff; 100]);
        assert!(long.lines().all(|line| line.len() <= 64), "{long}");
    }
}
