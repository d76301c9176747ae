//! Series sets: the names, units and types of a device's columns, under a hash, so that a frame need not repeat them.

use alloc::string::String;
use alloc::vec::Vec;

use crate::{Error, Limits, pb};

/// The type of a series' values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ValueType {
    /// Doubles.
    F64,
    /// Integers.
    I64,
    /// Truth values.
    Bool,
    /// Strings.
    String,
}

/// The name, unit and type of a column.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Series {
    /// The metric's name.
    pub metric: String,
    /// Its unit, or empty.
    pub unit: String,
    /// The type of its values.
    pub value_type: ValueType,
}

/// The series of a device, in the order in which frames refer to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesSet {
    hash: u32,
    salt: u32,
    series: Vec<Series>,
}

impl SeriesSet {
    /// A set of these series. `salt` is 0 unless the caller already holds another set with the same hash.
    pub fn new(series: Vec<Series>, salt: u32) -> Self {
        let mut hash = fnv1a(0x811c_9dc5, &salt.to_le_bytes());
        for series in &series {
            for text in [&series.metric, &series.unit] {
                hash = fnv1a(hash, &(text.len() as u32).to_le_bytes());
                hash = fnv1a(hash, text.as_bytes());
            }
            hash = fnv1a(hash, &[series.value_type as u8]);
        }
        Self {
            hash: hash.max(1),
            salt,
            series,
        }
    }

    /// What frames call it by. Never 0.
    pub fn hash(&self) -> u32 {
        self.hash
    }

    /// The series in order.
    pub fn series(&self) -> &[Series] {
        &self.series
    }

    /// As published on the link.
    pub fn to_pb(&self) -> pb::SeriesSet {
        let series = self.series.iter().map(|series| pb::Series {
            metric: series.metric.clone(),
            unit: series.unit.clone(),
            r#type: match series.value_type {
                ValueType::F64 => pb::ValueType::F64,
                ValueType::I64 => pb::ValueType::I64,
                ValueType::Bool => pb::ValueType::Bool,
                ValueType::String => pb::ValueType::String,
            } as i32,
        });
        pb::SeriesSet {
            hash: self.hash,
            salt: self.salt,
            series: series.collect(),
        }
    }

    /// Checks what was received: limits, names, types, and that the hash is right.
    pub fn from_pb(message: pb::SeriesSet, limits: &Limits) -> Result<Self, Error> {
        if message.series.len() > limits.columns {
            return Err(Error::Limit {
                what: "columns",
                actual: message.series.len(),
                limit: limits.columns,
            });
        }
        let mut series = Vec::with_capacity(message.series.len());
        for entry in message.series {
            crate::name::check_metric(&entry.metric)?;
            let value_type = match pb::ValueType::try_from(entry.r#type) {
                Ok(pb::ValueType::F64) => ValueType::F64,
                Ok(pb::ValueType::I64) => ValueType::I64,
                Ok(pb::ValueType::Bool) => ValueType::Bool,
                Ok(pb::ValueType::String) => ValueType::String,
                _ => {
                    return Err(Error::Malformed {
                        what: alloc::format!("series {:?}", entry.metric),
                        why: alloc::format!("value type {} is not known", entry.r#type),
                    });
                }
            };
            series.push(Series {
                metric: entry.metric,
                unit: entry.unit,
                value_type,
            });
        }
        let set = Self::new(series, message.salt);
        if set.hash != message.hash {
            return Err(Error::Malformed {
                what: alloc::format!("series set {:08x}", message.hash),
                why: alloc::format!("its content hashes to {:08x}", set.hash),
            });
        }
        Ok(set)
    }
}

fn fnv1a(mut hash: u32, bytes: &[u8]) -> u32 {
    for &byte in bytes {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    hash
}
