//! What is accepted, in and out.

/// Limits on what is encoded and decoded. Every one is refused with an error that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Readings in a batch, over all columns. Default 100,000.
    pub readings: usize,
    /// Columns in a batch, and series in a series set. Default 10,000.
    pub columns: usize,
    /// Bytes of a frame on the MQTT link, envelope and header included. Default 200,000.
    pub frame_bytes: usize,
    /// Bytes of a body after decompression, and of a protobuf batch in Kafka. Default 900,000: under Kafka's
    /// default `message.max.bytes` with its headers.
    pub body_bytes: usize,
    /// Bytes of all string values of a batch after expanding dictionaries. Default 4,000,000.
    pub string_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            readings: 100_000,
            columns: 10_000,
            frame_bytes: 200_000,
            body_bytes: 900_000,
            string_bytes: 4_000_000,
        }
    }
}
