//! `headwater-agent init`: settings for this machine, with every key explained.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

/// The reference.
const REFERENCE: &str = include_str!("../../../deploy/agent.toml");
/// Sensors that the kernel shows as files: the preset, where they are, and what their names begin with.
const SENSORS: [(&str, &str, &str); 4] = [
    ("hwmon", "/sys/class/hwmon", "hwmon"),
    ("thermal", "/sys/class/thermal", "thermal_zone"),
    ("iio", "/sys/bus/iio/devices", "iio:device"),
    ("onewire", "/sys/bus/w1/devices", ""),
];

pub(crate) fn init(output: Option<&Path>, force: bool) -> ExitCode {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let found: Vec<&str> = SENSORS
        .iter()
        .filter(|(_, folder, name)| holds(Path::new(folder), name))
        .map(|(preset, ..)| *preset)
        .collect();
    let text = settings(host.trim(), &found);
    let Some(output) = output else {
        print!("{text}");
        return ExitCode::SUCCESS;
    };
    match write(output, &text, force) {
        Ok(()) => {
            println!(
                "{} is written. Set uplink.broker in it, then try it: headwater-agent check --config {}",
                output.display(),
                output.display()
            );
            ExitCode::SUCCESS
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            eprintln!(
                "headwater-agent: {} is there already; --force writes over it",
                output.display()
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("headwater-agent: cannot write {}: {error}", output.display());
            ExitCode::FAILURE
        }
    }
}

fn write(path: &Path, text: &str, force: bool) -> std::io::Result<()> {
    let mut options = File::options();
    options.write(true);
    if force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Whether a folder holds something whose name begins with `name`.
fn holds(folder: &Path, name: &str) -> bool {
    std::fs::read_dir(folder).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with(name))
    })
}

/// The reference with what is known of this machine.
fn settings(host: &str, presets: &[&str]) -> String {
    let mut text = String::new();
    for line in REFERENCE.lines() {
        let line = match line {
            "#device = \"gw-01\"" if headwater_proto::name::check_device(host).is_ok() => {
                format!("device = \"{host}\"")
            }
            "#state_dir = \"/var/lib/headwater-agent\"" => line[1..].to_string(),
            line => line.to_string(),
        };
        text.push_str(&line);
        text.push('\n');
    }
    if !presets.is_empty() {
        let presets: Vec<String> = presets.iter().map(|preset| format!("{preset:?}")).collect();
        text.push_str(&format!(
            "\n# Sensors that were found on this machine.\n[[source]]\ntype = \"sysfs\"\npresets = [{}]\n",
            presets.join(", ")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_agent::Config;
    use headwater_agent::config::ENVIRONMENT_PREFIX;

    fn parse(text: &str) -> Config {
        let config: Config = headwater_config::parse(text, "agent.toml", ENVIRONMENT_PREFIX, []).unwrap();
        config.check().unwrap();
        config
    }

    #[test]
    fn what_is_written_are_settings_with_this_machine_s_name_and_sensors() {
        let config = parse(&settings("pi-7", &["hwmon", "thermal", "iio", "onewire"]));
        assert_eq!(config.device.as_deref(), Some("pi-7"));
        assert_eq!(
            config.state_dir.as_deref(),
            Some(Path::new("/var/lib/headwater-agent"))
        );
        assert_eq!(config.sources.len(), 2);
        let plain = parse(&settings("a name with spaces", &[]));
        assert_eq!((plain.device, plain.sources.len()), (None, 1));
    }

    #[test]
    fn nothing_is_written_over_without_being_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.toml");
        write(&path, "one", false).unwrap();
        assert_eq!(
            write(&path, "two", false).unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one");
        write(&path, "3", true).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "3");
    }

    #[test]
    fn folders_are_looked_into_by_the_names_in_them() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("cooling_device0"), "").unwrap();
        assert!(!holds(folder.path(), "thermal_zone") && holds(folder.path(), ""));
        assert!(!holds(Path::new("/nonexistent"), ""));
    }
}
