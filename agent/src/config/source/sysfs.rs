//! The settings of `sysfs`.

use std::path::PathBuf;

use headwater_config::Duration;
use serde::Deserialize;

/// Sensors that the kernel shows as files.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct SysfsSource {
    /// Put before every metric's name. Default empty.
    pub prefix: String,
    /// Time between samples; at least 10 ms. Default 10 s.
    #[serde(with = "headwater_config::duration")]
    pub interval: Duration,
    /// Where the kernel's tree is. Default `/sys`.
    pub root: PathBuf,
    /// Kinds of sensors that are found by themselves. Default all.
    pub presets: Vec<SysfsPreset>,
    /// Time between looks for sensors that have come or gone; at least 1 s. Default 1 min.
    #[serde(with = "headwater_config::duration")]
    pub rescan: Duration,
    /// How many sensors are read at once, each on a thread: as many may hang before the others wait. 1 to 16, default 4.
    pub readers: usize,
    /// Further files.
    #[serde(rename = "file")]
    pub files: Vec<SysfsFile>,
}

impl Default for SysfsSource {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            interval: Duration::from_secs(10),
            root: PathBuf::from("/sys"),
            presets: SysfsPreset::ALL.to_vec(),
            rescan: Duration::from_secs(60),
            readers: 4,
            files: Vec::new(),
        }
    }
}

/// A kind of sensors that the kernel documents.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum SysfsPreset {
    /// `class/hwmon`: `hwmon.<chip>.<place>.<channel>`.
    Hwmon,
    /// `class/thermal`: `thermal.<type>.<place>`.
    Thermal,
    /// `bus/iio`: `iio.<label>.<channel>` or `iio.<chip>.<place>.<channel>`.
    Iio,
    /// `bus/w1`, thermometers: `onewire.<id>`.
    OneWire,
}

impl SysfsPreset {
    /// Every preset.
    pub const ALL: [Self; 4] = [Self::Hwmon, Self::Thermal, Self::Iio, Self::OneWire];
}

/// Files outside the presets.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct SysfsFile {
    /// Below the root; `*` and `?` stand for what a name may have there, not for a `/`.
    pub path: String,
    /// The metric's name; `{1}` stands for the first name in the path that was found by a wildcard, `{2}` for the second.
    pub metric: String,
    /// Its unit (UCUM). Default none.
    pub unit: String,
    /// value = number × scale + offset. Default 1.
    pub scale: f64,
    /// See `scale`. Default 0.
    pub offset: f64,
    /// How the text is read. Default `number`.
    pub parse: SysfsParse,
    /// What stands in front of the value, as in `t=23125`. Default nothing: the value comes first.
    pub after: String,
}

impl Default for SysfsFile {
    fn default() -> Self {
        Self {
            path: String::new(),
            metric: String::new(),
            unit: String::new(),
            scale: 1.0,
            offset: 0.0,
            parse: SysfsParse::Number,
            after: String::new(),
        }
    }
}

/// How a file's text is read.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum SysfsParse {
    /// A decimal number up to the first white space.
    #[default]
    Number,
    /// The first line.
    Text,
    /// `0`, `n…`, `f…`, `off` are false; `1` and other numbers, `y…`, `t…`, `on` are true.
    Bool,
}
