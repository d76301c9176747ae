//! The first thing that a started program does: it becomes the program that is to run.

use std::fmt::Display;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::unistd::alarm;
use rustix::time::{ClockId, clock_gettime};

use super::medium::Directory;
use super::rack::Rack;
use super::slots::{Begun, ROLLED_BACK, Slot};
use crate::control::FileSettings;
use crate::host;
use crate::process::SLOT;
use crate::version;

/// Seconds that a stop may take besides `uplink.stop_timeout`: sources end, the journal is written, the broker is told goodbye.
const STOP_MARGIN: u32 = 30;

/// Starts the program that came by an update in the place of this one, if there is one that is to run. It returns where this one is to run itself:
/// always in a program that was started so.
pub fn launch(config: &Path) {
    if slot().is_some() {
        return;
    }
    let Some(state) = FileSettings::state_of(config).filter(|state| state.dir().join("slots/state").exists())
    else {
        return;
    };
    // Another agent's slots are its own business; that it holds the directory is told when this one takes it. It is let go with execve(2).
    let Ok(_lock) = state.lock() else { return };
    let directory = Directory::of(&state);
    let mut rack = match Rack::open(directory.clone()) {
        Ok(rack) => rack,
        Err(error) => return log::error!("the slots cannot be read, and the packaged program runs: {error}"),
    };
    while let Some(slot) = rack.launch(version::current(), &now()) {
        let on_trial = rack
            .slots
            .on_trial()
            .filter(|(next, _)| next.program.slot == slot);
        let watch = on_trial.map(|(next, _)| watch(next.within));
        if let Some(seconds) = watch {
            alarm::set(seconds);
        }
        let mut arguments = std::env::args_os();
        let own = arguments.next().unwrap_or_default();
        let error = Command::new(directory.path(slot))
            .arg0(own)
            .args(arguments)
            .env(SLOT, slot.name())
            .exec();
        calm();
        rack.unusable(slot, &error);
    }
}

/// Seconds after which a start that has neither reached the relay nor given up is ended from outside: a quarter more than it has for that.
fn watch(within: u64) -> u32 {
    u32::try_from(within + within / 4 + 5).unwrap_or(u32::MAX)
}

/// The slot that this program was started in; `None`: it is the packaged one.
pub(crate) fn slot() -> Option<Slot> {
    Slot::parse(std::env::var(SLOT).ok()?.as_str())
}

/// What came by an update and is run in place of this program, in words. Nothing is changed: a trial may be under way.
pub(crate) fn instead(config: &Path) -> Option<String> {
    if slot().is_some() {
        return None;
    }
    let directory = Directory::of(&FileSettings::state_of(config)?);
    let rack = Rack::open(directory.clone()).ok()?;
    let (own, program) = (version::current(), rack.holding(version::current())?);
    let place = directory.path(program.slot);
    Some(format!(
        "{} runs from {}; this is {own}, of the package",
        program.version,
        place.display()
    ))
}

/// The watch over a trial is over.
pub(crate) fn calm() {
    alarm::cancel();
}

/// The trial is decided, or ends with its process, which stops now within this time: the watch over it, if there is one, is over whether it stops. To be
/// ended on the way would cost the goodbye, and, where nobody starts the agent again, the way back.
pub(crate) fn watch_stop(timeout: Duration) {
    if alarm::cancel().is_some() {
        alarm::set(
            u32::try_from(timeout.as_secs())
                .unwrap_or(u32::MAX)
                .saturating_add(STOP_MARGIN),
        );
    }
}

/// The agent has ended as it was asked to: if it was on trial, that is no sign of a fault.
pub fn stopped(config: &Path) {
    of_trial(config, |rack| rack.pause());
}

/// The agent cannot go on, and why. If it was on trial, that is its end, and `true` is returned: the process is to be replaced.
pub fn gave_up(config: &Path, why: &dyn Display) -> bool {
    of_trial(config, |rack| {
        let version = version::current();
        rack.give_up(&format!("{ROLLED_BACK}{version} could not go on: {why}"))
    })
}

/// Does something about the trial that this process is; returns whether it is one.
fn of_trial(config: &Path, then: impl FnOnce(&mut Rack<Directory>) -> io::Result<()>) -> bool {
    let Some((slot, state)) = slot().zip(FileSettings::state_of(config)) else {
        return false;
    };
    // Its own agent has ended; another one's would be no business of this process.
    let Ok(_lock) = state.lock() else { return false };
    let Ok(mut rack) = Rack::open(Directory::of(&state)) else {
        return false;
    };
    let mine = rack
        .slots
        .on_trial()
        .is_some_and(|(next, _)| next.program.slot == slot);
    if mine && let Err(error) = then(&mut rack) {
        log::error!("the slots cannot be written: {error}");
    }
    mine
}

/// This moment.
fn now() -> Begun {
    let time = clock_gettime(ClockId::Boottime);
    Begun {
        boot: host::boot_id(),
        uptime: u64::try_from(time.tv_sec).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::super::slots::{Program, Slots};
    use super::*;

    #[test]
    fn what_runs_in_the_place_of_the_packaged_program_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let (config, state) = (temp.path().join("agent.toml"), temp.path().join("state"));
        let text = format!(
            "state_dir = {:?}\n[uplink]\nbroker = \"mqtt://localhost\"\n",
            state.display().to_string()
        );
        std::fs::write(&config, text).unwrap();
        assert_eq!(instead(&config), None);
        std::fs::create_dir_all(state.join("slots")).unwrap();
        let put = |version: &str, packaged: &str| {
            let current = Some(Program {
                slot: Slot::B,
                version: version.into(),
                size: 1,
                sha256: "00".repeat(32),
                packaged: packaged.into(),
            });
            let slots = Slots {
                current,
                ..Slots::default()
            };
            std::fs::write(state.join("slots/state"), slots.content()).unwrap();
        };
        put("99.0.0", version::current());
        let says = format!(
            "99.0.0 runs from {}; this is {}, of the package",
            state.join("slots/b").display(),
            version::current()
        );
        assert_eq!(instead(&config), Some(says));
        // A package that was installed later, and is newer, wins.
        put("0.0.1", "0.0.0");
        assert_eq!(instead(&config), None);
    }
}
