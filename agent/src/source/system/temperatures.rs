//! Temperatures as the kernel's hardware monitoring shows them (Documentation/hwmon/sysfs-interface.rst), or where there is none its thermal
//! zones (Documentation/driver-api/thermal/sysfs-api.rst).

use std::fs;
use std::path::Path;

use super::shown::Shown;

/// Where the kernel shows both.
const CLASSES: &str = "/sys/class";
/// After so many samples sensors are looked for anew: one may have been plugged in.
const LOOK_EVERY: u32 = 60;

/// The sensors.
#[derive(Debug, Default)]
pub(super) struct Temperatures {
    sensors: Vec<Sensor>,
    /// Samples until the next look.
    left: u32,
}

#[derive(Debug)]
struct Sensor {
    name: String,
    /// Thousandths of a degree Celsius.
    shown: Shown,
}

impl Temperatures {
    /// Each sensor's name and degrees Celsius, now, by name; one that gives none at the moment is left out.
    pub(super) fn read(&mut self) -> Vec<(String, f64)> {
        self.read_of(Path::new(CLASSES))
    }

    fn read_of(&mut self, classes: &Path) -> Vec<(String, f64)> {
        if self.left == 0 {
            self.sensors = find(classes);
            self.left = LOOK_EVERY;
        }
        self.left -= 1;
        let mut out = Vec::with_capacity(self.sensors.len());
        for sensor in &mut self.sensors {
            match sensor.shown.beginning() {
                Ok(text) => {
                    let milli = text.trim().parse::<i32>();
                    out.extend(milli.map(|milli| (sensor.name.clone(), f64::from(milli) / 1000.0)));
                }
                // It may be gone; then so is its file.
                Err(_) => self.left = 0,
            }
        }
        out
    }
}

/// Sensors by name, each with another.
fn find(classes: &Path) -> Vec<Sensor> {
    let mut found = monitors(&classes.join("hwmon"));
    if found.is_empty() {
        found = zones(&classes.join("thermal"));
    }
    // In the order that the kernel numbers them.
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let mut last = (String::new(), 0);
    for sensor in &mut found {
        last.1 = if sensor.name == last.0 { last.1 + 1 } else { 1 };
        last.0.clone_from(&sensor.name);
        // Two of one name.
        if last.1 > 1 {
            sensor.name = format!("{}_{}", last.0, last.1);
        }
    }
    found
}

/// `hwmon*/temp*_input`, by the chip's name and the sensor's label, or its number; with the device's model, where it has one.
fn monitors(class: &Path) -> Vec<Sensor> {
    let mut found = Vec::new();
    for chip in entries(class, "hwmon") {
        let folder = class.join(&chip);
        let name = line(&folder.join("name")).unwrap_or_default();
        let model = line(&folder.join("device/model"));
        for file in entries(&folder, "temp") {
            let Some(channel) = file.strip_suffix("_input") else {
                continue;
            };
            let label = line(&folder.join(format!("{channel}_label"))).filter(|label| !label.is_empty());
            let title = match (label, &model) {
                (Some(label), Some(model)) => format!("{name} {label} {model}"),
                (Some(label), None) => format!("{name} {label}"),
                (None, Some(model)) => format!("{name} {model}"),
                (None, None) => format!("{name} {channel}"),
            };
            found.extend(sensor(&title, &folder.join(&file)));
        }
    }
    found
}

/// `thermal_zone*/temp`, by the zone's type.
fn zones(class: &Path) -> Vec<Sensor> {
    let zone = |zone: String| {
        let folder = class.join(zone);
        sensor(&line(&folder.join("type"))?, &folder.join("temp"))
    };
    let zones = entries(class, "thermal_zone");
    zones.into_iter().filter_map(zone).collect()
}

fn sensor(title: &str, file: &Path) -> Option<Sensor> {
    Some(Sensor {
        name: title.to_lowercase().replace(' ', "_"),
        shown: Shown::open(file).ok()?,
    })
}

/// Names in a directory that begin so, in the order of the numbers in them.
fn entries(folder: &Path, begin: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<String> = names.filter(|name| name.starts_with(begin)).collect();
    found.sort_by_key(|name| (name.len(), name.clone()));
    found
}

/// A file's text, which is one line.
fn line(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    Some(text.trim_end().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lay(root: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn sensors_are_named_for_chip_label_and_model() {
        let temp = tempfile::tempdir().unwrap();
        lay(
            temp.path(),
            &[
                ("hwmon/hwmon0/name", "cpu_thermal\n"),
                ("hwmon/hwmon0/temp1_input", "48312\n"),
                ("hwmon/hwmon1/name", "coretemp\n"),
                ("hwmon/hwmon1/temp1_input", "51000\n"),
                ("hwmon/hwmon1/temp1_label", "Package id 0\n"),
                ("hwmon/hwmon1/temp10_input", "-5500\n"),
                ("hwmon/hwmon1/temp10_label", "Core 8\n"),
                ("hwmon/hwmon1/temp10_max", "100000\n"),
                ("hwmon/hwmon2/name", "drivetemp\n"),
                ("hwmon/hwmon2/device/model", "SSD 1\n"),
                ("hwmon/hwmon2/temp1_input", "30000\n"),
                ("hwmon/hwmon3/name", "drivetemp\n"),
                ("hwmon/hwmon3/device/model", "SSD 1\n"),
                ("hwmon/hwmon3/temp1_input", "31000\n"),
                ("hwmon/hwmon4/name", "silent\n"),
                ("hwmon/hwmon4/temp1_input", "no figure\n"),
                ("thermal/thermal_zone0/type", "x86_pkg_temp\n"),
                ("thermal/thermal_zone0/temp", "1\n"),
            ],
        );
        let read = Temperatures::default().read_of(temp.path());
        let expected = [
            ("coretemp_core_8", -5.5),
            ("coretemp_package_id_0", 51.0),
            ("cpu_thermal_temp1", 48.312),
            ("drivetemp_ssd_1", 30.0),
            ("drivetemp_ssd_1_2", 31.0),
        ];
        assert_eq!(read, expected.map(|(name, value)| (name.to_string(), value)));
    }

    #[test]
    fn zones_stand_in_and_what_is_plugged_in_is_found_later() {
        let temp = tempfile::tempdir().unwrap();
        let mut temperatures = Temperatures::default();
        assert_eq!(temperatures.read_of(temp.path()), []);
        lay(
            temp.path(),
            &[
                ("thermal/thermal_zone0/type", "soc-thermal\n"),
                ("thermal/thermal_zone0/temp", "41000\n"),
                ("thermal/cooling_device0/type", "Fan\n"),
            ],
        );
        let samples = (1..=LOOK_EVERY).map(|_| temperatures.read_of(temp.path()));
        let last = samples.last().unwrap();
        assert_eq!(last, [("soc-thermal".to_string(), 41.0)]);
        // An open file is read anew.
        fs::write(temp.path().join("thermal/thermal_zone0/temp"), "42500\n").unwrap();
        assert_eq!(
            temperatures.read_of(temp.path()),
            [("soc-thermal".to_string(), 42.5)]
        );
    }
}
