//! What a microcontroller sends over a serial line.
//!
//! A frame stands alone: it names its metrics, so that neither end has anything to remember or to agree on, and a lost frame costs
//! nothing but its readings. A serial line costs nothing by the byte; the agent packs what goes on from it.
//!
//! ```text
//! line      0x00 COBS(payload, checksum) 0x00
//!           The zero in front ends whatever noise stood before; a receiver that has lost its place finds it at the next zero.
//! checksum  4 bytes, lowest first: CRC-32C (Castagnoli: reflected polynomial 0x82F63B78, begun with and combined with 0xFFFFFFFF)
//!           of the payload
//! payload   version   1 byte: 1
//!           seq       1 byte: 0, 1, …, 255, 0, …: tells the agent how many frames were lost
//!           taken_ms  number: when the readings were taken, in milliseconds since the start of the microcontroller,
//!                     modulo 2^32; 0: it has no timer
//!           age_ms    number: how long ago that was when the frame was sent; 0 unless frames are sent late
//!           readings  one after the other, up to the end:
//!             metric  text: its name
//!             unit    text: as in UCUM, or empty
//!             value   1 byte for its type, then
//!                     0 single: 4 bytes, lowest first (IEEE 754)
//!                     1 double: 8 bytes, lowest first
//!                     2 integer: number, zigzag
//!                     3 truth value: 1 byte, 0 or 1
//!                     4 text
//!                     5 decimal: 1 byte for its digits after the point (0 to 18), then the number without the point, zigzag:
//!                       21.50 is 2, 2150
//! number    seven bits a byte, the lowest first; the highest bit of a byte is 1 if another follows
//! zigzag    0, -1, 1, -2, … are the numbers 0, 1, 2, 3, …: (n << 1) ^ (n >> 63)
//! text      number of its bytes, then these: UTF-8
//! ```
//!
//! That is postcard's encoding of the structs here. `proto/examples/serial/sender.c` writes it in C.
//!
//! **Why 32 bits of checksum**: a line that is hit by noise once a second for two years garbles 60 million frames. Of those a checksum of
//! 16 bits lets a thousand pass, and a wrong reading that looks right is worse than none; one of 32 bits lets pass one in 70 such boxes.
//! It is the journal's, so that there is one in all of Headwater.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::Deserialize;

use crate::Error;
use crate::varint::zigzag;

const VERSION: u8 = 1;
/// What the end of a frame takes at most: the checksum, a byte more of COBS, the zero.
const END: usize = 6;

/// There is no room for a reading: send the frame and begin another, or give it a larger `N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A frame being made, in `N` bytes and without an allocator.
///
/// ```
/// use headwater_proto::serial::Frame;
///
/// let (seq, uptime_ms) = (0, 123_456);
/// let mut frame = Frame::<128>::new(seq, uptime_ms, 0);
/// frame.decimal("tank.temperature", "Cel", 2150, 2)?;
/// frame.bool("tank.pump", "", true)?;
/// let bytes = frame.finish(); // to the UART
/// # assert_eq!(bytes[0], 0);
/// # assert_eq!(bytes.iter().filter(|byte| **byte == 0).count(), 2);
/// # Ok::<(), headwater_proto::serial::Full>(())
/// ```
#[derive(Clone, Debug)]
pub struct Frame<const N: usize> {
    bytes: [u8; N],
    at: Place,
    readings: u16,
    finished: bool,
}

/// How far a frame has come.
#[derive(Clone, Copy, Debug)]
struct Place {
    len: usize,
    /// Where COBS' open code byte is.
    code: usize,
    checksum: u32,
    full: bool,
}

impl<const N: usize> Frame<N> {
    const ROOM: () = assert!(N >= 32, "a frame takes at least 32 bytes");

    /// Begins a frame of readings that were taken `taken_ms` after the start (0: there is no timer) and `age_ms` ago.
    pub fn new(seq: u8, taken_ms: u32, age_ms: u32) -> Self {
        let () = Self::ROOM;
        // A zero, and the place of COBS' first code.
        let at = Place {
            len: 2,
            code: 1,
            checksum: !0,
            full: false,
        };
        let mut frame = Self {
            bytes: [0; N],
            at,
            readings: 0,
            finished: false,
        };
        frame.put(&[VERSION, seq]);
        frame.number(taken_ms.into());
        frame.number(age_ms.into());
        frame
    }

    /// Adds a reading of single precision.
    ///
    /// # Errors
    /// [`Full`]; the frame is as it was.
    pub fn f32(&mut self, metric: &str, unit: &str, value: f32) -> Result<(), Full> {
        self.reading(metric, unit, |frame| {
            frame.put(&[0]);
            frame.put(&value.to_le_bytes());
        })
    }

    /// Adds a reading of double precision.
    ///
    /// # Errors
    /// [`Full`]; the frame is as it was.
    pub fn f64(&mut self, metric: &str, unit: &str, value: f64) -> Result<(), Full> {
        self.reading(metric, unit, |frame| {
            frame.put(&[1]);
            frame.put(&value.to_le_bytes());
        })
    }

    /// Adds an integer.
    ///
    /// # Errors
    /// [`Full`]; the frame is as it was.
    pub fn i64(&mut self, metric: &str, unit: &str, value: i64) -> Result<(), Full> {
        self.reading(metric, unit, |frame| {
            frame.put(&[2]);
            frame.number(zigzag(value));
        })
    }

    /// Adds a truth value.
    ///
    /// # Errors
    /// [`Full`]; the frame is as it was.
    pub fn bool(&mut self, metric: &str, unit: &str, value: bool) -> Result<(), Full> {
        self.reading(metric, unit, |frame| frame.put(&[3, value.into()]))
    }

    /// Adds a text.
    ///
    /// # Errors
    /// [`Full`]; the frame is as it was.
    pub fn text(&mut self, metric: &str, unit: &str, value: &str) -> Result<(), Full> {
        self.reading(metric, unit, |frame| {
            frame.put(&[4]);
            frame.string(value);
        })
    }

    /// Adds `mantissa` / 10^`digits`, for who has no floating point: 2150 and 2 are 21.50. At most 18 digits.
    ///
    /// # Errors
    /// [`Full`]; the frame is as it was.
    pub fn decimal(&mut self, metric: &str, unit: &str, mantissa: i64, digits: u8) -> Result<(), Full> {
        self.reading(metric, unit, |frame| {
            frame.put(&[5, digits]);
            frame.number(zigzag(mantissa));
        })
    }

    /// The number of readings in it.
    pub fn readings(&self) -> u16 {
        self.readings
    }

    /// Ends the frame: what goes onto the line. No reading can be added any more.
    pub fn finish(&mut self) -> &[u8] {
        if !self.finished {
            self.finished = true;
            let checksum = !self.at.checksum;
            self.put(&checksum.to_le_bytes());
            self.close();
            self.bytes[self.at.len] = 0;
            self.at.len += 1;
        }
        &self.bytes[..self.at.len]
    }

    fn reading(&mut self, metric: &str, unit: &str, value: impl FnOnce(&mut Self)) -> Result<(), Full> {
        if self.finished {
            return Err(Full);
        }
        let before = self.at;
        self.string(metric);
        self.string(unit);
        value(self);
        if self.at.full || self.at.len + END > N {
            self.at = before;
            return Err(Full);
        }
        self.readings = self.readings.saturating_add(1);
        Ok(())
    }

    fn string(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.put(text.as_bytes());
    }

    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put(&[value as u8 | 0x80]);
            value >>= 7;
        }
        self.put(&[value as u8]);
    }

    /// Adds bytes of the payload, stuffed.
    fn put(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            // A byte, and the code of the block that it may begin.
            if self.at.len + 2 > N {
                self.at.full = true;
                return;
            }
            self.at.checksum = crc32c(self.at.checksum, byte);
            if byte != 0 {
                self.bytes[self.at.len] = byte;
                self.at.len += 1;
            }
            if byte == 0 || self.at.len - self.at.code == 255 {
                self.close();
                self.at.code = self.at.len;
                self.at.len += 1;
            }
        }
    }

    /// Writes the code of COBS' open block: how far the next one is.
    fn close(&mut self) {
        self.bytes[self.at.code] = (self.at.len - self.at.code) as u8;
    }
}

/// One byte of CRC-32C, without a table: firmware has more time than room.
fn crc32c(checksum: u32, byte: u8) -> u32 {
    (0..8).fold(checksum ^ u32::from(byte), |checksum, _| {
        (checksum >> 1) ^ if checksum & 1 == 1 { 0x82F6_3B78 } else { 0 }
    })
}

/// A frame's payload, as it was received: unstuffed, and its checksum found right.
#[derive(Clone, Debug, PartialEq)]
pub struct Message<'a> {
    /// The frame's number, modulo 256.
    pub seq: u8,
    /// When the readings were taken, in milliseconds since the sender's start, modulo 2^32; 0: it has no timer.
    pub taken_ms: u32,
    /// How long ago that was when the frame was sent.
    pub age_ms: u32,
    /// What it carries.
    pub readings: Vec<Reading<'a>>,
}

/// One reading of a frame.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
pub struct Reading<'a> {
    /// The metric's name; see [`crate::name::check_metric`], which has not been asked.
    pub metric: &'a str,
    /// The unit as in UCUM, or empty.
    pub unit: &'a str,
    /// The value.
    pub value: Value<'a>,
}

/// A value, as the sender typed it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
pub enum Value<'a> {
    /// Single precision.
    F32(f32),
    /// Double precision.
    F64(f64),
    /// An integer.
    I64(i64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(&'a str),
    /// A decimal.
    Decimal {
        /// After the point.
        digits: u8,
        /// The number without the point.
        mantissa: i64,
    },
}

#[derive(Deserialize)]
struct Header {
    version: u8,
    seq: u8,
    taken_ms: u32,
    age_ms: u32,
}

impl<'a> Message<'a> {
    /// Reads a payload.
    ///
    /// # Errors
    /// [`Error::Malformed`] for what is no payload of this version.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Error> {
        let malformed = |what: String, why: String| Error::Malformed { what, why };
        let header = |error: postcard::Error| malformed("head of a serial frame".into(), format!("{error}"));
        let (head, mut rest) = postcard::take_from_bytes::<Header>(payload).map_err(header)?;
        if head.version != VERSION {
            let why = format!(
                "version {} is not known, {VERSION} is; bring firmware and agent to one version",
                head.version
            );
            return Err(malformed("serial frame".into(), why));
        }
        let mut readings = Vec::new();
        while !rest.is_empty() {
            let number = readings.len() + 1;
            let (reading, after) = postcard::take_from_bytes::<Reading<'_>>(rest).map_err(|error| {
                malformed(format!("reading {number} of a serial frame"), format!("{error}"))
            })?;
            rest = after;
            readings.push(reading);
        }
        Ok(Self {
            seq: head.seq,
            taken_ms: head.taken_ms,
            age_ms: head.age_ms,
            readings,
        })
    }
}
