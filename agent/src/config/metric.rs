//! The settings of metrics: what is done to readings on their way from the sources, whichever they come from.

use std::fmt;

use headwater_config::Duration;
use headwater_proto::name;
use serde::{Deserialize, Deserializer};

use crate::Error;
use crate::source::Scale;

/// A `[[metric]]` table. The first whose `match` fits a metric's name holds; the others do not.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Metric {
    /// The names it is for, with `*` for any characters and `?` for one; in the file the key is `match`.
    #[serde(rename = "match")]
    pub pattern: String,
    /// Another name; only where `match` is a name.
    pub rename: Option<String>,
    /// Another unit (UCUM).
    pub unit: Option<String>,
    /// Numbers are multiplied by this. Default 1.
    pub scale: f64,
    /// Then this is added. Default 0.
    pub offset: f64,
    /// Raw numbers that mean that there is no sensor: they are no readings. Default none.
    pub absent: Vec<f64>,
    /// A number below this is not plausible. `None`: none is too small.
    pub min: Option<f64>,
    /// A number above this is not plausible. `None`: none is too large.
    pub max: Option<f64>,
    /// What is done with what is not plausible. Default `flag`.
    pub implausible: Implausible,
    /// The least time between two readings. Default 0: all.
    #[serde(with = "headwater_config::duration")]
    pub interval: Duration,
    /// A reading is left out if it differs from the last one sent by no more than this. `None`: none is.
    pub deadband: Option<Deadband>,
    /// With `deadband`: after so long one is sent all the same; 0: never. Default 10 min.
    #[serde(with = "headwater_config::duration")]
    pub heartbeat: Duration,
    /// In place of the readings, these of each window, as metrics of their own (`name.mean`). Default none.
    pub aggregate: Vec<Aggregate>,
    /// The length of a window. It begins at a multiple of this since the Unix epoch, and its aggregates carry the time of its end.
    /// Default 1 min.
    #[serde(with = "headwater_config::duration")]
    pub window: Duration,
}

impl Default for Metric {
    fn default() -> Self {
        Self {
            pattern: String::new(),
            rename: None,
            unit: None,
            scale: 1.0,
            offset: 0.0,
            absent: Vec::new(),
            min: None,
            max: None,
            implausible: Implausible::default(),
            interval: Duration::ZERO,
            deadband: None,
            heartbeat: Duration::from_secs(600),
            aggregate: Vec::new(),
            window: Duration::from_secs(60),
        }
    }
}

/// What is done with a reading that is not plausible.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Implausible {
    /// It travels with a flag; aggregates leave it out.
    #[default]
    Flag,
    /// It is dropped, and counted.
    Drop,
}

/// What is made of the readings of a window.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Aggregate {
    /// Their mean, to two digits more than they have.
    Mean,
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// The last.
    Last,
}

impl Aggregate {
    /// What follows the metric's name and a dot.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Min => "min",
            Self::Max => "max",
            Self::Last => "last",
        }
    }
}

/// How much a reading may differ from the last one sent and be left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Deadband {
    /// So much, in the metric's unit; in the file a number.
    Absolute(f64),
    /// So many hundredths of the last one; in the file a text, `"1 %"`.
    Percent(f64),
}

impl<'de> Deserialize<'de> for Deadband {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Deadband;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of at least 0, or a text such as \"1 %\"")
            }

            fn visit_f64<E: serde::de::Error>(self, band: f64) -> Result<Deadband, E> {
                if band.is_finite() && band >= 0.0 {
                    Ok(Deadband::Absolute(band))
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Float(band), &self))
                }
            }

            fn visit_i64<E: serde::de::Error>(self, band: i64) -> Result<Deadband, E> {
                self.visit_f64(band as f64)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Deadband, E> {
                let percent = text
                    .trim()
                    .strip_suffix('%')
                    .and_then(|text| text.trim().parse().ok());
                match percent {
                    Some(percent) if (0.0..=1000.0).contains(&percent) => Ok(Deadband::Percent(percent)),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Metric {
    /// Checks what the types cannot say.
    pub(super) fn check(metrics: &[Self]) -> Result<(), Error> {
        for metric in metrics {
            metric.check_one().map_err(|(key, why)| Error::Setting {
                key: format!("metric.{key}"),
                why: format!("{why} (in the [[metric]] for {:?})", metric.pattern),
            })?;
        }
        Ok(())
    }

    fn check_one(&self) -> Result<(), (&'static str, String)> {
        if self.pattern.is_empty() {
            return Err(("match", "it is missing; \"*\" is for all metrics".into()));
        }
        if let Some(rename) = &self.rename {
            if self.pattern.contains(['*', '?']) {
                let why = format!(
                    "{rename:?} would be the name of all metrics that match; give `match` a plain name"
                );
                return Err(("rename", why));
            }
            name::check_metric(rename).map_err(|error| ("rename", error.to_string()))?;
        }
        Scale::from_settings(self.scale, self.offset)
            .map_err(|value| ("scale", format!("{value} is no decimal of at most 18 digits")))?;
        if self.scale == 0.0 {
            return Err(("scale", "0 would make all readings the same".into()));
        }
        let (min, max) = (self.min.unwrap_or(f64::MIN), self.max.unwrap_or(f64::MAX));
        if !min.is_finite() || !max.is_finite() || min > max {
            return Err((
                "min",
                format!("{min} is more than max, {max}, or one of them is no number"),
            ));
        }
        if self.window < Duration::from_millis(1) {
            return Err(("window", format!("{:?} is less than 1ms", self.window)));
        }
        if !self.aggregate.is_empty() && (self.deadband.is_some() || !self.interval.is_zero()) {
            let why = "windows leave one reading each; it goes with neither `interval` nor `deadband`";
            return Err(("aggregate", why.into()));
        }
        Ok(())
    }
}
