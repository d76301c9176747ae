//! Bits, least significant first, and the numbers written in them.

use alloc::vec::Vec;

/// Writes bits.
#[derive(Default)]
pub(super) struct Writer {
    out: Vec<u8>,
    word: u64,
    used: u32,
}

impl Writer {
    /// Takes a buffer for its space.
    pub(super) fn new(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        Self {
            out: buffer,
            word: 0,
            used: 0,
        }
    }

    pub(super) fn reserve(&mut self, bytes: usize) {
        self.out.reserve(bytes);
    }

    /// The low `width` bits of `value`, whose other bits are 0; `width` ≤ 64.
    #[inline(always)]
    pub(super) fn put(&mut self, value: u64, width: u32) {
        self.word |= value << self.used;
        let used = self.used + width;
        if used < 64 {
            self.used = used;
        } else {
            self.out.extend_from_slice(&self.word.to_le_bytes());
            self.word = value.checked_shr(64 - self.used).unwrap_or(0);
            self.used = used - 64;
        }
    }

    /// Up to 16 codes of at most 28 bits each, given with their lengths. Two at a time, and in registers: this is where
    /// encoding spends its time.
    #[inline(always)]
    pub(super) fn put_short(&mut self, values: &[u64], code: impl Fn(u64) -> (u64, u32)) {
        let mut words = [0u64; 8];
        let mut full = 0;
        let (mut word, mut used) = (self.word, self.used);
        let mut add = |code: u64, bits: u32| {
            word |= code << used;
            words[full & 7] = word;
            let now = used + bits;
            // What did not fit; there is room for `64 - used`, which is not more than `bits` then.
            let rest = code >> ((64 - used) & 63) >> u32::from(used == 0);
            let over = now >> 6;
            word = if over == 1 { rest } else { word };
            full += over as usize;
            used = now & 63;
        };
        let (pairs, last) = values.as_chunks::<2>();
        for [a, b] in pairs {
            let (a, a_bits) = code(*a);
            let (b, b_bits) = code(*b);
            add(a | b << a_bits, a_bits + b_bits);
        }
        if let [last] = last {
            let (last, bits) = code(*last);
            add(last, bits);
        }
        (self.word, self.used) = (word, used);
        for word in &words[..full & 7] {
            self.out.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// The codes of a block's first `groups` × `N` residuals, of at most 56 / `N` bits each: `residual >> k` zeros, a
    /// one, and the low `k` bits. `N` at a time, and in registers: this is where encoding spends its time.
    #[inline(always)]
    pub(super) fn put_block<const N: usize>(&mut self, residuals: &[u32; 16], groups: usize, k: u32) {
        let mask = (1u32 << k) - 1;
        let zeros = residuals.map(|residual| residual >> k);
        let ends = residuals.map(|residual| (residual & mask) << 1 | 1);
        let mut bytes = [0; 72];
        // Whole bytes go out first: of what is in the word, at most 7 bits stay.
        let (mut word, mut used) = (self.word, self.used);
        let mut at = 0;
        let (zeros, _) = zeros.as_chunks::<N>();
        let (ends, _) = ends.as_chunks::<N>();
        for (zeros, ends) in zeros.iter().zip(ends).take(groups) {
            let full = at & 63;
            bytes[full..full + 8].copy_from_slice(&word.to_le_bytes());
            at += (used >> 3) as usize;
            word >>= used & 56;
            used &= 7;
            for (zeros, end) in zeros.iter().zip(ends) {
                used += zeros;
                word |= u64::from(*end) << (used & 63);
                used += k + 1;
            }
        }
        (self.word, self.used) = (word, used);
        // All of them and back: no call for the few that count.
        let len = self.out.len();
        self.out.extend_from_slice(&bytes);
        self.out.truncate(len + at);
    }

    /// A number of unknown size: 6 bits with its length less one (0 counts as one bit), then its bits but the highest.
    pub(super) fn number(&mut self, value: u64) {
        let length = (value | 1).ilog2() + 1;
        self.put(u64::from(length - 1), 6);
        if length == 1 {
            self.put(value, 1);
        } else {
            self.put(value & !(1 << (length - 1)), length - 1);
        }
    }

    /// A number that is mostly 0 or small: groups of three bits, each followed by a bit that says whether more come.
    pub(super) fn small(&mut self, mut value: u64) {
        while value >= 8 {
            self.put(value & 7 | 8, 4);
            value >>= 3;
        }
        self.put(value, 4);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.put(u64::from(*byte), 8);
        }
    }

    /// The bytes; the last is filled with 0 bits.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let bytes = self.used.div_ceil(8) as usize;
        self.out.extend_from_slice(&self.word.to_le_bytes()[..bytes]);
        self.out
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

    /// The next 57 bits or more, without moving on.
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
