//! Sensors that are found by themselves, in trees as the kernel's `Documentation/ABI/testing` lays them out:
//! `sysfs-class-hwmon`, `sysfs-class-thermal`, and the 1-wire thermometers of `sysfs-driver-w1_therm`; `iio.rs` has
//! `sysfs-bus-iio`.

use std::path::{Path, PathBuf};

use super::place::{Names, clean, dotted, entries, named, place};
use super::sensor::{Probe, Sensor};
use crate::config::{SysfsParse, SysfsPreset};
use crate::source::Metric;
use crate::source::scale::Scale;

/// What a scan works with.
pub(super) struct Scan<'a> {
    pub(super) root: &'a Path,
    pub(super) prefix: &'a str,
    pub(super) presets: &'a [SysfsPreset],
    pub(super) names: Names,
    pub(super) found: Vec<Sensor>,
}

/// hwmon's channels: the beginning of `<kind><number>_input`, unit (UCUM), digits that the driver's integer has.
const HWMON: [(&str, &str, u32); 8] = [
    ("temp", "Cel", 3),
    ("in", "V", 3),
    ("curr", "A", 3),
    ("power", "W", 6),
    ("energy", "J", 6),
    ("humidity", "%", 3),
    ("fan", "1/min", 0),
    ("freq", "Hz", 0),
];

/// Families of 1-wire parts that are thermometers: DS18S20, DS1822, DS18B20, DS1825/MAX31826/MAX31850, DS28EA00.
const THERMOMETERS: [&str; 5] = ["10-", "22-", "28-", "3b-", "42-"];

impl Scan<'_> {
    pub(super) fn add(&mut self, name: &str, unit: &str, probe: Probe) {
        let name = self.names.give(&format!("{}{name}", self.prefix));
        let metric = Metric::new(name, unit);
        self.found.push(Sensor { metric, probe });
    }

    pub(super) fn has(&self, preset: SysfsPreset) -> bool {
        self.presets.contains(&preset)
    }

    pub(super) fn number(&mut self, name: &str, unit: &str, path: PathBuf, scale: Scale) {
        let probe = Probe::Number {
            path,
            after: String::new(),
            scale,
            fault: None,
        };
        self.add(name, unit, probe);
    }

    pub(super) fn thermal(&mut self) {
        for (entry, dir) in entries(&self.root.join("class/thermal")) {
            let path = dir.join("temp");
            if !entry.starts_with("thermal_zone") || !path.exists() {
                continue;
            }
            let kind = named(&dir.join("type"));
            let place = place(&dir.join("device"), self.root, "");
            let name = dotted([Some("thermal"), kind.as_deref(), place.as_deref()]);
            self.number(&name, "Cel", path, Scale::milli(3));
        }
    }

    pub(super) fn hwmon(&mut self) {
        for (_, dir) in entries(&self.root.join("class/hwmon")) {
            let device = dir.join("device");
            // Before Linux 3.15 drivers put name and channels beside the device, not into the class' directory.
            let dir = if dir.join("name").exists() {
                dir
            } else {
                device.clone()
            };
            let Some(chip) = named(&dir.join("name")) else {
                continue;
            };
            if self.is_shown_elsewhere(&chip, &device) {
                continue;
            }
            let place = place(&device, self.root, "").filter(|place| *place != chip);
            let base = dotted([Some("hwmon"), Some(&*chip), place.as_deref()]);
            for (file, path) in entries(&dir) {
                self.hwmon_channel(&base, &dir, &file, path);
            }
        }
    }

    fn hwmon_channel(&mut self, base: &str, dir: &Path, file: &str, path: PathBuf) {
        if let Some(channel) = file.strip_suffix("_alarm") {
            if numbered(channel, "intrusion") {
                let (after, parse) = (String::new(), SysfsParse::Bool);
                self.add(
                    &format!("{base}.{channel}"),
                    "",
                    Probe::Other { path, after, parse },
                );
            }
            return;
        }
        let channel = match file.strip_suffix("_input") {
            Some(channel) => channel,
            // Power meters may have the mean alone.
            None => match file.strip_suffix("_average") {
                Some(channel) if !dir.join(format!("{channel}_input")).exists() => channel,
                _ => return,
            },
        };
        let known = HWMON.iter().find(|(kind, ..)| numbered(channel, kind));
        let Some((kind, unit, digits)) = known else {
            return;
        };
        let channel_name = match named(&dir.join(format!("{channel}_label"))) {
            Some(label) => format!("{kind}_{label}"),
            None => channel.to_string(),
        };
        let fault = Some(dir.join(format!("{channel}_fault"))).filter(|fault| fault.exists());
        let probe = Probe::Number {
            path,
            after: String::new(),
            scale: Scale::milli(*digits),
            fault,
        };
        self.add(&format!("{base}.{channel_name}"), unit, probe);
    }

    /// The kernel shows thermal zones, IIO channels and 1-wire thermometers among hwmon's chips too: one reading is enough.
    fn is_shown_elsewhere(&self, chip: &str, device: &Path) -> bool {
        let device = device.read_link().unwrap_or_default();
        let device = device.file_name().unwrap_or_default().to_string_lossy();
        (self.has(SysfsPreset::Thermal) && device.starts_with("thermal_zone"))
            || (self.has(SysfsPreset::Iio) && chip == "iio_hwmon")
            || (self.has(SysfsPreset::OneWire) && chip == "w1_slave_temp")
    }

    pub(super) fn onewire(&mut self) {
        for (id, dir) in entries(&self.root.join("bus/w1/devices")) {
            if !THERMOMETERS.iter().any(|family| id.starts_with(family)) {
                continue;
            }
            let (temperature, slave) = (dir.join("temperature"), dir.join("w1_slave"));
            let probe = if slave.exists() {
                Probe::OneWireSlave(slave)
            } else if temperature.exists() {
                Probe::OneWire(temperature)
            } else {
                continue;
            };
            self.add(&format!("onewire.{}", clean(&id)), "Cel", probe);
        }
    }
}

/// Whether `name` is `kind` and a number.
fn numbered(name: &str, kind: &str) -> bool {
    name.strip_prefix(kind)
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}
