//! How a connection ends: code and reason.

/// A close code and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// 1000 to 4999.
    pub code: u16,
    /// Text for a person.
    pub reason: String,
}

/// Longest reason: a close frame holds 125 bytes with the code (RFC 6455 §5.5).
const REASON_BYTES: usize = 123;

impl Close {
    /// The gateway is stopping, or not ready.
    pub const GOING_AWAY: u16 = 1001;
    /// RFC 6455 was not kept.
    pub const PROTOCOL: u16 = 1002;
    /// A text message.
    pub const TEXT: u16 = 1003;
    /// Compressed data that cannot be inflated.
    pub const DATA: u16 = 1007;
    /// A message over the limit.
    pub const TOO_BIG: u16 = 1009;
    /// A bad frame, or one out of turn.
    pub const BAD_FRAME: u16 = 4400;
    /// The token is missing, invalid or expired.
    pub const TOKEN: u16 = 4401;
    /// Hello or ack too late.
    pub const LATE: u16 = 4408;
    /// An ack of what was never sent.
    pub const ACK: u16 = 4409;
    /// Over a limit.
    pub const LIMIT: u16 = 4429;

    /// With a reason, cut to what a close frame holds.
    pub fn new(code: u16, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        reason.truncate(reason.floor_char_boundary(REASON_BYTES));
        Self { code, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_fits_a_close_frame_and_stays_text() {
        assert_eq!(Close::new(4400, "é".repeat(100)).reason, "é".repeat(61));
        assert_eq!(Close::new(4400, "short").reason, "short");
    }
}
