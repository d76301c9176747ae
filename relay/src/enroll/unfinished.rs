//! Cards are made in a folder that is hidden beside the one that it is to be: all cards, then a list of their tokens' hashes, then the tokens
//! are taken in, then the folder gets its name. So a call that was broken off can be made again: nobody has seen what it has left, and its
//! tokens are let go.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::Error;
use super::register::{Register, Token, sync_dir_of};

/// In it: the hashes of its tokens, a line each.
pub(super) const TOKENS: &str = ".tokens";

/// The folder of a call under way.
#[derive(Debug)]
pub(super) struct Unfinished(PathBuf);

impl Unfinished {
    /// Of the folder `out`.
    ///
    /// # Errors
    /// It has no name.
    pub(super) fn beside(out: &Path) -> Result<Self, Error> {
        let name = out.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| Error::Argument(format!("--out {}: name a folder", out.display())))?;
        Ok(Self(out.with_file_name(format!(".{name}.unfinished"))))
    }

    fn wrong(&self, error: &io::Error) -> Error {
        Error::Argument(format!("--out: {}: {error}; nothing was made", self.0.display()))
    }

    /// Makes that a call was not: its tokens let nobody in, and its folder goes.
    ///
    /// # Errors
    /// Of the register, or of a file.
    pub(super) fn take_back(&self, register: &Register) -> Result<(), Error> {
        let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        match fs::read_to_string(self.0.join(TOKENS)) {
            Ok(hashes) => {
                for hash in hashes.lines() {
                    if register.token(hash)?.is_some() && register.used(hash)?.is_none() {
                        register.remove_token(hash)?;
                    }
                }
            }
            Err(error) if gone(&error) => {}
            Err(error) => return Err(self.wrong(&error)),
        }
        match fs::remove_dir_all(&self.0) {
            Err(error) if !gone(&error) => Err(self.wrong(&error)),
            _ => Ok(()),
        }
    }

    /// Writes the files, and takes the tokens in when all of them are there.
    ///
    /// # Errors
    /// Of the register, or of a file.
    pub(super) fn make(
        &self,
        files: &[(String, String)],
        tokens: &[(String, Token)],
        register: &Register,
    ) -> Result<(), Error> {
        let hashes: String = tokens.iter().map(|(hash, _)| format!("{hash}\n")).collect();
        let write = || {
            new_dir(&self.0)?;
            for (name, text) in files {
                let path = self.0.join(name);
                if let Some(folder) = path.parent().filter(|folder| **folder != self.0) {
                    new_dir(folder)?;
                }
                write_new(&path, text)?;
                sync_dir_of(&path)?;
            }
            write_new(&self.0.join(TOKENS), &hashes)?;
            sync_dir_of(&self.0.join(TOKENS))?;
            sync_dir_of(&self.0)
        };
        write().map_err(|error| self.wrong(&error))?;
        for (hash, token) in tokens {
            register.put_token(hash, token)?;
        }
        Ok(())
    }

    /// From here on it is the operator's, and is called `out`.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub(super) fn finish(&self, out: &Path) -> Result<(), Error> {
        fs::rename(&self.0, out).map_err(|error| self.wrong(&error))?;
        // Where these fail, what is left harms nobody.
        let _ = sync_dir_of(out);
        let _ = fs::remove_file(out.join(TOKENS));
        Ok(())
    }
}

fn new_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
