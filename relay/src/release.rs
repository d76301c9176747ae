//! `headwater-relay release`: what agents are told of a release, signed. The signature is one of minisign's (`minisign -S -l` makes the same, and
//! `minisign -V` checks it); the key is an Ed25519 key in PEM, as `openssl genpkey -algorithm ed25519` makes it, so that it can be kept wherever such
//! keys are kept.

use std::collections::BTreeSet;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use ring::digest::{SHA256, digest};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Map, json};
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

/// What begins a key and a signature of the kind that signs the text itself.
const KIND: &[u8] = b"Ed";

/// What to make.
#[derive(Subcommand, Clone, Debug)]
pub enum Options {
    /// Writes a release's manifest: `release manifest --version 0.2.0 --output manifest.json aarch64-unknown-linux-musl=headwater-agent-0.2.0-aarch64 …`.
    Manifest {
        /// The version that its programs tell with --version.
        #[arg(long)]
        version: String,
        /// The manifest.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        /// Each target's program: its triple and its file, whose name is the one that agents ask a server for.
        #[arg(required = true, value_name = "TARGET=FILE")]
        files: Vec<String>,
    },
    /// Signs a manifest: beside it a file with `.minisig` after its name is written.
    Sign {
        /// An Ed25519 key in PEM: `openssl genpkey -algorithm ed25519 -out release.pem`.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The manifest.
        manifest: PathBuf,
    },
    /// Prints the public key of a key: the line for `update.keys` of agent.toml.
    Key {
        /// An Ed25519 key in PEM.
        #[arg(value_name = "FILE")]
        key: PathBuf,
    },
}

/// Why there is none. Each message is whole.
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

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |error| Error::File {
        path,
        why: error.to_string(),
    }
}

/// Makes what is asked for. Returns what is to be printed.
///
/// # Errors
/// [`Error`].
pub fn run(options: &Options) -> Result<String, Error> {
    match options {
        Options::Manifest {
            version,
            output,
            files,
        } => {
            let text = manifest(version, files)?;
            std::fs::write(output, text).map_err(file(output))?;
            Ok(format!(
                "{} is written; sign it: headwater-relay release sign --key KEY {0}",
                output.display()
            ))
        }
        Options::Sign { key, manifest } => {
            let signer = Signer::read(key)?;
            let text = std::fs::read(manifest).map_err(file(manifest))?;
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |now| now.as_secs());
            let name = manifest
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let comment = format!("timestamp:{now}\tfile:{name}");
            let path = signature_of(manifest);
            std::fs::write(&path, signer.sign(&text, &comment)).map_err(file(&path))?;
            Ok(format!(
                "{} is written; agents know it by update.keys = [\"{}\"]",
                path.display(),
                signer.public()
            ))
        }
        Options::Key { key } => Ok(Signer::read(key)?.public()),
    }
}

/// Where a manifest's signature is.
pub fn signature_of(manifest: &Path) -> PathBuf {
    let mut path = manifest.as_os_str().to_os_string();
    path.push(".minisig");
    path.into()
}

fn manifest(version: &str, files: &[String]) -> Result<String, Error> {
    let wrong = |why: String| Err(Error::Argument(why));
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if numbers.split('.').count() != 3 || !numbers.split('.').all(digits) {
        return wrong(format!("--version {version:?}: write it as 1.2.3 or 1.2.3-rc.1"));
    }
    let mut programs = Map::new();
    for given in files {
        let Some((target, path)) = given.split_once('=') else {
            return wrong(format!(
                "{given:?}: write it as TARGET=FILE, as in aarch64-unknown-linux-musl=headwater-agent"
            ));
        };
        let path = Path::new(path);
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if !(1..=128).contains(&name.len()) || !name.bytes().all(plain) {
            return wrong(format!(
                "{given:?}: the file's name becomes part of an address; use A-Z a-z 0-9 - . _"
            ));
        }
        let program = std::fs::read(path).map_err(file(path))?;
        if let Some(why) = objection(&program, version, target) {
            return wrong(format!("{}: {why}", path.display()));
        }
        let (size, sha256) = (program.len(), hexadecimal(digest(&SHA256, &program).as_ref()));
        let program = json!({ "name": name, "size": size, "sha256": sha256 });
        if programs.insert(target.into(), program).is_some() {
            return wrong(format!("{target} is given twice"));
        }
    }
    let manifest = json!({ "headwater": "agent", "version": version, "files": programs });
    Ok(format!("{manifest:#}\n"))
}

/// Why a file is not the agent of this version for this target. Every agent has what it prints on `--version` in its file: "headwater-agent VERSION TARGET",
/// and the end of the line.
fn objection(program: &[u8], version: &str, target: &str) -> Option<String> {
    // What begins every program (elf(5)); an archive of one would have the line in it too.
    if !program.starts_with(b"\x7fELF") {
        return Some("it is no program; give the agent itself, not an archive or a package of it".into());
    }
    let lines: BTreeSet<String> = BufRead::split(program, b'\n')
        .map_while(Result::ok)
        .filter_map(|line| said(&line))
        .collect();
    let expected = format!("{version} {target}");
    if lines.contains(&expected) {
        return None;
    }
    let lines: Vec<String> = lines.into_iter().collect();
    Some(match lines[..] {
        [] => "it is no agent: it does not say which version it is".into(),
        _ => format!(
            "it is not {expected}: it says of itself that it is {}",
            lines.join(", ")
        ),
    })
}

/// The version and the target, where such a line ends with them.
fn said(line: &[u8]) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    // Most of a program's bytes are no text.
    if !line.last().is_some_and(|last| plain(*last)) {
        return None;
    }
    let end = String::from_utf8_lossy(&line[line.len().saturating_sub(160)..]);
    let (_, said) = end.rsplit_once("headwater-agent ")?;
    let (version, target) = said.split_once(' ')?;
    let numbered = version.starts_with(|first: char| first.is_ascii_digit());
    (numbered && target.bytes().all(plain)).then(|| said.into())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a text is a public key, as `release key` prints it.
pub fn is_public_key(text: &str) -> bool {
    STANDARD
        .decode(text.trim())
        .is_ok_and(|bytes| bytes.len() == 42 && bytes.starts_with(KIND))
}

/// A private key, and the id that signatures name it by: made from the public one.
struct Signer {
    pair: Ed25519KeyPair,
    id: [u8; 8],
}

impl Signer {
    fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read(path).map_err(file(path))?;
        let wrong = |why: &str| Error::File {
            path: path.to_path_buf(),
            why: why.into(),
        };
        // As `openssl pkey -pubout` writes it, as minisign does, or as `release key` prints it.
        let starts = |line: &[u8]| line.starts_with(b"-----BEGIN PUBLIC KEY") || line.starts_with(b"RW");
        let is_private = text.windows(11).any(|word| word == b"PRIVATE KEY");
        if !is_private && text.split(|byte| *byte == b'\n').any(starts) {
            return Err(wrong(
                "it is a public key, which signs nothing; give the private one that it was made from",
            ));
        }
        let none = "there is no Ed25519 private key in it; `openssl genpkey -algorithm ed25519` makes one";
        let Ok(PrivateKeyDer::Pkcs8(key)) = PrivateKeyDer::from_pem_slice(&text) else {
            return Err(wrong(none));
        };
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.secret_pkcs8_der());
        let pair = pair.map_err(|_| wrong(none))?;
        let mut id = [0; 8];
        id.copy_from_slice(&digest(&SHA256, pair.public_key().as_ref()).as_ref()[..8]);
        Ok(Self { pair, id })
    }

    fn public(&self) -> String {
        STANDARD.encode([KIND, &self.id, self.pair.public_key().as_ref()].concat())
    }

    fn sign(&self, text: &[u8], comment: &str) -> String {
        let signature = self.pair.sign(text);
        let both = self.pair.sign(&[signature.as_ref(), comment.as_bytes()].concat());
        format!(
            "untrusted comment: signature by headwater-relay release sign\n{}\ntrusted comment: {comment}\n{}\n",
            STANDARD.encode([KIND, &self.id, signature.as_ref()].concat()),
            STANDARD.encode(both)
        )
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn run_tool(program: &str, arguments: &[&str], folder: &Path) {
        let output = Command::new(program).args(arguments).current_dir(folder).output();
        let output = output.unwrap_or_else(|error| {
            panic!("{program} cannot be run ({error}); `scripts/test --only packages` installs it")
        });
        let (out, error) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "{program} {arguments:?}: {out}{error}");
    }

    /// What is looked at of an agent.
    fn program(version: &str, target: &str) -> Vec<u8> {
        format!(
            "\x7fELF…headwater-agent {{}}\0headwater-agent {version} {target}\nusage: headwater-agent run\n"
        )
        .into_bytes()
    }

    #[test]
    fn minisign_checks_what_is_signed_with_a_key_of_openssl_s() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path();
        run_tool(
            "openssl",
            &["genpkey", "-algorithm", "ed25519", "-out", "release.pem"],
            folder,
        );
        let content = program("0.2.0", "a-b");
        std::fs::write(folder.join("agent"), &content).unwrap();
        let program = format!("a-b={}", folder.join("agent").display());
        let manifest = folder.join("manifest.json");
        run(&Options::Manifest {
            version: "0.2.0".into(),
            output: manifest.clone(),
            files: vec![program],
        })
        .unwrap();
        let text = std::fs::read_to_string(&manifest).unwrap();
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["files"]["a-b"]["size"], content.len());
        let told = Command::new("sha256sum")
            .arg(folder.join("agent"))
            .output()
            .unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        assert_eq!(read["files"]["a-b"]["sha256"], told[..64]);
        let key = folder.join("release.pem");
        let told = run(&Options::Sign {
            key: key.clone(),
            manifest,
        })
        .unwrap();
        let public = run(&Options::Key { key }).unwrap();
        assert!(is_public_key(&public) && !is_public_key(&public[2..]));
        assert!(told.contains(&public) && public.starts_with("RW"), "{told}");
        run_tool("minisign", &["-V", "-P", &public, "-m", "manifest.json"], folder);
        std::fs::write(folder.join("manifest.json"), text.replace("0.2.0", "0.2.1")).unwrap();
        let altered = Command::new("minisign")
            .args(["-V", "-P", &public, "-m", "manifest.json"])
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(!altered.status.success());
    }

    #[test]
    fn a_program_is_the_version_and_for_the_target_that_it_is_signed_as() {
        let good = program("0.2.0", "arm-unknown-linux-musleabihf");
        let objection =
            |program: &[u8], version, target| objection(program, version, target).unwrap_or_default();
        assert_eq!(objection(&good, "0.2.0", "arm-unknown-linux-musleabihf"), "");
        for (version, target) in [
            ("0.2.1", "arm-unknown-linux-musleabihf"),
            ("0.2", "arm-unknown-linux-musleabihf"),
            ("0.2.0", "arm-unknown-linux-musleabi"),
            ("0.2.0", "aarch64-unknown-linux-musl"),
        ] {
            let why = objection(&good, version, target);
            assert!(
                why.contains("that it is 0.2.0 arm-unknown-linux-musleabihf"),
                "{version} {target}: {why}"
            );
        }
        // Such as the relay, which knows the word.
        let other = b"\x7fELFheadwater-agent {}\nheadwater-agent 0.2.0";
        assert!(objection(other, "0.2.0", "a").contains("no agent"));
        assert!(objection(&[b"ar", &good[..]].concat(), "0.2.0", "a").contains("not an archive"));
    }

    #[test]
    fn what_makes_no_release_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("agent");
        std::fs::write(&path, program("0.2.0", "a")).unwrap();
        let path = path.display();
        for (version, files, part) in [
            ("2", vec![format!("a={path}")], "1.2.3"),
            ("v0.2.0", vec![format!("a={path}")], "1.2.3"),
            ("0.2.0", vec![format!("{path}")], "TARGET=FILE"),
            ("0.2.0", vec!["a=/nowhere/x".into()], "/nowhere/x"),
            ("0.2.0", vec!["a=/nowhere/x y".into()], "part of an address"),
            ("0.2.0", vec![format!("a={path}"), format!("a={path}")], "twice"),
            (
                "0.2.1",
                vec![format!("a={path}")],
                "it is not 0.2.1 a: it says of itself that it is 0.2.0 a",
            ),
        ] {
            let error = manifest(version, &files).unwrap_err().to_string();
            assert!(error.contains(part), "{version} {files:?}: {error}");
        }
        let why = |text: &str| {
            let key = temp.path().join("key");
            std::fs::write(&key, text).unwrap();
            run(&Options::Key { key }).unwrap_err().to_string()
        };
        assert!(why("abc").contains("openssl genpkey"));
        let pem = "-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----\n";
        for public in [pem, "RWSx\n", "untrusted comment: minisign public key\nRWSx\n"] {
            assert!(why(public).contains("a public key"), "{public}");
        }
    }
}
