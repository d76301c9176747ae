//! Inflating one message, up to a limit.

use std::cell::RefCell;

use flate2::{Decompress, FlushDecompress, Status};

/// Why a message could not be inflated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is no deflate stream, or one that ends too early.
    #[error("the compressed message is damaged: {0}")]
    Damaged(String),
    /// It grows beyond the limit.
    #[error("the message inflates to more than {limit} bytes")]
    TooBig {
        /// The limit.
        limit: usize,
    },
}

thread_local! {
    // A message stands alone, so one inflater a thread serves all connections.
    static INFLATER: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// The message that `body` was compressed from: appends the four bytes that the sender left away (RFC 7692 §7.2.2) and
/// inflates, over blocks with BFINAL set too (§7.2.3.4).
///
/// # Errors
/// [`Error`]. No more than `limit` bytes (and one more) are ever held.
pub fn inflate(body: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
    INFLATER.with_borrow_mut(|inflater| {
        inflater.reset(false);
        let mut out = Vec::with_capacity(body.len().saturating_mul(4).max(64).min(limit.saturating_add(1)));
        // What follows a final block up to the end of the message is another stream; the appended tail goes to the last.
        let mut fed = false;
        for (part, tail) in [(body, false), (&[0x00, 0x00, 0xff, 0xff][..], true)] {
            let mut rest = part;
            loop {
                if tail && rest.is_empty() && fed {
                    break;
                }
                let (before_in, before_out) = (inflater.total_in(), out.len());
                let status = inflater
                    .decompress_vec(rest, &mut out, FlushDecompress::Sync)
                    .map_err(|error| Error::Damaged(error.to_string()))?;
                let used = (inflater.total_in() - before_in) as usize;
                rest = &rest[used..];
                if out.len() > limit {
                    return Err(Error::TooBig { limit });
                }
                if status == Status::StreamEnd {
                    inflater.reset(false);
                    fed = false;
                    if rest.is_empty() {
                        break;
                    }
                    continue;
                }
                fed = true;
                if out.len() == out.capacity() {
                    let more = out.len().min(limit + 1 - out.len()).max(1);
                    out.reserve_exact(more);
                } else if rest.is_empty() {
                    break;
                } else if used == 0 && out.len() == before_out {
                    return Err(Error::Damaged("it makes no progress".into()));
                }
            }
        }
        Ok(out)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::deflate::prepared::deflate;
    use proptest::prelude::*;

    /// RFC 7692 §7.2.3: the examples that stand alone.
    #[test]
    fn the_rfcs_examples() {
        let hello = |bytes: &[u8]| String::from_utf8(inflate(bytes, 100).unwrap()).unwrap();
        // §7.2.3.1: one compressed block.
        assert_eq!(hello(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]), "Hello");
        // §7.2.3.3: a block without compression.
        assert_eq!(
            hello(&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00]),
            "Hello"
        );
        // §7.2.3.4: BFINAL set.
        assert_eq!(hello(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00]), "Hello");
        // §7.2.3.5: two blocks in a message.
        assert_eq!(
            hello(&[
                0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00
            ]),
            "Hello"
        );
        // §7.2.3.6: an empty message.
        assert_eq!(hello(&[0x00]), "");
    }

    /// §7.2.3.2: the second message of a sender with context takeover refers to the first; we agreed to none.
    #[test]
    fn a_reference_to_an_earlier_message_is_damage() {
        assert!(matches!(
            inflate(&[0xf2, 0x00, 0x11, 0x00, 0x00], 100),
            Err(Error::Damaged(_))
        ));
    }

    #[test]
    fn the_limit_is_exact() {
        let packed = deflate(&[7; 5000]);
        assert_eq!(inflate(&packed, 5000).unwrap().len(), 5000);
        assert_eq!(inflate(&packed, 4999), Err(Error::TooBig { limit: 4999 }));
    }

    #[test]
    fn a_bomb_is_refused_without_being_held() {
        let packed = deflate(&vec![0; 80 << 20]);
        assert!(packed.len() < 100_000, "{}", packed.len());
        assert_eq!(
            inflate(&packed, 256 << 10),
            Err(Error::TooBig { limit: 256 << 10 })
        );
    }

    proptest! {
        #[test]
        fn what_is_deflated_inflates_to_itself(message in proptest::collection::vec(0u8..6, 0..20_000)) {
            prop_assert_eq!(inflate(&deflate(&message), 20_000).unwrap(), message);
        }

        #[test]
        fn garbage_ends(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(out) = inflate(&bytes, 1000) {
                prop_assert!(out.len() <= 1000);
            }
        }
    }
}
