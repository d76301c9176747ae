//! Signatures as minisign makes them (<https://jedisct1.github.io/minisign/>): Ed25519, over the text itself (`minisign -S -l`). The newer kind
//! signs a BLAKE2b hash in place of the text; for a text of a few hundred bytes that gains nothing, and would bring one more hash into
//! every agent.

use ring::signature::{ED25519, UnparsedPublicKey};

/// Signed is the text.
const TEXT: &[u8] = b"Ed";
/// Signed is its hash.
const HASHED: &[u8] = b"ED";
const TRUSTED: &str = "trusted comment: ";

/// A public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    id: [u8; 8],
    key: [u8; 32],
}

impl Key {
    /// Reads the line of a `.pub` file that begins with RW. `None`: it is no such key.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 42] = base64(text.trim())?.try_into().ok()?;
        let (kind, rest) = bytes.split_at(2);
        let (id, key) = rest.split_at(8);
        (kind == TEXT).then_some(Self {
            id: id.try_into().ok()?,
            key: key.try_into().ok()?,
        })
    }

    fn name(id: &[u8]) -> String {
        // As minisign shows it: a little-endian number.
        id.iter().rev().map(|byte| format!("{byte:02X}")).collect()
    }
}

/// Whether `text` was signed by one of the keys: `signature` is a `.minisig` file's content.
///
/// # Errors
/// Why it does not count, to stand behind "the manifest".
pub(crate) fn verify(text: &[u8], signature: &str, keys: &[Key]) -> Result<(), String> {
    const NONE: &str = "has no signature: what was given as one is no .minisig file";
    let mut lines = signature.lines();
    lines.next().ok_or(NONE)?;
    let first = lines.next().and_then(|line| base64(line.trim())).ok_or(NONE)?;
    let comment = lines
        .next()
        .and_then(|line| line.strip_prefix(TRUSTED))
        .ok_or(NONE)?;
    let second = lines.next().and_then(|line| base64(line.trim())).ok_or(NONE)?;
    if first.len() != 74 {
        return Err(NONE.into());
    }
    let (kind, rest) = first.split_at(2);
    let (id, signature) = rest.split_at(8);
    if kind == HASHED {
        return Err(
            "is signed by its hash; sign it with `minisign -S -l`, or `headwater-relay release sign`".into(),
        );
    }
    let Some(key) = keys.iter().find(|key| key.id == id && kind == TEXT) else {
        return Err(format!(
            "is signed by key {}, which is not in update.keys",
            Key::name(id)
        ));
    };
    let key = UnparsedPublicKey::new(&ED25519, &key.key);
    let wrong = |_| "does not fit its signature: one of them was altered".to_string();
    key.verify(text, signature).map_err(wrong)?;
    let signed = [signature, comment.as_bytes()].concat();
    key.verify(&signed, &second).map_err(wrong)
}

/// Bytes from base64 (RFC 4648, section 4), with its padding or without. `None`: it is none.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut held, mut bits) = (0u32, 0);
    for byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (held, bits) = (held << 6 | u32::from(value), bits + 6);
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    // What is left over is less than a byte, and zero.
    (bits < 6 && held & ((1 << bits) - 1) == 0).then_some(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    #[test]
    fn base64_is_read_or_refused() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("Zg==", b"f"),
            ("Zm8", b"fo"),
            ("Zm9v", b"foo"),
            ("+/A=", &[0xfb, 0xf0]),
        ] {
            assert_eq!(base64(text).as_deref(), Some(bytes), "{text}");
        }
        for bad in ["Z", "Zh==", "Zm9v!", "Zm 9v", "Zm-_"] {
            assert_eq!(base64(bad), None, "{bad}");
        }
    }
    /// A key pair, and what minisign would make with it.
    pub(crate) struct Signer {
        pair: Ed25519KeyPair,
        id: [u8; 8],
    }

    impl Signer {
        pub(crate) fn new(seed: u8) -> Self {
            Self {
                pair: Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap(),
                id: [seed; 8],
            }
        }

        pub(crate) fn public(&self) -> String {
            text(&[TEXT, &self.id, self.pair.public_key().as_ref()])
        }

        pub(crate) fn sign(&self, signed: &[u8]) -> String {
            let signature = self.pair.sign(signed);
            let comment = "timestamp:1 file:manifest.json";
            let global = self.pair.sign(&[signature.as_ref(), comment.as_bytes()].concat());
            format!(
                "untrusted comment: x\n{}\n{TRUSTED}{comment}\n{}\n",
                text(&[TEXT, &self.id, signature.as_ref()]),
                text(&[global.as_ref()])
            )
        }
    }

    fn text(parts: &[&[u8]]) -> String {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for three in parts.concat().chunks(3) {
            let held = (0..3).fold(0, |held, at| held << 8 | u32::from(*three.get(at).unwrap_or(&0)));
            for at in 0..=three.len() {
                text.push(DIGITS[(held >> (18 - 6 * at)) as usize & 63] as char);
            }
            (three.len()..3).for_each(|_| text.push('='));
        }
        text
    }

    #[test]
    fn what_was_signed_is_known_and_whatever_differs_is_not() {
        let (ours, theirs) = (Signer::new(1), Signer::new(2));
        let keys = [&theirs, &ours].map(|signer| Key::parse(&signer.public()).unwrap());
        let signed = ours.sign(b"text");
        assert_eq!(verify(b"text", &signed, &keys), Ok(()));
        assert!(
            verify(b"text", &signed, &keys[..1])
                .unwrap_err()
                .contains("key 0101010101010101")
        );
        assert!(verify(b"texT", &signed, &keys).unwrap_err().contains("altered"));
        let other_comment = signed.replace("timestamp:1", "timestamp:2");
        assert!(
            verify(b"text", &other_comment, &keys)
                .unwrap_err()
                .contains("altered")
        );
        // As of another key, with the id of ours.
        let forged = Signer {
            pair: Signer::new(2).pair,
            id: ours.id,
        };
        assert!(verify(b"text", &forged.sign(b"text"), &keys).is_err());
        let mut refused = 0;
        for at in 0..signed.len() {
            let mut other = signed.clone().into_bytes();
            other[at] ^= 1;
            let other = String::from_utf8(other).unwrap();
            refused += usize::from(verify(b"text", &other, &keys).is_err());
        }
        // The untrusted comment may be altered, and so may the padding.
        let free = "untrusted comment: x".len() + 4;
        assert!(refused >= signed.len() - free, "{refused} of {}", signed.len());
    }

    #[test]
    fn what_minisign_signs_is_known_where_it_signs_the_text() {
        let folder = tempfile::tempdir().unwrap();
        let minisign = |arguments: &[&str]| {
            let output = std::process::Command::new("minisign")
                .args(arguments)
                .current_dir(folder.path())
                .output()
                .unwrap_or_else(|error| {
                    panic!("minisign cannot be run ({error}); `scripts/test --only packages` installs it")
                });
            assert!(output.status.success(), "{arguments:?}: {output:?}");
        };
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        std::fs::write(folder.path().join("m"), "text").unwrap();
        minisign(&["-G", "-W", "-p", "k.pub", "-s", "k.key"]);
        let key = [Key::parse(read("k.pub").lines().nth(1).unwrap()).unwrap()];
        minisign(&["-S", "-l", "-s", "k.key", "-m", "m"]);
        assert_eq!(verify(b"text", &read("m.minisig"), &key), Ok(()));
        assert!(verify(b"texT", &read("m.minisig"), &key).is_err());
        minisign(&["-S", "-s", "k.key", "-m", "m"]);
        let why = verify(b"text", &read("m.minisig"), &key).unwrap_err();
        assert!(why.contains("minisign -S -l"), "{why}");
    }

    #[test]
    fn what_is_no_signature_is_refused_without_a_panic() {
        let signer = Signer::new(3);
        let key = [Key::parse(&signer.public()).unwrap()];
        let signed = signer.sign(b"x");
        for end in 0..signed.trim_end().len() - 2 {
            assert!(verify(b"x", &signed[..end], &key).is_err(), "{end}");
        }
        let hashed = signed.replacen("RWQD", "RUQD", 1);
        assert_ne!(hashed, signed);
        assert!(
            verify(b"x", &hashed, &key)
                .unwrap_err()
                .contains("minisign -S -l")
        );
        for bad in ["", "RWQ", "RUQD", &signer.public()[..50]] {
            assert_eq!(Key::parse(bad), None, "{bad}");
        }
    }
}
