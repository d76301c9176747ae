//! Settings that came from a file: read again, changed by command, tried, rolled back.

use std::path::Path;
use std::time::Instant;

use super::command::{Commands, Outcome};
use super::ledger::Ledger;
use super::overrides::Overrides;
use super::settings::{CONFIG_MAX, Loaded, Settings};
use super::trial::{OVERRIDES, Trial};
use super::{Controller, beside};
use crate::state::{NoLock, State};
use crate::{Config, Error};

/// The file with the commands that were carried out.
const COMMANDS: &str = "commands";

/// Settings from a file, and the state directory that keeps what commands change.
#[derive(Debug)]
pub(crate) struct FileSettings {
    settings: Settings,
    state: Option<State>,
    pub(crate) loaded: Loaded,
    /// What the last process was carrying out when it ended: the reply is still owed.
    owed: Option<(String, Outcome)>,
    ledger: Option<Ledger>,
}

/// Settings on trial.
#[derive(Debug)]
pub(crate) struct Trying {
    trial: Trial,
    until: Instant,
    /// What is gone back to.
    before: Box<Config>,
}

impl Trying {
    /// The command's id.
    pub(crate) fn id(&self) -> &str {
        &self.trial.id
    }
}

impl FileSettings {
    /// The directory that keeps what commands change.
    pub(crate) fn state(&self) -> Option<State> {
        self.state.clone()
    }

    /// The state directory that settings name, whatever else is wrong with them.
    #[cfg(feature = "update")]
    pub(crate) fn state_of(path: &Path) -> Option<State> {
        Settings::new(path).state()
    }

    /// Reads the settings, and leaves everything as it is.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(crate) fn look(path: &Path) -> Result<Loaded, Error> {
        Settings::new(path).load()
    }

    /// Reads the settings. A trial that the last process did not end is rolled back first.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let settings = Settings::new(path);
        let state = settings.state();
        let mut owed = None;
        let mut ledger = Ledger::default();
        if let Some(state) = &state {
            // Another agent's trial is its own business; that it holds the directory is told when this one takes it.
            let lock = state.lock();
            let found = match lock {
                Err(NoLock::Held(_)) => Ok(None),
                _ => Trial::found(state),
            };
            let recovered = found.and_then(|found| {
                let Some(trial) = found else { return Ok(()) };
                trial.roll_back(state)?;
                let output = "rolled back: the agent ended before the relay had answered it; the settings before are in force";
                log::error!("settings of command {}: {output}", trial.id);
                owed = Some((trial.id, Outcome::failed(output)));
                Ok(())
            });
            if let Err(error) = recovered {
                log::error!(
                    "{}: {error}; settings on trial cannot be rolled back",
                    state.dir().display()
                );
            }
            match state.read(COMMANDS) {
                Ok(content) => ledger = Ledger::read(&content.unwrap_or_default()),
                Err(error) => log::error!("{}/{COMMANDS}: {error}", state.dir().display()),
            }
        }
        let loaded = settings.load()?;
        Ok(Self {
            settings,
            state,
            loaded,
            owed,
            ledger: Some(ledger),
        })
    }
}

impl Controller {
    /// The settings came from a file: commands may change them.
    pub(crate) async fn steer_by(&mut self, file: Option<FileSettings>) {
        self.file = file;
        if let Some(file) = &mut self.file {
            let ledger = file.ledger.take().unwrap_or_default();
            self.commands = Commands::new(self.setup.device(), ledger);
            if let Some((id, outcome)) = file.owed.take() {
                self.finish(&id, &outcome, true).await;
            }
        }
        self.open_updates().await;
        self.show();
    }

    /// Reads the settings again and goes on by them.
    pub(super) async fn reload_file(&mut self) -> Result<(), Error> {
        let settings = self.file.as_ref().ok_or(Error::NoFile)?.settings.clone();
        let loaded = beside(move || settings.load()).await?;
        self.reload(loaded.config.clone(), Some(loaded)).await
    }

    /// Keeps what has to outlive the process of the commands carried out.
    pub(super) async fn keep_commands(&self) {
        let Some(state) = self.file.as_ref().and_then(|file| file.state.clone()) else {
            return;
        };
        let content = self.commands.content();
        if let Err(error) = beside(move || state.write(COMMANDS, &content)).await {
            log::error!(
                "a command was carried out, and a repeat after a restart may not be told from it: {error}"
            );
        }
    }

    /// `set`: changes a key, or takes a change back; without arguments, lists them.
    pub(super) async fn set(&mut self, arguments: &[String]) -> Outcome {
        let Some((file, state)) = self.changeable() else {
            return Outcome::refused(UNCHANGEABLE);
        };
        let overrides = &file.loaded.overrides;
        let next = match arguments {
            [] => {
                let list: Vec<String> = overrides
                    .list()
                    .iter()
                    .map(|(key, value)| format!("{key} = {value}"))
                    .collect();
                return Outcome::ok(list.join("\n"));
            }
            [key, unset] | [unset, key] if unset == "--unset" => match overrides.without(key) {
                Some(next) => Ok(next),
                None => Err(format!("{key} is not changed")),
            },
            [key, value] => match locked(key) {
                Some(why) => Err(why),
                None => overrides.with(key, value),
            },
            _ => Err("give KEY VALUE, or --unset KEY".into()),
        };
        let next = match next {
            Ok(next) => next,
            Err(why) => return Outcome::refused(why),
        };
        if let Some(trying) = &self.trying {
            return on_trial(trying);
        }
        let (settings, text, origin) = (
            file.settings.clone(),
            file.loaded.text.clone(),
            file.loaded.origin.clone(),
        );
        let laid = next.clone();
        let loaded = match beside(move || settings.with(&text, &laid)).await {
            Ok(loaded) => Loaded { origin, ..loaded },
            Err(error) => return Outcome::refused(format!("{}: {error}", arguments.join(" "))),
        };
        if let Err(error) = self.reload(loaded.config.clone(), Some(loaded)).await {
            return Outcome::refused(format!("{}: {error}", arguments.join(" ")));
        }
        let text = next.text();
        let kept = beside(move || {
            if next == Overrides::default() {
                state.remove(OVERRIDES)
            } else {
                state.write(OVERRIDES, text.as_bytes())
            }
        });
        match kept.await {
            Ok(()) => Outcome::ok(self.told()),
            Err(error) => Outcome::failed(format!(
                "in force until the next start only, it cannot be kept: {error}"
            )),
        }
    }

    /// `config get`: the configuration in force, as text.
    pub(super) fn get(&self) -> Outcome {
        let Some(file) = &self.file else {
            return Outcome::refused(Error::NoFile.to_string());
        };
        let mut text = format!("# {}\n{}", file.loaded.origin, file.loaded.text);
        for (key, value) in file.loaded.overrides.list() {
            text.push_str(&format!("\n# changed by command: {key} = {value}"));
        }
        Outcome::ok(text)
    }

    /// `config apply`: a whole configuration, on trial; `None` as `text`: the machine's own file again. `None` is returned while it is on
    /// trial: the outcome follows.
    pub(super) async fn apply(&mut self, id: &str, text: Option<&str>) -> Option<Outcome> {
        let Some((file, state)) = self.changeable() else {
            return Some(Outcome::refused(UNCHANGEABLE));
        };
        if let Some(trying) = &self.trying {
            return Some(on_trial(trying));
        }
        if self.updates.on_trial() {
            return Some(Outcome::refused(
                "a new version of the agent is on trial; try again",
            ));
        }
        if let Some(length) = text.map(str::len).filter(|length| *length > CONFIG_MAX) {
            return Some(Outcome::refused(format!(
                "{length} bytes are more than {CONFIG_MAX}"
            )));
        }
        let (settings, wanted) = (file.settings.clone(), text.map(str::to_string));
        let read = move || match &wanted {
            Some(text) => settings.with(text, &Overrides::default()),
            None => settings.local(),
        };
        let loaded = match beside(read).await {
            Ok(loaded) => loaded,
            Err(error) => return Some(Outcome::refused(error.to_string())),
        };
        let begin = {
            let (state, id, text) = (state.clone(), id.to_string(), text.map(str::to_string));
            move || Trial::begin(&state, &id, text.as_deref())
        };
        let trial = match beside(begin).await {
            Ok(trial) => trial,
            Err(error) => {
                return Some(Outcome::failed(format!(
                    "nothing is changed, it cannot be kept: {error}"
                )));
            }
        };
        let before = Box::new(self.setup.config.clone());
        let confirm = before.control.confirm;
        let until = Instant::now() + confirm;
        self.trying = Some(Trying { trial, until, before });
        if let Err(error) = self.reload(loaded.config.clone(), Some(loaded)).await {
            let trying = self.trying.take();
            self.show();
            let roll_back = move || trying.map_or(Ok(()), |trying| trying.trial.roll_back(&state));
            let kept = beside(roll_back)
                .await
                .err()
                .map_or(String::new(), |error| format!(" ({error})"));
            return Some(Outcome::refused(format!(
                "{error}; the settings before are in force{kept}"
            )));
        }
        log::warn!(
            "settings of command {id} are on trial: they are rolled back unless the relay answers within {confirm:?}"
        );
        None
    }

    /// Looks whether what is on trial holds, or its time is over.
    pub(super) async fn look(&mut self, now: Instant) {
        let answered = self.handle.stats().connected;
        let Some(trying) = self.trying.take_if(|trying| answered || now >= trying.until) else {
            return;
        };
        let state = self.file.as_ref().and_then(|file| file.state.clone());
        let trial = trying.trial;
        let id = trial.id.clone();
        let outcome = if answered {
            let confirmed = beside(move || state.map_or(Ok(()), |state| trial.confirm(&state))).await;
            match confirmed {
                Ok(()) => Outcome::ok(self.told()),
                Err(error) => Outcome::failed(format!(
                    "in force until the next start, which rolls it back: the state directory cannot be written: {error}"
                )),
            }
        } else {
            let reason = self
                .handle
                .link_error()
                .unwrap_or_else(|| "the relay did not answer".into());
            let kept = beside(move || state.map_or(Ok(()), |state| trial.roll_back(&state))).await;
            let mut output = format!("rolled back: {reason}; the settings before are in force");
            if let Err(error) = kept {
                output = format!("{output} ({error})");
            }
            let settings = self.file.as_ref().map(|file| file.settings.clone());
            let loaded = beside(move || settings.and_then(|settings| settings.load().ok())).await;
            if let Err(error) = self.reload(*trying.before, loaded).await {
                output = format!("{output} after a restart ({error})");
                self.restart = true;
            }
            Outcome::failed(output)
        };
        log::warn!("settings of command {id}: {}", outcome.output);
        self.finish(&id, &outcome, true).await;
        self.show();
    }

    fn changeable(&self) -> Option<(&FileSettings, State)> {
        let file = self.file.as_ref()?;
        Some((file, file.state.clone()?))
    }
}

/// Why settings cannot be changed by command.
const UNCHANGEABLE: &str = "settings can be changed by command where they came from a file and there is a state_dir to keep the change in";

fn on_trial(trying: &Trying) -> Outcome {
    Outcome::refused(format!("the settings of command {} are on trial", trying.id()))
}

/// Why a key may not be changed by itself.
fn locked(key: &str) -> Option<String> {
    let first = key.split('.').next().unwrap_or_default().trim();
    match first {
        "uplink" => Some(
            "settings of the uplink are changed with `config apply`, which is rolled back if the relay is not reached by them".into(),
        ),
        "control" | "device" | "state_dir" | "update" => Some(format!("{first} is changed on the machine itself, or with `config apply`")),
        _ => None,
    }
}
