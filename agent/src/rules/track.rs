//! One metric of one source on its way through its rule. Pure.

use std::sync::Arc;

use headwater_proto::Value;
use wildmatch::WildMatch;

use super::Counts;
use super::window::{Number, Window};
use crate::config::{self, Deadband, Implausible};
use crate::source::{Decimal, Metric, Reading, Scale};

/// A `[[metric]]` table, ready to be used.
#[derive(Debug)]
pub(super) struct Rule {
    pattern: WildMatch,
    settings: config::Metric,
    /// `None`: numbers stay as they are.
    scale: Option<Scale>,
    interval_us: i64,
    heartbeat_us: i64,
    window_us: i64,
}

impl Rule {
    pub(super) fn new(settings: &config::Metric) -> Self {
        let us = |duration: std::time::Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        let scale = Scale::from_settings(settings.scale, settings.offset).ok();
        Self {
            pattern: WildMatch::new(&settings.pattern),
            scale: scale.filter(|scale| !scale.is_identity()),
            interval_us: us(settings.interval),
            heartbeat_us: us(settings.heartbeat),
            window_us: us(settings.window).max(1),
            settings: settings.clone(),
        }
    }

    pub(super) fn is_for(&self, metric: &str) -> bool {
        self.pattern.matches(metric)
    }
}

/// What is remembered of a metric.
#[derive(Debug)]
pub(super) struct Track {
    /// As it goes on.
    metric: Arc<Metric>,
    rule: Option<Arc<Rule>>,
    /// One for each aggregate of the rule.
    aggregates: Vec<Arc<Metric>>,
    /// The last reading that went on.
    sent: Option<Sent>,
    pub(super) window: Option<Window>,
    /// Readings since the last that thinning let pass.
    thinned: u32,
    /// Of a truth value or a text, the one that went on last: an alarm must not fall to thinning.
    state: Option<Value>,
}

#[derive(Debug)]
struct Sent {
    time_us: i64,
    value: Value,
    suspect: bool,
}

/// What becomes of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on.
    On,
    /// It does not, or not by itself.
    Out,
}

impl Track {
    pub(super) fn new(metric: &Arc<Metric>, rule: Option<Arc<Rule>>) -> Self {
        let settings = rule.as_ref().map(|rule| &rule.settings);
        let renamed = settings.and_then(|settings| settings.rename.as_ref());
        let unit = settings.and_then(|settings| settings.unit.as_ref());
        let out = match (renamed, unit) {
            (None, None) => metric.clone(),
            (name, unit) => Metric::new(
                name.unwrap_or(&metric.name).as_str(),
                unit.unwrap_or(&metric.unit).as_str(),
            ),
        };
        let aggregates = settings.map_or(&[][..], |settings| &settings.aggregate);
        let aggregates = aggregates
            .iter()
            .map(|aggregate| Metric::new(format!("{}.{}", out.name, aggregate.name()), out.unit.as_str()))
            .collect();
        Self {
            metric: out,
            rule,
            aggregates,
            sent: None,
            window: None,
            thinned: 0,
            state: None,
        }
    }

    /// Takes a reading through the rule, changes it as that says, and tells what becomes of it. `closed` is called when it ends a window.
    pub(super) fn take(
        &mut self,
        time_us: i64,
        reading: &mut Reading,
        factor: u32,
        counts: &mut Counts,
        closed: impl FnOnce(&Self, Window),
    ) -> Fate {
        if let Some(rule) = self.rule.clone() {
            if !rule.judge(reading, counts) {
                return Fate::Out;
            }
            if !self.aggregates.is_empty()
                && let Some(number) = Number::of(&reading.value)
            {
                if !reading.suspect && number.f64().is_finite() {
                    self.gather(rule.window_us, time_us, number, closed);
                }
                return Fate::Out;
            }
            if !self.is_wanted(&rule, time_us, reading) {
                counts.spared += 1;
                return Fate::Out;
            }
            if rule.interval_us > 0 || rule.settings.deadband.is_some() {
                self.sent = Some(Sent {
                    time_us,
                    value: reading.value.clone(),
                    suspect: reading.suspect,
                });
            }
        }
        if !Arc::ptr_eq(&reading.metric, &self.metric) {
            reading.metric = self.metric.clone();
        }
        self.thin(&reading.value, factor, counts)
    }

    /// The aggregates of a window that is over.
    pub(super) fn readings(&self, window: &Window) -> impl Iterator<Item = Reading> {
        let aggregates = self
            .rule
            .as_ref()
            .map_or(&[][..], |rule| &rule.settings.aggregate);
        let window = *window;
        let pairs = self.aggregates.iter().zip(aggregates);
        pairs.map(move |(metric, aggregate)| Reading::new(metric.clone(), window.value(*aggregate)))
    }

    /// The clock was put right.
    pub(super) fn shift(&mut self, by_us: i64) {
        if let Some(sent) = &mut self.sent {
            sent.time_us = sent.time_us.saturating_add(by_us);
        }
        if let (Some(window), Some(rule)) = (&mut self.window, &self.rule) {
            let moved = window.start_us.saturating_add(by_us);
            window.start_us = moved.div_euclid(rule.window_us) * rule.window_us;
            window.end_us = window.start_us.saturating_add(rule.window_us);
        }
    }

    /// The factor by which readings are thinned has changed: all metrics begin anew, so that they keep to the same ticks.
    pub(super) fn thin_anew(&mut self) {
        self.thinned = 0;
    }

    /// One of so many goes on, and a state whenever it has changed.
    fn thin(&mut self, value: &Value, factor: u32, counts: &mut Counts) -> Fate {
        let changed =
            matches!(value, Value::Bool(_) | Value::String(_)) && self.state.as_ref() != Some(value);
        if changed {
            self.state = Some(value.clone());
        }
        let pass = changed || self.thinned == 0;
        self.thinned = (self.thinned + 1) % factor.max(1);
        if pass {
            return Fate::On;
        }
        counts.thinned += 1;
        Fate::Out
    }

    fn gather(&mut self, window_us: i64, time_us: i64, number: Number, closed: impl FnOnce(&Self, Window)) {
        let start_us = time_us.div_euclid(window_us) * window_us;
        match &mut self.window {
            Some(window) if window.start_us == start_us => window.add(number),
            open => {
                let end_us = start_us.saturating_add(window_us);
                let over = open.replace(Window::new(start_us, end_us, number));
                if let Some(over) = over {
                    closed(self, over);
                }
            }
        }
    }

    /// Whether interval and deadband let it pass.
    fn is_wanted(&self, rule: &Rule, time_us: i64, reading: &Reading) -> bool {
        let Some(sent) = &self.sent else { return true };
        let since_us = time_us.saturating_sub(sent.time_us);
        // A clock that was set back, or a time that the reading brought along.
        if since_us < -rule.interval_us {
            return true;
        }
        if since_us < rule.interval_us {
            return false;
        }
        let Some(deadband) = rule.settings.deadband else {
            return true;
        };
        let beats = rule.heartbeat_us > 0 && since_us >= rule.heartbeat_us;
        beats || sent.suspect != reading.suspect || differs(&sent.value, &reading.value, deadband)
    }
}

/// Whether `new` lies outside the band around `old`.
fn differs(old: &Value, new: &Value, deadband: Deadband) -> bool {
    if old.value_type() != new.value_type() {
        return true;
    }
    let (Some(before), Some(after)) = (Number::of(old), Number::of(new)) else {
        return old != new;
    };
    let (before, after) = (before.f64(), after.f64());
    if !before.is_finite() || !after.is_finite() {
        return old != new;
    }
    let band = match deadband {
        Deadband::Absolute(band) => band,
        Deadband::Percent(percent) => before.abs() * percent / 100.0,
    };
    // What is equal but for the rounding of doubles is equal: 20.3 - 20.2 is a little more than 0.1.
    let rounding = 4.0 * f64::EPSILON * before.abs().max(after.abs());
    (after - before).abs() > band + rounding
}

impl Rule {
    /// Scales a reading and looks whether it is plausible; `false`: it is none.
    fn judge(&self, reading: &mut Reading, counts: &mut Counts) -> bool {
        let Some(raw) = Number::of(&reading.value) else {
            return true;
        };
        if self.settings.absent.contains(&raw.f64()) {
            counts.absent += 1;
            return false;
        }
        if let Some(scale) = &self.scale {
            reading.value = Value::F64(match raw {
                Number::I64(raw) => scale.apply(Decimal::integer(raw.into())),
                Number::F64(raw) => scale.apply_double(raw),
            });
        }
        let (min, max) = (self.settings.min, self.settings.max);
        if min.is_none() && max.is_none() {
            return true;
        }
        let value = Number::of(&reading.value).map_or(f64::NAN, Number::f64);
        // No number is within no bounds.
        let plausible = value >= min.unwrap_or(f64::NEG_INFINITY) && value <= max.unwrap_or(f64::INFINITY);
        if !plausible {
            counts.implausible += 1;
            if self.settings.implausible == Implausible::Drop {
                return false;
            }
            reading.suspect = true;
        }
        true
    }
}
