//! Leaves out readings while the data budget runs short. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use headwater_proto::Value;

use super::{Metric, Reading};

/// Metrics that are remembered; a source that makes up names without end begins anew.
const METRICS_MAX: usize = 10_000;

/// Takes one of so many readings of each metric. Metrics that a source samples together stay together, since each is counted from
/// the same sample on. A state (true or false, a text) that differs from the last one taken is always taken.
#[derive(Debug, Default)]
pub(super) struct Thinner {
    factor: u32,
    metrics: HashMap<Arc<Metric>, Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// Readings since the last one that was taken by the count.
    since: u32,
    state: Option<Value>,
}

impl Thinner {
    /// Leaves one of `factor` readings of each metric; returns how many are left out.
    pub(super) fn thin(&mut self, factor: u32, readings: &mut Vec<Reading>) -> usize {
        if factor != self.factor || self.metrics.len() > METRICS_MAX {
            self.metrics.clear();
            self.factor = factor;
        }
        let before = readings.len();
        if factor > 1 {
            readings.retain(|reading| self.takes(reading));
        }
        before - readings.len()
    }

    fn takes(&mut self, reading: &Reading) -> bool {
        let taken = self.metrics.entry(reading.metric.clone()).or_default();
        let counted = taken.since == 0;
        taken.since = (taken.since + 1) % self.factor;
        match &reading.value {
            Value::F64(_) | Value::I64(_) => counted,
            state => {
                let changed = taken.state.as_ref() != Some(state);
                if changed {
                    taken.state = Some(state.clone());
                }
                counted || changed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(count: i64, door: bool) -> Vec<Reading> {
        let metric = |name| Metric::new(name, "");
        vec![
            Reading::new(metric("a"), Value::I64(count)),
            Reading::new(metric("b"), Value::F64(0.5)),
            Reading::new(metric("door"), Value::Bool(door)),
        ]
    }

    #[test]
    fn one_of_so_many_is_taken_together_and_a_state_when_it_changes() {
        let mut thinner = Thinner::default();
        let mut taken = Vec::new();
        for count in 0..20 {
            let mut readings = sample(count, count >= 7);
            let left_out = thinner.thin(5, &mut readings);
            assert_eq!(left_out, 3 - readings.len());
            let names: String = readings
                .iter()
                .map(|reading| reading.metric.name.as_str())
                .collect();
            taken.push(names);
        }
        let expected = |count: i32| match count {
            _ if count % 5 == 0 => "abdoor",
            7 => "door",
            _ => "",
        };
        let expected: Vec<_> = (0..20).map(expected).collect();
        assert_eq!(taken, expected);
    }

    #[test]
    fn at_a_factor_of_one_everything_is_taken_and_a_new_factor_begins_with_a_reading() {
        let mut thinner = Thinner::default();
        for factor in [1, 10, 2, 1] {
            let mut readings = sample(0, false);
            assert_eq!(thinner.thin(factor, &mut readings), 0, "{factor}");
        }
        assert!(thinner.metrics.is_empty());
    }

    #[test]
    fn names_without_end_do_not_fill_the_memory() {
        let mut thinner = Thinner::default();
        for number in 0..3 * METRICS_MAX {
            let reading = Reading::new(Metric::new(number.to_string(), ""), Value::I64(1));
            thinner.thin(2, &mut vec![reading]);
            assert!(thinner.metrics.len() <= METRICS_MAX + 1);
        }
    }
}
