//! A histogram of times that thousands of connections count into at once: a few counters, and no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Bounds: 1 ms, 2 ms, 4 ms, … 524 s.
const BOUNDS: usize = 20;

/// The histogram. A copy counts into the same one.
#[derive(Clone, Debug, Default)]
pub struct Latency(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// The last is of what lies beyond all bounds.
    buckets: [AtomicU64; BOUNDS + 1],
    sum_us: AtomicU64,
}

impl Latency {
    /// A time in microseconds. Clocks of two machines may differ: less than nothing counts as nothing.
    pub fn observe_us(&self, us: i64) {
        let us = u64::try_from(us).unwrap_or(0);
        let bucket = us.div_ceil(1000).max(1).next_power_of_two().trailing_zeros() as usize;
        self.0.buckets[bucket.min(BOUNDS)].fetch_add(1, Ordering::Relaxed);
        self.0.sum_us.fetch_add(us, Ordering::Relaxed);
    }
}

impl EncodeMetric for Latency {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let bound = |at: usize| {
            if at < BOUNDS {
                (1_u64 << at) as f64 / 1000.0
            } else {
                f64::INFINITY
            }
        };
        let buckets: Vec<(f64, u64)> = self
            .0
            .buckets
            .iter()
            .enumerate()
            .map(|(at, count)| (bound(at), count.load(Ordering::Relaxed)))
            .collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.0.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn each_time_is_in_the_first_bucket_that_holds_it() {
        let (latency, mut registry) = (Latency::default(), Registry::default());
        registry.register("t", "Times", latency.clone());
        for us in [-5, 0, 1_000, 1_001, 4_000, 1 << 62] {
            latency.observe_us(us);
        }
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "t_count 6",
            r#"t_bucket{le="0.001"} 3"#,
            r#"t_bucket{le="0.002"} 4"#,
            r#"t_bucket{le="0.004"} 5"#,
            r#"t_bucket{le="524.288"} 5"#,
            r#"t_bucket{le="+Inf"} 6"#,
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
    }
}
