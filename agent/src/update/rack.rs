//! The slots and what is in them: every step of an update, in the order in which it has to be on the medium.
//!
//! 1. **Begun** ([`Rack::begin`]): the slot that is not in use is emptied, then the state names what is to come into it.
//! 2. **Piece by piece** ([`Rack::piece`]): the piece, then the state that knows of it.
//! 3. **Whole** ([`Rack::complete`]): its sum is that of the signed manifest, it is made one that can be run, and then the state says that it is on
//!    trial. From here on a start may choose it.
//! 4. **Each start of a trial** ([`Rack::launch`]) is counted in the state before it is made; and what is in the slot has its sum taken again.
//! 5. **The end** ([`Rack::confirm`], [`Rack::give_up`]): one state, which says that it holds, or that it is gone and why.
//!
//! So a power cut between any two of them leaves a state that names the program which held before, untouched, or the new one, whole; and of what is
//! in a slot nothing runs whose sum is not that of a manifest that was signed. `model.rs` tries every one of them.

use std::io;

use super::medium::Medium;
use super::slots::{Begun, NOT_INSTALLED, Next, Outcome, Program, ROLLED_BACK, Slot, Slots, Trial};
use crate::version::is_newer;

/// A program on trial that has ended by itself so often, while the machine ran on, is bad.
const ENDS_MAX: u32 = 3;
/// And one that was started so often without having reached the relay, whatever ended it: power cuts are not its fault, but they cannot all be.
const STARTS_MAX: u32 = 10;

/// Slots, and the medium they are on.
#[derive(Debug)]
pub(crate) struct Rack<M> {
    pub(crate) slots: Slots,
    pub(crate) medium: M,
}

impl<M: Medium> Rack<M> {
    /// What the medium has. A state that is not whole is none: the packaged program runs.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn open(medium: M) -> io::Result<Self> {
        let slots = match medium.load()? {
            None => Slots::default(),
            Some(content) => Slots::read(&content).unwrap_or_else(|| {
                log::error!("the state of the slots is damaged, and not believed: the packaged program runs");
                Slots::default()
            }),
        };
        Ok(Self { slots, medium })
    }

    /// Removes what the state does not name: the program before the one that holds, and what a power cut has kept from being removed.
    pub(crate) fn tidy(&mut self) {
        for slot in [Slot::A, Slot::B] {
            let next = self.slots.next.as_ref().map(|next| &next.program);
            let mut named = self.slots.current.iter().chain(next);
            if !named.any(|program| program.slot == slot) {
                told(self.medium.discard(slot));
            }
        }
    }

    fn save(&mut self, slots: Slots) -> io::Result<()> {
        self.medium.save(&slots.content())?;
        self.slots = slots;
        Ok(())
    }

    /// Which slot the packaged program, whose version this is, is to give way to; `None`: it is to run itself. `now` is this moment. Where nothing
    /// can be written, nothing is tried.
    pub(crate) fn launch(&mut self, packaged: &str, now: &Begun) -> Option<Slot> {
        let outdated = |program: &Program| is_outdated(program, packaged);
        if self
            .slots
            .next
            .as_ref()
            .is_some_and(|next| outdated(&next.program))
        {
            let why =
                format!("{NOT_INSTALLED}the package {packaged}, which was installed meanwhile, is not older");
            told(self.give_up(&why));
        }
        if self.slots.current.as_ref().is_some_and(outdated) {
            log::info!("the package {packaged} is newer than what came by an update: it runs");
            told(self.drop_current());
        }
        if let Some(slot) = self.try_next(now) {
            return Some(slot);
        }
        let current = self.slots.current.clone()?;
        match self.fault(&current) {
            None => Some(current.slot),
            Some(fault) => {
                log::error!(
                    "{} in its slot {fault}: the packaged program runs",
                    current.version
                );
                told(self.drop_current());
                None
            }
        }
    }

    /// The program that holds, if the packaged one is to give way to it. Nothing is changed.
    pub(crate) fn holding(&self, packaged: &str) -> Option<&Program> {
        let current = self.slots.current.as_ref();
        current.filter(|program| !is_outdated(program, packaged))
    }

    /// Counts a start of what is on trial, if it is to have one.
    fn try_next(&mut self, now: &Begun) -> Option<Slot> {
        let (next, trial) = self.slots.on_trial()?;
        let (program, within, mut trial) = (next.program.clone(), next.within, trial.clone());
        let version = &program.version;
        let mut lasted = None;
        if let Some(begun) = trial.begun.take().filter(|begun| begun.boot == now.boot) {
            let seconds = now.uptime.saturating_sub(begun.uptime);
            lasted = Some(seconds);
            trial.ends += 1;
        }
        let why = match lasted {
            Some(seconds) if seconds >= within => Some(format!(
                "{version} did not reach the relay within {within} s, and was ended from outside: it hung"
            )),
            Some(seconds) if trial.ends >= ENDS_MAX => Some(format!(
                "{version} ended by itself {ENDS_MAX} times before it had reached the relay, the last time after {seconds} s"
            )),
            _ if trial.starts >= STARTS_MAX => Some(format!(
                "{version} was started {STARTS_MAX} times, and never ran on until it had reached the relay"
            )),
            _ => self
                .fault(&program)
                .map(|fault| format!("{version} in its slot {fault}")),
        };
        if let Some(why) = why {
            told(self.give_up(&format!("{ROLLED_BACK}{why}")));
            return None;
        }
        trial.starts += 1;
        trial.begun = Some(now.clone());
        let mut slots = self.slots.clone();
        slots.next.as_mut()?.trial = Some(trial);
        match self.save(slots) {
            Ok(()) => Some(program.slot),
            Err(error) => {
                log::error!("{version} is not tried: its start cannot be counted: {error}");
                None
            }
        }
    }

    /// What keeps a program from being run.
    fn fault(&self, program: &Program) -> Option<String> {
        match self.medium.sum(program.slot, program.size) {
            Ok(Some(sum)) if sum == program.sha256 => None,
            Ok(_) => Some("is not what was signed".into()),
            Err(error) => Some(format!("cannot be read: {error}")),
        }
    }

    /// What [`Rack::launch`] has chosen cannot be started.
    pub(crate) fn unusable(&mut self, slot: Slot, why: &io::Error) {
        let on_trial = self.slots.on_trial().map(|(next, _)| next.program.clone());
        match on_trial.filter(|program| program.slot == slot) {
            Some(program) => {
                let version = program.version;
                told(self.give_up(&format!(
                    "{ROLLED_BACK}{version} cannot be started: {why}; is the state directory mounted noexec?"
                )));
            }
            None => {
                log::error!("what is in slot {} cannot be started: {why}", slot.name());
                told(self.drop_current());
            }
        }
    }

    fn drop_current(&mut self) -> io::Result<()> {
        let Some(current) = self.slots.current.clone() else {
            return Ok(());
        };
        let slots = Slots {
            current: None,
            ..self.slots.clone()
        };
        // Where it cannot be written, it is to hold for this start at least.
        self.slots = slots.clone();
        self.save(slots)?;
        self.medium.discard(current.slot)
    }

    /// An update begins: step 1. It goes into [`Slots::free`].
    ///
    /// # Errors
    /// What the system says; then it has not begun.
    pub(crate) fn begin(&mut self, next: Next) -> io::Result<()> {
        self.medium.discard(next.program.slot)?;
        self.save(Slots {
            next: Some(next),
            ..self.slots.clone()
        })
    }

    /// The next piece of what is on its way: step 2. `tag`: what the server calls it; `spent`: bytes that have passed for it so far.
    ///
    /// # Errors
    /// What the system says; then the piece is not known.
    pub(crate) fn piece(&mut self, piece: &[u8], tag: &str, spent: u64) -> io::Result<()> {
        let mut slots = self.slots.clone();
        let Some(next) = slots.next.as_mut().filter(|next| next.trial.is_none()) else {
            return Ok(());
        };
        self.medium.extend(next.program.slot, next.have, piece)?;
        next.have += piece.len() as u64;
        next.tag = tag.into();
        next.spent = spent;
        self.save(slots)
    }

    /// What is on its way begins anew; but what it has cost is spent.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn anew(&mut self, spent: u64) -> io::Result<()> {
        let mut slots = self.slots.clone();
        if let Some(next) = &mut slots.next {
            next.have = 0;
            next.tag.clear();
            next.spent = spent;
        }
        self.save(slots)
    }

    /// All of it is there: step 3. Returns whether it is what was signed; if it is not, the update is given up.
    ///
    /// # Errors
    /// What the system says; then it is not on trial.
    pub(crate) fn complete(&mut self) -> io::Result<bool> {
        let mut slots = self.slots.clone();
        let Some(next) = &mut slots.next else {
            return Ok(false);
        };
        let program = &next.program;
        match self.medium.sum(program.slot, program.size)? {
            Some(sum) if sum == program.sha256 => {}
            _ => {
                let version = &program.version;
                self.give_up(&format!(
                    "{NOT_INSTALLED}what was downloaded as {version} is not what was signed; the server has another file under this name, or altered it"
                ))?;
                return Ok(false);
            }
        }
        self.medium.enable(program.slot)?;
        next.trial = Some(Trial::default());
        self.save(slots)?;
        Ok(true)
    }

    /// What is on trial has reached the relay: step 5.
    ///
    /// # Errors
    /// What the system says; then it is still on trial.
    pub(crate) fn confirm(&mut self) -> io::Result<()> {
        let Some((next, _)) = self.slots.on_trial() else {
            return Ok(());
        };
        let before = match &self.slots.current {
            Some(current) => &current.version,
            None => &next.program.packaged,
        };
        let what = format!("updated from {before} to {}", next.program.version);
        let slots = Slots {
            current: Some(next.program.clone()),
            next: None,
            last: Some(outcome(next, true, &what)),
        };
        self.save(slots)
    }

    /// What is on its way or on trial is given up: step 5. `why` is whole, for a person, and begins with [`ROLLED_BACK`] or [`NOT_INSTALLED`].
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn give_up(&mut self, why: &str) -> io::Result<()> {
        let Some(next) = &self.slots.next else {
            return Ok(());
        };
        log::error!("{why}");
        let slot = next.program.slot;
        let slots = Slots {
            last: Some(outcome(next, false, why)),
            next: None,
            current: self.slots.current.clone(),
        };
        self.save(slots)?;
        // Left over, it would only take room.
        self.medium.discard(slot)
    }

    /// What is on trial ends as it was asked to: it is no sign of a fault.
    ///
    /// # Errors
    /// What the system says; then it counts as one.
    pub(crate) fn pause(&mut self) -> io::Result<()> {
        let mut slots = self.slots.clone();
        match slots.next.as_mut().and_then(|next| next.trial.as_mut()) {
            Some(trial) if trial.begun.is_some() => trial.begun = None,
            _ => return Ok(()),
        }
        self.save(slots)
    }
}

fn outcome(next: &Next, updated: bool, what: &str) -> Outcome {
    Outcome {
        updated,
        version: next.program.version.clone(),
        sha256: next.program.sha256.clone(),
        command: next.command.clone(),
        what: what.into(),
    }
}

/// Whether the packaged program came after this one, and is not older.
fn is_outdated(program: &Program, packaged: &str) -> bool {
    packaged != program.packaged && !is_newer(&program.version, packaged)
}

/// What goes wrong where a start must go on is told.
fn told(result: io::Result<()>) {
    if let Err(error) = result {
        log::error!("the slots cannot be written: {error}");
    }
}
