//! Tokens: who is connected, and what they may see.
//!
//! A token is a JWT: `sub`, `exp`, and `hw: { read: [device globs], command: [device globs] }`. Without keys configured
//! there is one grant for everybody.

use headwater_config::secret;
use std::sync::Arc;

use jsonwebtoken::{DecodingKey, Header, TokenData, Validation, decode, decode_header, errors::ErrorKind};
use serde::Deserialize;

use super::filter::Globs;
use super::keyset::{self, KeySet, KeySetSettings};
use super::settings::{Algorithm, KeySettings, TokenSettings};

/// Why keys cannot be used. Each message is whole.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file of a secret cannot be read.
    #[error("gateway.keys: {0}")]
    Read(headwater_config::Error),
    /// The file of a public key cannot be read.
    #[error("gateway.keys: cannot read the public key in {file}: {why}")]
    Public {
        /// The file.
        file: String,
        /// What the system says.
        why: std::io::Error,
    },
    /// It holds no such key.
    #[error("gateway.keys: {file} holds no {algorithm:?} key: {why}")]
    Key {
        /// The file.
        file: String,
        /// What was expected in it.
        algorithm: Algorithm,
        /// What is wrong.
        why: String,
    },
    /// A set of keys is not set as it has to be.
    #[error(transparent)]
    Set(#[from] keyset::Error),
}

/// Why a token is refused, as the client is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// None was given.
    #[error("a token is required: send it as subprotocol headwater.token.<JWT> or in the hello")]
    Missing,
    /// It is past its `exp`.
    #[error("the token has expired")]
    Expired,
    /// It is not one of ours.
    #[error("the token is not valid: {0}")]
    Invalid(String),
    /// A fresh token is somebody else's.
    #[error("the fresh token is of another subject than the connection's")]
    Subject,
}

/// What a connection may do.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Whose token it is; empty without keys.
    pub subject: String,
    /// When it ends, microseconds since the Unix epoch; `None`: never.
    pub expires_us: Option<i64>,
    /// Devices whose data, snapshots and presence may be seen.
    pub read: Globs,
    /// What they are written as, hashed: the same in tokens that allow the same in the same words.
    pub read_hash: u64,
    /// Devices that commands may be sent to.
    pub command: Globs,
}

#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    #[serde(default)]
    hw: Scopes,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Scopes {
    read: Vec<String>,
    command: Vec<String>,
}

/// The keys that tokens are checked with.
#[derive(Debug)]
pub struct Keys {
    keys: Vec<Key>,
    sets: Vec<Arc<KeySet>>,
    settings: TokenSettings,
}

/// A key, and what it may be used for.
pub struct Key {
    id: String,
    algorithm: jsonwebtoken::Algorithm,
    key: DecodingKey,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Key")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// Reads the keys' files.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn load(keys: &[KeySettings], settings: &TokenSettings) -> Result<Self, KeyError> {
        let keys = keys.iter().map(Key::load).collect::<Result<_, _>>()?;
        Ok(Self {
            keys,
            sets: Vec::new(),
            settings: settings.clone(),
        })
    }

    /// With these sets beside; what fills them is [`KeySet::follow`].
    ///
    /// # Errors
    /// [`KeyError::Set`].
    pub fn with_sets(mut self, sets: &[KeySetSettings]) -> Result<Self, KeyError> {
        let sets = sets.iter().map(|settings| KeySet::new(settings).map(Arc::new));
        self.sets = sets.collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// The sets among them.
    pub fn sets(&self) -> &[Arc<KeySet>] {
        &self.sets
    }

    /// Whether none are configured: then everybody may read everything. A set that could not be fetched yet is configured.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.sets.is_empty()
    }

    /// Has the sets fetched if this token's key may be in them and is not known yet, within bounds. To be called before [`Keys::check`].
    pub async fn prepare(&self, token: &str) {
        if self.sets.is_empty() {
            return;
        }
        let Ok(header) = decode_header(token) else { return };
        let of_sets = matches!(
            header.alg,
            jsonwebtoken::Algorithm::EdDSA | jsonwebtoken::Algorithm::RS256
        );
        // A key may fit by its name, or by having none, and be an old one: the signature tells.
        if of_sets && matches!(self.check(Some(token)), Err(Refusal::Invalid(_))) {
            futures_util::future::join_all(self.sets.iter().map(|set| set.want())).await;
        }
    }

    /// Checks a token.
    ///
    /// # Errors
    /// [`Refusal`], never [`Refusal::Subject`].
    pub fn check(&self, token: Option<&str>) -> Result<Grant, Refusal> {
        if self.is_empty() {
            return Ok(Grant {
                subject: String::new(),
                expires_us: None,
                read: Globs::All,
                read_hash: 0,
                command: Globs::All,
            });
        }
        let token = token.filter(|token| !token.is_empty()).ok_or(Refusal::Missing)?;
        let header = decode_header(token).map_err(|error| Refusal::Invalid(error.to_string()))?;
        let sets: Vec<_> = self.sets.iter().map(|set| set.keys()).collect();
        let all = self.keys.iter().chain(sets.iter().flat_map(|keys| keys.iter()));
        let mut refusal = Refusal::Invalid(format!("no key for algorithm {:?} and its key id", header.alg));
        for key in all.filter(|key| key.fits(&header)) {
            match decode::<Claims>(token, &key.key, &self.validation(key.algorithm)) {
                Ok(TokenData { claims, .. }) => return grant(claims, &self.settings),
                Err(error) if matches!(error.kind(), ErrorKind::ExpiredSignature) => {
                    return Err(Refusal::Expired);
                }
                Err(error) => refusal = Refusal::Invalid(error.to_string()),
            }
        }
        Err(refusal)
    }

    fn validation(&self, algorithm: jsonwebtoken::Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = self.settings.leeway.as_secs();
        validation.validate_nbf = true;
        let mut required = vec!["exp", "sub"];
        validation.validate_aud = !self.settings.audience.is_empty();
        if validation.validate_aud {
            validation.set_audience(&self.settings.audience);
            required.push("aud");
        }
        if !self.settings.issuer.is_empty() {
            validation.set_issuer(&self.settings.issuer);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        validation
    }
}

impl Key {
    /// For tokens of this algorithm and key id; an empty one: any.
    pub fn new(id: String, algorithm: jsonwebtoken::Algorithm, key: DecodingKey) -> Self {
        Self { id, algorithm, key }
    }

    fn fits(&self, header: &Header) -> bool {
        self.algorithm == header.alg
            && (self.id.is_empty() || header.kid.as_deref() == Some(self.id.as_str()))
    }

    fn load(settings: &KeySettings) -> Result<Self, KeyError> {
        let text = match settings.algorithm {
            Algorithm::HS256 => secret(&settings.file).map_err(KeyError::Read)?,
            Algorithm::EdDSA | Algorithm::RS256 => {
                std::fs::read_to_string(&settings.file).map_err(|why| KeyError::Public {
                    file: settings.file.display().to_string(),
                    why,
                })?
            }
        };
        let (algorithm, key) = match settings.algorithm {
            Algorithm::EdDSA => (
                jsonwebtoken::Algorithm::EdDSA,
                DecodingKey::from_ed_pem(text.as_bytes()),
            ),
            Algorithm::RS256 => (
                jsonwebtoken::Algorithm::RS256,
                DecodingKey::from_rsa_pem(text.as_bytes()),
            ),
            // RFC 7518 §3.2: no shorter than the hash.
            Algorithm::HS256 if text.len() < 32 => {
                let why = format!("a secret of {} bytes is too short; 32 is the least", text.len());
                return Err(settings.refused(why));
            }
            Algorithm::HS256 => (
                jsonwebtoken::Algorithm::HS256,
                Ok(DecodingKey::from_secret(text.as_bytes())),
            ),
        };
        let key = key.map_err(|error| settings.refused(error.to_string()))?;
        Ok(Self {
            id: settings.id.clone(),
            algorithm,
            key,
        })
    }
}

impl KeySettings {
    fn refused(&self, why: String) -> KeyError {
        KeyError::Key {
            file: self.file.display().to_string(),
            algorithm: self.algorithm,
            why,
        }
    }
}

fn grant(claims: Claims, settings: &TokenSettings) -> Result<Grant, Refusal> {
    let globs = |globs: &[String]| {
        Globs::compile(globs).map_err(|error| Refusal::Invalid(format!("its claim hw: {error}")))
    };
    let expires_us = (claims.exp + settings.leeway.as_secs_f64()) * 1e6;
    if claims.sub.is_empty() {
        return Err(Refusal::Invalid("its claim sub is empty".into()));
    }
    Ok(Grant {
        read: globs(&claims.hw.read)?,
        read_hash: std::hash::BuildHasher::hash_one(
            &std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default(),
            &claims.hw.read,
        ),
        command: globs(&claims.hw.command)?,
        subject: claims.sub,
        // Saturates; a token for ever is the signer's choice.
        expires_us: Some(expires_us as i64),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use super::*;
    use jsonwebtoken::{EncodingKey, encode};
    use serde_json::{Value, json};

    pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";

    pub(crate) fn now() -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
    }

    pub(crate) fn token(claims: &Value) -> String {
        encode(
            &Header::new(jsonwebtoken::Algorithm::HS256),
            claims,
            &EncodingKey::from_secret(SECRET.as_bytes()),
        )
        .unwrap()
    }

    pub(crate) fn key_file(content: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file
    }

    fn keys(settings: &TokenSettings) -> Keys {
        let file = key_file(&format!("{SECRET}\n"));
        let key = KeySettings {
            algorithm: Algorithm::HS256,
            file: file.path().to_path_buf(),
            id: String::new(),
        };
        Keys::load(&[key], settings).unwrap()
    }

    fn exact() -> TokenSettings {
        TokenSettings {
            leeway: Duration::ZERO,
            ..TokenSettings::default()
        }
    }

    #[test]
    fn scopes_and_expiry_are_read() {
        let exp = now() + 60;
        let claims =
            json!({"sub": "ann", "exp": exp, "hw": {"read": ["site-1-*"], "command": ["site-1-gw"]}});
        let grant = keys(&TokenSettings::default())
            .check(Some(&token(&claims)))
            .unwrap();
        assert_eq!(
            (grant.subject.as_str(), grant.expires_us),
            ("ann", Some((exp + 5) * 1_000_000))
        );
        assert!(grant.read.matches("site-1-gw") && !grant.read.matches("site-2-gw"));
        assert!(grant.command.matches("site-1-gw") && !grant.command.matches("site-1-x"));
    }

    #[test]
    fn a_token_without_scopes_reads_nothing() {
        let grant = keys(&exact())
            .check(Some(&token(&json!({"sub": "ann", "exp": now() + 60}))))
            .unwrap();
        assert!(!grant.read.matches("any") && !grant.command.matches("any"));
    }

    #[test]
    fn every_refusal_has_its_reason() {
        let keys = keys(&exact());
        let check = |token: &str| keys.check(Some(token)).unwrap_err();
        assert_eq!(keys.check(None).unwrap_err(), Refusal::Missing);
        assert_eq!(check(""), Refusal::Missing);
        assert_eq!(
            check(&token(&json!({"sub": "ann", "exp": now() - 1}))),
            Refusal::Expired
        );
        for claims in [
            json!({"sub": "ann"}),
            json!({"exp": now() + 60}),
            json!({"sub": 5, "exp": now() + 60}),
        ] {
            assert!(matches!(check(&token(&claims)), Refusal::Invalid(_)), "{claims}");
        }
        let good = token(&json!({"sub": "ann", "exp": now() + 60}));
        for token in [
            "x",
            "a.b.c",
            &good[..good.len() - 2],
            &format!("{good}x"),
            &good.replace('.', ".."),
        ] {
            assert!(matches!(check(token), Refusal::Invalid(_)), "{token}");
        }
        // {"alg":"none"} with the same claims and no signature.
        let none = format!("eyJhbGciOiJub25lIn0.{}.", good.split('.').nth(1).unwrap());
        assert!(matches!(check(&none), Refusal::Invalid(_)));
        let future = json!({"sub": "ann", "exp": now() + 60, "nbf": now() + 30});
        assert!(matches!(check(&token(&future)), Refusal::Invalid(_)));
    }

    #[test]
    fn audience_and_issuer_are_required_where_configured() {
        let keys = keys(&TokenSettings {
            audience: vec!["headwater".into()],
            issuer: vec!["https://id.example".into()],
            ..exact()
        });
        let check = |aud: Value, iss: Value| {
            let claims = json!({"sub": "ann", "exp": now() + 60, "aud": aud, "iss": iss});
            keys.check(Some(&token(&claims))).is_ok()
        };
        assert!(check(json!(["other", "headwater"]), json!("https://id.example")));
        assert!(!check(json!("other"), json!("https://id.example")));
        assert!(!check(json!("headwater"), json!("https://evil.example")));
        assert!(
            keys.check(Some(&token(&json!({"sub": "ann", "exp": now() + 60}))))
                .is_err()
        );
    }

    #[test]
    fn a_key_is_used_with_its_algorithm_and_id_only() {
        let file = key_file(SECRET);
        let load = |id: &str| {
            let key = KeySettings {
                algorithm: Algorithm::HS256,
                file: file.path().into(),
                id: id.into(),
            };
            Keys::load(&[key], &exact()).unwrap()
        };
        let mut header = Header::new(jsonwebtoken::Algorithm::HS256);
        header.kid = Some("k1".into());
        let claims = json!({"sub": "ann", "exp": now() + 60});
        let token = encode(&header, &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
        assert!(load("k1").check(Some(&token)).is_ok());
        assert!(load("").check(Some(&token)).is_ok());
        assert!(load("k2").check(Some(&token)).is_err());
    }

    #[test]
    fn files_that_hold_no_key_are_named() {
        let file = key_file("not a key");
        for algorithm in [Algorithm::EdDSA, Algorithm::RS256, Algorithm::HS256] {
            let key = KeySettings {
                algorithm,
                file: file.path().into(),
                id: String::new(),
            };
            let error = Keys::load(&[key], &exact()).unwrap_err().to_string();
            assert!(error.contains(file.path().to_str().unwrap()), "{error}");
        }
        for (algorithm, what) in [
            (Algorithm::EdDSA, "the public key in /nonexistent: "),
            (Algorithm::RS256, "the public key in /nonexistent: "),
            (Algorithm::HS256, "the secret in /nonexistent: "),
        ] {
            let key = KeySettings {
                algorithm,
                file: "/nonexistent".into(),
                id: String::new(),
            };
            let error = Keys::load(&[key], &exact()).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn without_keys_everybody_reads_everything() {
        let keys = Keys::load(&[], &exact()).unwrap();
        assert!(keys.is_empty() && keys.check(None).unwrap().read.is_all());
    }
}
