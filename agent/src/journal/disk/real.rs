//! A directory of the operating system.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::Disk;

/// Zeros are written in pieces of this size.
const ZEROS: usize = 64 * 1024;
/// Files that are kept aside, the newest.
const ASIDE: usize = 8;

/// A directory of the operating system.
pub(crate) struct Directory {
    path: PathBuf,
    written: u64,
}

impl Directory {
    /// The directory `path`, which is made when something is first written.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, written: 0 }
    }

    fn aside(&self) -> PathBuf {
        self.path.join("quarantine")
    }

    /// Lets the oldest of what is kept aside go, until one more may be added.
    fn make_room_aside(&self) -> io::Result<()> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(self.aside())? {
            let entry = entry?;
            let changed = entry.metadata()?.modified().unwrap_or(UNIX_EPOCH);
            kept.push((changed, entry.path()));
        }
        kept.sort();
        for (_, path) in kept.iter().take((kept.len() + 1).saturating_sub(ASIDE)) {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl Disk for Directory {
    type File = File;

    fn files(&mut self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string()
                && entry.file_type()?.is_file()
            {
                files.push(name);
            }
        }
        Ok(files)
    }

    fn size(&mut self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.path.join(name))?.len())
    }

    fn create(&mut self, name: &str, size: u64) -> io::Result<File> {
        if !self.path.is_dir() {
            fs::create_dir_all(&self.path)?;
            if let Some(parent) = self.path.parent() {
                sync_directory(parent)?;
            }
        }
        let path = self.path.join(name);
        let mut at = 0;
        let result = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .and_then(|file| {
                // Blocks that are only reserved would each cost a change of the file's map when they are first written; one request gives
                // room in one piece where the file system can, and else writing zeros does.
                let _ = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size);
                let zeros = vec![0; ZEROS.min(size as usize)];
                while at < size {
                    let length = zeros.len().min((size - at) as usize);
                    file.write_all_at(&zeros[..length], at)?;
                    at += length as u64;
                }
                file.sync_all()?;
                Ok(file)
            });
        if result.is_err() {
            // It would take room, where room may be what is short.
            let _ = fs::remove_file(&path);
        }
        self.written += at;
        result
    }

    fn open(&mut self, name: &str, write: bool) -> io::Result<(File, u64)> {
        let file = File::options()
            .read(true)
            .write(write)
            .open(self.path.join(name))?;
        let size = file.metadata()?.len();
        Ok((file, size))
    }

    fn read_at(&mut self, file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&mut self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        file.write_all_at(bytes, offset)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn is_named(&mut self, file: &File) -> io::Result<bool> {
        Ok(file.metadata()?.nlink() > 0)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn set_aside(&mut self, name: &str) -> io::Result<()> {
        fs::create_dir_all(self.aside())?;
        self.make_room_aside()?;
        fs::rename(self.path.join(name), self.aside().join(name))?;
        sync_directory(&self.aside())
    }

    fn sync_names(&mut self) -> io::Result<()> {
        sync_directory(&self.path)
    }

    fn written(&self) -> u64 {
        self.written
    }
}
