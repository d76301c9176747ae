//! Why a broker refuses or ends something.

use std::fmt;

/// A reason code of MQTT 5 (section 2.4), and the broker's own words where it gives some. Codes of MQTT 3.1.1 are turned into those
/// of MQTT 5 that say the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reason {
    pub(crate) code: u8,
    text: Option<String>,
}

/// The broker's words are cut to this many characters.
const TEXT_MAX: usize = 200;

impl Reason {
    pub(crate) const UNSUPPORTED_VERSION: u8 = 0x84;
    pub(crate) const CLIENT_ID: u8 = 0x85;
    pub(crate) const BAD_CREDENTIALS: u8 = 0x86;
    pub(crate) const NOT_AUTHORIZED: u8 = 0x87;
    pub(crate) const TAKEN_OVER: u8 = 0x8e;
    pub(crate) const PACKET_TOO_LARGE: u8 = 0x95;

    pub(crate) fn new(code: u8, text: Option<String>) -> Self {
        let text = text.map(|text| text.chars().take(TEXT_MAX).collect());
        Self { code, text }
    }

    /// A return code of a CONNACK of MQTT 3.1.1 (its section 3.2.2.3), not 0.
    pub(crate) fn of_311(code: u8) -> Self {
        let code = match code {
            1 => Self::UNSUPPORTED_VERSION,
            2 => Self::CLIENT_ID,
            3 => 0x88,
            4 => Self::BAD_CREDENTIALS,
            5 => Self::NOT_AUTHORIZED,
            code => code,
        };
        Self::new(code, None)
    }

    /// From 0x80 on, codes are refusals.
    pub(crate) fn checked(self) -> Result<(), Self> {
        if self.code < 0x80 { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.code {
            0x00 => "normal disconnection",
            0x80 => "no reason given",
            0x81 => "malformed packet",
            0x82 => "protocol error",
            0x83 => "a reason of this broker's own",
            Self::UNSUPPORTED_VERSION => "unsupported protocol version",
            Self::CLIENT_ID => "client id not valid",
            Self::BAD_CREDENTIALS => "bad user name or password",
            Self::NOT_AUTHORIZED => "not authorized",
            0x88 => "server unavailable",
            0x89 => "server busy",
            0x8a => "banned",
            0x8b => "server shutting down",
            0x8c => "bad authentication method",
            0x8d => "keep-alive time-out",
            Self::TAKEN_OVER => "session taken over by another client with this client id",
            0x8f => "topic filter invalid",
            0x90 => "topic name invalid",
            0x91 => "packet id in use",
            0x92 => "packet id not found",
            0x93 => "receive maximum exceeded",
            0x94 => "topic alias invalid",
            Self::PACKET_TOO_LARGE => "packet too large",
            0x96 => "message rate too high",
            0x97 => "quota exceeded",
            0x98 => "administrative action",
            0x99 => "payload format invalid",
            0x9a => "retained messages not supported",
            0x9b => "QoS not supported",
            0x9c => "use another server",
            0x9d => "server moved",
            0x9e => "shared subscriptions not supported",
            0x9f => "connection rate exceeded",
            0xa0 => "maximum connect time reached",
            0xa1 => "subscription identifiers not supported",
            0xa2 => "wildcard subscriptions not supported",
            _ => "a reason unknown to MQTT",
        };
        write!(f, "{name} ({:#04x})", self.code)?;
        match &self.text {
            Some(text) => write!(f, ": {text:?}"),
            None => Ok(()),
        }
    }
}
