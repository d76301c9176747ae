//! A command as a dashboard sends it, and what can be said of it by itself. Pure.

use headwater_proto::pb::{Command, ErrorCode, Reply, ReplyStatus};
use headwater_proto::{Message as _, name};
use ring::digest;

use super::settings::CommandSettings;
use crate::bridge::commands::request::{ID, LONGEST};
use crate::gateway::caller::Caller;
use crate::gateway::token::Grant;

/// The longest name of a command, bytes.
const NAME: usize = 64;

/// How a command is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// By its device, or by a bridge on its behalf; or by us, where it came too late.
    Reply(Reply),
    /// Not at all, for this reason.
    Error(ErrorCode, String),
}

/// A command that a connection asks for.
#[derive(Clone, Debug)]
pub struct Order {
    /// Whose connection.
    pub caller: Caller,
    /// Whose token; empty without keys.
    pub subject: String,
    /// The command's id, as the client chose it.
    pub id: String,
    /// What is written to Kafka: issuer, times and id are ours.
    pub command: Command,
    /// When it came, microseconds since the Unix epoch.
    pub now_us: i64,
    /// Why it is refused; `None`: it is not.
    pub refusal: Option<(ErrorCode, String)>,
}

/// What a connection says of the right to send commands, beside its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// As the token says.
    ByToken,
    /// There are no keys, and only this machine is served: from everybody.
    OfThisMachine,
    /// There are no keys, and others are served: from nobody.
    Never,
}

impl Taken {
    /// Whether this token allows any command at all.
    pub fn may(self, grant: &Grant) -> bool {
        self != Self::Never && !grant.command.is_none()
    }
}

impl Order {
    /// What becomes of a command that came just now.
    pub fn new(
        given: Command,
        grant: &Grant,
        caller: &Caller,
        taken: Taken,
        settings: &CommandSettings,
        now_us: i64,
    ) -> Self {
        let refusal = refusal(&given, grant, taken);
        let micros = |duration: std::time::Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        let expires_us = match given.expires_us {
            0 => now_us.saturating_add(micros(settings.expiry)),
            named => named.min(now_us.saturating_add(micros(settings.longest_wait))),
        };
        let command = Command {
            id: id_in_kafka(&grant.subject, &given.id),
            expires_us,
            issuer: grant.subject.clone(),
            issued_us: now_us,
            ..given
        };
        Self {
            caller: caller.clone(),
            subject: grant.subject.clone(),
            id: given.id,
            command,
            now_us,
            refusal,
        }
    }

    /// Whether its time is over already.
    pub fn is_late(&self) -> bool {
        self.command.expires_us <= self.now_us
    }

    /// The answer to one whose time is over.
    pub fn too_late(&self) -> Reply {
        let late = self.now_us.saturating_sub(self.command.expires_us);
        Reply {
            id: self.id.clone(),
            device: self.command.device.clone(),
            status: ReplyStatus::Expired.into(),
            output: format!(
                "it expired {:.1} s before the gateway had it; it was not sent. If it was sent before under its id, what came of that is not known here",
                late as f64 / 1e6
            ),
            replied_us: self.now_us,
        }
    }
}

/// What the token does not allow comes first, and says nothing about what there is.
fn refusal(given: &Command, grant: &Grant, taken: Taken) -> Option<(ErrorCode, String)> {
    let bad = |why: String| Some((ErrorCode::BadRequest, why));
    if taken == Taken::Never {
        let why = "without gateway.keys, commands are taken only where nobody but this machine is served (gateway.allow_anonymous = false)";
        return Some((ErrorCode::Forbidden, why.into()));
    }
    if !grant.command.matches(&given.device) {
        let why = "the token does not allow commands to this device (claim hw.command)";
        return Some((ErrorCode::Forbidden, why.into()));
    }
    if given.id.is_empty() || given.id.len() > ID {
        let length = given.id.len();
        return bad(format!(
            "the command's id has {length} bytes, and may have 1 to {ID}"
        ));
    }
    if let Err(error) = name::check_device(&given.device) {
        return bad(error.to_string());
    }
    if given.name.is_empty() || given.name.len() > NAME {
        let length = given.name.len();
        return bad(format!(
            "the command's name has {length} bytes, and may have 1 to {NAME}"
        ));
    }
    if given.encoded_len() >= LONGEST - 1024 {
        let length = given.encoded_len();
        return bad(format!(
            "the command has {length} bytes, and an agent takes {LONGEST}"
        ));
    }
    None
}

/// A command's id in Kafka: the same on every gateway, and different for two subjects, so that nobody can get or spoil another's reply by choosing
/// the other's id.
pub fn id_in_kafka(subject: &str, id: &str) -> String {
    if subject.is_empty() {
        return id.to_owned();
    }
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&(subject.len() as u64).to_be_bytes());
    context.update(subject.as_bytes());
    context.update(id.as_bytes());
    hex(&context.finish().as_ref()[..16])
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::gateway::filter::Globs;

    pub(crate) const NOW: i64 = 1_000_000_000;

    pub(crate) fn grant(subject: &str, command: &[&str]) -> Grant {
        let globs: Vec<String> = command.iter().map(ToString::to_string).collect();
        Grant {
            subject: subject.into(),
            expires_us: None,
            read: Globs::none(),
            read_hash: 0,
            command: Globs::compile(&globs).unwrap(),
        }
    }

    pub(crate) fn command(id: &str, device: &str) -> Command {
        Command {
            id: id.into(),
            device: device.into(),
            name: "set".into(),
            arguments: vec!["uplink.password".into(), "hunter2".into()],
            ..Command::default()
        }
    }

    pub(crate) fn order(given: Command, grant: &Grant) -> Order {
        let caller = Caller {
            peer: SocketAddr::from(([192, 0, 2, 1], 99)),
            forwarded_for: "".into(),
        };
        Order::new(
            given,
            grant,
            &caller,
            Taken::ByToken,
            &CommandSettings::default(),
            NOW,
        )
    }

    #[test]
    fn issuer_and_times_are_the_gateways() {
        let mut given = command("1", "pump-1");
        (given.issuer, given.issued_us) = ("root".into(), 5);
        let order = order(given, &grant("ann", &["pump-*"]));
        assert_eq!(order.refusal, None);
        assert_eq!(
            (order.command.issuer.as_str(), order.command.issued_us),
            ("ann", NOW)
        );
        assert_eq!(order.command.expires_us, NOW + 60_000_000, "the default");
    }

    #[test]
    fn an_expiry_is_capped_and_one_that_is_over_is_told() {
        let at = |expires_us| {
            let given = Command {
                expires_us,
                ..command("1", "pump-1")
            };
            order(given, &grant("ann", &["*"]))
        };
        assert_eq!(at(i64::MAX).command.expires_us, NOW + 3_600_000_000);
        assert_eq!(at(NOW + 5).command.expires_us, NOW + 5);
        assert!(!at(NOW + 1).is_late() && at(NOW).is_late() && at(-7).is_late() && at(i64::MIN).is_late());
        let reply = at(NOW - 2_000_000).too_late();
        assert_eq!((reply.id.as_str(), reply.status()), ("1", ReplyStatus::Expired));
        assert!(reply.output.contains("2.0 s"), "{}", reply.output);
    }

    #[test]
    fn what_the_token_does_not_allow_is_said_in_the_same_words_whatever_there_is() {
        let grant = grant("ann", &["pump-*"]);
        let refused = |given| order(given, &grant).refusal.unwrap();
        let first = refused(command("1", "door-1"));
        assert_eq!(first.0, ErrorCode::Forbidden);
        for other in [
            command("1", "no-such-device"),
            command("", "door-1"),
            command("1", "not a name / at all"),
            command("1", ""),
        ] {
            assert_eq!(refused(other), first);
        }
    }

    #[test]
    fn what_is_no_command_is_a_bad_request() {
        let grant = grant("ann", &["*"]);
        let mut nameless = command("1", "a");
        nameless.name.clear();
        let mut large = command("1", "a");
        large.arguments.push("x".repeat(LONGEST));
        for given in [
            command("", "a"),
            command(&"x".repeat(65), "a"),
            command("1", "a b"),
            nameless,
            large,
        ] {
            assert_eq!(order(given, &grant).refusal.unwrap().0, ErrorCode::BadRequest);
        }
    }

    #[test]
    fn without_keys_it_depends_on_who_is_served() {
        let all = Grant {
            command: Globs::All,
            ..grant("", &[])
        };
        assert!(Taken::OfThisMachine.may(&all) && !Taken::Never.may(&all));
        assert!(!Taken::ByToken.may(&grant("ann", &[])) && Taken::ByToken.may(&grant("ann", &["x"])));
        assert_eq!(refusal(&command("1", "a"), &all, Taken::OfThisMachine), None);
        let refused = refusal(&command("1", "a"), &all, Taken::Never).unwrap();
        assert!(refused.0 == ErrorCode::Forbidden && refused.1.contains("allow_anonymous"));
    }

    #[test]
    fn an_id_is_its_subjects_own_and_the_same_everywhere() {
        assert_eq!(id_in_kafka("ann", "1"), id_in_kafka("ann", "1"));
        assert_ne!(id_in_kafka("ann", "1"), id_in_kafka("bob", "1"));
        assert_ne!(id_in_kafka("ann", "b1"), id_in_kafka("annb", "1"));
        assert_eq!(id_in_kafka("ann", "1").len(), 32);
        assert_eq!(id_in_kafka("", "as it is"), "as it is");
    }
}
