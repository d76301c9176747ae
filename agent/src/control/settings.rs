//! Where an agent's settings come from: a file, or the configuration that was applied by command and stands in its place; under the
//! environment's variables; under the keys that were changed by command.

use std::fs;
use std::path::{Path, PathBuf};

use headwater_config::environment;

use super::overrides::Overrides;
use super::trial::{CONFIG, OVERRIDES};
use crate::config::{CommandName, ENVIRONMENT_PREFIX};
use crate::state::State;
use crate::{Config, Error, status};

/// The longest configuration that a command may bring, bytes.
pub(crate) const CONFIG_MAX: usize = 64 * 1024;

/// The file with an agent's settings, and what stands over it.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    path: PathBuf,
}

/// Settings as they were read.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    /// The text of the configuration in force, without what stands over it.
    pub(crate) text: String,
    pub(crate) origin: String,
    pub(crate) overrides: Overrides,
}

impl Loaded {
    /// What the status shows of it.
    pub(crate) fn status(&self, trial: Option<&str>) -> status::Settings {
        status::Settings {
            hash: self.config.hash(),
            origin: self.origin.clone(),
            overrides: self.overrides.list(),
            trial: trial.map(str::to_string),
        }
    }
}

impl Settings {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.into() }
    }

    /// The state directory that the file, the environment or systemd names: known even if the file is wrong otherwise.
    pub(crate) fn state(&self) -> Option<State> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let table: toml::Table = text.parse().unwrap_or_default();
        let in_file = table
            .get("state_dir")
            .and_then(toml::Value::as_str)
            .map(PathBuf::from);
        let variable = std::env::var_os(format!("{ENVIRONMENT_PREFIX}STATE_DIR")).map(PathBuf::from);
        let dir = variable
            .or(in_file)
            .or_else(|| crate::config::directory("STATE_DIRECTORY"))?;
        Some(State::new(dir))
    }

    /// Reads them. What was applied or changed by command and makes no sense (to this version, say) is left out and logged: it must
    /// not keep the agent from starting.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(crate) fn load(&self) -> Result<Loaded, Error> {
        let (applied, overrides) = self.kept();
        if let Some(text) = applied {
            match self.read(&text, &overrides, true) {
                Ok(loaded) => return Ok(loaded),
                Err(error) => log::error!("what was applied by command is not used: {error}"),
            }
        }
        let text = self.text()?;
        self.read(&text, &overrides, false)
    }

    /// The settings that the local file alone makes: what may be done from outside is said there, by who owns the machine.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(crate) fn local(&self) -> Result<Loaded, Error> {
        self.parse(
            &self.text()?,
            &Overrides::default(),
            self.path.display().to_string(),
        )
    }

    /// The settings that a configuration would make, with no key changed over it, or that other overrides would.
    ///
    /// # Errors
    /// What is wrong with them; [`Error::Local`] for what only the machine's owner may change.
    pub(crate) fn with(&self, text: &str, overrides: &Overrides) -> Result<Loaded, Error> {
        let loaded = self.parse(text, overrides, self.applied())?;
        loaded.config.check()?;
        // A file that is wrong allows nothing but the defaults.
        let local = self.local().map(|local| local.config).unwrap_or_default();
        permitted(&local, &loaded.config)?;
        Ok(loaded)
    }

    /// What was applied by command, and the keys that were changed; nothing, if it cannot be read.
    fn kept(&self) -> (Option<String>, Overrides) {
        let Some(state) = self.state() else {
            return (None, Overrides::default());
        };
        let text = |name| match state.read(name).map(|content| content.map(String::from_utf8)) {
            Ok(None) => None,
            Ok(Some(Ok(text))) => Some(text),
            Ok(Some(Err(error))) => {
                log::error!("{name} in the state directory is not used: {error}");
                None
            }
            Err(error) => {
                log::error!("{name} in the state directory cannot be read: {error}");
                None
            }
        };
        let overrides = text(OVERRIDES).map(|text| Overrides::parse(&text)).transpose();
        let overrides = overrides.unwrap_or_else(|error| {
            log::error!("{OVERRIDES} in the state directory is not used: {error}");
            None
        });
        (text(CONFIG), overrides.unwrap_or_default())
    }

    fn read(&self, text: &str, overrides: &Overrides, applied: bool) -> Result<Loaded, Error> {
        let origin = if applied {
            self.applied()
        } else {
            self.path.display().to_string()
        };
        let checked = |overrides: &Overrides| {
            let loaded = self.parse(text, overrides, origin.clone())?;
            loaded.config.check()?;
            Ok(loaded)
        };
        let none = Overrides::default();
        let error = match checked(overrides) {
            Ok(loaded) => return Ok(loaded),
            Err(error) => error,
        };
        if *overrides != none
            && let Ok(loaded) = checked(&none)
        {
            log::error!("keys changed by command are not used: {error}");
            return Ok(loaded);
        }
        // What is wrong with the file itself is told by who starts the agent.
        if applied {
            Err(error)
        } else {
            self.parse(text, &none, origin.clone())
        }
    }

    fn parse(&self, text: &str, overrides: &Overrides, origin: String) -> Result<Loaded, Error> {
        let prefix = ENVIRONMENT_PREFIX;
        let config: Config = if *overrides == Overrides::default() {
            headwater_config::parse(text, &origin, prefix, environment())?
        } else {
            let changed = "keys changed by command";
            headwater_config::parse_with(text, &origin, prefix, environment(), changed, |table| {
                overrides.apply(table)
            })?
        };
        Ok(Loaded {
            config: config.with_directories(),
            text: text.into(),
            origin,
            overrides: overrides.clone(),
        })
    }

    fn text(&self) -> Result<String, Error> {
        let read = fs::read_to_string(&self.path);
        Ok(read.map_err(|why| headwater_config::Error::Read {
            path: self.path.clone(),
            why,
        })?)
    }

    fn applied(&self) -> String {
        format!("what was applied by command in place of {}", self.path.display())
    }
}

/// Whether settings that came from outside may be used on a machine whose own file says `local`: which commands are carried out, which programs
/// run, and as whom, and who signs the agent's certificate, is not for those to say who send commands.
fn permitted(local: &Config, next: &Config) -> Result<(), Error> {
    let desk = |config: &Config| {
        let enroll = &config.enroll;
        (enroll.url.clone(), enroll.ca.clone(), enroll.pin.clone())
    };
    if desk(local) != desk(next) {
        let key = "enroll".to_string();
        return Err(Error::Local { key });
    }
    let wider = |command: &&CommandName| !local.control.commands.contains(command);
    if let Some(command) = next.control.commands.iter().find(wider) {
        let key = format!("control.commands = \"{}\"", command.as_str());
        return Err(Error::Local { key });
    }
    for (name, program) in &next.control.exec {
        if local.control.exec.get(name) != Some(program) {
            let key = format!("control.exec.{name}");
            return Err(Error::Local { key });
        }
    }
    if next
        .update
        .keys
        .iter()
        .any(|key| !local.update.keys.contains(key))
    {
        let key = "update.keys".to_string();
        return Err(Error::Local { key });
    }
    for source in &next.sources {
        if source.kind.name() == "exec" && !local.sources.contains(source) {
            let key = "source (type exec)".to_string();
            return Err(Error::Local { key });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: &str = "device = 'gw-01'\n[batch]\nage = '10s'\n[[source]]\ntype = 'simulated'\n";

    struct Place {
        folder: tempfile::TempDir,
        settings: Settings,
    }

    impl Place {
        fn new(text: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("agent.toml");
            let state = folder.path().join("state");
            fs::create_dir(&state).unwrap();
            fs::write(&path, format!("state_dir = '{}'\n{text}", state.display())).unwrap();
            let settings = Settings::new(&path);
            Self { folder, settings }
        }

        fn keep(&self, name: &str, text: &str) {
            fs::write(self.folder.path().join("state").join(name), text).unwrap();
        }
    }

    #[test]
    fn what_was_applied_and_changed_stands_over_the_file() {
        let place = Place::new(LOCAL);
        let loaded = place.settings.load().unwrap();
        assert_eq!(loaded.config.batch.age.as_secs(), 10);
        let hash = loaded.config.hash();
        place.keep(OVERRIDES, "\"batch.age\" = \"20s\"\n");
        let loaded = place.settings.load().unwrap();
        assert_eq!(loaded.config.batch.age.as_secs(), 20);
        assert_ne!(loaded.config.hash(), hash, "the hash tells what is in force");
        assert_eq!(
            loaded.status(None).overrides,
            [("batch.age".into(), "\"20s\"".into())]
        );
        let dir = place.folder.path().join("state");
        let applied = format!("state_dir = '{}'\n{}", dir.display(), LOCAL.replace("10s", "30s"));
        place.keep(CONFIG, &applied);
        fs::remove_file(dir.join(OVERRIDES)).unwrap();
        let loaded = place.settings.load().unwrap();
        assert_eq!(loaded.config.batch.age.as_secs(), 30);
        assert!(loaded.origin.contains("applied by command"), "{}", loaded.origin);
    }

    #[test]
    fn the_hash_is_the_same_however_the_settings_are_written() {
        let one = Place::new(LOCAL).settings.local().unwrap().config;
        let text = "# a comment\ndevice='gw-01'\nbatch={age=\"10s\"}\n\n[[source]]\ntype=\"simulated\"\ninterval=\"1s\"\n";
        let mut other = Place::new(text).settings.local().unwrap().config;
        other.state_dir.clone_from(&one.state_dir);
        assert_eq!(one.hash(), other.hash());
    }

    #[test]
    fn what_makes_no_sense_is_left_out_and_the_agent_starts() {
        let place = Place::new(LOCAL);
        for wrong in [
            "\"batch.agee\" = \"20s\"",
            "\"source.x.interval\" = 1",
            "no toml",
            "\"batch.readings\" = 0",
        ] {
            place.keep(OVERRIDES, wrong);
            let loaded = place.settings.load().unwrap();
            assert_eq!(loaded.config.batch.age.as_secs(), 10, "{wrong}");
        }
        for wrong in [
            "no toml",
            "",
            "newer_key = 1\n[[source]]\ntype = 'simulated'",
            "\u{0}",
        ] {
            place.keep(CONFIG, wrong);
            assert_eq!(
                place.settings.load().unwrap().config.device.as_deref(),
                Some("gw-01")
            );
        }
    }

    #[test]
    fn nobody_widens_from_outside_what_may_be_done_from_outside() {
        let place = Place::new(&format!(
            "{LOCAL}[control]\ncommands = ['ping', 'config', 'exec']\n[control.exec]\nup = ['/usr/bin/uptime']\n"
        ));
        let control = |text: &str| {
            let text = format!("{LOCAL}[control]\ncommands = ['ping']\n{text}");
            place.settings.with(&text, &Overrides::default()).map(|_| ())
        };
        control("").unwrap();
        let with = |text: &str| {
            let loaded = place
                .settings
                .with(&format!("{LOCAL}[control]\n{text}"), &Overrides::default());
            loaded.unwrap_err().to_string()
        };
        let error = with("commands = ['ping', 'restart']");
        assert!(
            error.contains("\"restart\"") && error.contains("on the machine itself"),
            "{error}"
        );
        #[cfg(feature = "enroll")]
        {
            let tls = "[uplink.tls]\ncert_file = 'c'\nkey_file = 'k'\n[enroll]\nurl = 'http://127.0.0.1:1'";
            let error = with(tls);
            assert!(error.contains("`enroll`"), "{error}");
        }
        let error = with("commands = ['exec']\n[control.exec]\nup = ['/bin/sh']");
        assert!(error.contains("control.exec.up"), "{error}");
        let error = with("commands = ['exec']\n[control.exec]\nother = ['/usr/bin/uptime']");
        assert!(error.contains("control.exec.other"), "{error}");
        let overrides = Overrides::default()
            .with("control.exec.up", "[\"/bin/sh\"]")
            .unwrap();
        let text = place.settings.text().unwrap();
        let error = place.settings.with(&text, &overrides).unwrap_err().to_string();
        assert!(error.contains("control.exec.up"), "{error}");
    }

    #[cfg(feature = "update")]
    #[test]
    fn a_key_of_releases_can_be_left_out_from_outside_and_none_brought() {
        let keys = [1, 2, 3].map(|seed| crate::update::signature::tests::Signer::new(seed).public());
        let text = |keys: &[String]| format!("{LOCAL}[update]\nkeys = {keys:?}\n");
        let place = Place::new(&text(&keys[..2]));
        let with = |keys: &[String]| place.settings.with(&text(keys), &Overrides::default());
        assert_eq!(with(&keys[1..2]).unwrap().config.update.keys, keys[1..2]);
        for brought in [&keys[1..], &keys[2..]] {
            let error = with(brought).unwrap_err().to_string();
            assert!(error.contains("update.keys"), "{error}");
        }
    }
}
