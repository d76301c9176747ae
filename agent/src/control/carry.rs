//! Commands, carried out.

use std::time::Duration;

use headwater_proto::pb::Command;

use super::Controller;
use super::command::{Outcome, Verdict};
use super::exec;
use crate::config::CommandName;
use crate::task;

/// How long `flush` waits for acknowledgements.
const FLUSH: Duration = Duration::from_secs(30);
/// How long a restart waits for its own reply to reach the broker.
const GOODBYE: Duration = Duration::from_secs(5);
/// Commands that are carried out beside each other.
const AT_ONCE: usize = 4;

impl Controller {
    /// A command has come.
    pub(super) async fn command(&mut self, payload: &[u8]) {
        let allowed = &self.setup.config.control.commands;
        match self.commands.receive(self.handle.now_us(), payload, allowed) {
            Verdict::Run(name, command) => self.carry_out(name, command).await,
            Verdict::Reply(reply) => self.handle.say(&reply).await,
            Verdict::Wait => {}
            Verdict::Garbage(why) => {
                self.garbage += 1;
                if self.garbage.is_power_of_two() {
                    log::error!("what came as a command is none: {why} ({} so far)", self.garbage);
                }
            }
        }
    }

    /// Remembers what came of a command, and replies.
    pub(super) async fn finish(&mut self, id: &str, outcome: &Outcome, effect: bool) {
        let reply = self.commands.done(id, outcome, effect, self.handle.now_us());
        if effect {
            self.keep_commands().await;
        }
        self.handle.say(&reply).await;
    }

    async fn carry_out(&mut self, name: CommandName, command: Command) {
        let Command {
            id,
            arguments,
            issuer,
            ..
        } = command;
        let issuer = if issuer.is_empty() { "somebody" } else { &issuer };
        log::info!("command {} {id:?} of {issuer:?}", name.as_str());
        let beside = matches!(name, CommandName::Status | CommandName::Flush | CommandName::Exec);
        if beside && self.work.len() >= AT_ONCE {
            let outcome = Outcome::failed(format!("{AT_ONCE} commands are being carried out; try again"));
            return self.finish(&id, &outcome, false).await;
        }
        let handle = self.handle.clone();
        let (outcome, effect) = match name {
            CommandName::Ping => {
                let output = format!("{} {}", handle.device(), crate::version::current());
                (Outcome::ok(output), false)
            }
            CommandName::Status => {
                self.work.spawn(task::boxed(async move {
                    (id, Outcome::ok(handle.status().await.json()), false)
                }));
                return;
            }
            CommandName::Flush => {
                self.work.spawn(task::boxed(async move {
                    let outcome = if handle.flush(FLUSH).await {
                        Outcome::ok("everything sampled before is acknowledged")
                    } else {
                        let stats = handle.stats();
                        let (batches, readings) = (stats.waiting_batches, stats.waiting_readings);
                        Outcome::failed(format!(
                            "after {FLUSH:?} {readings} readings in {batches} batches wait"
                        ))
                    };
                    (id, outcome, false)
                }));
                return;
            }
            CommandName::Set => (self.set(&arguments).await, !arguments.is_empty()),
            CommandName::Config => {
                let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
                let outcome = match words[..] {
                    ["get"] => return self.finish(&id, &self.get(), false).await,
                    ["apply", text] => self.apply(&id, Some(text)).await,
                    ["reset"] => self.apply(&id, None).await,
                    _ => Some(Outcome::refused("give get, apply TEXT, or reset")),
                };
                match outcome {
                    Some(outcome) => (outcome, true),
                    None => return,
                }
            }
            CommandName::Restart => {
                self.finish(&id, &Outcome::ok("restarting"), true).await;
                self.handle.said(GOODBYE).await;
                self.restart = true;
                return;
            }
            CommandName::Update => self.update(&id, &arguments).await,
            CommandName::Exec => {
                let control = &self.setup.config.control;
                let (program, limit) = (
                    arguments.first().and_then(|name| control.exec.get(name)),
                    control.exec_timeout,
                );
                match (program.cloned(), arguments.len()) {
                    (Some(program), 1) => {
                        self.work.spawn(task::boxed(
                            async move { (id, exec::run(program, limit).await, true) },
                        ));
                        return;
                    }
                    _ => {
                        let names: Vec<&str> = control.exec.keys().map(String::as_str).collect();
                        let names = names.join(", ");
                        (
                            Outcome::refused(format!("give one name of control.exec; there is {names}")),
                            false,
                        )
                    }
                }
            }
        };
        self.finish(&id, &outcome, effect).await;
    }
}
