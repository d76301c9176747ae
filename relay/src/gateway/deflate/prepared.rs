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

/// A binary message whose bytes, plain and compressed, are shared by all that send it.
#[derive(Debug)]
pub struct Prepared {
    plain: Bytes,
    packed: OnceLock<Option<Bytes>>,
}

impl Prepared {
    /// Of a message's bytes. It is compressed when first sent to somebody who takes that.
    pub fn new(message: impl Into<Bytes>) -> Self {
        Self {
            plain: message.into(),
            packed: OnceLock::new(),
        }
    }

    /// The decoded length.
    pub fn len(&self) -> usize {
        self.plain.len()
    }

    /// Whether the message is empty.
    pub fn is_empty(&self) -> bool {
        self.plain.is_empty()
    }

    /// The message itself.
    pub fn plain(&self) -> &Bytes {
        &self.plain
    }

    /// The frame for a connection that did, or did not, agree to compression: plain where deflate does not shrink it.
    pub fn frame(&self, deflated: bool) -> Frame {
        let packed = if deflated { self.packed() } else { None };
        let opcode = OpCode::Data(Data::Binary);
        match packed {
            Some(packed) => {
                let mut frame = Frame::message(packed.clone(), opcode, true);
                frame.header_mut().rsv1 = true;
                frame
            }
            None => Frame::message(self.plain.clone(), opcode, true),
        }
    }

    fn packed(&self) -> Option<&Bytes> {
        let pack = || {
            if self.plain.len() < LEAST {
                return None;
            }
            let packed = deflate(&self.plain);
            (packed.len() < self.plain.len()).then(|| Bytes::from(packed))
        };
        self.packed.get_or_init(pack).as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::deflate::inflate::inflate;
    use proptest::prelude::*;

    #[test]
    fn frames_share_their_bytes() {
        let prepared = Prepared::new(vec![1; 1000]);
        let (first, second) = (prepared.frame(true), prepared.frame(true));
        assert!(first.header().rsv1);
        assert!(first.payload().len() < 100);
        assert_eq!(first.payload().as_ptr(), second.payload().as_ptr());
        assert_eq!(
            prepared.frame(false).payload().as_ptr(),
            prepared.frame(false).payload().as_ptr()
        );
    }

    #[test]
    fn what_does_not_shrink_goes_plain() {
        let mut noise = vec![0; 1000];
        getrandom::fill(&mut noise).unwrap();
        let frame = Prepared::new(noise.clone()).frame(true);
        assert!(!frame.header().rsv1);
        assert_eq!(frame.payload(), noise);
        assert!(!Prepared::new(vec![0; 63]).frame(true).header().rsv1);
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
