//! Bytes that come piece by piece, as lines. Pure.

/// Splits what comes at line feeds; a line that is too long is left out whole.
#[derive(Debug)]
pub(crate) struct Lines {
    waiting: Vec<u8>,
    /// What of `waiting` has been given out.
    given: usize,
    max: usize,
    /// In a line that is left out: until its end.
    skipping: bool,
    long: u64,
}

impl Lines {
    /// Lines of at most `max` bytes.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            waiting: Vec::new(),
            given: 0,
            max,
            skipping: false,
            long: 0,
        }
    }

    /// Takes in what came. All lines are to be asked for before more is taken in.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.waiting.drain(..self.given);
        self.given = 0;
        self.waiting.extend_from_slice(bytes);
    }

    /// The next whole line, without its end.
    pub(crate) fn next(&mut self) -> Option<&[u8]> {
        loop {
            let rest = &self.waiting[self.given..];
            let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
                if self.skipping || rest.len() > self.max {
                    self.long += u64::from(!self.skipping);
                    self.skipping = true;
                    self.given = self.waiting.len();
                }
                return None;
            };
            let begin = self.given;
            self.given += length + 1;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if length > self.max {
                self.long += 1;
                continue;
            }
            let line = &self.waiting[begin..begin + length];
            return Some(line.strip_suffix(b"\r").unwrap_or(line));
        }
    }

    /// What has no end yet; the next line begins after it.
    pub(crate) fn finish(&mut self) -> Option<Vec<u8>> {
        let rest = self.waiting.split_off(self.given);
        self.waiting.clear();
        self.given = 0;
        let skipped = std::mem::take(&mut self.skipping);
        (!skipped && !rest.is_empty() && rest.len() <= self.max).then_some(rest)
    }

    /// Leaves out what comes up to the next line's beginning.
    pub(crate) fn skip(&mut self) {
        self.waiting.clear();
        self.given = 0;
        self.skipping = true;
    }

    /// Lines left out since the last call.
    pub(crate) fn take_long(&mut self) -> u64 {
        std::mem::take(&mut self.long)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(lines: &mut Lines) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(line) = lines.next() {
            out.push(String::from_utf8_lossy(line).into_owned());
        }
        out
    }

    #[test]
    fn a_line_is_given_out_when_it_is_whole() {
        let mut lines = Lines::new(10);
        lines.feed(b"one\r\ntw");
        assert_eq!(all(&mut lines), ["one"]);
        lines.feed(b"o\n\nthree");
        assert_eq!(all(&mut lines), ["two", ""]);
        assert_eq!(lines.finish(), Some(b"three".to_vec()));
        lines.feed(b"four\n");
        assert_eq!(all(&mut lines), ["four"]);
        assert_eq!(lines.finish(), None);
    }

    #[test]
    fn a_line_that_is_too_long_is_left_out_whole_and_counted() {
        let mut lines = Lines::new(4);
        for _ in 0..1000 {
            lines.feed(b"xxxxxxxx");
            assert_eq!(lines.next(), None);
            assert!(lines.waiting.len() <= 16);
        }
        lines.feed(b"end\nok\ntoo long\nok2\n");
        assert_eq!(all(&mut lines), ["ok", "ok2"]);
        assert_eq!((lines.take_long(), lines.take_long()), (2, 0));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "[a\n\r]{0,80}", cuts in prop::collection::vec(1usize..7, 0..40), max in 1usize..12) {
            let mut whole = Lines::new(max);
            whole.feed(text.as_bytes());
            let expected = (all(&mut whole), whole.take_long(), whole.finish());
            let mut lines = Lines::new(max);
            let (mut out, mut rest) = (Vec::new(), text.as_bytes());
            for cut in cuts.into_iter().chain([text.len()]) {
                let (piece, left) = rest.split_at(cut.min(rest.len()));
                lines.feed(piece);
                out.extend(all(&mut lines));
                rest = left;
            }
            prop_assert_eq!((out, lines.take_long(), lines.finish()), expected);
        }
    }
}
