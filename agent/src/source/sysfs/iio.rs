//! Channels of `bus/iio`, as the kernel's `Documentation/ABI/testing/sysfs-bus-iio` lays them out.
//!
//! `in_<type>[number][_modifier]_raw` becomes a value by (raw + offset) × scale, `…_input` is one already. Offset and scale may
//! stand for the channel, for all channels of its type (`in_voltage_scale`), or for the whole device (`in_scale`, `scale`). A
//! differential channel `in_voltage0-voltage1` shares `in_voltage-voltage_scale`. Peaks, troughs and means are left out.

use std::path::Path;

use super::place::{clean, dotted, entries, named, place};
use super::presets::Scan;
use super::sensor::text;
use crate::source::scale::{Decimal, Scale};

/// Types: name, unit (UCUM) of the value here, digits by which it differs from the one that the kernel documents.
const TYPES: [(&str, &str, u32); 36] = [
    ("accel", "m/s2", 0),
    ("angl", "rad", 0),
    ("anglvel", "rad/s", 0),
    ("altcurrent", "A", 3),
    ("altvoltage", "V", 3),
    ("capacitance", "nF", 0),
    ("concentration", "%", 0),
    ("conductivity", "S/m", 0),
    ("count", "", 0),
    ("current", "A", 3),
    ("distance", "m", 0),
    ("electricalconductivity", "S/m", 0),
    ("energy", "J", 0),
    ("gravity", "m/s2", 0),
    ("humidityrelative", "%", 3),
    ("illuminance", "lx", 0),
    ("incli", "deg", 0),
    ("index", "", 0),
    ("intensity", "", 0),
    ("magn", "G", 0),
    ("massconcentration", "ug/m3", 0),
    ("ph", "[pH]", 0),
    ("phase", "rad", 0),
    ("positionrelative", "%", 3),
    ("power", "W", 3),
    ("powerfactor", "", 0),
    ("pressure", "kPa", 0),
    ("proximity", "", 0),
    ("resistance", "Ohm", 0),
    ("rot", "", 0),
    ("steps", "", 0),
    ("temp", "Cel", 3),
    ("uvindex", "", 0),
    ("velocity", "m/s", 0),
    ("voltage", "V", 3),
    ("activity", "%", 0),
];

impl Scan<'_> {
    pub(super) fn iio(&mut self) {
        for (entry, dir) in entries(&self.root.join("bus/iio/devices")) {
            if !entry.starts_with("iio:device") {
                continue;
            }
            let base = match named(&dir.join("label")) {
                Some(label) => dotted([Some("iio"), Some(&*label)]),
                None => {
                    let chip = named(&dir.join("name"));
                    let place = place(&dir, self.root, "iio").filter(|place| chip.as_ref() != Some(place));
                    dotted([Some("iio"), chip.as_deref(), place.as_deref()])
                }
            };
            for (file, path) in entries(&dir) {
                let processed = file.strip_suffix("_input");
                let Some(channel) = processed.or(file.strip_suffix("_raw")) else {
                    continue;
                };
                let Some((kind, mut unit, mut digits)) = kind_of(channel) else {
                    continue;
                };
                if ["_peak", "_trough", "_mean"]
                    .iter()
                    .any(|derived| channel.ends_with(derived))
                {
                    continue;
                }
                // Both are there for one channel at times; the driver's own value is the better one.
                if processed.is_none() && dir.join(format!("{channel}_input")).exists() {
                    continue;
                }
                let shared = |attribute: &str| {
                    let here = |name: String| decimal(&dir.join(name));
                    shared_names(channel, kind, attribute).into_iter().find_map(here)
                };
                let (before, factor) = match processed {
                    Some(_) => (None, None),
                    None => (shared("offset"), shared("scale")),
                };
                if kind == "voltage" && processed.is_none() && factor.is_none() {
                    // A converter that does not tell its scale gives counts.
                    (unit, digits) = ("", 0);
                }
                let scale = Scale::new(
                    before.unwrap_or(Decimal::ZERO),
                    factor.unwrap_or(Decimal::ONE).shifted(digits),
                    Decimal::ZERO,
                );
                let name = named(&dir.join(format!("{channel}_label")))
                    .unwrap_or_else(|| clean(channel.trim_start_matches("in_")));
                self.number(&format!("{base}.{name}"), unit, path, scale);
            }
        }
    }
}

/// The type of `in_voltage0`, `in_voltage0-voltage1`, `in_accel_x`, `in_temp_ambient`.
fn kind_of(channel: &str) -> Option<(&'static str, &'static str, u32)> {
    let rest = channel.strip_prefix("in_")?;
    let name = rest.split(|c: char| !c.is_ascii_lowercase()).next()?;
    TYPES.iter().find(|(kind, ..)| *kind == name).copied()
}

/// Where an attribute of a channel may stand, the nearest first.
fn shared_names(channel: &str, kind: &str, attribute: &str) -> Vec<String> {
    let unnumbered = channel.replace(|c: char| c.is_ascii_digit(), "");
    vec![
        format!("{channel}_{attribute}"),
        // Of all modified (`in_voltage_q_scale`) or differential (`in_voltage-voltage_scale`) channels of the type.
        format!("{unnumbered}_{attribute}"),
        format!("in_{kind}_{attribute}"),
        format!("in_{attribute}"),
        attribute.to_string(),
    ]
}

fn decimal(path: &Path) -> Option<Decimal> {
    // A scale in decibels is of no linear kind.
    let text = text(path).ok().filter(|text| !text.contains("dB"))?;
    Decimal::parse(text.split_whitespace().next()?)
}
