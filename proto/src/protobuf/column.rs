//! Columns of the open form: `headwater.v1.Column`.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::malformed;
use crate::decimal::{POWERS, common_factor, mantissas, scale};
use crate::limits::within;
use crate::model::{Column, Values};
use crate::pb::column::Values as Form;
use crate::series::SeriesSet;
use crate::varint::{len, zigzag};
use crate::{Error, Limits, pb};

/// What the columns decoded so far have taken of the limits.
pub(super) struct Budget<'a> {
    pub(super) readings: usize,
    pub(super) string_bytes: usize,
    pub(super) limits: &'a Limits,
}

pub(super) fn encode(column: &Column, series: Option<u32>) -> pb::Column {
    let values = match &column.values {
        Values::F64(values) => encode_doubles(values),
        Values::I64(values) => {
            let factor = common_factor(values.iter().copied());
            Form::Ints(pb::Ints {
                factor: if factor == 1 { 0 } else { factor },
                deltas: deltas(values, factor),
            })
        }
        Values::Bool(values) => Form::Bools(pb::Bools {
            values: values.clone(),
        }),
        Values::String(values) => {
            let mut dictionary = Vec::new();
            let mut places = BTreeMap::new();
            let indices = values.iter().map(|value| {
                *places.entry(value.as_str()).or_insert_with(|| {
                    dictionary.push(value.clone());
                    dictionary.len() as u32 - 1
                })
            });
            let indices = indices.collect();
            Form::Strings(pb::Strings { dictionary, indices })
        }
    };
    pb::Column {
        metric: if series.is_some() {
            String::new()
        } else {
            column.metric.clone()
        },
        unit: if series.is_some() {
            String::new()
        } else {
            column.unit.clone()
        },
        times: column.times,
        values: Some(values),
        suspect: column.suspect.clone(),
        series: series.unwrap_or(0),
    }
}

fn encode_doubles(values: &[f64]) -> Form {
    let plain = || {
        Form::Doubles(pb::Doubles {
            values: values.to_vec(),
        })
    };
    let Some(scale) = scale(values) else {
        return plain();
    };
    let (mantissas, exception_at) = mantissas(values, scale);
    let factor = common_factor(mantissas.iter().copied());
    let deltas = deltas(&mantissas, factor);
    let bytes: usize = deltas.iter().map(|delta| len(zigzag(*delta))).sum();
    if bytes + exception_at.len() * 10 > values.len() * 8 {
        return plain();
    }
    let exceptions = exception_at.iter().map(|at| values[*at as usize]).collect();
    Form::Scaled(pb::Scaled {
        scale,
        factor: if factor == 1 { 0 } else { factor },
        deltas,
        exception_at,
        exceptions,
    })
}

fn deltas(values: &[i64], factor: u64) -> Vec<i64> {
    let mut last = 0i64;
    let mut delta = |value: i64| value.wrapping_sub(core::mem::replace(&mut last, value));
    if factor == 1 {
        values.iter().map(|value| delta(*value)).collect()
    } else {
        values.iter().map(|value| delta(value / factor as i64)).collect()
    }
}

fn sums(deltas: &[i64], factor: u64) -> impl ExactSizeIterator<Item = i64> {
    let mut sum = 0i64;
    let factor = factor.max(1) as i64;
    deltas.iter().map(move |delta| {
        sum = sum.wrapping_add(*delta);
        sum.wrapping_mul(factor)
    })
}

pub(super) fn decode(
    column: pb::Column,
    index: usize,
    counts: &[usize],
    series: Option<&SeriesSet>,
    budget: &mut Budget<'_>,
) -> Result<Column, Error> {
    let (metric, unit, value_type) = match series {
        None => (column.metric, column.unit, None),
        Some(set) => {
            let Some(series) = set.series().get(column.series as usize) else {
                let why = format!("series {} of a set of {}", column.series, set.series().len());
                return Err(malformed(format!("column {index}"), why));
            };
            (
                series.metric.clone(),
                series.unit.clone(),
                Some(series.value_type),
            )
        }
    };
    let fail = |why: String| Err(malformed(format!("column {index} ({metric})"), why));
    let Some(&count) = counts.get(column.times as usize) else {
        return fail(format!("time column {} of {}", column.times, counts.len()));
    };
    budget.readings += count;
    within("readings", budget.readings, budget.limits.readings)?;
    let Some(form) = column.values else {
        return fail(String::from("it has no values"));
    };
    let found = match &form {
        Form::Doubles(doubles) => doubles.values.len(),
        Form::Scaled(scaled) => scaled.deltas.len(),
        Form::Ints(ints) => ints.deltas.len(),
        Form::Bools(bools) => bools.values.len(),
        Form::Strings(strings) => strings.indices.len(),
    };
    if found != count {
        return fail(format!("{found} values at {count} times"));
    }
    let values = match form {
        Form::Doubles(doubles) => Values::F64(doubles.values),
        Form::Scaled(scaled) => match decode_scaled(&scaled) {
            Ok(values) => Values::F64(values),
            Err(why) => return fail(why),
        },
        Form::Ints(ints) => Values::I64(sums(&ints.deltas, ints.factor).collect()),
        Form::Bools(bools) => Values::Bool(bools.values),
        Form::Strings(strings) => {
            let mut values = Vec::with_capacity(count);
            for place in strings.indices {
                let Some(value) = strings.dictionary.get(place as usize) else {
                    return fail(format!(
                        "string {place} of a dictionary of {}",
                        strings.dictionary.len()
                    ));
                };
                budget.string_bytes += value.len();
                within("string_bytes", budget.string_bytes, budget.limits.string_bytes)?;
                values.push(value.clone());
            }
            Values::String(values)
        }
    };
    if value_type.is_some_and(|value_type| value_type != values.value_type()) {
        return fail(format!(
            "values are {:?}, the series set says {value_type:?}",
            values.value_type()
        ));
    }
    Ok(Column {
        metric,
        unit,
        times: column.times,
        values,
        suspect: column.suspect,
    })
}

fn decode_scaled(scaled: &pb::Scaled) -> Result<Vec<f64>, String> {
    let Some(power) = POWERS.get(scaled.scale as usize) else {
        return Err(format!("scale {}; 0 to 22 are known", scaled.scale));
    };
    let mut largest = 0u64;
    let mantissas = sums(&scaled.deltas, scaled.factor)
        .inspect(|mantissa| largest = largest.max(mantissa.unsigned_abs()));
    let mut values: Vec<f64> = mantissas.map(|mantissa| mantissa as f64 / power).collect();
    if largest > 1 << 53 {
        return Err(String::from("a mantissa beyond 2^53"));
    }
    if scaled.exception_at.len() != scaled.exceptions.len() {
        let (places, values) = (scaled.exception_at.len(), scaled.exceptions.len());
        return Err(format!("{values} exceptions at {places} places"));
    }
    for (at, value) in scaled.exception_at.iter().zip(&scaled.exceptions) {
        match values.get_mut(*at as usize) {
            Some(place) => *place = *value,
            None => return Err(format!("an exception at {at} of {}", values.len())),
        }
    }
    Ok(values)
}
