//! A file in which the kernel shows something, of /proc or /sys. It is opened once and read from its beginning each time: the kernel makes its
//! text anew for every such reading.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Most of such files are shorter.
const PIECE: usize = 2048;

/// An open file of the kernel's, and its text as of the last reading.
#[derive(Debug)]
pub(super) struct Shown {
    file: File,
    text: Vec<u8>,
}

impl Shown {
    pub(super) fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self {
            file: File::open(path)?,
            text: Vec::new(),
        })
    }

    /// The file itself, to be waited on.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// All of it, now; what is not UTF-8 is replaced.
    pub(super) fn all(&mut self) -> io::Result<String> {
        let mut filled = 0;
        loop {
            self.text.resize(filled + PIECE, 0);
            match self.file.read_at(&mut self.text[filled..], filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(String::from_utf8_lossy(&self.text[..filled]).into_owned())
    }

    /// What one reading gives of its beginning, now: what the kernel makes as a whole comes as a whole, up to 2 KiB.
    pub(super) fn beginning(&mut self) -> io::Result<&str> {
        self.text.resize(PIECE, 0);
        let count = self.file.read_at(&mut self.text[..PIECE], 0)?;
        let text = self.text.get(..count).unwrap_or_default();
        // A piece may end within a character.
        Ok(match std::str::from_utf8(text) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&text[..error.valid_up_to()]).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_anew_from_its_beginning() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("shown");
        let long = "0123456789".repeat(1000);
        std::fs::write(&path, &long).unwrap();
        let mut shown = Shown::open(&path).unwrap();
        assert_eq!(shown.all().unwrap(), long);
        assert_eq!(shown.beginning().unwrap(), &long[..PIECE]);
        std::fs::write(&path, "7\u{b0}").unwrap();
        assert_eq!(shown.all().unwrap(), "7\u{b0}");
        assert_eq!(shown.beginning().unwrap(), "7\u{b0}");
        std::fs::write(&path, b"7\xb0").unwrap();
        assert_eq!(shown.beginning().unwrap(), "7");
    }
}
