//! Where an answer's body ends, by its head (RFC 9112, section 6). Pure. A body that only the connection's end would bound is refused:
//! nobody could tell it from one that broke off.

/// The longest line between two chunks, bytes.
const LINE_MAX: usize = 1024;

/// What is still to come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// So many bytes.
    Length(u64),
    /// So many bytes of a chunk, and its end of line.
    Chunk(u64),
    /// A chunk's length.
    Size,
    /// Lines behind the last chunk.
    Trailer,
}

impl Body {
    /// By an answer's head, header names in lower case.
    pub(super) fn of(status: u16, headers: &[(String, String)]) -> Result<Self, String> {
        let all = |name: &str| -> Vec<&str> {
            let found = headers.iter().filter(|(known, _)| known == name);
            found.map(|(_, value)| value.trim()).collect()
        };
        if status == 204 || status == 304 {
            return Ok(Self::Length(0));
        }
        match (&*all("transfer-encoding"), &*all("content-length")) {
            ([], [length]) => {
                let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
                let length = length.parse().ok().filter(|_| digits);
                length
                    .map(Self::Length)
                    .ok_or_else(|| "the server's answer has a length that is no number".into())
            }
            ([coding], []) if coding.eq_ignore_ascii_case("chunked") => Ok(Self::Size),
            ([], []) => Err("the server's answer does not tell its length".into()),
            _ => Err("the server's answer is sent in a way that is not understood".into()),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        *self == Self::Length(0)
    }

    /// Takes from `read` what is of the body; empty: more has to be read, or it is over.
    pub(super) fn take(&mut self, read: &mut Vec<u8>) -> Result<Vec<u8>, String> {
        loop {
            match self {
                Self::Length(0) => return Ok(Vec::new()),
                Self::Length(left) => return Ok(front(read, left)),
                Self::Chunk(0) => match line(read)? {
                    None => return Ok(Vec::new()),
                    Some(line) if line.is_empty() => *self = Self::Size,
                    Some(_) => return Err(MALFORMED.into()),
                },
                Self::Chunk(left) => return Ok(front(read, left)),
                Self::Size => {
                    let Some(line) = line(read)? else {
                        return Ok(Vec::new());
                    };
                    let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
                    let size = std::str::from_utf8(size).unwrap_or_default().trim();
                    // from_str_radix would take a sign.
                    let digits = !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_hexdigit());
                    let size = u64::from_str_radix(size, 16).ok().filter(|_| digits);
                    *self = match size.ok_or(MALFORMED)? {
                        0 => Self::Trailer,
                        size => Self::Chunk(size),
                    };
                }
                Self::Trailer => match line(read)? {
                    None => return Ok(Vec::new()),
                    Some(line) if line.is_empty() => *self = Self::Length(0),
                    Some(_) => {}
                },
            }
        }
    }
}

const MALFORMED: &str = "the server's answer is malformed between its chunks";

fn front(read: &mut Vec<u8>, left: &mut u64) -> Vec<u8> {
    let count = read.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= count as u64;
    read.drain(..count).collect()
}

/// A line without its end, if one is there.
fn line(read: &mut Vec<u8>) -> Result<Option<Vec<u8>>, String> {
    let Some(at) = read.windows(2).position(|two| two == b"\r\n") else {
        return if read.len() > LINE_MAX {
            Err(MALFORMED.into())
        } else {
            Ok(None)
        };
    };
    let mut line: Vec<u8> = read.drain(..at + 2).collect();
    line.truncate(at);
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_string(), (*value).to_string()))
            .collect()
    }

    /// A body that comes `piece` bytes at a time, and what is left behind it.
    fn read(mut body: Body, wire: &[u8], piece: usize) -> Result<(Vec<u8>, bool), String> {
        let (mut buffer, mut out) = (Vec::new(), Vec::new());
        for part in wire.chunks(piece) {
            buffer.extend_from_slice(part);
            loop {
                let taken = body.take(&mut buffer)?;
                if taken.is_empty() {
                    break;
                }
                out.extend(taken);
            }
        }
        Ok((out, body.is_over()))
    }

    #[test]
    fn a_body_ends_where_its_head_says_however_it_comes() {
        let chunked = b"5;x=y\r\nhello\r\n1\r\n \r\n00a\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n";
        for piece in 1..=chunked.len() {
            let chunks = Body::of(200, &head(&[("transfer-encoding", "Chunked")])).unwrap();
            assert_eq!(
                read(chunks, chunked, piece),
                Ok((b"hello 0123456789".to_vec(), true))
            );
            let length = Body::of(206, &head(&[("content-length", "7")])).unwrap();
            assert_eq!(
                read(length, b"7 bytes, and more", piece),
                Ok((b"7 bytes".to_vec(), true))
            );
            let length = Body::of(200, &head(&[("content-length", "9")])).unwrap();
            assert_eq!(read(length, b"too few", piece), Ok((b"too few".to_vec(), false)));
        }
        assert!(Body::of(204, &[]).unwrap().is_over());
    }

    #[test]
    fn what_does_not_tell_its_end_is_refused() {
        for bad in [
            &[][..],
            &[("content-length", "x")],
            &[("content-length", "+5")],
            &[("content-length", "-1")],
            &[("content-length", "5"), ("content-length", "6")],
            &[("content-length", "5"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "gzip, chunked")],
        ] {
            assert!(Body::of(200, &head(bad)).is_err(), "{bad:?}");
        }
        let long = [b'a'; 2000];
        for bad in [
            &b"x\r\n"[..],
            b"\r\n",
            b"+5\r\nhello\r\n",
            b"5\r\nhello!\r\n",
            b"fffffffffffffffff\r\n",
            &long,
        ] {
            assert!(read(Body::Size, bad, bad.len()).is_err(), "{bad:?}");
        }
    }
}
