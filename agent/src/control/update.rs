//! The command `update`: takes a release that was signed, tells how it goes, and watches the trial that this process may be.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::command::Outcome;
use super::{Controller, beside};
use crate::http::client::Url;
use crate::mqtt::socket::Ways;
use crate::pipeline::Order;
use crate::update::fetch::{Fetch, Shared, on, told};
use crate::update::manifest::File;
use crate::update::medium::Directory;
use crate::update::rack::Rack;
use crate::update::signature::{Key, verify};
use crate::update::slots::{Next, Program, ROLLED_BACK, Slots};
use crate::update::{calm, slot, watch_stop};
use crate::version::is_newer;
use crate::{config, status, task, version};

/// What updates have under way.
pub(super) struct Updates {
    /// `None`: there is no place for programs.
    rack: Option<Shared>,
    fetching: Option<JoinHandle<bool>>,
    /// Until when this process, which is on trial, has to have reached the relay.
    until: Option<Instant>,
    /// When the open batch is to be closed, so that there is one which can be acknowledged in time.
    close: Instant,
}

impl Default for Updates {
    fn default() -> Self {
        Self {
            rack: None,
            fetching: None,
            until: None,
            close: Instant::now(),
        }
    }
}

impl Drop for Updates {
    fn drop(&mut self) {
        if let Some(fetching) = &self.fetching {
            fetching.abort();
        }
    }
}

impl Updates {
    /// Whether this process is on trial.
    pub(super) fn on_trial(&self) -> bool {
        self.until.is_some()
    }

    /// Ends all of it: the agent stops, within this time.
    pub(super) fn stop(&mut self, timeout: Duration) {
        *self = Self::default();
        watch_stop(timeout);
    }

    /// Waits until what is being fetched is whole, or given up.
    pub(super) async fn fetched(&mut self) -> bool {
        let Some(fetching) = &mut self.fetching else {
            return std::future::pending().await;
        };
        let whole = fetching.await.unwrap_or(false);
        self.fetching = None;
        whole
    }
}

/// What is given with the command.
struct Given<'a> {
    manifest: &'a str,
    signature: &'a str,
    /// Where the manifest's files are.
    base: &'a str,
    /// Older, or another of the same version, or one that has failed.
    force: bool,
}

impl<'a> Given<'a> {
    fn read(arguments: &'a [String]) -> Option<Self> {
        let (manifest, signature, base, force) = match arguments {
            [manifest, signature, base] => (manifest, signature, base, false),
            [manifest, signature, base, force] if force == "--force" => (manifest, signature, base, true),
            _ => return None,
        };
        Some(Self {
            manifest,
            signature,
            base,
            force,
        })
    }

    /// The program that it asks for, and where it is.
    ///
    /// # Errors
    /// Why it is refused.
    fn wanted(&self, settings: &config::Update) -> Result<(File, String), String> {
        let keys: Vec<Key> = settings.keys.iter().filter_map(|key| Key::parse(key)).collect();
        if keys.is_empty() {
            return Err(
                "this agent knows no key that a release could be signed with: set update.keys on the machine"
                    .into(),
            );
        }
        let about = |why| format!("the manifest {why}");
        verify(self.manifest.as_bytes(), self.signature, &keys).map_err(about)?;
        let file = File::of_manifest(self.manifest, env!("TARGET")).map_err(about)?;
        let slash = if self.base.ends_with('/') { "" } else { "/" };
        let url = format!("{}{slash}{}", self.base, file.name);
        match Url::parse(&url) {
            Ok(_) => Ok((file, url)),
            Err(why) => Err(format!("{url:?} {why}")),
        }
    }

    /// Why it is not installed beside what is there.
    fn objection(&self, file: &File, running: &str, slots: &Slots) -> Option<String> {
        if self.force {
            return None;
        }
        let force = "--force installs it all the same";
        if !is_newer(&file.version, running) {
            return Some(format!(
                "{running} runs, and {} is not newer; {force}",
                file.version
            ));
        }
        let last = slots
            .last
            .as_ref()
            .filter(|last| last.is_rolled_back() && last.sha256 == file.sha256)?;
        Some(format!(
            "this program has failed here already ({}); {force}",
            last.what
        ))
    }
}

impl Controller {
    /// Finds out what is under way.
    pub(super) async fn open_updates(&mut self) {
        let Some(state) = self.file.as_ref().and_then(super::FileSettings::state) else {
            return;
        };
        let open = move || {
            let mut rack = Rack::open(Directory::of(&state))?;
            rack.tidy();
            Ok::<_, std::io::Error>(rack)
        };
        let rack = match beside(open).await {
            Ok(rack) => rack,
            Err(error) => return log::error!("there are no updates: the slots cannot be read: {error}"),
        };
        let slots = rack.slots.clone();
        let rack = Shared::new(rack.into());
        self.updates.rack = Some(rack.clone());
        let mine = slots
            .on_trial()
            .filter(|(next, _)| Some(next.program.slot) == slot());
        if let Some((next, _)) = mine {
            let (running, signed) = (version::current(), &next.program.version);
            // It would be told as updated, and be asked for again and again: what is newer is judged by what runs.
            if running != signed {
                let why = format!("{ROLLED_BACK}what was signed as {signed} says that it is {running}");
                return self.roll_back(&rack, why).await;
            }
            let within = Duration::from_secs(next.within);
            log::warn!(
                "{} is on trial: the one before comes back unless the relay is reached within {within:?}",
                next.program.version
            );
            let now = Instant::now();
            (self.updates.until, self.updates.close) = (Some(now + within), now);
        }
        self.show_update(&slots);
        self.remember_outcome(&slots).await;
        if let Some(next) = slots.next.filter(|next| next.trial.is_none()) {
            self.fetch(next);
        }
    }

    /// The command. Returns what comes of it, and whether a repetition would change something.
    pub(super) async fn update(&mut self, id: &str, arguments: &[String]) -> (Outcome, bool) {
        if arguments.is_empty() {
            let update = self.handle.update();
            return (
                Outcome::ok(serde_json::to_string(&update).unwrap_or_default()),
                false,
            );
        }
        match self.accept(id, arguments).await {
            Ok(what) => (Outcome::ok(what), true),
            Err(why) => (Outcome::refused(why), false),
        }
    }

    async fn accept(&mut self, id: &str, arguments: &[String]) -> Result<String, String> {
        let given = Given::read(arguments).ok_or(
            "give MANIFEST SIGNATURE URL [--force], as `headwater-relay fleet update` does, or nothing",
        )?;
        // It becomes a word in the state of the slots.
        if !id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the command's id has to be plain ASCII without blanks".into());
        }
        let settings = &self.setup.config.update;
        let (file, url) = given.wanted(settings)?;
        let Some(rack) = self.updates.rack.clone() else {
            return Err(
                "there is no place for a program: this agent needs a state_dir, and settings from a file"
                    .into(),
            );
        };
        let slots = on(&rack, |rack| rack.slots.clone()).await;
        if let Some(next) = &slots.next {
            let version = &next.program.version;
            // The same, again: the reply may have been lost.
            if next.program.sha256 == file.sha256 {
                return Ok(format!("{version} is under way already"));
            }
            return Err(format!("{version} is under way; try again when it is over"));
        }
        let running = version::current();
        if let Some(current) = slots
            .current
            .as_ref()
            .filter(|current| current.sha256 == file.sha256)
            && slot() == Some(current.slot)
        {
            return Ok(format!("{running} runs already"));
        }
        if let Some(why) = given.objection(&file, running, &slots) {
            return Err(why);
        }
        if self.trying.is_some() {
            return Err("settings are on trial; try again when that is over".into());
        }
        let packaged = match (&slots.current, slot()) {
            (Some(current), Some(_)) => current.packaged.clone(),
            _ => running.into(),
        };
        let accepted = format!(
            "accepted: from {running} to {}, {} bytes",
            file.version, file.size
        );
        let next = Next {
            program: Program {
                slot: slots.free(),
                version: file.version,
                size: file.size,
                sha256: file.sha256,
                packaged,
            },
            command: id.into(),
            url,
            have: 0,
            spent: 0,
            tag: String::new(),
            within: settings.confirm_within.as_secs(),
            trial: None,
        };
        let begun = next.clone();
        on(&rack, move |rack| rack.begin(begun))
            .await
            .map_err(|error| format!("nothing is changed: the state directory cannot be written: {error}"))?;
        log::warn!("{accepted}, from {}", next.url);
        self.fetch(next);
        Ok(accepted)
    }

    /// Begins to fetch, or goes on with it.
    fn fetch(&mut self, next: Next) {
        let Some(rack) = self.updates.rack.clone() else {
            return;
        };
        let settings = &self.setup.config.update;
        let ways = Ways::new(&settings.tls, self.output.clock().another());
        self.handle.set_update(told(&next, ""));
        let fetch = Fetch::new(rack, self.handle.clone(), ways, settings.rate.as_u64(), next);
        self.updates.fetching = Some(task::spawn(fetch.run()));
    }

    /// It is whole, or given up.
    pub(super) async fn fetched(&mut self, whole: bool) {
        if whole {
            log::warn!("the new version is here; it is started on trial");
            self.restart = true;
            return;
        }
        self.settle().await;
    }

    /// Looks whether this process, on trial, has reached the relay, or its time is over.
    pub(super) async fn look_at_update(&mut self, now: Instant) {
        let Some((until, rack)) = self.updates.until.zip(self.updates.rack.clone()) else {
            return;
        };
        let stats = self.handle.stats();
        let over = now >= until;
        // Who has nothing to send can have nothing acknowledged.
        let idle = over && stats.sampled_readings == 0 && stats.waiting_readings == 0;
        if stats.connected && (stats.acked_readings > 0 || idle) {
            match on(&rack, Rack::confirm).await {
                Ok(()) => {
                    calm();
                    self.updates.until = None;
                    self.settle().await;
                    log::warn!("{}", self.handle.update().what);
                }
                Err(error) => {
                    log::error!("that the new version holds cannot be kept, it is tried again: {error}");
                }
            }
        } else if over {
            let (version, within) = (version::current(), self.setup.config.update.confirm_within);
            let reason = match (stats.connected, self.handle.link_error()) {
                (true, _) => "the relay acknowledged nothing".into(),
                (false, Some(error)) => error,
                (false, None) => "the relay did not answer".into(),
            };
            let why = format!("{ROLLED_BACK}{version} did not reach the relay within {within:?}: {reason}");
            self.roll_back(&rack, why).await;
        } else if stats.connected && stats.sampled_readings > 0 && now >= self.updates.close {
            // By its settings (`batch.age`) it may stay open for longer than the trial.
            self.updates.close = now + (until - now) / 4;
            self.handle.order(Order::Flush(oneshot::channel().0)).await;
        }
    }

    /// This process, on trial, gives itself up.
    async fn roll_back(&mut self, rack: &Shared, why: String) {
        if let Err(error) = on(rack, move |rack| rack.give_up(&why)).await {
            log::error!("the slots cannot be written: {error}");
        }
        self.updates.until = None;
        self.restart = true;
    }

    /// An update is over: it is shown, and what came of it is the reply to its command from now on.
    async fn settle(&mut self) {
        if let Some(rack) = self.updates.rack.clone() {
            let slots = on(&rack, |rack| rack.slots.clone()).await;
            self.show_update(&slots);
            self.remember_outcome(&slots).await;
        }
    }

    fn show_update(&self, slots: &Slots) {
        let update = match (&slots.next, &slots.last) {
            (Some(next), _) => told(next, ""),
            (None, Some(last)) => status::Update {
                state: if last.updated { "updated" } else { "failed" }.into(),
                version: last.version.clone(),
                command: last.command.clone(),
                what: last.what.clone(),
                ..running()
            },
            (None, None) => running(),
        };
        self.handle.set_update(update);
    }

    /// Who sends the command again gets to know what came of it.
    async fn remember_outcome(&mut self, slots: &Slots) {
        let Some(last) = &slots.last else { return };
        let outcome = if last.updated {
            Outcome::ok(&*last.what)
        } else {
            Outcome::failed(&*last.what)
        };
        if self.commands.amend(&last.command, &outcome, self.handle.now_us()) {
            self.keep_commands().await;
        }
    }
}

fn running() -> status::Update {
    status::Update {
        running: version::current().into(),
        slot: slot().map_or("", crate::update::slots::Slot::name).into(),
        ..status::Update::default()
    }
}
