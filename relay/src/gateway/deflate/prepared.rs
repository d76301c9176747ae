//! A message compressed once for all its receivers.

use std::cell::RefCell;
use std::sync::OnceLock;

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use super::WINDOW_BITS;

/// Below this many bytes deflate has nothing to gain.
const LEAST: usize = 64;

/// Where every whole flush ends, and what is left away (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

thread_local! {
    static DEFLATER: RefCell<Compress> =
        RefCell::new(Compress::new_with_window_bits(Compression::new(6), false, WINDOW_BITS));
}

/// The compressed form of a message.
pub fn deflate(message: &[u8]) -> Vec<u8> {
    DEFLATER.with_borrow_mut(|deflater| {
        deflater.reset();
        let mut out = Vec::with_capacity(message.len() / 2 + 64);
        loop {
            let rest = &message[deflater.total_in() as usize..];
            match deflater.compress_vec(rest, &mut out, FlushCompress::Sync) {
                // Done when all is taken in and the flush did not fill the room it had.
                Ok(Status::Ok | Status::BufError) if out.len() < out.capacity() => break,
                Ok(_) => out.reserve(out.len().max(64)),
                // Only parameters can be wrong, and those are ours.
                Err(error) => unreachable!("deflate: {error}"),
            }
        }
        if out.ends_with(&TAIL) {
            out.truncate(out.len() - TAIL.len());
        }
        out
    })
}

/// A binary message, as it goes over the wire: a server's frames are not masked, so every connection sends the same bytes.
#[derive(Debug)]
pub struct Prepared {
    /// The frame of the plain message, header included.
    framed: Bytes,
    /// Where the message begins in it.
    header: usize,
    /// The compressed frame, where deflate shrinks the message.
    packed: OnceLock<Option<Bytes>>,
}

impl Prepared {
    /// Of a message's bytes. It is compressed when first sent to somebody who takes that.
    pub fn new(message: impl Into<Bytes>) -> Self {
        let message = message.into();
        let length = message.len();
        let framed = framed(message, false);
        Self {
            header: framed.len() - length,
            framed,
            packed: OnceLock::new(),
        }
    }

    /// The decoded length.
    pub fn len(&self) -> usize {
        self.framed.len() - self.header
    }

    /// Whether the message is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The message itself.
    pub fn plain(&self) -> Bytes {
        self.framed.slice(self.header..)
    }

    /// The frame for a connection that did, or did not, agree to compression, and whether it is compressed: not where deflate does not shrink it.
    pub fn wire(&self, deflated: bool) -> (Bytes, bool) {
        let packed = if deflated { self.packed() } else { None };
        match packed {
            Some(packed) => (packed.clone(), true),
            None => (self.framed.clone(), false),
        }
    }

    fn packed(&self) -> Option<&Bytes> {
        let pack = || {
            if self.len() < LEAST {
                return None;
            }
            let packed = deflate(&self.framed[self.header..]);
            (packed.len() < self.len()).then(|| framed(packed.into(), true))
        };
        self.packed.get_or_init(pack).as_ref()
    }
}

/// A message with its header (RFC 6455 §5.2).
fn framed(message: Bytes, rsv1: bool) -> Bytes {
    let mut frame = Frame::message(message, OpCode::Data(Data::Binary), true);
    frame.header_mut().rsv1 = rsv1;
    let mut out = Vec::with_capacity(frame.len());
    // Only a writer can fail.
    drop(frame.format(&mut out));
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::deflate::inflate::inflate;
    use proptest::prelude::*;

    #[test]
    fn frames_share_their_bytes() {
        let prepared = Prepared::new(vec![1; 1000]);
        let ((first, packed), (second, _)) = (prepared.wire(true), prepared.wire(true));
        assert!(packed && first.len() < 100);
        assert_eq!(first[..2], [0xc2, first.len() as u8 - 2]);
        assert_eq!(first.as_ptr(), second.as_ptr());
        let ((first, packed), (second, _)) = (prepared.wire(false), prepared.wire(false));
        assert_eq!((packed, &first[..4]), (false, &[0x82, 126, 3, 232][..]));
        assert_eq!(first.as_ptr(), second.as_ptr());
        assert_eq!(prepared.plain(), vec![1; 1000]);
    }

    #[test]
    fn what_does_not_shrink_goes_plain() {
        let mut noise = vec![0; 1000];
        getrandom::fill(&mut noise).unwrap();
        let (frame, packed) = Prepared::new(noise.clone()).wire(true);
        assert!(!packed);
        assert_eq!(frame[4..], noise);
        assert!(!Prepared::new(vec![0; 63]).wire(true).1);
    }

    /// References reach back no further than the window that was agreed: a 12-bit inflater is enough.
    #[test]
    fn the_window_is_kept() {
        let mut block = vec![0; 6000];
        getrandom::fill(&mut block).unwrap();
        let message = [&block[..], &block[..]].concat();
        assert!(
            deflate(&message).len() >= 12_000,
            "a repeat 6,000 bytes back is out of a 4 KiB window"
        );
        let near = [&block[..2000], &block[..2000]].concat();
        assert!(deflate(&near).len() < 2_200);
    }

    proptest! {
        #[test]
        fn every_size_round_trips(message in proptest::collection::vec(any::<u8>(), 0..3000), times in 1usize..40) {
            let message = message.repeat(times);
            prop_assert_eq!(inflate(&deflate(&message), message.len()).unwrap(), message);
        }
    }
}
