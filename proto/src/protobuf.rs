//! The open encoding of a batch: `headwater.v1.Batch`, as it stands in Kafka and on the live channel.

use alloc::string::ToString;
use alloc::vec::Vec;

use prost::Message as _;

use crate::model::{Batch, Body, Clock, Column, Loss, LossReason, Readings, Values};
use crate::{Error, Limits, pb};

/// Encodes a batch that names itself and its columns.
pub fn encode(batch: &Batch) -> Vec<u8> {
    let mut message = pb::Batch {
        device: batch.device.clone(),
        stream: batch.stream,
        seq: batch.seq,
        ..Default::default()
    };
    match &batch.body {
        Body::Loss(loss) => {
            let reason = match loss.reason {
                LossReason::JournalFull => pb::LossReason::JournalFull,
                LossReason::Corrupt => pb::LossReason::Corrupt,
                LossReason::Retention => pb::LossReason::Retention,
                LossReason::Refused => pb::LossReason::Refused,
            };
            message.loss =
                Some(pb::Loss { through: loss.through, readings: loss.readings, reason: reason as i32 });
        }
        Body::Readings(readings) => {
            message.clock = (readings.clock == Clock::Uncertain) as i32;
            for times in &readings.times {
                message.times.push(pb::Times {
                    first: times.first().copied().unwrap_or(0),
                    unit_us: 0,
                    count: times.len() as u32,
                    deltas: times.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect(),
                    runs: Vec::new(),
                });
            }
            for column in &readings.columns {
                let values = match &column.values {
                    Values::F64(values) => pb::column::Values::Doubles(pb::Doubles { values: values.clone() }),
                    Values::I64(values) => {
                        let mut last = 0i64;
                        let deltas = values.iter().map(|v| v.wrapping_sub(core::mem::replace(&mut last, *v)));
                        pb::column::Values::Ints(pb::Ints { factor: 0, deltas: deltas.collect() })
                    }
                    Values::Bool(values) => pb::column::Values::Bools(pb::Bools { values: values.clone() }),
                    Values::String(values) => pb::column::Values::Strings(pb::Strings {
                        dictionary: values.clone(),
                        indices: (0..values.len() as u32).collect(),
                    }),
                };
                message.columns.push(pb::Column {
                    metric: column.metric.clone(),
                    unit: column.unit.clone(),
                    times: column.times,
                    values: Some(values),
                    suspect: column.suspect.clone(),
                    series: 0,
                });
            }
        }
    }
    message.encode_to_vec()
}

/// Decodes a batch that names itself and its columns.
pub fn decode(bytes: &[u8], _limits: &Limits) -> Result<Batch, Error> {
    let malformed = |why: &str| Error::Malformed { what: "batch".to_string(), why: why.to_string() };
    let message = pb::Batch::decode(bytes).map_err(|error| malformed(&error.to_string()))?;
    let body = if let Some(loss) = message.loss {
        let reason = match pb::LossReason::try_from(loss.reason) {
            Ok(pb::LossReason::JournalFull) => LossReason::JournalFull,
            Ok(pb::LossReason::Corrupt) => LossReason::Corrupt,
            Ok(pb::LossReason::Retention) => LossReason::Retention,
            _ => LossReason::Refused,
        };
        Body::Loss(Loss { through: loss.through, readings: loss.readings, reason })
    } else {
        let mut readings = Readings::default();
        if message.clock != 0 {
            readings.clock = Clock::Uncertain;
        }
        for times in message.times {
            let mut column = Vec::new();
            if times.count > 0 {
                let mut now = times.first;
                column.push(now);
                for delta in times.deltas {
                    now = now.wrapping_add(delta);
                    column.push(now);
                }
            }
            readings.times.push(column);
        }
        for column in message.columns {
            let values = match column.values.ok_or_else(|| malformed("a column without values"))? {
                pb::column::Values::Doubles(doubles) => Values::F64(doubles.values),
                pb::column::Values::Ints(ints) => {
                    let mut last = 0i64;
                    Values::I64(
                        ints.deltas
                            .iter()
                            .map(|delta| {
                                last = last.wrapping_add(*delta);
                                last
                            })
                            .collect(),
                    )
                }
                pb::column::Values::Bools(bools) => Values::Bool(bools.values),
                pb::column::Values::Strings(strings) => {
                    let value = |index: &u32| strings.dictionary.get(*index as usize).cloned();
                    Values::String(
                        strings
                            .indices
                            .iter()
                            .map(value)
                            .collect::<Option<_>>()
                            .ok_or_else(|| malformed("a string index beyond the dictionary"))?,
                    )
                }
                pb::column::Values::Scaled(_) => return Err(malformed("scaled: not yet")),
            };
            readings.columns.push(Column {
                metric: column.metric,
                unit: column.unit,
                times: column.times,
                values,
                suspect: column.suspect,
            });
        }
        Body::Readings(readings)
    };
    Ok(Batch { device: message.device, stream: message.stream, seq: message.seq, body })
}
