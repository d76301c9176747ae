//! Trees laid out as `Documentation/ABI/testing` has them, and the one that this machine has.

mod running;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use headwater_proto::Value;
use tempfile::TempDir;

use super::roster::Roster;
use super::*;
use crate::config::{SysfsFile, SysfsParse};

struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// A link with a target relative to the tree's root.
    fn link(&self, path: &str, target: &str) -> &Self {
        let up = "../".repeat(path.split('/').count() - 1);
        self.link_to(path, &format!("{up}{target}"))
    }

    fn link_to(&self, path: &str, target: &str) -> &Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
        self
    }

    /// A device on a bus.
    fn device(&self, path: &str, bus: &str) -> &Self {
        self.link(&format!("devices/{path}/subsystem"), &format!("bus/{bus}"))
    }

    /// A chip on a device.
    fn hwmon(&self, index: usize, device: &str, name: &str) -> String {
        let dir = format!("devices/{device}/hwmon/hwmon{index}");
        self.file(&format!("{dir}/name"), &format!("{name}\n"));
        self.link(&format!("{dir}/device"), &format!("devices/{device}"));
        self.link(&format!("{dir}/subsystem"), "class/hwmon");
        self.link(&format!("class/hwmon/hwmon{index}"), &dir);
        dir
    }

    fn settings(&self, presets: &[SysfsPreset]) -> SysfsSource {
        SysfsSource {
            root: self.0.path().to_path_buf(),
            presets: presets.to_vec(),
            interval: Duration::from_millis(50),
            rescan: Duration::from_secs(1),
            ..Default::default()
        }
    }

    /// What one look and one reading give: name → (unit, value, suspect), or the fault.
    fn read(&self, presets: &[SysfsPreset]) -> BTreeMap<String, Result<(String, Value, bool), String>> {
        read(&self.settings(presets))
    }
}

fn read(settings: &SysfsSource) -> BTreeMap<String, Result<(String, Value, bool), String>> {
    let source = Sysfs::open(settings).unwrap();
    let found = source.finder.find();
    let count = found.len();
    let read: BTreeMap<_, _> = found
        .into_iter()
        .map(|sensor| {
            let unit = sensor.metric.unit.clone();
            let outcome = sensor
                .read()
                .map(|outcome| (unit, outcome.value, outcome.suspect))
                .map_err(|fault| fault.to_string());
            (sensor.metric.name.clone(), outcome)
        })
        .collect();
    assert_eq!(read.len(), count, "names do not repeat");
    read
}

fn good(unit: &str, value: f64) -> Result<(String, Value, bool), String> {
    Ok((unit.to_string(), Value::F64(value), false))
}

#[test]
fn hwmon_chips_are_named_by_label_and_place_and_scaled_as_documented() {
    let tree = Tree::new();
    tree.device("platform/coretemp.0", "platform");
    let chip = tree.hwmon(2, "platform/coretemp.0", "coretemp");
    tree.file(&format!("{chip}/temp1_input"), "42500\n")
        .file(&format!("{chip}/temp1_label"), "Package id 0\n")
        .file(&format!("{chip}/temp1_crit"), "100000\n");
    // Two of a kind on one bus.
    for (index, address, millidegrees) in [(0, "1-0048", "21062\n"), (1, "1-0049", "-5500\n")] {
        let device = format!("platform/soc/i2c-1/{address}");
        tree.device(&device, "i2c");
        let chip = tree.hwmon(index, &device, "lm75");
        tree.file(&format!("{chip}/temp1_input"), millidegrees);
    }
    // A class device with a number of its own: the place is that of the bus device below.
    tree.device("pci0000:00/0000:01:00.0", "pci");
    tree.link(
        "devices/pci0000:00/0000:01:00.0/nvme/nvme0/subsystem",
        "class/nvme",
    );
    let chip = tree.hwmon(3, "pci0000:00/0000:01:00.0/nvme/nvme0", "nvme");
    tree.file(&format!("{chip}/temp1_input"), "38850\n")
        .file(&format!("{chip}/temp1_label"), "Composite\n");
    tree.device("platform/power", "platform");
    let chip = tree.hwmon(10, "platform/power", "ina226 ☀");
    for (file, text) in [
        ("in1_input", "12908\n"),
        ("in1_label", "+12V Rail\n"),
        ("curr1_input", "-1320\n"),
        ("power1_input", "17038560\n"),
        ("power2_average", "2500000\n"),
        ("energy1_input", "123456789\n"),
        ("humidity1_input", "55120\n"),
        ("fan1_input", "1180\n"),
        ("freq1_input", "1500000000\n"),
        ("temp1_input", "0\n"),
        ("temp1_fault", "1\n"),
        ("intrusion0_alarm", "1\n"),
        ("pwm1", "128\n"),
        ("in1_alarm", "0\n"),
        ("update_interval", "1000\n"),
    ] {
        tree.file(&format!("{chip}/{file}"), text);
    }
    let expected = BTreeMap::from(
        [
            ("hwmon.coretemp.coretemp_0.temp_package_id_0", good("Cel", 42.5)),
            ("hwmon.lm75.1-0048.temp1", good("Cel", 21.062)),
            ("hwmon.lm75.1-0049.temp1", good("Cel", -5.5)),
            ("hwmon.nvme.0000:01:00_0.temp_composite", good("Cel", 38.85)),
            ("hwmon.ina226.power.in_12v_rail", good("V", 12.908)),
            ("hwmon.ina226.power.curr1", good("A", -1.32)),
            ("hwmon.ina226.power.power1", good("W", 17.03856)),
            ("hwmon.ina226.power.power2", good("W", 2.5)),
            ("hwmon.ina226.power.energy1", good("J", 123.456789)),
            ("hwmon.ina226.power.humidity1", good("%", 55.12)),
            ("hwmon.ina226.power.fan1", good("1/min", 1180.0)),
            ("hwmon.ina226.power.freq1", good("Hz", 1.5e9)),
            (
                "hwmon.ina226.power.temp1",
                Ok(("Cel".into(), Value::F64(0.0), true)),
            ),
            (
                "hwmon.ina226.power.intrusion0",
                Ok((String::new(), Value::Bool(true), false)),
            ),
        ]
        .map(|(name, outcome)| (name.to_string(), outcome)),
    );
    assert_eq!(tree.read(&[SysfsPreset::Hwmon]), expected);

    // Other numbers after a restart, the same names.
    let class = tree.0.path().join("class/hwmon");
    for (from, to) in [("hwmon0", "tmp"), ("hwmon10", "hwmon0"), ("tmp", "hwmon7")] {
        fs::rename(class.join(from), class.join(to)).unwrap();
    }
    assert_eq!(tree.read(&[SysfsPreset::Hwmon]), expected);
}

#[test]
fn what_the_kernel_shows_twice_is_read_once() {
    let tree = Tree::new();
    tree.file("devices/virtual/thermal/thermal_zone0/type", "cpu-thermal\n")
        .file("devices/virtual/thermal/thermal_zone0/temp", "51540\n")
        .file("devices/virtual/thermal/cooling_device0/type", "fan\n")
        .link(
            "class/thermal/thermal_zone0",
            "devices/virtual/thermal/thermal_zone0",
        )
        .link(
            "class/thermal/cooling_device0",
            "devices/virtual/thermal/cooling_device0",
        );
    let chip = tree.hwmon(0, "virtual/thermal/thermal_zone0", "cpu_thermal");
    tree.file(&format!("{chip}/temp1_input"), "51540\n");
    let names = |presets: &[SysfsPreset]| tree.read(presets).into_keys().collect::<Vec<_>>();
    assert_eq!(names(&SysfsPreset::ALL), ["thermal.cpu-thermal"]);
    assert_eq!(names(&[SysfsPreset::Hwmon]), ["hwmon.cpu_thermal.temp1"]);
}

#[test]
fn thermal_zones_of_one_type_are_told_apart_by_their_place() {
    let tree = Tree::new();
    for (index, device) in [(0, "LNXTHERM:00"), (1, "LNXTHERM:01")] {
        tree.device(&format!("LNXSYSTM:00/{device}"), "acpi");
        let zone = format!("class/thermal/thermal_zone{index}");
        tree.file(&format!("{zone}/type"), "acpitz\n")
            .file(&format!("{zone}/temp"), "27800\n")
            .link(
                &format!("{zone}/device"),
                &format!("devices/LNXSYSTM:00/{device}"),
            );
    }
    // Nothing tells these two apart but their numbers.
    for index in [2, 3] {
        tree.file(&format!("class/thermal/thermal_zone{index}/type"), "gpu\n")
            .file(
                &format!("class/thermal/thermal_zone{index}/temp"),
                &format!("{index}000\n"),
            );
    }
    let expected = [
        ("thermal.acpitz.lnxtherm:00", 27.8),
        ("thermal.acpitz.lnxtherm:01", 27.8),
        ("thermal.gpu", 2.0),
        ("thermal.gpu_2", 3.0),
    ];
    let expected = expected.map(|(name, value)| (name.to_string(), good("Cel", value)));
    assert_eq!(tree.read(&[SysfsPreset::Thermal]), BTreeMap::from(expected));
}

#[test]
fn iio_channels_take_offset_and_scale_of_their_own_or_their_types() {
    let tree = Tree::new();
    for (index, device, files) in [
        (
            0,
            "platform/soc/i2c-1/1-0048",
            &[
                ("name", "ads1015\n"),
                ("in_voltage0_raw", "1044\n"),
                ("in_voltage0_scale", "3.000000\n"),
                ("in_voltage1_raw", "-20\n"),
                ("in_voltage1-voltage3_raw", "12\n"),
                ("in_voltage-voltage_scale", "0.500000\n"),
                ("in_voltage_scale", "1.000000\n"),
                ("in_voltage_sampling_frequency", "1600\n"),
                ("in_temp_raw", "2000\n"),
                ("in_temp_offset", "-500\n"),
                ("in_temp_scale", "12.500000000\n"),
                ("in_voltage0_label", "Battery +\n"),
                ("out_voltage0_raw", "77\n"),
            ][..],
        ),
        (
            1,
            "platform/soc/i2c-1/1-0076",
            &[
                ("name", "bme280\n"),
                ("in_temp_input", "21590\n"),
                ("in_pressure_input", "100.937234375\n"),
                ("in_humidityrelative_input", "55120\n"),
                ("in_humidityrelative_raw", "99999\n"),
            ][..],
        ),
        (
            2,
            "platform/soc/spi0/spi0.0",
            &[
                ("name", "adxl345\n"),
                ("label", "accel-base\n"),
                ("in_accel_x_raw", "-13\n"),
                ("in_accel_x_peak_raw", "99\n"),
                ("in_accel_scale", "0.038300\n"),
                ("in_timestamp_en", "0\n"),
                ("in_illuminance_raw", "7\n"),
                ("scale", "2\n"),
            ][..],
        ),
        (
            3,
            "platform/soc/adc@0",
            &[("name", "adc\n"), ("in_voltage4_raw", "2048\n")][..],
        ),
    ] {
        let dir = format!("devices/{device}/iio:device{index}");
        tree.device(device, device.rsplit('/').nth(1).unwrap());
        tree.link(&format!("{dir}/subsystem"), "bus/iio");
        tree.link(&format!("bus/iio/devices/iio:device{index}"), &dir);
        for (file, text) in files {
            tree.file(&format!("{dir}/{file}"), text);
        }
    }
    let expected = [
        ("iio.ads1015.1-0048.battery", good("V", 3.132)),
        ("iio.ads1015.1-0048.voltage1", good("V", -0.02)),
        ("iio.ads1015.1-0048.voltage1-voltage3", good("V", 0.006)),
        ("iio.ads1015.1-0048.temp", good("Cel", 18.75)),
        ("iio.bme280.1-0076.temp", good("Cel", 21.59)),
        ("iio.bme280.1-0076.pressure", good("kPa", 100.937234375)),
        ("iio.bme280.1-0076.humidityrelative", good("%", 55.12)),
        ("iio.accel-base.accel_x", good("m/s2", -0.4979)),
        ("iio.accel-base.illuminance", good("lx", 14.0)),
        ("iio.adc.adc_0.voltage4", good("", 2048.0)),
    ];
    let expected = expected.map(|(name, outcome)| (name.to_string(), outcome));
    assert_eq!(tree.read(&[SysfsPreset::Iio]), BTreeMap::from(expected));
}

fn slave(tree: &Tree, id: &str, verdict: &str, millidegrees: i32) {
    let text = format!(
        "72 01 4b 46 7f ff 0e 10 57 : crc=57 {verdict}\n72 01 4b 46 7f ff 0e 10 57 t={millidegrees}\n"
    );
    tree.file(&format!("bus/w1/devices/{id}/w1_slave"), &text);
}

#[test]
fn onewire_thermometers_are_believed_by_their_checksum_only() {
    let tree = Tree::new();
    slave(&tree, "28-0000055a1b2c", "YES", 23_125);
    slave(&tree, "28-0000055a1b2d", "NO", 23_125);
    slave(&tree, "10-000801b5a7a6", "YES", -1_500);
    let zeros = "00 00 00 00 00 00 00 00 00 : crc=00 YES\n00 00 00 00 00 00 00 00 00 t=0\n";
    tree.file("bus/w1/devices/28-000000000001/w1_slave", zeros)
        .file("bus/w1/devices/28-000000000002/w1_slave", "rubbish\n")
        .file("bus/w1/devices/3b-000000000003/temperature", "19500\n")
        .file("bus/w1/devices/3b-000000000004/temperature", "")
        .file("bus/w1/devices/29-000000000005/state", "x")
        .file("bus/w1/devices/w1_bus_master1/w1_master_slave_count", "7\n");
    let read = tree.read(&[SysfsPreset::OneWire]);
    assert_eq!(read.len(), 7, "{read:?}");
    for (id, value) in [
        ("28-0000055a1b2c", 23.125),
        ("10-000801b5a7a6", -1.5),
        ("3b-000000000003", 19.5),
    ] {
        assert_eq!(read[&format!("onewire.{id}")], good("Cel", value));
    }
    for (id, part) in [
        ("28-0000055a1b2d", "CRC NO"),
        ("28-000000000001", "zeros"),
        ("28-000000000002", "\"rubbish\""),
        ("3b-000000000004", "empty"),
    ] {
        let fault = read[&format!("onewire.{id}")].clone().unwrap_err();
        assert!(fault.contains(part), "{id}: {fault}");
    }
}

#[test]
fn a_thermometers_power_on_value_is_suspect_unless_it_is_as_warm() {
    let tree = Tree::new();
    slave(&tree, "28-0000055a1b2c", "YES", 85_000);
    let source = Sysfs::open(&tree.settings(&[SysfsPreset::OneWire])).unwrap();
    let mut roster = Roster::default();
    roster.found(source.finder.find());
    let mut suspect = Vec::new();
    for (tick, millidegrees) in [(1, 85_000), (2, 23_125), (3, 85_000), (4, 83_000), (5, 85_000)] {
        slave(&tree, "28-0000055a1b2c", "YES", millidegrees);
        let (_, jobs) = roster.begin(tick);
        for (id, sensor) in jobs {
            let sample = roster.read(id, tick, sensor.read()).unwrap();
            assert_eq!(
                sample.readings[0].value,
                Value::F64(f64::from(millidegrees) / 1000.0)
            );
            suspect.push(sample.readings[0].suspect);
        }
    }
    assert_eq!(suspect, [true, false, true, false, false]);
}

#[test]
fn other_files_are_found_by_wildcards_and_named_after_them() {
    let tree = Tree::new();
    tree.file("class/power_supply/BAT0/capacity", "87\n")
        .file("class/power_supply/BAT 1/capacity", "12\n")
        .file("class/power_supply/AC/online", "1\n")
        .file("class/power_supply/BAT0/status", "Discharging\n")
        .file("bus/w1/devices/26-01/vdd", "crc ok v=498 end\n");
    let file = |path: &str, metric: &str| SysfsFile {
        path: path.into(),
        metric: metric.into(),
        ..Default::default()
    };
    let files = vec![
        SysfsFile {
            unit: "%".into(),
            ..file("class/power_supply/BAT*/capacity", "battery.{1}.capacity")
        },
        SysfsFile {
            parse: SysfsParse::Bool,
            ..file("class/power_supply/AC/online", "mains")
        },
        SysfsFile {
            parse: SysfsParse::Text,
            ..file("class/power_supply/*/stat??", "{1}.status")
        },
        SysfsFile {
            unit: "V".into(),
            scale: 0.01,
            after: "v=".into(),
            ..file("bus/w1/devices/26-*/vdd", "supply.{1}")
        },
        file("class/power_supply/BAT0/status", "no.number"),
        file("does/not/*/exist", "nothing.{1}"),
    ];
    let settings = SysfsSource {
        files,
        ..tree.settings(&[])
    };
    let read = read(&settings);
    assert_eq!(read["battery.bat0.capacity"], good("%", 87.0));
    assert_eq!(read["battery.bat_1.capacity"], good("%", 12.0));
    assert_eq!(read["mains"], Ok((String::new(), Value::Bool(true), false)));
    let status = Value::String("Discharging".into());
    assert_eq!(read["bat0.status"], Ok((String::new(), status, false)));
    assert_eq!(read["supply.26-01"], good("V", 4.98));
    assert!(read["no.number"].clone().unwrap_err().contains("\"Discharging\""));
    assert_eq!(read.len(), 6, "{read:?}");
}

#[test]
fn a_broken_sensor_says_what_the_system_says() {
    let tree = Tree::new();
    tree.link_to("class/thermal/thermal_zone0/temp", "/proc/self/mem");
    let fault = tree.read(&[SysfsPreset::Thermal])["thermal"].clone().unwrap_err();
    // EIO; its words are the C library's.
    assert!(fault.contains("os error 5"), "{fault}");
}

/// There may be nothing; what there is has a name that is allowed, a unit, and a number or a reason.
#[test]
fn this_machines_sensors_are_read() {
    let settings = SysfsSource {
        files: vec![SysfsFile {
            path: "class/net/lo/mtu".into(),
            metric: "mtu".into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    assert_eq!(settings.root, Path::new("/sys"));
    for (name, outcome) in read(&settings) {
        headwater_proto::name::check_metric(&name).unwrap();
        match outcome {
            Ok((_, Value::F64(value), _)) => assert!(value.is_finite(), "{name} {value}"),
            Ok((_, Value::Bool(_), _)) => assert!(name.contains("intrusion"), "{name}"),
            Ok(other) => panic!("{name}: {other:?}"),
            Err(fault) => assert!(!fault.is_empty(), "{name}"),
        }
    }
}
