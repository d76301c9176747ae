//! Following a file by its path. Blocking: for a thread of its own.
//!
//! - **Renamed and begun anew**: what the old file still gets is read until it has stayed silent for one more look, then the new
//!   one is read from its beginning.
//! - **Emptied** (`copytruncate`): a file that is shorter than what was read of it is read from its beginning. One that was
//!   emptied and has grown beyond that again between two looks cannot be told from one that only grew.
//! - **Gone** (an unmounted directory): looked for again and again. Should the same file come back no shorter, it goes on where it was;
//!   any other is read from its beginning.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::Begin;

/// The most that one look reads, bytes.
const PIECE: usize = 64 * 1024;

/// What a look found.
#[derive(Debug, PartialEq)]
pub(crate) enum Look {
    /// More of the same file.
    More(Vec<u8>),
    /// Nothing new.
    Nothing,
    /// Reading begins in the middle of a line: what comes up to its end is nothing.
    Middle,
    /// The file has ended, as another stands at its path: a last line is whole without its end.
    Ended,
    /// The file was emptied: a last line has no end.
    Emptied,
    /// There is no file.
    Absent,
}

/// A file that is followed.
#[derive(Debug)]
pub(crate) struct Tail {
    path: PathBuf,
    open: Option<Open>,
    /// Where the file was left that cannot be read any more.
    left: Option<(Identity, u64)>,
    /// Where a file is begun: what comes later is read from its beginning.
    from: Begin,
}

#[derive(Debug)]
struct Open {
    file: File,
    identity: Identity,
    position: u64,
    /// Another file has been seen at the path.
    replaced: bool,
}

/// Device and inode.
type Identity = (u64, u64);

fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

impl Tail {
    pub(crate) fn new(path: &Path, from: Begin) -> Self {
        Self {
            path: path.to_path_buf(),
            open: None,
            left: None,
            from,
        }
    }

    /// Looks for what is new.
    ///
    /// # Errors
    /// What the system says; the next look tries again.
    pub(crate) fn look(&mut self) -> io::Result<Look> {
        let Some(open) = &mut self.open else {
            return self.begin();
        };
        match open.look(&self.path) {
            Ok(Look::Ended) => {
                self.open = None;
                Ok(Look::Ended)
            }
            Err(error) => {
                self.left = Some((open.identity, open.position));
                self.open = None;
                Err(error)
            }
            look => look,
        }
    }

    fn begin(&mut self) -> io::Result<Look> {
        let from = std::mem::replace(&mut self.from, Begin::Beginning);
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Look::Absent),
            Err(error) => {
                self.from = from;
                return Err(error);
            }
        };
        if !metadata.is_file() {
            // A pipe would hang whoever opens it.
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut file = File::open(&self.path)?;
        let metadata = file.metadata()?;
        let identity = identity(&metadata);
        let position = match (self.left.take(), from) {
            (Some((left, position)), _) if left == identity && metadata.len() >= position => position,
            (_, Begin::Beginning) => 0,
            (_, Begin::End) => metadata.len(),
        };
        let in_a_line = from == Begin::End && position > 0 && {
            let mut byte = [0];
            file.seek(SeekFrom::Start(position - 1))?;
            file.read_exact(&mut byte)?;
            byte != *b"\n"
        };
        file.seek(SeekFrom::Start(position))?;
        self.open = Some(Open {
            file,
            identity,
            position,
            replaced: false,
        });
        if in_a_line { Ok(Look::Middle) } else { self.look() }
    }
}

impl Open {
    fn look(&mut self, path: &Path) -> io::Result<Look> {
        let mut piece = Vec::new();
        let read = Read::by_ref(&mut self.file)
            .take(PIECE as u64)
            .read_to_end(&mut piece)?;
        if read > 0 {
            self.position += read as u64;
            self.replaced = false;
            return Ok(Look::More(piece));
        }
        if self.file.metadata()?.len() < self.position {
            self.file.seek(SeekFrom::Start(0))?;
            self.position = 0;
            return Ok(Look::Emptied);
        }
        if self.replaced {
            return Ok(Look::Ended);
        }
        match fs::metadata(path) {
            Ok(metadata) => self.replaced = identity(&metadata) != self.identity,
            // Renamed, and nothing new there yet; or its directory is away.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(Look::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use super::*;

    struct Followed {
        folder: tempfile::TempDir,
        tail: Tail,
    }

    impl Followed {
        fn new(content: Option<&str>, from: Begin) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("log");
            if let Some(content) = content {
                fs::write(&path, content).unwrap();
            }
            let tail = Tail::new(&path, from);
            Self { folder, tail }
        }

        fn append(&self, name: &str, text: &str) {
            let mut options = OpenOptions::new();
            let mut file = options
                .append(true)
                .create(true)
                .open(self.folder.path().join(name))
                .unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn rename(&self, from: &str, to: &str) {
            fs::rename(self.folder.path().join(from), self.folder.path().join(to)).unwrap();
        }

        #[track_caller]
        fn finds(&mut self, expected: &[Look]) {
            let looks: Vec<_> = expected.iter().map(|_| self.tail.look().unwrap()).collect();
            assert_eq!(looks, expected);
        }
    }

    fn more(text: &str) -> Look {
        Look::More(text.into())
    }

    #[test]
    fn it_begins_where_it_is_told_and_follows() {
        let mut followed = Followed::new(Some("old\n"), Begin::End);
        followed.finds(&[Look::Nothing]);
        followed.append("log", "new\n");
        followed.finds(&[more("new\n"), Look::Nothing]);
        let mut followed = Followed::new(Some("old\n"), Begin::Beginning);
        followed.finds(&[more("old\n"), Look::Nothing]);
        let mut followed = Followed::new(Some("half a"), Begin::End);
        followed.finds(&[Look::Middle, Look::Nothing]);
        followed.append("log", " line\n");
        followed.finds(&[more(" line\n")]);
    }

    #[test]
    fn a_file_that_comes_later_is_read_from_its_beginning() {
        let mut followed = Followed::new(None, Begin::End);
        followed.finds(&[Look::Absent, Look::Absent]);
        followed.append("log", "first\n");
        followed.finds(&[more("first\n"), Look::Nothing]);
    }

    #[test]
    fn a_renamed_file_is_read_to_its_end_and_then_the_new_one() {
        let mut followed = Followed::new(Some("1\n"), Begin::Beginning);
        followed.finds(&[more("1\n"), Look::Nothing]);
        followed.append("log", "2\n");
        followed.rename("log", "log.1");
        followed.finds(&[more("2\n"), Look::Nothing]);
        followed.append("log", "4\n");
        // The writer has the old one open for a while yet.
        followed.finds(&[Look::Nothing]);
        followed.append("log.1", "3\n");
        followed.finds(&[
            more("3\n"),
            Look::Nothing,
            Look::Ended,
            more("4\n"),
            Look::Nothing,
        ]);
    }

    #[test]
    fn an_emptied_file_is_read_from_its_beginning() {
        let mut followed = Followed::new(Some("one\ntwo\n"), Begin::Beginning);
        followed.finds(&[more("one\ntwo\n"), Look::Nothing]);
        let path = followed.folder.path().join("log");
        fs::copy(&path, followed.folder.path().join("log.1")).unwrap();
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(0)
            .unwrap();
        followed.append("log", "x\n");
        followed.finds(&[Look::Emptied, more("x\n"), Look::Nothing]);
    }

    #[test]
    fn a_directory_that_is_away_and_back_costs_nothing() {
        let mut followed = Followed::new(None, Begin::End);
        fs::create_dir(followed.folder.path().join("mnt")).unwrap();
        followed.append("mnt/log", "old\n");
        followed.tail = Tail::new(&followed.folder.path().join("mnt/log"), Begin::End);
        followed.finds(&[Look::Nothing]);
        followed.rename("mnt", "away");
        followed.finds(&[Look::Nothing, Look::Nothing]);
        followed.append("away/log", "more\n");
        followed.rename("away", "mnt");
        followed.finds(&[more("more\n"), Look::Nothing]);
    }

    #[test]
    fn what_is_no_file_is_an_error_and_does_not_hang() {
        let folder = tempfile::tempdir().unwrap();
        let mut tail = Tail::new(folder.path(), Begin::End);
        assert!(
            tail.look()
                .unwrap_err()
                .to_string()
                .contains("not a regular file")
        );
        let pipe = folder.path().join("pipe");
        let status = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(status.success());
        Tail::new(&pipe, Begin::End).look().unwrap_err();
    }

    #[test]
    fn a_large_file_comes_in_pieces() {
        let text = "0123456789abcde\n".repeat(10_000);
        let mut followed = Followed::new(Some(&text), Begin::Beginning);
        let mut read = Vec::new();
        while let Look::More(piece) = followed.tail.look().unwrap() {
            assert!(piece.len() <= PIECE);
            read.extend(piece);
        }
        assert_eq!(read, text.as_bytes());
    }
}
