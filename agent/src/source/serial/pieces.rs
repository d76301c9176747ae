//! Bytes become the pieces between two delimiters. Pure; whatever comes, no more than the longest piece is held.

/// What lies between two delimiters.
#[derive(Debug, PartialEq)]
pub(super) enum Piece<'a> {
    /// Whole.
    Whole(&'a mut [u8]),
    /// So long that it was thrown away.
    TooLong,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pieces {
    delimiter: u8,
    max: usize,
    held: Vec<u8>,
    /// What is held was given out, and goes next.
    given: bool,
    /// Throwing away, up to the next delimiter.
    overflown: bool,
}

impl Pieces {
    pub(super) fn new(delimiter: u8, max: usize) -> Self {
        Self {
            delimiter,
            max,
            held: Vec::new(),
            given: false,
            overflown: false,
        }
    }

    /// Takes bytes from the front of `bytes` up to the end of a piece; `None`: all are taken, and none has ended. Empty pieces are
    /// left out.
    pub(super) fn take(&mut self, bytes: &mut &[u8]) -> Option<Piece<'_>> {
        if std::mem::take(&mut self.given) {
            self.held.clear();
        }
        loop {
            let end = bytes.iter().position(|byte| *byte == self.delimiter);
            let piece = &bytes[..end.unwrap_or(bytes.len())];
            if self.held.len() + piece.len() > self.max {
                self.overflown = true;
                self.held.clear();
            }
            if !self.overflown {
                self.held.extend_from_slice(piece);
            }
            let Some(end) = end else {
                *bytes = &[];
                return None;
            };
            *bytes = &bytes[end + 1..];
            if std::mem::take(&mut self.overflown) {
                return Some(Piece::TooLong);
            }
            if !self.held.is_empty() {
                self.given = true;
                return Some(Piece::Whole(&mut self.held));
            }
        }
    }

    /// Forgets a piece that has begun: the line was opened anew.
    pub(super) fn clear(&mut self) {
        self.held.clear();
        (self.given, self.overflown) = (false, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of bytes that arrive `step` at a time.
    fn pieces(bytes: &[u8], step: usize) -> Vec<Option<Vec<u8>>> {
        let mut pieces = Pieces::new(0, 8);
        let mut out = Vec::new();
        for mut part in bytes.chunks(step) {
            while let Some(piece) = pieces.take(&mut part) {
                out.push(match piece {
                    Piece::Whole(bytes) => Some(bytes.to_vec()),
                    Piece::TooLong => None,
                });
            }
            assert!(pieces.held.len() <= 8);
        }
        out
    }

    #[test]
    fn pieces_end_at_delimiters_however_they_arrive() {
        let bytes = b"abc\0\0\0de\x00123456789\x0012345678\0x\0rest";
        let whole = |text: &str| Some(text.as_bytes().to_vec());
        let expected = [whole("abc"), whole("de"), None, whole("12345678"), whole("x")];
        for step in 1..=bytes.len() {
            assert_eq!(pieces(bytes, step), expected, "{step} at a time");
        }
    }

    #[test]
    fn a_flood_without_a_delimiter_is_not_held() {
        let mut pieces = Pieces::new(b'\n', 1024);
        for _ in 0..10_000 {
            assert_eq!(pieces.take(&mut &[b'x'; 512][..]), None);
        }
        assert!(pieces.held.capacity() <= 2048);
        let mut rest = &b"\ngood\n"[..];
        assert_eq!(pieces.take(&mut rest), Some(Piece::TooLong));
        assert_eq!(pieces.take(&mut rest), Some(Piece::Whole(&mut b"good".to_vec())));
        assert_eq!(pieces.take(&mut rest), None);
    }
}
