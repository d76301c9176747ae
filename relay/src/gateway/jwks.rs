//! JSON Web Key Sets (RFC 7517): which of their keys tokens are checked with. Pure.
//!
//! What cannot be a key for us is left out, so that an authority may add keys of new kinds: other types and algorithms, keys for
//! encryption, and shared secrets, which have no place in a set that is published.

use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::token::Key;

/// The largest set, bytes.
pub const LARGEST: usize = 256 << 10;
/// Keys that are used of a set.
const MOST: usize = 64;
/// Bytes of an RSA modulus: shorter ones are weak (RFC 7518 §3.3), longer ones slow.
const MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

/// Why a set gives no keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not JSON, or not a set.
    #[error("it is no JSON Web Key Set: {0}")]
    Json(serde_json::Error),
    /// Larger than any set that we read.
    #[error("it has more than {LARGEST} bytes")]
    TooLarge,
    /// Nothing in it can be used.
    #[error(
        "none of its {0} keys can be used (Ed25519 and RSA keys of 2048 bits and more for signatures can)"
    )]
    NoKey(usize),
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    crv: String,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    #[serde(default)]
    kid: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    x: String,
}

/// The keys of a set that tokens can be checked with.
///
/// # Errors
/// [`Error`].
pub fn keys(text: &[u8]) -> Result<Vec<Key>, Error> {
    if text.len() > LARGEST {
        return Err(Error::TooLarge);
    }
    let set: Set = serde_json::from_slice(text).map_err(Error::Json)?;
    let count = set.keys.len();
    let keys: Vec<Key> = set.keys.into_iter().filter_map(key).take(MOST).collect();
    if keys.is_empty() {
        return Err(Error::NoKey(count));
    }
    Ok(keys)
}

fn key(value: Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    let is_for_signatures = jwk.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
        && jwk
            .key_ops
            .as_ref()
            .is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    if !is_for_signatures {
        return None;
    }
    // The type says the one algorithm that it is used with; where the key names another, it is not for us.
    let (algorithm, names, key) = match (jwk.kty.as_str(), jwk.crv.as_str()) {
        ("OKP", "Ed25519") => {
            let key = DecodingKey::from_ed_components(&jwk.x).ok()?;
            // RFC 9864 names the curve.
            (Algorithm::EdDSA, &["EdDSA", "Ed25519"][..], key)
        }
        ("RSA", _) => {
            // Four characters of base64url are three bytes; a leading zero byte may be there.
            if !MODULUS.contains(&(jwk.n.len() * 3 / 4)) {
                return None;
            }
            let key = DecodingKey::from_rsa_components(&jwk.n, &jwk.e).ok()?;
            (Algorithm::RS256, &["RS256"][..], key)
        }
        _ => return None,
    };
    if jwk.alg.as_deref().is_some_and(|alg| !names.contains(&alg)) {
        return None;
    }
    Some(Key::new(jwk.kid, algorithm, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn count(set: &Value) -> Result<usize, String> {
        keys(set.to_string().as_bytes())
            .map(|keys| keys.len())
            .map_err(|error| error.to_string())
    }

    /// RFC 8037 §A.2.
    fn ed() -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
    }

    fn rsa(bytes: usize) -> Value {
        json!({"kty": "RSA", "kid": "rsa", "n": "v".repeat(bytes.div_ceil(3) * 4), "e": "AQAB"})
    }

    fn with(mut key: Value, field: &str, value: Value) -> Value {
        key[field] = value;
        key
    }

    #[test]
    fn keys_for_signatures_of_the_two_kinds_are_used() {
        let set = json!({"keys": [
            ed(),
            rsa(256),
            with(ed(), "use", json!("sig")),
            with(rsa(512), "alg", json!("RS256")),
            with(ed(), "alg", json!("Ed25519")),
            with(ed(), "key_ops", json!(["verify"])),
        ]});
        assert_eq!(count(&set), Ok(6));
    }

    #[test]
    fn what_is_not_for_us_is_left_out_and_harms_no_other_key() {
        for other in [
            json!({"kty": "EC", "crv": "P-256", "x": "a", "y": "b"}),
            json!({"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}),
            json!({"kty": "from the future"}),
            json!("not even an object"),
            json!({"kty": "OKP", "crv": "X25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
            with(ed(), "use", json!("enc")),
            with(ed(), "key_ops", json!(["sign"])),
            with(ed(), "alg", json!("HS256")),
            with(ed(), "alg", json!("none")),
            with(rsa(256), "alg", json!("RS512")),
            with(rsa(256), "alg", json!("HS256")),
            rsa(128),
            rsa(3000),
            with(rsa(256), "n", json!("*".repeat(400))),
        ] {
            assert_eq!(count(&json!({"keys": [ed(), other]})), Ok(1), "{other}");
            assert!(
                count(&json!({"keys": [other]}))
                    .unwrap_err()
                    .contains("none of its 1 keys"),
                "{other}"
            );
        }
    }

    #[test]
    fn what_is_no_set_is_told() {
        for text in ["", "{}", "[]", "<html>", r#"{"keys": 5}"#] {
            assert!(matches!(keys(text.as_bytes()), Err(Error::Json(_))), "{text}");
        }
        assert!(matches!(keys(&vec![b' '; LARGEST + 1]), Err(Error::TooLarge)));
        let many = json!({"keys": vec![ed(); 500]});
        assert_eq!(count(&many), Ok(MOST));
    }
}
