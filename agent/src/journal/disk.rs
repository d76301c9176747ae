//! What the journal asks of a directory on flash; small enough that a model of a file system can stand under it in tests.
//!
//! Only what has been synced is on the medium: content after [`Disk::sync`], names after [`Disk::sync_names`]. Until then a
//! power cut may keep any part of it, in any order, in pieces of a sector.

pub(crate) mod looking;
#[cfg(test)]
pub(super) mod model;
pub(crate) mod real;

use std::io;

use rustix::io::Errno;

/// Whether an error may be one file's: what is written of it on the medium cannot be read, or makes no sense to the file system. A medium that is
/// gone says the same.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    let damage = [Errno::IO, Errno::BADMSG, Errno::UCLEAN];
    damage
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// A directory of files.
pub(crate) trait Disk {
    /// An open file.
    type File;

    /// The names of the files in it.
    fn files(&mut self) -> io::Result<Vec<String>>;

    /// The size of a file, in bytes.
    fn size(&mut self, name: &str) -> io::Result<u64>;

    /// Makes a file of `size` bytes of zero that take room on the medium, so that overwriting them needs no more of it. What was
    /// there under this name is replaced. It is synced, its name is not.
    fn create(&mut self, name: &str, size: u64) -> io::Result<Self::File>;

    /// Opens a file, to write to it too where `write` says so, and tells its size.
    fn open(&mut self, name: &str, write: bool) -> io::Result<(Self::File, u64)>;

    /// Reads until `buffer` is full or the file ends; returns how much that was.
    fn read_at(&mut self, file: &Self::File, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Overwrites a part of a file.
    fn write_at(&mut self, file: &Self::File, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// The content of a file is on the medium when it returns.
    fn sync(&mut self, file: &Self::File) -> io::Result<()>;

    /// Whether the file still has a name. One that has none takes what is written to it, and nobody will ever read it.
    fn is_named(&mut self, file: &Self::File) -> io::Result<bool>;

    /// Removes a file.
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// Moves a file to the directory for what cannot be read, which keeps a bounded number of them.
    fn set_aside(&mut self, name: &str) -> io::Result<()>;

    /// The names of files are on the medium when it returns.
    fn sync_names(&mut self) -> io::Result<()>;

    /// Bytes written so far.
    fn written(&self) -> u64;
}
