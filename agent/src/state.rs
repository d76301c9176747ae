//! The small files that outlive the process: each is replaced whole, durably, so that after a power cut it is the old one or the
//! new one. The journal has a directory of its own beside them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

    /// Its directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes of files written since the start.
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
        self.written.fetch_add(content.len() as u64, Ordering::Relaxed);
        File::open(&self.dir)?.sync_all()
    }

    /// Removes file `name`, if it is there.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole() {
        let temp = tempfile::tempdir().unwrap();
        let state = State::new(temp.path().join("not/there/yet"));
        assert_eq!(state.read("budget").unwrap(), None);
        state.write("budget", b"one").unwrap();
        state.write("budget", b"two").unwrap();
        assert_eq!(state.read("budget").unwrap().unwrap(), b"two");
        assert_eq!(state.written(), 6);
        state.remove("budget").unwrap();
        state.remove("budget").unwrap();
        assert_eq!(state.read("budget").unwrap(), None);
        assert_eq!(fs::read_dir(state.dir()).unwrap().count(), 0);
    }
}
