//! Where key, certificate, authorities and token are. Each is replaced whole, durably; all belong to whom their directory belongs to, since a
//! first boot is root's, and the agent is not.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustix::fs::{FlockOperation, flock};
use tokio_rustls::rustls::sign::SigningKey;

use super::request::pem;
use crate::Config;
use crate::config::Token;
use crate::mqtt::tls;

/// The token that waits until it is used, beside the key.
const TOKEN: &str = "token";
/// The endpoint's authority, beside the key.
const ENDPOINT: &str = "endpoint-ca.pem";

/// The places.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(super) key: PathBuf,
    pub(super) cert: PathBuf,
    authorities: Option<PathBuf>,
    dir: PathBuf,
}

/// What is there.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// From when to when the certificate is valid, if there is one with its key; seconds since the Unix epoch.
    pub(super) dates: Option<(i64, i64)>,
    /// Why there is none.
    pub(super) why: Option<String>,
    pub(super) token: bool,
}

impl Files {
    /// As the settings say; `None`: they do not.
    pub(crate) fn of(config: &Config) -> Option<Self> {
        let tls = &config.uplink.tls;
        let key = tls.key_file.clone()?;
        Some(Self {
            dir: key.parent()?.to_path_buf(),
            key,
            cert: tls.cert_file.clone()?,
            authorities: tls.ca_file.clone(),
        })
    }

    /// One process at a time makes a key or uses the token; held until it is dropped.
    pub(super) fn lock(&self) -> Result<File, String> {
        make_dir(&self.dir).map_err(|error| wrong("make", &self.dir, &error))?;
        let dir = File::open(&self.dir).map_err(|error| wrong("open", &self.dir, &error))?;
        flock(&dir, FlockOperation::LockExclusive)
            .map_err(|error| wrong("lock", &self.dir, &error.into()))?;
        Ok(dir)
    }

    pub(super) fn held(&self) -> Held {
        let own = tls::own(&self.cert, &self.key);
        Held {
            dates: own.as_ref().ok().copied(),
            why: own.err(),
            token: self.dir.join(TOKEN).exists(),
        }
    }

    /// The key, which is made if there is none.
    pub(super) fn key(&self) -> Result<Arc<dyn SigningKey>, String> {
        if !self.key.exists() {
            let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
            let made =
                made.map_err(|_| "no key could be made: the system gives no random numbers".to_string())?;
            place(&self.key, 0o600, pem("PRIVATE KEY", made.as_ref()).as_bytes())?;
        }
        tls::key(&self.key)
    }

    /// Puts what was signed where it belongs, the certificate last.
    pub(super) fn install(&self, certificate: &str, authorities: &str) -> Result<(), String> {
        if let Some(path) = self.authorities.as_ref().filter(|_| !authorities.is_empty()) {
            tls::check_certificates(authorities.as_bytes())
                .map_err(|why| format!("the authorities that came: {why}"))?;
            if fs::read(path).ok().as_deref() != Some(authorities.as_bytes()) {
                place(path, 0o644, authorities.as_bytes())?;
            }
        }
        // It is tried beside its place: what is not this key's must not take the place of one that is.
        let tried = self.cert.with_extension("tried");
        place(&tried, 0o644, certificate.as_bytes())?;
        if let Err(why) = tls::own(&tried, &self.key) {
            let _ = fs::remove_file(&tried);
            return Err(format!("the certificate that came cannot be used: {why}"));
        }
        fs::rename(&tried, &self.cert).map_err(|error| wrong("write", &self.cert, &error))?;
        sync_dir_of(&self.cert).map_err(|error| wrong("write", &self.cert, &error))
    }

    pub(super) fn token(&self) -> Result<Option<Token>, String> {
        let path = self.dir.join(TOKEN);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(Token(text.trim().to_string())).filter(Token::is_plausible)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(wrong("read", &path, &error)),
        }
    }

    /// Keeps a token until it has been used.
    pub(crate) fn keep_token(&self, token: &Token) -> Result<(), String> {
        make_dir(&self.dir).map_err(|error| wrong("make", &self.dir, &error))?;
        place(&self.dir.join(TOKEN), 0o600, token.0.as_bytes())
    }

    pub(super) fn drop_token(&self) -> Result<(), String> {
        let path = self.dir.join(TOKEN);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(wrong("remove", &path, &error)),
            Ok(()) => sync_dir_of(&path).map_err(|error| wrong("remove", &path, &error)),
        }
    }

    /// Whether a token waits.
    pub(crate) fn has_token(&self) -> bool {
        self.dir.join(TOKEN).exists()
    }

    /// Whether there is a certificate with its key.
    pub(crate) fn is_enrolled(&self) -> bool {
        self.held().dates.is_some()
    }

    /// Key and certificate of another name make way.
    pub(crate) fn put_aside(&self) -> Result<(), String> {
        for path in [&self.cert, &self.key] {
            let mut aside = path.clone().into_os_string();
            aside.push(".old");
            match fs::rename(path, aside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(wrong("move", path, &error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The file with the endpoint's authority, which the settings hold as text.
    pub(super) fn endpoint_ca(&self, text: &str) -> Result<PathBuf, String> {
        let path = self.dir.join(ENDPOINT);
        if fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
            make_dir(&self.dir).map_err(|error| wrong("make", &self.dir, &error))?;
            place(&path, 0o644, text.as_bytes())?;
        }
        Ok(path)
    }
}

fn wrong(what: &str, path: &Path, error: &io::Error) -> String {
    format!("cannot {what} {}: {error}", path.display())
}

/// A directory for secrets, that belongs to whom the one above it belongs to.
fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(above) = dir.parent() {
        make_dir(above)?;
    }
    fs::DirBuilder::new().mode(0o750).create(dir)?;
    own_as_above(&File::open(dir)?, dir)?;
    sync_dir_of(dir)
}

/// Only root can give away; whoever else cannot has nothing to give away.
fn own_as_above(file: &File, path: &Path) -> io::Result<()> {
    let above = fs::metadata(path.parent().unwrap_or(Path::new("/")))?;
    let of = file.metadata()?;
    if (of.uid(), of.gid()) == (above.uid(), above.gid()) || of.uid() != 0 {
        return Ok(());
    }
    fchown(file, Some(above.uid()), Some(above.gid()))
}

/// Replaces a file. When it returns, the new content is on the medium; on an error the old one still is.
pub(crate) fn place(path: &Path, mode: u32, content: &[u8]) -> Result<(), String> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let write = || {
        // Of one that a power cut has left nobody knows who may read it.
        let _ = fs::remove_file(&part);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&part)?;
        // Whatever the umask is.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        own_as_above(&file, path)?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        // FAT makes a new entry for the new name, in which length and place are written with the file.
        file.sync_all()?;
        sync_dir_of(path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&part);
        wrong("write", path, &error)
    })
}

pub(crate) fn sync_dir_of(path: &Path) -> io::Result<()> {
    match path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        Some(dir) => File::open(dir)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::mqtt::authority::Authority;

    fn files(dir: &Path) -> Files {
        let mut config = Config::default();
        config.uplink.tls = config::Tls {
            key_file: Some(dir.join("tls/device.key")),
            cert_file: Some(dir.join("tls/device.crt")),
            ca_file: Some(dir.join("tls/ca.crt")),
            ..config::Tls::default()
        };
        Files::of(&config).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_key_is_made_once_and_nobody_else_may_read_it() {
        let temp = tempfile::tempdir().unwrap();
        let files = files(temp.path());
        let _lock = files.lock().unwrap();
        // What a power cut has left is no hindrance.
        fs::write(files.dir.join("device.key.part"), "half").unwrap();
        let first = files.key().unwrap().public_key().unwrap().to_vec();
        assert_eq!(files.key().unwrap().public_key().unwrap().to_vec(), first);
        assert_eq!((mode(&files.key), mode(&files.dir)), (0o600, 0o750));
        files.keep_token(&Token("abcdefghijklmnop".into())).unwrap();
        assert_eq!(mode(&files.dir.join(TOKEN)), 0o600);
        assert_eq!(files.token().unwrap().unwrap().0, "abcdefghijklmnop");
        files.drop_token().unwrap();
        files.drop_token().unwrap();
        assert!(!files.has_token() && files.token().unwrap().is_none());
        let names: Vec<_> = fs::read_dir(&files.dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["device.key"]);
    }

    #[test]
    fn only_a_certificate_of_the_key_takes_the_place_of_another() {
        let temp = tempfile::tempdir().unwrap();
        let files = files(temp.path());
        make_dir(&files.dir).unwrap();
        let authority = Authority::new(temp.path(), "authority");
        let own = authority.valid("own", "gw-01");
        fs::copy(&own.key, &files.key).unwrap();
        let (good, other) = (
            fs::read_to_string(&own.cert).unwrap(),
            authority.valid("other", "gw-01"),
        );
        let ca = fs::read_to_string(&authority.file).unwrap();
        assert!(!files.is_enrolled());
        files.install(&good, &ca).unwrap();
        let (from, until) = files.held().dates.unwrap();
        assert!(from < until, "{from} {until}");
        for bad in [
            fs::read_to_string(&other.cert).unwrap(),
            "garbage".into(),
            String::new(),
        ] {
            assert!(
                files
                    .install(&bad, &ca)
                    .unwrap_err()
                    .contains("the certificate that came"),
                "{bad}"
            );
        }
        assert!(
            files
                .install(&good, "garbage")
                .unwrap_err()
                .contains("authorities")
        );
        assert_eq!(fs::read_to_string(&files.cert).unwrap(), good);
        assert_eq!(fs::read_to_string(temp.path().join("tls/ca.crt")).unwrap(), ca);
        assert!(!files.cert.with_extension("tried").exists());
        files.put_aside().unwrap();
        assert!(!files.is_enrolled() && files.dir.join("device.key.old").exists());
        files.put_aside().unwrap();
    }
}
