//! The acknowledgement window: how much may be on its way to a client.
//!
//! Both sides count the counted frames and their decoded bytes since the connection began. A frame goes out only while
//! fewer than `frames` frames *and* fewer than `bytes` bytes are unacknowledged, so at most one frame reaches beyond
//! `bytes`. That bounds what a connection can hold in buffers, however its client behaves.

use headwater_proto::pb;

/// What may be unacknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Frames.
    pub frames: u32,
    /// Decoded bytes.
    pub bytes: u64,
}

/// What a client gets that does not say what it wants (live.proto).
pub const DEFAULT: Size = Size {
    frames: 256,
    bytes: 4 << 20,
};

impl Size {
    /// What is granted of a request under a cap.
    pub fn granted(request: Option<pb::Window>, cap: Self) -> Self {
        let wanted = request.map_or(DEFAULT, |window| Self {
            frames: window.frames,
            bytes: window.bytes,
        });
        Self {
            frames: wanted.frames.min(cap.frames),
            bytes: wanted.bytes.min(cap.bytes),
        }
    }
}

/// An acknowledgement of what was never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "ack of {frames} frames and {bytes} bytes, but {sent_frames} frames and {sent_bytes} bytes were sent"
)]
pub struct Beyond {
    /// Acknowledged frames.
    pub frames: u64,
    /// Acknowledged bytes.
    pub bytes: u64,
    /// Frames sent.
    pub sent_frames: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
}

/// One connection's counts.
#[derive(Clone, Debug)]
pub struct Window {
    cap: Size,
    size: Size,
    sent_frames: u64,
    sent_bytes: u64,
    acked_frames: u64,
    acked_bytes: u64,
}

impl Window {
    /// At the beginning of a connection.
    pub fn new(request: Option<pb::Window>, cap: Size) -> Self {
        let size = Size::granted(request, cap);
        Self {
            cap,
            size,
            sent_frames: 0,
            sent_bytes: 0,
            acked_frames: 0,
            acked_bytes: 0,
        }
    }

    /// What is granted now.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Whether another counted frame may go out.
    pub fn is_open(&self) -> bool {
        self.sent_frames - self.acked_frames < u64::from(self.size.frames)
            && self.sent_bytes - self.acked_bytes < self.size.bytes
    }

    /// Whether all that was sent is acknowledged.
    pub fn is_settled(&self) -> bool {
        self.acked_frames == self.sent_frames
    }

    /// Counted frames so far.
    pub fn sent_frames(&self) -> u64 {
        self.sent_frames
    }

    /// Their decoded bytes.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Those that are acknowledged.
    pub fn acked_bytes(&self) -> u64 {
        self.acked_bytes
    }

    /// Those that are not.
    pub fn unacked_bytes(&self) -> u64 {
        self.sent_bytes - self.acked_bytes
    }

    /// A counted frame of this decoded length goes out.
    pub fn sent(&mut self, bytes: usize) {
        self.sent_frames += 1;
        self.sent_bytes += bytes as u64;
    }

    /// An acknowledgement came. One that repeats or goes back moves nothing, but the window it names holds. Returns
    /// whether anything was newly acknowledged.
    ///
    /// # Errors
    /// [`Beyond`]: then nothing has changed.
    pub fn ack(&mut self, ack: &pb::ClientAck) -> Result<bool, Beyond> {
        let (frames, bytes) = (ack.frames_total, ack.bytes_total);
        if frames > self.sent_frames || bytes > self.sent_bytes {
            return Err(Beyond {
                frames,
                bytes,
                sent_frames: self.sent_frames,
                sent_bytes: self.sent_bytes,
            });
        }
        if ack.window.is_some() {
            self.size = Size::granted(ack.window, self.cap);
        }
        let news = frames > self.acked_frames || bytes > self.acked_bytes;
        self.acked_frames = self.acked_frames.max(frames);
        self.acked_bytes = self.acked_bytes.max(bytes);
        Ok(news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CAP: Size = Size {
        frames: 1000,
        bytes: 1 << 20,
    };

    fn ask(frames: u32, bytes: u64) -> Option<pb::Window> {
        Some(pb::Window { frames, bytes })
    }

    fn ack(frames_total: u64, bytes_total: u64, window: Option<pb::Window>) -> pb::ClientAck {
        pb::ClientAck {
            frames_total,
            bytes_total,
            window,
        }
    }

    #[test]
    fn the_request_is_capped_and_has_a_default() {
        assert_eq!(
            Window::new(ask(5000, 10), CAP).size(),
            Size {
                frames: 1000,
                bytes: 10
            }
        );
        assert_eq!(
            Window::new(None, CAP).size(),
            Size {
                frames: 256,
                bytes: 1 << 20
            }
        );
    }

    #[test]
    fn either_limit_closes_it() {
        let mut window = Window::new(ask(2, 100), CAP);
        window.sent(1);
        assert!(window.is_open());
        window.sent(1);
        assert!(!window.is_open(), "frames");
        window.ack(&ack(2, 2, None)).unwrap();
        window.sent(100);
        assert!(!window.is_open(), "bytes");
    }

    #[test]
    fn zero_in_either_field_pauses() {
        assert!(!Window::new(ask(0, 100), CAP).is_open());
        let mut window = Window::new(ask(10, 0), CAP);
        assert!(!window.is_open());
        window.ack(&ack(0, 0, ask(10, 100))).unwrap();
        assert!(window.is_open());
        window.ack(&ack(0, 0, ask(0, 0))).unwrap();
        assert!(!window.is_open());
    }

    #[test]
    fn an_ack_beyond_what_was_sent_is_refused() {
        let mut window = Window::new(ask(10, 100), CAP);
        window.sent(10);
        assert!(window.ack(&ack(2, 10, None)).is_err());
        assert!(window.ack(&ack(1, 11, None)).is_err());
        assert!(!window.is_settled());
        assert_eq!(window.ack(&ack(1, 10, None)), Ok(true));
        assert_eq!(window.ack(&ack(1, 10, None)), Ok(false), "repeated");
        assert_eq!(window.ack(&ack(0, 0, None)), Ok(false), "backwards");
        assert!(window.is_settled());
    }

    proptest! {
        #[test]
        fn never_more_than_the_window_and_one_frame(
            (frames, bytes) in (0u32..20, 0u64..2000),
            steps in proptest::collection::vec((any::<bool>(), 1usize..300), 0..300),
        ) {
            let mut window = Window::new(ask(frames, bytes), CAP);
            let (mut sent, mut acked) = (vec![], 0usize);
            for (send, size) in steps {
                if send && window.is_open() {
                    window.sent(size);
                    sent.push(size as u64);
                } else if acked < sent.len() {
                    acked += 1;
                    window.ack(&ack(acked as u64, sent[..acked].iter().sum(), None)).unwrap();
                }
                let waiting = &sent[acked..];
                prop_assert!(waiting.len() <= frames as usize);
                let before_last: u64 = waiting.iter().rev().skip(1).sum();
                prop_assert!(waiting.is_empty() || before_last < bytes);
            }
        }
    }
}
