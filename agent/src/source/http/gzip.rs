//! Request bodies that are compressed: gzip as of RFC 1952, one member.

use crc::{CRC_32_ISO_HDLC, Crc};
use miniz_oxide::inflate::{TINFLStatus, decompress_to_vec_with_limit};

const CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// Flags of the header, and what they say follows.
const HEADER_CRC: u8 = 2;
const EXTRA: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;

/// Why a body cannot be inflated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// It would be longer than allowed.
    Long,
    /// It is not gzip, or broken.
    Gzip,
}

/// Inflates `body` to at most `max` bytes.
pub(super) fn inflate(body: &[u8], max: usize) -> Result<Vec<u8>, Bad> {
    let deflated = deflated(body).ok_or(Bad::Gzip)?;
    let (deflated, trailer) = deflated.split_last_chunk::<8>().ok_or(Bad::Gzip)?;
    let plain = decompress_to_vec_with_limit(deflated, max).map_err(|error| match error.status {
        TINFLStatus::HasMoreOutput => Bad::Long,
        _ => Bad::Gzip,
    })?;
    let mut expected = [0; 8];
    expected[..4].copy_from_slice(&CRC32.checksum(&plain).to_le_bytes());
    expected[4..].copy_from_slice(&(plain.len() as u32).to_le_bytes());
    if expected == *trailer {
        Ok(plain)
    } else {
        Err(Bad::Gzip)
    }
}

/// What follows the header.
fn deflated(body: &[u8]) -> Option<&[u8]> {
    let (header, mut rest) = body.split_at_checked(10)?;
    if header[..3] != [0x1f, 0x8b, 8] {
        return None;
    }
    let flags = header[3];
    if flags & EXTRA != 0 {
        let (length, after) = rest.split_at_checked(2)?;
        rest = after.get(usize::from(u16::from_le_bytes([length[0], length[1]]))..)?;
    }
    for flag in [NAME, COMMENT] {
        if flags & flag != 0 {
            let end = rest.iter().position(|byte| *byte == 0)?;
            rest = &rest[end + 1..];
        }
    }
    if flags & HEADER_CRC != 0 {
        rest = rest.get(2..)?;
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `printf 'cpu usage=1\n' | gzip -n` writes.
    const GZIP: &[u8] = &[
        0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0x4b, 0x2e, 0x28, 0x55, 0x28, 0x2d, 0x4e,
        0x4c, 0x4f, 0xb5, 0x35, 0xe4, 0x02, 0x00, 0xa5, 0x5b, 0xe3, 0x9f, 0x0c, 0x00, 0x00, 0x00,
    ];

    #[test]
    fn what_gzip_writes_is_read() {
        assert_eq!(inflate(GZIP, 12).unwrap(), b"cpu usage=1\n");
        let mut named = GZIP[..3].to_vec();
        named.extend([NAME | COMMENT | EXTRA | HEADER_CRC, 0, 0, 0, 0, 0, 3]);
        named.extend(b"\x03\x00abcname\0comment\0cc");
        named.extend(&GZIP[10..]);
        assert_eq!(inflate(&named, 12).unwrap(), b"cpu usage=1\n");
    }

    #[test]
    fn a_bomb_is_refused_at_the_limit() {
        assert_eq!(inflate(GZIP, 11), Err(Bad::Long));
        let deflated = miniz_oxide::deflate::compress_to_vec(&vec![0; 10 << 20], 9);
        let mut bomb = GZIP[..10].to_vec();
        bomb.extend(deflated);
        bomb.extend([0; 8]);
        assert_eq!(inflate(&bomb, 64 * 1024), Err(Bad::Long));
    }

    #[test]
    fn every_flipped_bit_of_data_and_trailer_shows() {
        for bit in 80..GZIP.len() * 8 {
            let mut broken = GZIP.to_vec();
            broken[bit / 8] ^= 1 << (bit % 8);
            if let Ok(plain) = inflate(&broken, 1024) {
                assert_eq!(plain, b"cpu usage=1\n", "bit {bit}");
            }
        }
        for length in 0..GZIP.len() {
            assert_eq!(inflate(&GZIP[..length], 1024), Err(Bad::Gzip), "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(flags in any::<u8>(), rest in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut body = vec![0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 3];
            body.extend(rest);
            if let Ok(plain) = inflate(&body, 100) {
                prop_assert!(plain.len() <= 100);
            }
        }
    }
}
