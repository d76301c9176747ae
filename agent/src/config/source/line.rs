//! What a serial line is set to.

use serde::Deserialize;

/// A parity bit.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Parity {
    /// None.
    None,
    /// An even number of ones.
    Even,
    /// An odd number of ones.
    Odd,
}

/// Who says when the other may send.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum FlowControl {
    /// Nobody.
    #[default]
    None,
    /// XON and XOFF bytes: not for binary frames, which may hold them.
    Software,
    /// RTS and CTS lines.
    Hardware,
}
