//! `headwater-relay token`: tokens and keys for trying out and for tests. In production an authority of its own signs tokens, and the gateway
//! knows public keys only.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use clap::{Args, ValueEnum};
use headwater_config::secret;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Map, Value, json};

use crate::gateway::filter::Globs;
use crate::gateway::settings::TokenSettings;

/// The longest time a token may hold: this is for trying out, and nothing takes a token back.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);
/// The longest subject, bytes.
const SUBJECT: usize = 256;
/// The least a secret may have (RFC 7518 §3.2), bytes.
const SECRET: usize = 32;
/// What stands before the 32 bytes of an Ed25519 key: private (PKCS #8, RFC 8410 §7) and public (§4).
const PRIVATE: [u8; 16] = [
    0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
];
const PUBLIC: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// What to make.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Make a new key in this file, and do not overwrite one. A public key gets `.pub` after its name; the lines for relay.toml are printed.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "subject", "read", "command"])]
    pub new_key: Option<PathBuf>,
    /// What kind of key to make.
    #[arg(long, value_enum, default_value = "ed25519", requires = "new_key")]
    pub kind: Kind,
    /// Sign with this key: a private key in PEM (Ed25519, RSA), or a secret of 32 bytes or more.
    #[arg(long, value_name = "FILE", required_unless_present = "new_key")]
    pub key: Option<PathBuf>,
    /// Whose token it is.
    #[arg(long, value_name = "NAME", required_unless_present = "new_key")]
    pub subject: Option<String>,
    /// Devices whose data it lets see: a glob; may be repeated.
    #[arg(long, value_name = "GLOB")]
    pub read: Vec<String>,
    /// Devices that it lets send commands to: a glob; may be repeated.
    #[arg(long, value_name = "GLOB")]
    pub command: Vec<String>,
    /// How long it holds.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    pub expires: Duration,
    /// The key's id (`kid`).
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// Its `aud`. Default: the first of gateway.tokens.audience.
    #[arg(long)]
    pub audience: Option<String>,
    /// Its `iss`. Default: the first of gateway.tokens.issuer.
    #[arg(long)]
    pub issuer: Option<String>,
}

/// A kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A pair for EdDSA.
    Ed25519,
    /// A secret for HS256: who can check tokens can sign them too.
    Secret,
}

/// Why there is no token and no key. Each message is whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was given makes none.
    #[error("{0}")]
    Argument(String),
    /// A file.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Makes what is asked for. Returns what is to be printed.
///
/// # Errors
/// [`Error`].
pub fn run(options: &Options, tokens: &TokenSettings) -> Result<String, Error> {
    match &options.new_key {
        Some(path) => new_key(path, options.kind, options.id.as_deref()),
        None => token(options, tokens),
    }
}

fn token(options: &Options, tokens: &TokenSettings) -> Result<String, Error> {
    let wrong = |why: String| Err(Error::Argument(why));
    let subject = options.subject.as_deref().unwrap_or_default();
    if subject.trim().is_empty() || subject.len() > SUBJECT {
        return wrong(format!(
            "--subject {subject:?}: 1 to {SUBJECT} bytes that are not all blank"
        ));
    }
    if options.read.is_empty() && options.command.is_empty() {
        return wrong("it would allow nothing: give --read or --command, as in --read '*'".into());
    }
    for (option, globs) in [("--read", &options.read), ("--command", &options.command)] {
        if let Err(error) = Globs::compile(globs) {
            return wrong(format!("{option}: {error}"));
        }
        if globs.iter().any(String::is_empty) {
            return wrong(format!("{option}: an empty glob matches no device"));
        }
    }
    if options.expires < Duration::from_secs(1) || options.expires > LONGEST {
        let given = humantime::format_duration(options.expires);
        return wrong(format!("--expires {given}: 1s to 1year is allowed"));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut claims = Map::new();
    claims.insert("sub".into(), subject.into());
    claims.insert("iat".into(), now.as_secs().into());
    claims.insert("exp".into(), (now + options.expires).as_secs().into());
    for (claim, given, configured) in [
        ("aud", &options.audience, &tokens.audience),
        ("iss", &options.issuer, &tokens.issuer),
    ] {
        if let Some(value) = given.as_ref().or(configured.first()) {
            claims.insert(claim.into(), value.as_str().into());
        }
    }
    claims.insert(
        "hw".into(),
        json!({ "read": options.read, "command": options.command }),
    );
    let path = options.key.as_deref().unwrap_or(Path::new(""));
    let (algorithm, key) = signing_key(path)?;
    let mut header = Header::new(algorithm);
    header.kid.clone_from(&options.id);
    encode(&header, &Value::Object(claims), &key).map_err(|error| Error::File {
        path: path.to_path_buf(),
        why: format!("it cannot sign: {error}"),
    })
}

fn signing_key(path: &Path) -> Result<(Algorithm, EncodingKey), Error> {
    let wrong = |why: String| Error::File {
        path: path.to_path_buf(),
        why,
    };
    let text = secret(path).map_err(|error| Error::Argument(format!("--key: {error}")))?;
    if text.contains("PUBLIC KEY-----") {
        return Err(wrong("a public key cannot sign; give the private one".into()));
    }
    if text.contains("-----BEGIN") {
        return EncodingKey::from_ed_pem(text.as_bytes())
            .map(|key| (Algorithm::EdDSA, key))
            .or_else(|_| EncodingKey::from_rsa_pem(text.as_bytes()).map(|key| (Algorithm::RS256, key)))
            .map_err(|error| wrong(format!("no Ed25519 or RSA private key in PEM: {error}")));
    }
    if text.len() < SECRET {
        let length = text.len();
        return Err(wrong(format!(
            "a secret of {length} bytes is too short; {SECRET} is the least"
        )));
    }
    Ok((Algorithm::HS256, EncodingKey::from_secret(text.as_bytes())))
}

fn new_key(path: &Path, kind: Kind, id: Option<&str>) -> Result<String, Error> {
    let mut seed = [0; 32];
    SystemRandom::new()
        .fill(&mut seed)
        .map_err(|_| Error::Argument("the system gives no random numbers".into()))?;
    let (algorithm, checked) = match kind {
        Kind::Secret => {
            create(path, 0o600, &format!("{}\n", URL_SAFE_NO_PAD.encode(seed)))?;
            ("HS256", path.to_path_buf())
        }
        Kind::Ed25519 => {
            let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
                .map_err(|error| Error::Argument(format!("no key could be made: {error}")))?;
            let mut public = path.as_os_str().to_owned();
            public.push(".pub");
            let public = PathBuf::from(public);
            create(path, 0o600, &pem("PRIVATE KEY", &[&PRIVATE, &seed[..]].concat()))?;
            let bytes = [&PUBLIC, pair.public_key().as_ref()].concat();
            create(&public, 0o644, &pem("PUBLIC KEY", &bytes))?;
            ("EdDSA", public)
        }
    };
    let file = std::path::absolute(&checked).unwrap_or(checked);
    let id = id.map(|id| format!("\nid = {id:?}")).unwrap_or_default();
    Ok(format!(
        "[[gateway.keys]]\nalgorithm = \"{algorithm}\"\nfile = {:?}{id}",
        file.display().to_string()
    ))
}

fn pem(label: &str, der: &[u8]) -> String {
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        STANDARD.encode(der)
    )
}

fn create(path: &Path, mode: u32, text: &str) -> Result<(), Error> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| Error::File {
        path: path.to_path_buf(),
        why: format!("the key is not written: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::settings::{Algorithm as Configured, KeySettings};
    use crate::gateway::token::Keys;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn made(arguments: &[&str]) -> Result<String, String> {
        let cli = Cli::try_parse_from([&["token"], arguments].concat()).map_err(|error| error.to_string())?;
        run(&cli.options, &TokenSettings::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_new_key_signs_what_a_gateway_with_the_printed_lines_takes() {
        let directory = tempfile::tempdir().unwrap();
        for (kind, algorithm) in [("ed25519", Configured::EdDSA), ("secret", Configured::HS256)] {
            let path = directory.path().join(kind);
            let path = path.to_str().unwrap();
            let lines = made(&["--new-key", path, "--kind", kind, "--id", "k1"]).unwrap();
            #[derive(serde::Deserialize)]
            struct Printed {
                gateway: Gateway,
            }
            #[derive(serde::Deserialize)]
            struct Gateway {
                keys: Vec<KeySettings>,
            }
            let printed: Printed = toml::from_str(&lines).unwrap();
            assert_eq!(
                (
                    printed.gateway.keys[0].algorithm,
                    printed.gateway.keys[0].id.as_str()
                ),
                (algorithm, "k1")
            );
            let keys = Keys::load(&printed.gateway.keys, &TokenSettings::default()).unwrap();
            let token = made(&[
                "--key",
                path,
                "--id",
                "k1",
                "--subject",
                "ann",
                "--read",
                "gw-*",
                "--command",
                "gw-1",
            ])
            .unwrap();
            let grant = keys.check(Some(&token)).unwrap();
            assert_eq!(grant.subject, "ann");
            assert!(grant.read.matches("gw-2") && !grant.read.matches("x"));
            assert!(grant.command.matches("gw-1") && !grant.command.matches("gw-2"));
            let other = made(&["--key", path, "--subject", "ann", "--read", "*"]).unwrap();
            assert!(keys.check(Some(&other)).is_err(), "without the key's id");
            // A key is not overwritten.
            assert!(
                made(&["--new-key", path, "--kind", kind])
                    .unwrap_err()
                    .contains(path)
            );
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(
                std::fs::metadata(path).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
    }

    #[test]
    fn audience_and_issuer_are_those_of_the_settings_unless_given() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let path = path.to_str().unwrap();
        made(&["--new-key", path, "--kind", "secret"]).unwrap();
        let settings = TokenSettings {
            audience: vec!["headwater".into()],
            issuer: vec!["https://id.example".into()],
            ..TokenSettings::default()
        };
        let key = KeySettings {
            algorithm: Configured::HS256,
            file: path.into(),
            id: String::new(),
        };
        let keys = Keys::load(&[key], &settings).unwrap();
        let arguments = ["token", "--key", path, "--subject", "ann", "--read", "*"];
        let token =
            |more: &[&str]| run(&Cli::parse_from([&arguments, more].concat()).options, &settings).unwrap();
        assert!(keys.check(Some(&token(&[]))).is_ok());
        assert!(keys.check(Some(&token(&["--audience", "other"]))).is_err());
        assert!(keys.check(Some(&token(&["--issuer", "other"]))).is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let path = path.to_str().unwrap();
        made(&["--new-key", path]).unwrap();
        let public = format!("{path}.pub");
        let short = directory.path().join("short");
        std::fs::write(&short, "too short").unwrap();
        let short = short.to_str().unwrap();
        let many: Vec<&str> = (0..65).flat_map(|_| ["--read", "x"]).collect();
        for (arguments, word) in [
            (vec![], "--key"),
            (vec!["--key", path], "--subject"),
            (vec!["--key", path, "--subject", "ann"], "--read"),
            (vec!["--key", path, "--subject", " ", "--read", "*"], "--subject"),
            (vec!["--key", path, "--subject", "ann", "--read", "a[b"], "--read"),
            (vec!["--key", path, "--subject", "ann", "--read", ""], "empty"),
            (
                vec![
                    "--key",
                    path,
                    "--subject",
                    "ann",
                    "--read",
                    "*",
                    "--expires",
                    "0s",
                ],
                "--expires",
            ),
            (
                vec![
                    "--key",
                    path,
                    "--subject",
                    "ann",
                    "--read",
                    "*",
                    "--expires",
                    "10years",
                ],
                "--expires",
            ),
            (
                vec![
                    "--key",
                    path,
                    "--subject",
                    "ann",
                    "--read",
                    "*",
                    "--expires",
                    "soon",
                ],
                "--expires",
            ),
            (
                vec!["--key", &public, "--subject", "ann", "--read", "*"],
                "public key",
            ),
            (
                vec!["--key", short, "--subject", "ann", "--read", "*"],
                "too short",
            ),
            (
                vec!["--key", "/nowhere", "--subject", "ann", "--read", "*"],
                "/nowhere",
            ),
            (vec!["--new-key", "/nowhere/key"], "/nowhere/key"),
            (vec!["--new-key", "x", "--subject", "ann"], "--subject"),
            (
                [vec!["--key", path, "--subject", "ann"], many].concat(),
                "limit of 64",
            ),
        ] {
            let error = made(&arguments).unwrap_err();
            assert!(error.contains(word), "{arguments:?}: {error}");
        }
    }
}
