//! How Headwater's programs read their settings.
//!
//! One TOML file per program. An environment variable overrides a key of it: `HEADWATER_AGENT_UPLINK__BROKER` is
//! `uplink.broker` for the prefix `HEADWATER_AGENT_` (two underscores stand for the dot). Unknown keys and wrong types
//! are refused with the file, the line and, where there is one, the key that was probably meant.
//!
//! A program's settings are a plain `serde` struct with `#[serde(deny_unknown_fields, default)]`; times are
//! [`Duration`] fields marked `#[serde(with = "headwater_config::duration")]`, sizes are [`ByteSize`].

mod brokers;
mod tree;

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

pub use brokers::Brokers;
pub use bytesize::ByteSize;
pub use std::time::Duration;
pub use tree::{Mistake, from_table};

/// What can be wrong with a program's settings.
///
/// Each message is whole: none has a source whose text a caller should add.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: std::io::Error,
    },
    /// The file's content is not what the program expects.
    #[error("{origin}: {message}")]
    Invalid {
        /// The file, with the line where known, or the environment variable.
        origin: String,
        /// What is wrong and what was probably meant.
        message: String,
    },
    /// A file with a secret cannot be read.
    #[error("cannot read the secret in {}: {why}", path.display())]
    Secret {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: std::io::Error,
    },
}

/// Reads `path` (nothing is read where it is `None`), lays the environment's variables that begin with `prefix` over
/// it, and makes a `T` of the result.
///
/// # Errors
/// [`Error::Read`] and [`Error::Invalid`].
pub fn load<T: DeserializeOwned>(path: Option<&Path>, prefix: &str) -> Result<T, Error> {
    let text = match path {
        Some(path) => std::fs::read_to_string(path).map_err(|why| Error::Read {
            path: path.to_path_buf(),
            why,
        })?,
        None => String::new(),
    };
    let origin = path.map_or_else(|| "configuration".to_string(), |path| path.display().to_string());
    parse(&text, &origin, prefix, environment())
}

/// The environment's variables, as [`parse`] takes them.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// As [`load`], of a text and variables in hand.
///
/// # Errors
/// [`Error::Invalid`].
pub fn parse<T: DeserializeOwned>(
    text: &str,
    origin: &str,
    prefix: &str,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<T, Error> {
    let mut table = table(text, origin)?;
    // The text alone first, so that what is wrong in it is reported with its line.
    let alone = from_table::<T>(table.clone()).map_err(|mistake| Error::Invalid {
        origin: match mistake.line(text) {
            Some(line) => format!("{origin}, line {line}"),
            None => origin.to_string(),
        },
        message: with_suggestion(mistake.message()),
    });
    let mut overrides: Vec<(String, String)> = variables
        .into_iter()
        .filter(|(name, _)| name.starts_with(prefix))
        .collect();
    if overrides.is_empty() {
        return alone;
    }
    overrides.sort();
    for (name, value) in &overrides {
        set(&mut table, name, &name[prefix.len()..], value)?;
        // Each by itself, so that the one that is wrong is named; a file that only the environment makes complete
        // is judged once all are laid over it.
        if alone.is_ok() {
            from_table::<T>(table.clone()).map_err(|mistake| in_variable(name, &mistake))?;
        }
    }
    from_table(table).map_err(|mistake| match alone {
        Err(in_file) => in_file,
        Ok(_) => in_variable(prefix, &mistake),
    })
}

/// As [`parse`]; then `change` changes what file and variables make, and that becomes a `T`.
///
/// # Errors
/// [`Error::Invalid`], also for what is wrong after the change; its origin is then `changed`.
pub fn parse_with<T: DeserializeOwned>(
    text: &str,
    origin: &str,
    prefix: &str,
    variables: impl IntoIterator<Item = (String, String)>,
    changed: &str,
    change: impl FnOnce(&mut toml::Table) -> Result<(), String>,
) -> Result<T, Error> {
    let variables: Vec<(String, String)> = variables.into_iter().collect();
    parse::<T>(text, origin, prefix, variables.iter().cloned())?;
    let mut table = table(text, origin)?;
    for (name, value) in variables.iter().filter(|(name, _)| name.starts_with(prefix)) {
        set(&mut table, name, &name[prefix.len()..], value)?;
    }
    let invalid = |message| Error::Invalid {
        origin: changed.to_string(),
        message,
    };
    change(&mut table).map_err(invalid)?;
    from_table(table).map_err(|mistake| invalid(with_suggestion(mistake.message())))
}

/// Reads a secret from a file, without the white space at its end.
///
/// # Errors
/// [`Error::Secret`].
pub fn secret(path: &Path) -> Result<String, Error> {
    let text = std::fs::read_to_string(path).map_err(|why| Error::Secret {
        path: path.to_path_buf(),
        why,
    })?;
    Ok(text.trim_end().to_string())
}

fn set(table: &mut toml::Table, variable: &str, path: &str, value: &str) -> Result<(), Error> {
    let lower = path.to_ascii_lowercase();
    let mut keys: Vec<&str> = lower.split("__").collect();
    let last = keys.pop().unwrap_or_default();
    let mut here = table;
    for key in keys {
        here = here
            .entry(key)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| Error::Invalid {
                origin: format!("environment variable {variable}"),
                message: format!("`{key}` is not a table"),
            })?;
    }
    // What reads as a TOML value is one (`5`, `true`, `["a"]`); anything else is a string.
    let value = match format!("v = {value}").parse::<toml::Table>() {
        Ok(mut parsed) if parsed.len() == 1 => parsed.remove("v"),
        _ => None,
    }
    .unwrap_or_else(|| toml::Value::String(value.to_string()));
    here.insert(last.to_string(), value);
    Ok(())
}

/// The text as a table; where it is no TOML, what is wrong with its line.
fn table(text: &str, origin: &str) -> Result<toml::Table, Error> {
    text.parse().map_err(|error: toml::de::Error| Error::Invalid {
        origin: match error.span() {
            Some(span) => {
                let before = text.get(..span.start).unwrap_or(text);
                format!("{origin}, line {}", before.matches('\n').count() + 1)
            }
            None => origin.to_string(),
        },
        message: with_suggestion(error.message()),
    })
}

fn in_variable(name: &str, mistake: &Mistake) -> Error {
    Error::Invalid {
        origin: format!("environment variable {name}"),
        message: with_suggestion(mistake.message()),
    }
}

/// serde's "unknown field `a`, expected one of `b`, `c`" with the nearest of them first; a variant is a value.
fn with_suggestion(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = match message {
        _ if message.starts_with("unknown field") => Some("unknown key"),
        _ if message.starts_with("unknown variant") => Some("unknown value"),
        _ => None,
    };
    let (Some(unknown), Some(given)) = (unknown, quoted.next()) else {
        return message.trim().to_string();
    };
    let nearest = quoted
        .map(|known| (strsim::damerau_levenshtein(given, known), known))
        .min()
        .filter(|(distance, known)| *distance <= known.len().max(given.len()) / 2);
    match nearest {
        Some((_, known)) => format!(
            "{unknown} `{given}`; did you mean `{known}`? ({})",
            message.trim()
        ),
        None => format!("{unknown} `{given}` ({})", message.trim()),
    }
}

/// Serde for [`Duration`] as people write it: `"250ms"`, `"10s"`, `"5m"`, `"2h 30m"`.
pub mod duration {
    use std::borrow::Cow;
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    /// Reads a duration.
    ///
    /// # Errors
    /// If it is not text of that form.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        humantime::parse_duration(&text).map_err(|error| {
            D::Error::custom(format!(
                "{text:?} is not a duration such as \"250ms\", \"10s\" or \"5m\": {error}"
            ))
        })
    }

    /// Writes a duration.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Settings {
        device: String,
        uplink: Uplink,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Uplink {
        broker: String,
        window: u32,
        #[serde(with = "duration")]
        timeout: Duration,
        bytes: ByteSize,
        encoding: Encoding,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Encoding {
        Protobuf,
        #[default]
        Postcard,
    }

    impl Default for Uplink {
        fn default() -> Self {
            Self {
                broker: "localhost".into(),
                window: 16,
                timeout: Duration::from_secs(10),
                bytes: ByteSize::kib(64),
                encoding: Encoding::Postcard,
            }
        }
    }

    fn read(text: &str, variables: &[(&str, &str)]) -> Result<Settings, String> {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_string(), (*value).to_string()));
        parse(text, "agent.toml", "HW_", variables).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_fill_what_is_not_said() {
        let settings = read("device = 'a'\n[uplink]\ntimeout = '1m 30s'\nbytes = '2 MiB'", &[]).unwrap();
        assert_eq!(settings.uplink.window, 16);
        assert_eq!(settings.uplink.timeout, Duration::from_secs(90));
        assert_eq!(settings.uplink.bytes, ByteSize::mib(2));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_key_that_was_meant() {
        let error = read("device = 'a'\n[uplink]\nbrocker = 'x'", &[]).unwrap_err();
        assert!(
            error.starts_with("agent.toml, line 3: unknown key `brocker`; did you mean `broker`?"),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_value_is_not_called_a_key() {
        let error = read("[uplink]\nencoding = 'postcad'", &[]).unwrap_err();
        assert!(
            error.starts_with("agent.toml, line 2: unknown value `postcad`; did you mean `postcard`?"),
            "{error}"
        );
        let error = read("[uplink]\nencoding = 'xml'", &[]).unwrap_err();
        assert!(
            error.contains("unknown value `xml` (") && error.contains("`protobuf`"),
            "{error}"
        );
    }

    #[test]
    fn a_wrong_type_is_refused_with_its_line() {
        let error = read("[uplink]\n\nwindow = 'many'", &[]).unwrap_err();
        assert!(
            error.starts_with("agent.toml, line 3: invalid type: string"),
            "{error}"
        );
        let error = read("[uplink]\ntimeout = '10 parsecs'", &[]).unwrap_err();
        assert!(
            error.contains("line 2") && error.contains("is not a duration such as"),
            "{error}"
        );
    }

    #[test]
    fn what_is_wrong_deep_inside_is_refused_with_its_line() {
        #[derive(Debug, Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Plant {
            pump: Vec<Pump>,
        }
        #[derive(Debug, Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Pump {
            levels: Vec<u8>,
        }
        for (text, line) in [
            (
                "[[pump]]\nlevels = [1]\n\n[[pump]]\nlevel = 3",
                "line 5: unknown key `level`",
            ),
            (
                "[[pump]]\n[[pump]]\nlevels = [\n1,\n'x']",
                "line 5: invalid type: string",
            ),
            (
                "[[pump]]\n[[pump]]\nlevels = [\n1,\n300]",
                "line 5: invalid value: integer `300`",
            ),
            ("pump = [\n{ levels = [] },\n5]", "line 3: invalid type: integer"),
            ("\npump = 1", "line 2: invalid type: integer"),
            ("\npump = 2026-01-01", "line 2: invalid type: time"),
            ("[[pump]]\nlevels = ", "line 2: "),
        ] {
            let error = parse::<Plant>(text, "plant.toml", "HW_", [])
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with(&format!("plant.toml, {line}")),
                "{text:?}: {error}"
            );
        }
    }

    #[test]
    fn the_environment_overrides_and_is_named_when_wrong() {
        let settings = read(
            "device = 'a'",
            &[("HW_UPLINK__WINDOW", "3"), ("HW_DEVICE", "gw-01"), ("OTHER", "x")],
        )
        .unwrap();
        assert_eq!((settings.device.as_str(), settings.uplink.window), ("gw-01", 3));
        let error = read("", &[("HW_DEVICE", "ok"), ("HW_UPLINK__WINDO", "3")]).unwrap_err();
        assert!(
            error.starts_with("environment variable HW_UPLINK__WINDO: unknown key"),
            "{error}"
        );
        assert!(error.contains("did you mean `window`"), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load::<Settings>(Some(Path::new("/nonexistent/agent.toml")), "HW_")
            .unwrap_err()
            .to_string();
        assert!(error.contains("/nonexistent/agent.toml"), "{error}");
    }

    #[test]
    fn what_the_system_says_is_in_the_message_and_not_told_again_as_its_source() {
        let path = Path::new("/nonexistent/agent.toml");
        for error in [
            load::<Settings>(Some(path), "HW_").unwrap_err(),
            secret(path).unwrap_err(),
        ] {
            assert!(error.to_string().contains("No such file"), "{error}");
            assert!(std::error::Error::source(&error).is_none());
        }
    }

    #[test]
    fn a_secret_loses_its_line_end_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), " pass word \n").unwrap();
        assert_eq!(secret(file.path()).unwrap(), " pass word");
    }
}
