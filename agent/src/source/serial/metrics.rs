//! The metrics that came so far.

use std::collections::HashMap;
use std::sync::Arc;

use headwater_proto::name;

use crate::source::Metric;

/// The most metrics of one line: whoever makes up names, be it noise, can take no more from the others.
const MOST: usize = 1_000;

/// Each metric is made once.
#[derive(Debug)]
pub(super) struct Metrics {
    prefix: String,
    /// By the name that came.
    known: HashMap<String, Arc<Metric>>,
}

impl Metrics {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_string(),
            known: HashMap::new(),
        }
    }

    /// The metric of that name; `Err` says why there is none.
    pub(super) fn get(&mut self, came: &str, unit: &str) -> Result<Arc<Metric>, String> {
        if let Some(metric) = self.known.get(came).filter(|metric| metric.unit == unit) {
            return Ok(metric.clone());
        }
        if self.known.len() >= MOST && !self.known.contains_key(came) {
            return Err(format!(
                "there are more than {MOST} metrics on this line; further ones are left out"
            ));
        }
        if unit.len() > 64 || unit.chars().any(char::is_control) {
            return Err(format!("{unit:.70?} is no unit"));
        }
        let name = format!("{}{came}", self.prefix);
        name::check_metric(&name).map_err(|error| error.to_string())?;
        let metric = Metric::new(name, unit);
        self.known.insert(came.to_string(), metric.clone());
        Ok(metric)
    }
}
