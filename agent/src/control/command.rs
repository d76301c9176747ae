//! What is made of a command that has come: pure. Who may send commands is for the broker's access rules and the relay to say; here it is
//! said which are carried out at all, that none is carried out twice, and none too late.

use std::collections::HashSet;

use headwater_proto::frame;
use headwater_proto::pb::{Command, Reply, ReplyStatus};

use crate::config::CommandName;

use super::ledger::{Ledger, cut};

/// The longest id, bytes (command.proto).
const ID_MAX: usize = 64;
/// The longest command, bytes: a whole configuration fits.
const COMMAND_MAX: usize = 128 * 1024;
/// The longest output of a reply, bytes.
const OUTPUT_MAX: usize = 64 * 1024;

/// What to do about a command.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Carry it out.
    Run(CommandName, Command),
    /// Nothing is carried out; this is the reply.
    Reply(Reply),
    /// Nothing at all: a repeat of one that is being carried out.
    Wait,
    /// It cannot be answered: why.
    Garbage(String),
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) status: ReplyStatus,
    /// For a person.
    pub(crate) output: String,
}

impl Outcome {
    pub(crate) fn ok(output: impl Into<String>) -> Self {
        Self {
            status: ReplyStatus::Ok,
            output: output.into(),
        }
    }

    pub(crate) fn failed(output: impl Into<String>) -> Self {
        Self {
            status: ReplyStatus::Failed,
            output: output.into(),
        }
    }

    pub(crate) fn refused(output: impl Into<String>) -> Self {
        Self {
            status: ReplyStatus::Refused,
            output: output.into(),
        }
    }
}

/// Commands that were and are being carried out.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    device: String,
    ledger: Ledger,
    /// The ids of those being carried out.
    running: HashSet<String>,
}

impl Commands {
    pub(crate) fn new(device: &str, ledger: Ledger) -> Self {
        Self {
            device: device.into(),
            ledger,
            running: HashSet::new(),
        }
    }

    /// A command's payload has come. `now_us` is `None` while the clock is not known to be right: then no command is taken for expired.
    /// An agent with a wrong clock has to stay within reach, and a command reaches it only over a connection that stands: no broker
    /// keeps one for later, and the bridge has looked at the time.
    pub(crate) fn receive(
        &mut self,
        now_us: Option<i64>,
        payload: &[u8],
        allowed: &[CommandName],
    ) -> Verdict {
        if payload.len() > COMMAND_MAX {
            return Verdict::Garbage(format!("{} bytes are more than {COMMAND_MAX}", payload.len()));
        }
        let command: Command = match frame::open_control("command", payload) {
            Ok(command) => command,
            Err(error) => return Verdict::Garbage(error.to_string()),
        };
        if command.id.is_empty() || command.id.len() > ID_MAX {
            return Verdict::Garbage(format!(
                "its id has {} bytes, and may have 1 to {ID_MAX}",
                command.id.len()
            ));
        }
        if !command.device.is_empty() && command.device != self.device {
            return Verdict::Garbage(format!("it is for device {:?}", command.device));
        }
        if let Some(reply) = self.ledger.get(&command.id) {
            return Verdict::Reply(reply.clone());
        }
        if self.running.contains(&command.id) {
            return Verdict::Wait;
        }
        let refusal = |status, output: String| {
            Verdict::Reply(self.reply(&command.id, &Outcome { status, output }, now_us))
        };
        if let Some(now_us) = now_us.filter(|now_us| command.expires_us != 0 && *now_us > command.expires_us)
        {
            let late = (now_us - command.expires_us) / 1_000_000;
            return refusal(
                ReplyStatus::Expired,
                format!("it came {late} s after its time; nothing was done"),
            );
        }
        let known = CommandName::ALL
            .into_iter()
            .find(|name| name.as_str() == command.name);
        let Some(name) = known else {
            let known = CommandName::ALL.map(CommandName::as_str).join(", ");
            let output = format!("{:?} is no command; there is {known}", command.name);
            return refusal(ReplyStatus::UnknownCommand, output);
        };
        if !allowed.contains(&name) {
            let output = format!("control.commands of this agent does not allow {}", name.as_str());
            return refusal(ReplyStatus::Refused, output);
        }
        self.running.insert(command.id.clone());
        Verdict::Run(name, command)
    }

    /// A command was carried out; returns its reply, which is remembered. `effect`: a repetition would change something.
    pub(crate) fn done(&mut self, id: &str, outcome: &Outcome, effect: bool, now_us: Option<i64>) -> Reply {
        self.running.remove(id);
        let reply = self.reply(id, outcome, now_us);
        self.ledger.add(reply.clone(), effect);
        reply
    }

    /// What came of a command that was only begun when it was replied to: who sends it again gets to know. Returns whether that is news.
    #[cfg(feature = "update")]
    pub(crate) fn amend(&mut self, id: &str, outcome: &Outcome, now_us: Option<i64>) -> bool {
        let reply = self.reply(id, outcome, now_us);
        let known = self.ledger.get(id);
        if known.is_some_and(|known| known.status == reply.status && known.output == reply.output) {
            return false;
        }
        self.ledger.add(reply, true);
        true
    }

    /// What has to outlive the process.
    pub(crate) fn content(&self) -> Vec<u8> {
        self.ledger.content()
    }

    fn reply(&self, id: &str, outcome: &Outcome, now_us: Option<i64>) -> Reply {
        let mut output = outcome.output.clone();
        cut(&mut output, OUTPUT_MAX);
        Reply {
            id: id.into(),
            device: self.device.clone(),
            status: outcome.status.into(),
            output,
            replied_us: now_us.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: [CommandName; 2] = [CommandName::Ping, CommandName::Restart];

    fn command(id: &str, name: &str) -> Command {
        Command {
            id: id.into(),
            device: "gw-01".into(),
            name: name.into(),
            expires_us: 1_000,
            ..Command::default()
        }
    }

    fn commands() -> Commands {
        Commands::new("gw-01", Ledger::default())
    }

    fn status(verdict: &Verdict) -> ReplyStatus {
        match verdict {
            Verdict::Reply(reply) => reply.status(),
            other => panic!("{other:?}"),
        }
    }

    fn receive(commands: &mut Commands, now_us: Option<i64>, command: &Command) -> Verdict {
        commands.receive(now_us, &frame::seal_control(command), &ALLOWED)
    }

    #[test]
    fn a_repeat_gets_the_reply_and_has_no_second_effect() {
        let mut commands = commands();
        let restart = command("1", "restart");
        assert!(matches!(
            receive(&mut commands, Some(5), &restart),
            Verdict::Run(CommandName::Restart, _)
        ));
        assert_eq!(receive(&mut commands, Some(6), &restart), Verdict::Wait);
        let reply = commands.done("1", &Outcome::ok("restarting"), true, Some(7));
        assert_eq!(
            receive(&mut commands, Some(8), &restart),
            Verdict::Reply(reply.clone())
        );
        // Also when it has expired meanwhile, or comes to the next process.
        assert_eq!(
            receive(&mut commands, Some(5_000), &restart),
            Verdict::Reply(reply.clone())
        );
        let mut next = Commands::new("gw-01", Ledger::read(&commands.content()));
        assert_eq!(receive(&mut next, Some(9), &restart), Verdict::Reply(reply));
    }

    #[test]
    fn what_is_late_unknown_or_not_allowed_is_answered_and_not_carried_out() {
        let mut commands = commands();
        let late = receive(&mut commands, Some(1_001), &command("1", "ping"));
        assert_eq!(status(&late), ReplyStatus::Expired);
        let unknown = receive(&mut commands, Some(5), &command("2", "fly"));
        assert_eq!(status(&unknown), ReplyStatus::UnknownCommand);
        let refused = receive(&mut commands, Some(5), &command("3", "exec"));
        assert_eq!(status(&refused), ReplyStatus::Refused);
        // None of that is remembered as carried out: the same id may come with a later time.
        let mut again = command("1", "ping");
        again.expires_us = 9_000;
        assert!(matches!(
            receive(&mut commands, Some(1_001), &again),
            Verdict::Run(..)
        ));
    }

    #[test]
    fn without_a_clock_and_without_an_end_nothing_has_expired() {
        let mut commands = commands();
        assert!(matches!(
            receive(&mut commands, None, &command("1", "ping")),
            Verdict::Run(..)
        ));
        let mut endless = command("2", "ping");
        endless.expires_us = 0;
        assert!(matches!(
            receive(&mut commands, Some(i64::MAX), &endless),
            Verdict::Run(..)
        ));
    }

    #[test]
    fn garbage_is_named_and_not_answered() {
        let mut commands = commands();
        let long = "x".repeat(65);
        let mut foreign = command("1", "ping");
        foreign.device = "gw-02".into();
        let mut payloads: Vec<Vec<u8>> = [command("", "ping"), command(&long, "ping"), foreign]
            .iter()
            .map(frame::seal_control)
            .collect();
        payloads.extend([
            vec![],
            vec![0xff; 40],
            vec![0x10, 0xff],
            vec![0x10; COMMAND_MAX + 1],
        ]);
        for payload in payloads {
            let verdict = commands.receive(Some(5), &payload, &ALLOWED);
            assert!(matches!(verdict, Verdict::Garbage(_)), "{verdict:?}");
        }
    }

    #[test]
    fn an_output_is_cut_to_what_a_reply_may_hold() {
        let mut commands = commands();
        let reply = commands.done("1", &Outcome::ok("x".repeat(OUTPUT_MAX + 1)), false, Some(1));
        assert!(reply.output.len() <= OUTPUT_MAX && reply.output.ends_with("(cut)"));
    }
}
