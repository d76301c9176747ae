//! The small files that outlive the process: each is replaced whole, durably, so that after a power cut it is the old one or the
//! new one. The journal has a directory of its own beside them.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// One process at a time uses the directory; the lock is held until this is dropped, or the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Whether it still keeps others out: its file may have been removed, and made anew by another.
    pub(crate) fn holds(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.nlink() > 0)
    }
}

/// Why there is no lock.
#[derive(Debug)]
pub(crate) enum NoLock {
    /// Another process has it; its id, if it says so.
    Held(Option<u32>),
    /// The directory cannot be used.
    Failed(io::Error),
}

/// The block of common file systems, bytes.
const BLOCK: u64 = 4096;

/// The directory of small files; clones write to the same one.
#[derive(Clone, Debug)]
pub(crate) struct State {
    dir: PathBuf,
    written: Arc<AtomicU64>,
}

impl State {
    /// The state in `dir`, which is made when something is first written.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            written: Arc::default(),
        }
    }

    /// A folder in it, whose bytes count with the others.
    #[cfg(feature = "update")]
    pub(crate) fn folder(&self, name: &str) -> Self {
        Self {
            dir: self.dir.join(name),
            written: self.written.clone(),
        }
    }

    /// So many bytes were written there otherwise.
    #[cfg(feature = "update")]
    pub(crate) fn wrote(&self, bytes: u64) {
        self.written
            .fetch_add(bytes.next_multiple_of(BLOCK), Ordering::Relaxed);
    }

    /// Its directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes the lock.
    pub(crate) fn lock(&self) -> Result<Lock, NoLock> {
        let open = || {
            fs::create_dir_all(&self.dir)?;
            File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(self.dir.join("lock"))
        };
        let mut file = open().map_err(NoLock::Failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                return Err(NoLock::Held(text.trim().parse().ok()));
            }
            Err(error) => return Err(NoLock::Failed(error.into())),
        }
        // For whoever finds it held; without it the lock is a lock.
        let _ = file.set_len(0);
        let _ = writeln!(file, "{}", std::process::id());
        Ok(Lock { file })
    }

    /// Bytes written since the start, in whole blocks, as a medium takes them.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// The content of file `name`; `None` if there is none.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.dir.join(name)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces file `name`. When it returns, the new content is on the medium; on an error the old one still is. It blocks for as long
    /// as the medium takes: not for the agent's own task.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let part = self.dir.join(format!("{name}.part"));
        let mut file = File::create(&part)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&part, self.dir.join(name))?;
        let blocks = (content.len() as u64).next_multiple_of(BLOCK);
        self.written.fetch_add(blocks, Ordering::Relaxed);
        File::open(&self.dir)?.sync_all()
    }

    /// Removes file `name`, if it is there. When it returns it does not come back, also not after a power cut.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.dir.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => File::open(&self.dir)?.sync_all(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_held_once_and_tells_by_whom() {
        let temp = tempfile::tempdir().unwrap();
        let state = State::new(temp.path().join("state"));
        let lock = state.lock().unwrap();
        let again = State::new(temp.path().join("state")).lock();
        assert!(
            matches!(again, Err(NoLock::Held(Some(id))) if id == std::process::id()),
            "{again:?}"
        );
        drop(lock);
        state.lock().unwrap();
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let temp = tempfile::tempdir().unwrap();
        let state = State::new(temp.path().join("not/there/yet"));
        assert_eq!(state.read("budget").unwrap(), None);
        state.write("budget", b"one").unwrap();
        state.write("budget", b"two").unwrap();
        assert_eq!(state.read("budget").unwrap().unwrap(), b"two");
        assert_eq!(state.written(), 2 * BLOCK);
        state.remove("budget").unwrap();
        state.remove("budget").unwrap();
        assert_eq!(state.read("budget").unwrap(), None);
        assert_eq!(fs::read_dir(state.dir()).unwrap().count(), 0);
    }
}
