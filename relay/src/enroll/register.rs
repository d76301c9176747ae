//! What has to be remembered, as plain files in one directory:
//!
//! ```text
//! tokens/HASH.json          a token, by the SHA-256 of it: for whom, until when
//! used/HASH.json            what it was used for; written before the certificate leaves the house
//! devices/NAME/SERIAL.json  a certificate, and when it was revoked
//! revoked/NAME.json         a name that gets no certificate
//! lock, endpoint.lock       held for an operation; held by the endpoint
//! ```
//!
//! Each file is written whole beside its place, synced, and renamed. A token is looked up, used and recorded under the lock, so
//! two processes cannot both use it. Files belong to whom the directory belongs to, whoever runs a command.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Error;

/// A token, which is known here by its hash alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Token {
    /// The device's name, or a glob of names.
    pub(super) device: String,
    /// Seconds since the Unix epoch.
    pub(super) expires_s: i64,
    /// Seconds since the Unix epoch.
    pub(super) made_s: i64,
}

/// What a token was used for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Used {
    /// By whom.
    pub(super) device: String,
    /// The SHA-256 of its public key.
    pub(super) key: String,
    /// What it was given.
    pub(super) serial: String,
    /// Seconds since the Unix epoch.
    pub(super) at_s: i64,
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Issued {
    /// Hexadecimal.
    pub(super) serial: String,
    /// The SHA-256 of its public key (as SubjectPublicKeyInfo), hexadecimal.
    pub(super) key: String,
    /// In PEM.
    pub(super) certificate: String,
    /// Seconds since the Unix epoch.
    pub(super) from_s: i64,
    /// Seconds since the Unix epoch.
    pub(super) until_s: i64,
    /// When it was revoked, seconds since the Unix epoch.
    pub(super) revoked_s: Option<i64>,
}

/// That a name gets no certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Revoked {
    /// Seconds since the Unix epoch.
    pub(super) at_s: i64,
}

/// The directory; clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Register {
    dir: PathBuf,
}

const FOLDERS: [&str; 4] = ["tokens", "used", "devices", "revoked"];

impl Register {
    /// Makes the directory where it is not there.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let register = Self {
            dir: dir.to_path_buf(),
        };
        make_dir(dir).map_err(|error| register.wrong(dir, &error))?;
        for folder in FOLDERS {
            let path = dir.join(folder);
            make_dir(&path).map_err(|error| register.wrong(&path, &error))?;
        }
        Ok(register)
    }

    fn wrong(&self, path: &Path, error: &impl ToString) -> Error {
        Error::File {
            key: "enroll.state",
            path: path.to_path_buf(),
            why: error.to_string(),
        }
    }

    fn lock_file(&self, name: &str) -> Result<File, Error> {
        let path = self.dir.join(name);
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .and_then(|file| own_as_above(&file, &path).map(|()| file))
            .map_err(|error| self.wrong(&path, &error))
    }

    /// One operation at a time, whichever process does it; until it is dropped.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn lock(&self) -> Result<File, Error> {
        let file = self.lock_file("lock")?;
        file.lock().map_err(|error| self.wrong(&self.dir, &error))?;
        Ok(file)
    }

    /// One endpoint at a time, until it is dropped.
    ///
    /// # Errors
    /// [`Error::Held`], [`Error::File`].
    pub(super) fn endpoint(&self) -> Result<File, Error> {
        let file = self.lock_file("endpoint.lock")?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(Error::Held(self.dir.clone())),
            Err(TryLockError::Error(error)) => Err(self.wrong(&self.dir, &error)),
        }
    }

    fn read<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, Error> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| self.wrong(path, &error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.wrong(path, &error)),
        }
    }

    fn write<T: Serialize>(&self, path: &Path, record: &T) -> Result<(), Error> {
        let bytes = serde_json::to_vec_pretty(record).map_err(|error| self.wrong(path, &error))?;
        place(path, 0o600, &bytes).map_err(|error| self.wrong(path, &error))
    }

    /// What is recorded in a folder, by the names of its files.
    fn all<T: DeserializeOwned>(&self, folder: &Path) -> Result<Vec<(String, T)>, Error> {
        let mut found = Vec::new();
        for path in entries(folder).map_err(|error| self.wrong(folder, &error))? {
            if path.extension().is_some_and(|extension| extension == "json")
                && let Some(name) = path.file_stem().and_then(|name| name.to_str())
                && let Some(record) = self.read(&path)?
            {
                found.push((name.to_string(), record));
            }
        }
        Ok(found)
    }

    fn token_path(&self, folder: &str, hash: &str) -> PathBuf {
        self.dir.join(folder).join(format!("{hash}.json"))
    }

    /// The token of this hash.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn token(&self, hash: &str) -> Result<Option<Token>, Error> {
        self.read(&self.token_path("tokens", hash))
    }

    /// Takes a token in.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn put_token(&self, hash: &str, token: &Token) -> Result<(), Error> {
        self.write(&self.token_path("tokens", hash), token)
    }

    /// The tokens that were not used, with their hashes.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn waiting(&self) -> Result<Vec<(String, Token)>, Error> {
        let mut waiting = Vec::new();
        for (hash, token) in self.all::<Token>(&self.dir.join("tokens"))? {
            if self.used(&hash)?.is_none() {
                waiting.push((hash, token));
            }
        }
        Ok(waiting)
    }

    /// From now on a token lets nobody in.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn remove_token(&self, hash: &str) -> Result<(), Error> {
        let path = self.token_path("tokens", hash);
        fs::remove_file(&path)
            .and_then(|()| sync_dir_of(&path))
            .map_err(|error| self.wrong(&path, &error))
    }

    /// What a token was used for.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn used(&self, hash: &str) -> Result<Option<Used>, Error> {
        self.read(&self.token_path("used", hash))
    }

    /// Records what a token was used for.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn put_used(&self, hash: &str, used: &Used) -> Result<(), Error> {
        self.write(&self.token_path("used", hash), used)
    }

    /// A device's certificates.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn issued(&self, device: &str) -> Result<Vec<Issued>, Error> {
        let folder = self.dir.join("devices").join(device);
        if !folder.exists() {
            return Ok(Vec::new());
        }
        Ok(self.all(&folder)?.into_iter().map(|(_, issued)| issued).collect())
    }

    /// Records a certificate.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn put_issued(&self, device: &str, issued: &Issued) -> Result<(), Error> {
        let folder = self.dir.join("devices").join(device);
        make_dir(&folder).map_err(|error| self.wrong(&folder, &error))?;
        self.write(&folder.join(format!("{}.json", issued.serial)), issued)
    }

    /// The names that ever had a certificate.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn devices(&self) -> Result<Vec<String>, Error> {
        let folder = self.dir.join("devices");
        let paths = entries(&folder).map_err(|error| self.wrong(&folder, &error))?;
        Ok(paths
            .iter()
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_string()))
            .collect())
    }

    /// Since when a name gets no certificate, if so.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn revoked(&self, device: &str) -> Result<Option<Revoked>, Error> {
        self.read(&self.dir.join("revoked").join(format!("{device}.json")))
    }

    /// From now on a name gets no certificate.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn put_revoked(&self, device: &str, revoked: &Revoked) -> Result<(), Error> {
        self.write(&self.dir.join("revoked").join(format!("{device}.json")), revoked)
    }

    /// All names that get none.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn all_revoked(&self) -> Result<Vec<(String, Revoked)>, Error> {
        self.all(&self.dir.join("revoked"))
    }

    /// A name may get certificates again. Returns whether it might not before.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn allow(&self, device: &str) -> Result<bool, Error> {
        let path = self.dir.join("revoked").join(format!("{device}.json"));
        match fs::remove_file(&path).and_then(|()| sync_dir_of(&path)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.wrong(&path, &error)),
        }
    }
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    Ok(paths)
}

fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(above) = dir.parent().filter(|above| !above.as_os_str().is_empty()) {
        make_dir(above)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        // Another process was quicker.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => {
            own_as_above(&File::open(dir)?, dir)?;
            sync_dir_of(dir)
        }
    }
}

/// Only root can give away; whoever else cannot has nothing to give away.
fn own_as_above(file: &File, path: &Path) -> io::Result<()> {
    let above = fs::metadata(parent(path))?;
    let of = file.metadata()?;
    if of.uid() != 0 || (of.uid(), of.gid()) == (above.uid(), above.gid()) {
        return Ok(());
    }
    fchown(file, Some(above.uid()), Some(above.gid()))
}

fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

pub(super) fn sync_dir_of(path: &Path) -> io::Result<()> {
    File::open(parent(path))?.sync_all()
}

/// Replaces a file. When it returns, the new content is on the medium; on an error the old one still is.
pub(super) fn place(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let write = || {
        let _ = fs::remove_file(&part);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&part)?;
        // Whatever the umask: the broker is another user.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        own_as_above(&file, path)?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        sync_dir_of(path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&part);
    })
}
