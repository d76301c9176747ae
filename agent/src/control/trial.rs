//! Settings on trial: applied by command, and rolled back unless the relay answers the agent that runs by them. What is needed for going back
//! is on the medium before anything is changed, in one file (`trial` of the state directory), so that a process or a machine that dies
//! at any moment in between comes back with what was in force before:
//!
//! 1. `trial` is written: the command, and the configuration and overrides before it.
//! 2. `config.toml` is replaced, `overrides.toml` removed; the agent goes on by them.
//! 3. The relay answers: `trial` is removed, and that is the moment from which on the new settings hold.
//!    It does not: `config.toml` and `overrides.toml` are put back, then `trial` is removed. A start that finds `trial` does the same.

use std::io;

use serde::{Deserialize, Serialize};

use crate::state::State;

/// The files, in the state directory.
const TRIAL: &str = "trial";
pub(crate) const CONFIG: &str = "config.toml";
pub(crate) const OVERRIDES: &str = "overrides.toml";

/// A trial that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Trial {
    /// The command's id.
    pub(crate) id: String,
    /// What stood in the files before; `None`: they were not there.
    config: Option<String>,
    overrides: Option<String>,
}

impl Trial {
    /// Steps 1 and 2: the files are those of the trial. It blocks.
    ///
    /// # Errors
    /// What the system says; then everything is as it was.
    pub(crate) fn begin(state: &State, id: &str, config: Option<&str>) -> io::Result<Self> {
        let trial = Self {
            id: id.into(),
            config: text(state, CONFIG)?,
            overrides: text(state, OVERRIDES)?,
        };
        let content = serde_json::to_vec(&trial).map_err(io::Error::other)?;
        state.write(TRIAL, &content)?;
        let put = put(state, CONFIG, config).and_then(|()| state.remove(OVERRIDES));
        match put {
            Ok(()) => Ok(trial),
            Err(error) => {
                trial.roll_back(state)?;
                Err(error)
            }
        }
    }

    /// The trial that a process before this one left behind.
    ///
    /// # Errors
    /// What the system says. A file that is not whole was never a trial: it is removed.
    pub(crate) fn found(state: &State) -> io::Result<Option<Self>> {
        let Some(content) = state.read(TRIAL)? else {
            return Ok(None);
        };
        match serde_json::from_slice(&content) {
            Ok(trial) => Ok(Some(trial)),
            Err(error) => {
                log::error!("the file {TRIAL} in the state directory is damaged and removed: {error}");
                state.remove(TRIAL)?;
                Ok(None)
            }
        }
    }

    /// The settings hold. It blocks.
    ///
    /// # Errors
    /// What the system says; then the trial may still be found by the next start.
    pub(crate) fn confirm(&self, state: &State) -> io::Result<()> {
        state.remove(TRIAL)
    }

    /// The settings before hold again. It blocks; doing it twice is harmless.
    ///
    /// # Errors
    /// What the system says; then the next start does it.
    pub(crate) fn roll_back(&self, state: &State) -> io::Result<()> {
        put(state, CONFIG, self.config.as_deref())?;
        put(state, OVERRIDES, self.overrides.as_deref())?;
        state.remove(TRIAL)
    }
}

fn text(state: &State, name: &str) -> io::Result<Option<String>> {
    let Some(content) = state.read(name)? else {
        return Ok(None);
    };
    String::from_utf8(content).map(Some).map_err(io::Error::other)
}

fn put(state: &State, name: &str, content: Option<&str>) -> io::Result<()> {
    match content {
        Some(content) => state.write(name, content.as_bytes()),
        None => state.remove(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(state: &State) -> (Option<String>, Option<String>) {
        (text(state, CONFIG).unwrap(), text(state, OVERRIDES).unwrap())
    }

    fn state() -> (tempfile::TempDir, State) {
        let folder = tempfile::tempdir().unwrap();
        let state = State::new(folder.path().to_path_buf());
        (folder, state)
    }

    #[test]
    fn a_trial_is_confirmed_or_rolled_back() {
        let (_folder, state) = state();
        let trial = Trial::begin(&state, "1", Some("new")).unwrap();
        assert_eq!(files(&state), (Some("new".into()), None));
        assert_eq!(Trial::found(&state).unwrap(), Some(trial.clone()));
        trial.confirm(&state).unwrap();
        assert_eq!(Trial::found(&state).unwrap(), None);
        state.write(OVERRIDES, b"a = 1").unwrap();
        let trial = Trial::begin(&state, "2", Some("newer")).unwrap();
        assert_eq!(files(&state), (Some("newer".into()), None));
        trial.roll_back(&state).unwrap();
        assert_eq!(files(&state), (Some("new".into()), Some("a = 1".into())));
        let trial = Trial::begin(&state, "3", None).unwrap();
        assert_eq!(files(&state), (None, None));
        trial.roll_back(&state).unwrap();
        assert_eq!(files(&state), (Some("new".into()), Some("a = 1".into())));
        assert_eq!(Trial::found(&state).unwrap(), None);
    }

    /// Each of the writes of a trial, done or not: what a start finds goes back to what was before, or was never begun.
    #[test]
    fn a_death_at_any_moment_comes_back_with_what_was_before() {
        let before = (Some("old".to_string()), Some("a = 1".to_string()));
        for steps in 0..=5 {
            let (_folder, state) = state();
            state.write(CONFIG, b"old").unwrap();
            state.write(OVERRIDES, b"a = 1").unwrap();
            let trial = Trial {
                id: "1".into(),
                config: before.0.clone(),
                overrides: before.1.clone(),
            };
            let content = serde_json::to_vec(&trial).unwrap();
            let writes: [&dyn Fn(); 5] = [
                &|| state.write(TRIAL, &content).unwrap(),
                &|| state.write(CONFIG, b"new").unwrap(),
                &|| state.remove(OVERRIDES).unwrap(),
                // In the middle of going back.
                &|| state.write(CONFIG, b"old").unwrap(),
                &|| state.write(OVERRIDES, b"a = 1").unwrap(),
            ];
            writes.iter().take(steps).for_each(|write| write());
            if let Some(found) = Trial::found(&state).unwrap() {
                found.roll_back(&state).unwrap();
            }
            assert_eq!(files(&state), before, "after {steps} steps");
            assert_eq!(Trial::found(&state).unwrap(), None);
        }
    }

    #[test]
    fn a_damaged_trial_keeps_nobody_from_starting() {
        let (_folder, state) = state();
        state.write(TRIAL, b"{\"id\": \"1\"").unwrap();
        assert_eq!(Trial::found(&state).unwrap(), None);
        assert_eq!(state.read(TRIAL).unwrap(), None);
    }
}
