//! The medium that programs are kept on: a few operations, so that tests can take its power away between any two of them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

use ring::digest::{Context, SHA256};

use super::slots::Slot;
use crate::state::State;

/// The state's file.
const STATE: &str = "state";
/// What is read at once to take a sum, bytes.
const CHUNK: usize = 32 * 1024;

/// Where programs are kept. Each operation blocks, and when it returns what it did is durable.
pub(crate) trait Medium {
    /// The state's content, if there is one.
    fn load(&self) -> io::Result<Option<Vec<u8>>>;
    /// Replaces the state whole: after a power cut it is the old one or the new one.
    fn save(&mut self, content: &[u8]) -> io::Result<()>;
    /// Removes a slot's file, if there is one.
    fn discard(&mut self, slot: Slot) -> io::Result<()>;
    /// Writes a piece of a slot's file from byte `at` on; what stands behind `at` is gone. An error where fewer than `at` bytes stand there.
    fn extend(&mut self, slot: Slot, at: u64, piece: &[u8]) -> io::Result<()>;
    /// The SHA-256 of a slot's file, hexadecimal; `None` if it has not exactly `size` bytes, or is not there.
    fn sum(&self, slot: Slot, size: u64) -> io::Result<Option<String>>;
    /// Makes a slot's file one that can be run.
    fn enable(&mut self, slot: Slot) -> io::Result<()>;
}

/// A directory.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    state: State,
}

impl Directory {
    /// The folder `slots` of a state directory.
    pub(crate) fn of(state: &State) -> Self {
        Self {
            state: state.folder("slots"),
        }
    }

    /// A slot's file.
    pub(crate) fn path(&self, slot: Slot) -> PathBuf {
        self.state.dir().join(slot.name())
    }

    /// Bytes that may still be written there, by others than root.
    pub(crate) fn room(&self) -> io::Result<u64> {
        fs::create_dir_all(self.state.dir())?;
        let found = rustix::fs::statvfs(self.state.dir())?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(self.state.dir())?.sync_all()
    }
}

impl Medium for Directory {
    fn load(&self) -> io::Result<Option<Vec<u8>>> {
        self.state.read(STATE)
    }

    fn save(&mut self, content: &[u8]) -> io::Result<()> {
        self.state.write(STATE, content)
    }

    fn discard(&mut self, slot: Slot) -> io::Result<()> {
        self.state.remove(slot.name())
    }

    fn extend(&mut self, slot: Slot, at: u64, piece: &[u8]) -> io::Result<()> {
        fs::create_dir_all(self.state.dir())?;
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.path(slot))?;
        let length = file.metadata()?.len();
        if length < at {
            let why = format!("{} has {length} bytes where {at} were", self.path(slot).display());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        file.set_len(at)?;
        file.write_all_at(piece, at)?;
        file.sync_all()?;
        self.state.wrote(piece.len() as u64);
        if at == 0 {
            self.sync_names()?;
        }
        Ok(())
    }

    fn sum(&self, slot: Slot, size: u64) -> io::Result<Option<String>> {
        let mut file = match File::open(self.path(slot)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if file.metadata()?.len() != size {
            return Ok(None);
        }
        let mut context = Context::new(&SHA256);
        let mut chunk = vec![0; CHUNK];
        loop {
            match file.read(&mut chunk)? {
                0 => break,
                count => context.update(&chunk[..count]),
            }
        }
        let digest = context.finish();
        Ok(Some(
            digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
        ))
    }

    fn enable(&mut self, slot: Slot) -> io::Result<()> {
        let file = File::open(self.path(slot))?;
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
        file.sync_all()?;
        self.sync_names()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_written_in_pieces_and_its_sum_taken() {
        let temp = tempfile::tempdir().unwrap();
        let state = State::new(temp.path().to_path_buf());
        let mut directory = Directory::of(&state);
        assert_eq!(directory.load().unwrap(), None);
        assert_eq!(directory.sum(Slot::A, 3).unwrap(), None);
        directory.extend(Slot::A, 0, b"abX").unwrap();
        // The third was not known to be there: it is written again.
        directory.extend(Slot::A, 2, b"c").unwrap();
        // FIPS 180-4's example.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(directory.sum(Slot::A, 3).unwrap().as_deref(), Some(abc));
        assert_eq!(directory.sum(Slot::A, 4).unwrap(), None);
        assert!(directory.extend(Slot::A, 4, b"e").is_err());
        directory.enable(Slot::A).unwrap();
        let mode = fs::metadata(directory.path(Slot::A))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755);
        assert!(directory.room().unwrap() > 0 && state.written() > 0);
        directory.save(b"state").unwrap();
        assert_eq!(directory.load().unwrap().as_deref(), Some(&b"state"[..]));
        directory.discard(Slot::A).unwrap();
        directory.discard(Slot::A).unwrap();
        assert_eq!(directory.sum(Slot::A, 3).unwrap(), None);
    }
}
