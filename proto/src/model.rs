//! Batches of readings, column by column, as programs hold them.

use alloc::string::String;
use alloc::vec::Vec;

use crate::series::ValueType;

/// One device's readings, or the record of their loss, under its name for ever: `(device, stream, seq)`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The device's name; see [`crate::name`].
    pub device: String,
    /// The random id of the stream, drawn at each start of the agent.
    pub stream: u64,
    /// Position in the stream: 1, 2, 3, … without holes.
    pub seq: u64,
    /// What it carries.
    pub body: Body,
}

/// What a batch carries.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Readings.
    Readings(Readings),
    /// Stands in the place of batches that were given up.
    Loss(Loss),
}

impl Default for Body {
    fn default() -> Self {
        Self::Readings(Readings::default())
    }
}

/// Readings, column by column.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Readings {
    /// Time columns, microseconds since the Unix epoch, in the order sampled (they may repeat and go back).
    pub times: Vec<Vec<i64>>,
    /// The columns. A metric whose readings are of several types has a column for each type.
    pub columns: Vec<Column>,
    /// How far the agent trusted its clock.
    pub clock: Clock,
}

impl Readings {
    /// The number of readings in all columns.
    pub fn len(&self) -> usize {
        self.columns.iter().map(|column| column.values.len()).sum()
    }

    /// Whether there is no reading.
    pub fn is_empty(&self) -> bool {
        self.columns.iter().all(|column| column.values.is_empty())
    }
}

/// How far the agent trusted its clock when it stamped the readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// Known to be synchronised, or corrected after it became known.
    #[default]
    Synchronised,
    /// Never known to be synchronised: intervals are right, the absolute time may be far off.
    Uncertain,
}

/// The readings of one metric, all of one type.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The metric's name; see [`crate::name`].
    pub metric: String,
    /// The unit, as in UCUM (`Cel`, `%`, `V`), or empty.
    pub unit: String,
    /// Index into [`Readings::times`]; that time column has as many entries as this has values.
    pub times: u32,
    /// The values.
    pub values: Values,
    /// Indices of readings outside the metric's configured plausible range, ascending.
    pub suspect: Vec<u32>,
}

/// The values of a column.
#[derive(Clone, Debug)]
pub enum Values {
    /// Doubles; every bit pattern is kept, NaN payloads too.
    F64(Vec<f64>),
    /// Integers.
    I64(Vec<i64>),
    /// Truth values.
    Bool(Vec<bool>),
    /// Strings.
    String(Vec<String>),
}

/// Bit for bit: a NaN equals the same NaN, and 0.0 differs from -0.0.
impl PartialEq for Values {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::F64(a), Self::F64(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
            }
            (Self::I64(a), Self::I64(b)) => a == b,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::String(a), Self::String(b)) => a == b,
            _ => false,
        }
    }
}

impl Values {
    /// The number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::F64(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::Bool(values) => values.len(),
            Self::String(values) => values.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::F64(_) => ValueType::F64,
            Self::I64(_) => ValueType::I64,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
        }
    }

    /// An empty column of this type.
    pub fn empty(value_type: ValueType) -> Self {
        match value_type {
            ValueType::F64 => Self::F64(Vec::new()),
            ValueType::I64 => Self::I64(Vec::new()),
            ValueType::Bool => Self::Bool(Vec::new()),
            ValueType::String => Self::String(Vec::new()),
        }
    }
}

/// One value, as a source hands it over.
#[derive(Clone, Debug)]
pub enum Value {
    /// A double.
    F64(f64),
    /// An integer.
    I64(i64),
    /// A truth value.
    Bool(bool),
    /// A string.
    String(String),
}

/// Bit for bit, as [`Values`].
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::F64(a), Self::F64(b)) => a.to_bits() == b.to_bits(),
            (Self::I64(a), Self::I64(b)) => a == b,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::String(a), Self::String(b)) => a == b,
            _ => false,
        }
    }
}

impl Value {
    /// Its type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::F64(_) => ValueType::F64,
            Self::I64(_) => ValueType::I64,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
        }
    }
}

/// What was given up: the batches from this one's `seq` through `through`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The last sequence number covered.
    pub through: u64,
    /// Readings lost.
    pub readings: u64,
    /// Why.
    pub reason: LossReason,
}

/// Why batches were given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossReason {
    /// The journal was full and the oldest made way.
    JournalFull,
    /// A record could not be read back.
    Corrupt,
    /// Older than the journal is configured to keep.
    Retention,
    /// Larger than the frame limit, or refused by the relay for its content.
    Refused,
}
