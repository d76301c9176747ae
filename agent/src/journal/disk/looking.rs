//! A directory that is looked at beside its owner: nothing in it is changed, whatever is asked.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use super::Disk;
use super::real::Directory;

/// A directory that is only looked at.
pub(crate) struct Looking {
    directory: Directory,
}

impl Looking {
    /// The directory `path`.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            directory: Directory::new(path),
        }
    }
}

impl Disk for Looking {
    type File = File;

    fn files(&mut self) -> io::Result<Vec<String>> {
        self.directory.files()
    }

    fn size(&mut self, name: &str) -> io::Result<u64> {
        self.directory.size(name)
    }

    fn create(&mut self, _name: &str, _size: u64) -> io::Result<File> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn open(&mut self, name: &str, _write: bool) -> io::Result<(File, u64)> {
        self.directory.open(name, false)
    }

    fn read_at(&mut self, file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.directory.read_at(file, offset, buffer)
    }

    fn write_at(&mut self, _file: &File, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&mut self, _file: &File) -> io::Result<()> {
        Ok(())
    }

    fn is_named(&mut self, file: &File) -> io::Result<bool> {
        self.directory.is_named(file)
    }

    fn remove(&mut self, _name: &str) -> io::Result<()> {
        Ok(())
    }

    fn set_aside(&mut self, _name: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync_names(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn written(&self) -> u64 {
        0
    }
}
