//! Bits, least significant first, and the numbers written in them.

use alloc::vec::Vec;

/// Writes bits.
#[derive(Default)]
pub(super) struct Writer {
    /// Longer than what is written, so that eight bytes can be stored at once.
    out: Vec<u8>,
    at: usize,
    /// The bits after the last whole byte.
    word: u64,
    used: u32,
}

/// Most bits of codes that are joined before they are stored, taken together: what a double holds exactly.
pub(super) const JOINED_BITS: u32 = 52;
/// Bits that [`Reader::peek`] gives at least.
pub(super) const PEEKED: u32 = 57;
/// What eight groups of codes may touch.
const BLOCK_BYTES: usize = 72;

impl Writer {
    /// Takes a buffer for its space.
    pub(super) fn new(buffer: Vec<u8>) -> Self {
        Self {
            out: buffer,
            ..Self::default()
        }
    }

    /// How many bits were written.
    pub(super) fn bits(&self) -> usize {
        self.at * 8 + self.used as usize
    }

    #[cold]
    fn grow(&mut self) {
        self.out.resize(self.out.len() * 2 + 1024, 0);
    }

    /// The next bytes.
    #[inline]
    fn room<const N: usize>(&mut self) -> &mut [u8; N] {
        if self.out.len() < self.at + N {
            self.grow();
        }
        let bytes = &mut self.out[self.at..self.at + N];
        bytes.first_chunk_mut().expect("as many as asked for")
    }

    /// The low `width` bits of `value`, whose other bits are 0; `width` ≤ 64.
    #[inline(always)]
    pub(super) fn put(&mut self, value: u64, width: u32) {
        if width > 56 {
            self.put_few(value & 0xffff_ffff, 32);
            self.put_few(value >> 32, width - 32);
        } else {
            self.put_few(value, width);
        }
    }

    /// As [`Writer::put`]; `width` ≤ 56.
    #[inline(always)]
    pub(super) fn put_few(&mut self, value: u64, width: u32) {
        let word = self.word | value << self.used;
        match self.out.get_mut(self.at..).and_then(<[u8]>::first_chunk_mut) {
            Some(bytes) => *bytes = word.to_le_bytes(),
            None => *self.room() = word.to_le_bytes(),
        }
        let used = self.used + width;
        self.at += (used >> 3) as usize;
        self.word = word >> (used & 56);
        self.used = used & 7;
    }

    /// Groups of codes that have been joined, of at most [`JOINED_BITS`] each, without their last `less` bits.
    #[inline(always)]
    pub(super) fn put_joined<const N: usize>(&mut self, codes: &[u64; N], lengths: &[u32; N], less: u32) {
        let (mut word, mut used) = (self.word, self.used);
        let bytes = self.room::<BLOCK_BYTES>();
        let mut at = 0;
        for (code, length) in codes.iter().zip(lengths) {
            word |= code << used;
            used += length;
            let full = at & 63;
            bytes[full..full + 8].copy_from_slice(&word.to_le_bytes());
            at += (used >> 3) as usize;
            word >>= used & 56;
            used &= 7;
        }
        if less > 0 {
            let end = at * 8 + used as usize - less as usize;
            (at, used) = (end / 8, end as u32 % 8);
            word = u64::from(bytes[at & 63]) & ((1 << used) - 1);
        }
        self.at += at;
        (self.word, self.used) = (word, used);
    }

    /// A number of unknown size: 6 bits with its length less one (0 counts as one bit), then its bits but the highest.
    #[inline(always)]
    pub(super) fn number(&mut self, value: u64) {
        let log = (value | 1).ilog2();
        // 0 and 1 have a bit; others are without the highest.
        let rest = if log == 0 { value } else { value ^ 1 << log };
        let width = log.max(1);
        if width <= 50 {
            self.put_few(rest << 6 | u64::from(log), 6 + width);
        } else {
            self.put_long(rest, width, log);
        }
    }

    #[cold]
    fn put_long(&mut self, rest: u64, width: u32, log: u32) {
        self.put_few(u64::from(log), 6);
        self.put(rest, width);
    }

    /// A number that is mostly 0 or small: groups of three bits, each followed by a bit that says whether more come.
    pub(super) fn small(&mut self, mut value: u64) {
        while value >= 8 {
            self.put_few(value & 7 | 8, 4);
            value >>= 3;
        }
        self.put_few(value, 4);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.put_few(u64::from(*byte), 8);
        }
    }

    /// The buffer, and how many of its bytes count; the last is filled with 0 bits.
    pub(super) fn finish(mut self) -> (Vec<u8>, usize) {
        *self.room() = self.word.to_le_bytes();
        let bytes = self.at + self.used.div_ceil(8) as usize;
        (self.out, bytes)
    }
}

/// Reads bits. Beyond the end there are zeros; whoever reads asks [`Reader::overrun`] before trusting them.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next [`PEEKED`] bits or more, without moving on.
    #[inline(always)]
    pub(super) fn peek(&self) -> u64 {
        let (byte, bit) = (self.at / 8, self.at % 8);
        let word = match self.bytes.get(byte..).and_then(|rest| rest.first_chunk()) {
            Some(chunk) => u64::from_le_bytes(*chunk),
            None => self.tail(byte),
        };
        word >> bit
    }

    #[cold]
    fn tail(&self, byte: usize) -> u64 {
        let rest = self.bytes.get(byte..).unwrap_or_default();
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        u64::from_le_bytes(word)
    }

    #[inline(always)]
    pub(super) fn skip(&mut self, bits: u32) {
        self.at += bits as usize;
    }

    /// The next `width` ≤ 64 bits.
    #[inline(always)]
    pub(super) fn get(&mut self, width: u32) -> u64 {
        if width > 56 {
            let low = self.get(32);
            return low | self.get(width - 32) << 32;
        }
        let value = self.peek() & ((1 << width) - 1);
        self.skip(width);
        value
    }

    pub(super) fn number(&mut self) -> u64 {
        match self.get(6) as u32 {
            0 => self.get(1),
            length => self.get(length) | 1 << length,
        }
    }

    /// Bits beyond 64 are dropped.
    pub(super) fn small(&mut self) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(3) {
            let group = self.get(4);
            value |= (group & 7) << shift;
            if group < 8 {
                break;
            }
        }
        value
    }

    /// Whether more was read than there is.
    pub(super) fn overrun(&self) -> bool {
        self.at > self.bytes.len() * 8
    }

    /// How many bits are left.
    pub(super) fn left(&self) -> usize {
        (self.bytes.len() * 8).saturating_sub(self.at)
    }

    /// Where it stands, in bytes.
    pub(super) fn at_byte(&self) -> usize {
        self.at / 8
    }
}
