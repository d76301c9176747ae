//! A model of a file system: it remembers each operation, and gives every state in which a power cut at any of them may leave the
//! medium.
//!
//! What is not synced may be there or not, each sector of a write and each change of a name for itself, in any order: more than any real file
//! system lets happen.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use super::Disk;

const SECTOR: usize = 512;
/// So many unsynced pieces are tried in every combination; of more, samples.
const EVERY: usize = 5;

/// A file, by the number it was made under.
type Inode = usize;

#[derive(Clone, Debug)]
enum Operation {
    Create(String, Inode, u64),
    Write(Inode, u64, Vec<u8>),
    Sync(Inode),
    Remove(String),
    SetAside(String),
    SyncNames,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::journal) enum Trouble {
    /// Nothing can be made or removed.
    ReadOnly,
    /// Nothing can be made.
    Full,
    /// Nothing works.
    Broken,
    /// The next write is torn: the second half is not done, and an error is told.
    Torn,
}

#[derive(Clone, Debug, Default)]
struct Inner {
    names: BTreeMap<String, Inode>,
    aside: BTreeMap<String, Inode>,
    files: Vec<Vec<u8>>,
    /// As of the beginning of `log`.
    base: Option<Box<Inner>>,
    log: Vec<Operation>,
    written: u64,
    trouble: Option<Trouble>,
    /// Files of which nothing can be read.
    spoiled: BTreeSet<Inode>,
    /// Names with which nothing can be done: what they stand for makes no sense to the file system.
    damaged: BTreeSet<String>,
}

/// A directory of the model; clones are the same one.
#[derive(Clone, Debug, Default)]
pub(in crate::journal) struct Model {
    inner: Arc<Mutex<Inner>>,
}

/// A random number below a bound.
pub(in crate::journal) type Draw<'a> = &'a mut dyn FnMut(usize) -> usize;

impl Model {
    /// Operations so far.
    pub(in crate::journal) fn operations(&self) -> usize {
        self.inner.lock().unwrap().log.len()
    }

    pub(in crate::journal) fn trouble(&self, trouble: Option<Trouble>) {
        self.inner.lock().unwrap().trouble = trouble;
    }

    /// Nothing of this file can be read any more.
    pub(in crate::journal) fn spoil(&self, name: &str) {
        let mut inner = self.inner.lock().unwrap();
        let inode = inner.names[name];
        inner.spoiled.insert(inode);
    }

    /// Nothing can be done with this file any more, it cannot even be moved or removed.
    pub(in crate::journal) fn damage(&self, name: &str) {
        self.inner.lock().unwrap().damaged.insert(name.into());
    }

    /// Everything in it is gone.
    pub(in crate::journal) fn wipe(&self) {
        let mut inner = self.inner.lock().unwrap();
        inner.names.clear();
        inner.aside.clear();
    }

    pub(in crate::journal) fn aside(&self) -> usize {
        self.inner.lock().unwrap().aside.len()
    }

    /// The content of each file.
    pub(in crate::journal) fn content(&self) -> BTreeMap<String, Vec<u8>> {
        let inner = self.inner.lock().unwrap();
        inner
            .names
            .iter()
            .map(|(name, inode)| (name.clone(), inner.files[*inode].clone()))
            .collect()
    }

    /// A directory of these files.
    pub(in crate::journal) fn of(files: &BTreeMap<String, Vec<u8>>) -> Self {
        let mut inner = Inner::default();
        for (name, content) in files {
            inner.names.insert(name.clone(), inner.files.len());
            inner.files.push(content.clone());
        }
        inner.base = Some(Box::new(inner.clone()));
        Self {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// Calls `look` with every state (samples, where there are too many) in which a power cut after the first `prefix` operations may leave
    /// the medium.
    pub(in crate::journal) fn cuts(
        &self,
        prefix: usize,
        samples: usize,
        draw: Draw<'_>,
        mut look: impl FnMut(Model),
    ) {
        let inner = self.inner.lock().unwrap();
        let mut state = inner.base.as_deref().cloned().unwrap_or_default();
        state.files.resize(inner.files.len(), Vec::new());
        // What is done for certain, and what may be.
        let mut pending: Vec<Operation> = Vec::new();
        for operation in &inner.log[..prefix] {
            match operation {
                Operation::Sync(inode) => {
                    let of = |other: &Operation| matches!(other, Operation::Write(file, ..) if file == inode);
                    for done in pending.extract_if(.., |other| of(other)) {
                        state.apply(&done);
                    }
                    // A file's size is part of its content; its name is not.
                    for other in &pending {
                        if let Operation::Create(_, file, size) = other
                            && file == inode
                        {
                            let size = (*size as usize).max(state.files[*file].len());
                            state.files[*file].resize(size, 0);
                        }
                    }
                }
                Operation::SyncNames => {
                    let of = |other: &Operation| !matches!(other, Operation::Write(..));
                    for done in pending.extract_if(.., |other| of(other)) {
                        state.apply(&done);
                    }
                }
                Operation::Write(inode, offset, bytes) => {
                    for (number, sector) in bytes.chunks(SECTOR).enumerate() {
                        let at = offset + (number * SECTOR) as u64;
                        pending.push(Operation::Write(*inode, at, sector.to_vec()));
                    }
                }
                other => pending.push(other.clone()),
            }
        }
        let mut seen = BTreeSet::new();
        let mut cut = |done: &dyn Fn(usize) -> bool| {
            let mut state = state.clone();
            let mut choice = Vec::new();
            for (number, operation) in pending.iter().enumerate() {
                choice.push(done(number));
                if done(number) {
                    state.apply(operation);
                }
            }
            if seen.insert(choice) {
                state.log.clear();
                state.base = None;
                state.base = Some(Box::new(state.clone()));
                look(Model {
                    inner: Arc::new(Mutex::new(state)),
                });
            }
        };
        if pending.len() <= EVERY {
            for mask in 0..1usize << pending.len() {
                cut(&|number| mask >> number & 1 == 1);
            }
            return;
        }
        cut(&|_| false);
        cut(&|_| true);
        for _ in 0..samples {
            match draw(4) {
                0 => {
                    let without = draw(pending.len());
                    cut(&|number| number != without);
                }
                1 => {
                    let through = draw(pending.len());
                    cut(&|number| number <= through);
                }
                2 => {
                    let from = draw(pending.len());
                    cut(&|number| number >= from);
                }
                _ => {
                    let chosen: Vec<bool> = pending.iter().map(|_| draw(2) == 1).collect();
                    cut(&|number| chosen[number]);
                }
            }
        }
    }

    fn check(&self, making: bool) -> io::Result<()> {
        match self.inner.lock().unwrap().trouble {
            Some(Trouble::ReadOnly) if making => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            Some(Trouble::Broken) => Err(io::Error::other("input/output error")),
            _ => Ok(()),
        }
    }

    fn check_name(&self, name: &str, making: bool) -> io::Result<()> {
        self.check(making)?;
        match self.inner.lock().unwrap().damaged.contains(name) {
            true => Err(rustix::io::Errno::BADMSG.into()),
            false => Ok(()),
        }
    }
}

impl Inner {
    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Create(name, inode, size) => {
                self.names.insert(name.clone(), *inode);
                let size = (*size as usize).max(self.files[*inode].len());
                self.files[*inode].resize(size, 0);
            }
            Operation::Write(inode, offset, bytes) => {
                let end = *offset as usize + bytes.len();
                let file = &mut self.files[*inode];
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[*offset as usize..end].copy_from_slice(bytes);
            }
            Operation::Remove(name) => {
                self.names.remove(name);
            }
            Operation::SetAside(name) => {
                if let Some(inode) = self.names.remove(name) {
                    self.aside.insert(name.clone(), inode);
                }
            }
            Operation::Sync(_) | Operation::SyncNames => {}
        }
    }

    fn log(&mut self, operation: Operation) {
        self.apply(&operation);
        self.log.push(operation);
    }
}

impl Disk for Model {
    type File = Inode;

    fn files(&mut self) -> io::Result<Vec<String>> {
        self.check(false)?;
        Ok(self.inner.lock().unwrap().names.keys().cloned().collect())
    }

    fn size(&mut self, name: &str) -> io::Result<u64> {
        self.check_name(name, false)?;
        let inner = self.inner.lock().unwrap();
        let inode = *inner.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(inner.files[inode].len() as u64)
    }

    fn create(&mut self, name: &str, size: u64) -> io::Result<Inode> {
        self.check_name(name, true)?;
        let mut inner = self.inner.lock().unwrap();
        if inner.trouble == Some(Trouble::Full) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        inner.files.push(Vec::new());
        let inode = inner.files.len() - 1;
        inner.log(Operation::Create(name.into(), inode, size));
        inner.log(Operation::Sync(inode));
        inner.written += size;
        Ok(inode)
    }

    fn open(&mut self, name: &str, write: bool) -> io::Result<(Inode, u64)> {
        self.check_name(name, write)?;
        let inner = self.inner.lock().unwrap();
        let inode = *inner.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok((inode, inner.files[inode].len() as u64))
    }

    fn read_at(&mut self, file: &Inode, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.check(false)?;
        let inner = self.inner.lock().unwrap();
        if inner.spoiled.contains(file) {
            return Err(io::Error::other("input/output error"));
        }
        let rest = inner.files[*file].get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write_at(&mut self, file: &Inode, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check(true)?;
        let mut inner = self.inner.lock().unwrap();
        if inner.trouble == Some(Trouble::Torn) {
            inner.trouble = None;
            let half = bytes.len() / 2 / SECTOR * SECTOR;
            inner.log(Operation::Write(
                *file,
                offset + half as u64,
                bytes[half..].to_vec(),
            ));
            return Err(io::Error::other("input/output error"));
        }
        inner.written += bytes.len() as u64;
        inner.log(Operation::Write(*file, offset, bytes.to_vec()));
        Ok(())
    }

    fn sync(&mut self, file: &Inode) -> io::Result<()> {
        self.check(true)?;
        self.inner.lock().unwrap().log(Operation::Sync(*file));
        Ok(())
    }

    fn is_named(&mut self, file: &Inode) -> io::Result<bool> {
        Ok(self
            .inner
            .lock()
            .unwrap()
            .names
            .values()
            .any(|inode| inode == file))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.check_name(name, true)?;
        self.inner.lock().unwrap().log(Operation::Remove(name.into()));
        Ok(())
    }

    fn set_aside(&mut self, name: &str) -> io::Result<()> {
        self.check_name(name, true)?;
        self.inner.lock().unwrap().log(Operation::SetAside(name.into()));
        Ok(())
    }

    fn sync_names(&mut self) -> io::Result<()> {
        self.check(true)?;
        self.inner.lock().unwrap().log(Operation::SyncNames);
        Ok(())
    }

    fn written(&self) -> u64 {
        self.inner.lock().unwrap().written
    }
}
