//! The readings of one window, as far as their aggregates need them. Pure.

use headwater_proto::Value;

use crate::config::Aggregate;

/// Digits after the point with which numbers are added up exactly.
const DIGITS: usize = 9;
const POWERS: [f64; DIGITS + 3] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11];
/// Up to this, a double times a power of ten is a whole number without loss.
const EXACT: f64 = 9e15;

/// What a window has seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// Its beginning, microseconds since the Unix epoch.
    pub(super) start_us: i64,
    /// Its end.
    pub(super) end_us: i64,
    count: u64,
    sum: Sum,
    min: Number,
    max: Number,
    last: Number,
}

/// A number as it came: integers stay integers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    F64(f64),
    I64(i64),
}

impl Number {
    pub(super) fn of(value: &Value) -> Option<Self> {
        match value {
            Value::F64(value) => Some(Self::F64(*value)),
            Value::I64(value) => Some(Self::I64(*value)),
            Value::Bool(_) | Value::String(_) => None,
        }
    }

    pub(super) fn f64(self) -> f64 {
        match self {
            Self::F64(value) => value,
            Self::I64(value) => value as f64,
        }
    }
}

impl From<Number> for Value {
    fn from(number: Number) -> Self {
        match number {
            Number::F64(value) => Self::F64(value),
            Number::I64(value) => Self::I64(value),
        }
    }
}

/// A sum of decimals, exact as long as they are short, so that a mean has no noise in its last places.
#[derive(Clone, Copy, Debug)]
enum Sum {
    Decimal { mantissa: i128, digits: usize },
    Double(f64),
}

impl Sum {
    fn add(&mut self, value: f64) {
        if let Self::Decimal { mantissa, digits } = self {
            let short = (*digits..=DIGITS).find(|digits| {
                let whole = (value * POWERS[*digits]).round();
                whole.abs() < EXACT && whole / POWERS[*digits] == value
            });
            if let Some(more) = short {
                *mantissa =
                    *mantissa * 10i128.pow((more - *digits) as u32) + (value * POWERS[more]).round() as i128;
                *digits = more;
                return;
            }
        }
        *self = Self::Double(self.value() + value);
    }

    fn value(self) -> f64 {
        match self {
            Self::Decimal { mantissa, digits } => mantissa as f64 / POWERS[digits],
            Self::Double(sum) => sum,
        }
    }

    /// The mean of `count` summands: of decimals, to two digits more than they have.
    fn mean(self, count: u64) -> f64 {
        match self {
            Self::Decimal { mantissa, digits } => {
                let (hundred, count) = (mantissa * 100, i128::from(count));
                let half = count / 2 * hundred.signum();
                ((hundred + half) / count) as f64 / POWERS[digits + 2]
            }
            Self::Double(sum) => sum / count as f64,
        }
    }
}

impl Window {
    pub(super) fn new(start_us: i64, end_us: i64, first: Number) -> Self {
        let mut sum = Sum::Decimal {
            mantissa: 0,
            digits: 0,
        };
        sum.add(first.f64());
        Self {
            start_us,
            end_us,
            count: 1,
            sum,
            min: first,
            max: first,
            last: first,
        }
    }

    pub(super) fn add(&mut self, number: Number) {
        self.count += 1;
        self.sum.add(number.f64());
        if number.f64() < self.min.f64() {
            self.min = number;
        }
        if number.f64() > self.max.f64() {
            self.max = number;
        }
        self.last = number;
    }

    pub(super) fn value(&self, aggregate: Aggregate) -> Value {
        match aggregate {
            Aggregate::Mean => Value::F64(self.sum.mean(self.count)),
            Aggregate::Min => self.min.into(),
            Aggregate::Max => self.max.into(),
            Aggregate::Last => self.last.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(values: &[f64]) -> f64 {
        let mut window = Window::new(0, 1, Number::F64(values[0]));
        values[1..]
            .iter()
            .for_each(|value| window.add(Number::F64(*value)));
        match window.value(Aggregate::Mean) {
            Value::F64(mean) => mean,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn means_of_decimals_are_decimals() {
        assert_eq!(mean(&[0.1, 0.2, 0.3]), 0.2);
        assert_eq!(mean(&[0.1, 0.2]), 0.15);
        assert_eq!(mean(&[21.5, 21.5, 21.6]), 21.533);
        assert_eq!(mean(&[-0.1, -0.1, -0.2]), -0.133);
        assert_eq!(mean(&vec![0.1; 100_000]), 0.1);
        assert_eq!(mean(&[1.0 / 3.0, 1.0]), (1.0 / 3.0 + 1.0) / 2.0);
        assert_eq!(mean(&[1e300, 1e300]), 1e300);
    }
}
