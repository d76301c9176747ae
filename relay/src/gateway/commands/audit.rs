//! The records of `headwater.audit`: who asked for which command, and what came of it. Pure.
//!
//! A record is one flat JSON object; its key is the device. There are few of them, and who reads them has tools for text. Each command has
//!
//! - `asked`: all may go on. It stands in Kafka before the command does; where it cannot be written, the command is not.
//! - then one of `answered` (with the reply's status), `unanswered` (no reply came in time, or Kafka did not take the command).
//!
//! or, instead of both, one of `refused` (with the error's code) and `repeated` (a repeat: it got, or waits for, the reply of the first).
//! A gateway that dies leaves an `asked` alone; the reply in `headwater.replies` has the same `command_id`.

use headwater_proto::pb::{ErrorCode, ReplyStatus};
use ring::digest;
use serde_json::{Value, json};

use super::order::{Answer, Order, hex};
use super::settings::AuditArguments;

/// Texts that nothing has checked yet are cut to this, bytes.
const LONGEST: usize = 256;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'a> {
    /// The command is about to be written.
    Asked,
    /// It is not: why.
    Refused(ErrorCode, &'a str),
    /// It had been written before.
    Repeated,
    /// The reply came.
    Answered(ReplyStatus),
    /// No reply came: why.
    Unanswered(&'a str),
}

impl<'a> Event<'a> {
    /// What an answer means to the audit.
    pub fn of(answer: &'a Answer) -> Self {
        match answer {
            Answer::Reply(reply) => Self::Answered(reply.status()),
            Answer::Error(_, why) => Self::Unanswered(why),
        }
    }
}

/// The record's value. `gateway`: its name; `now_us`: microseconds since the Unix epoch.
pub fn record(
    order: &Order,
    event: Event<'_>,
    arguments: AuditArguments,
    gateway: &str,
    now_us: i64,
) -> Vec<u8> {
    let command = &order.command;
    let (word, outcome, detail) = match event {
        Event::Asked => ("asked", "", ""),
        Event::Refused(code, why) => ("refused", word(code), why),
        Event::Repeated => ("repeated", "", ""),
        Event::Answered(status) => ("answered", status_word(status), ""),
        Event::Unanswered(why) => ("unanswered", "", why),
    };
    let mut record = json!({
        "time_us": now_us,
        "event": word,
        "outcome": outcome,
        "detail": detail,
        "subject": cut(&order.subject),
        "address": order.caller.peer.ip().to_string(),
        "port": order.caller.peer.port(),
        "forwarded_for": &*order.caller.forwarded_for,
        "gateway": gateway,
        "device": cut(&command.device),
        "command": cut(&command.name),
        "arguments": command.arguments.len(),
        "arguments_sha256": hash(order),
        "id": cut(&order.id),
        "command_id": cut(&command.id),
        "issued_us": command.issued_us,
        "expires_us": command.expires_us,
    });
    if arguments == AuditArguments::Text
        && let Some(fields) = record.as_object_mut()
    {
        fields.insert("arguments_text".into(), Value::from(command.arguments.clone()));
    }
    record.to_string().into_bytes()
}

/// SHA-256 over the id in Kafka and the arguments, each with its length (8 bytes, big-endian) in front. With the id, so that the same secret sent twice
/// does not show as the same.
fn hash(order: &Order) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for text in std::iter::once(&order.command.id).chain(&order.command.arguments) {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    }
    hex(context.finish().as_ref())
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST)]
}

/// A code as it is written, and as metrics have it.
pub fn word(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Unspecified => "unspecified",
        ErrorCode::BadRequest => "bad_request",
        ErrorCode::Forbidden => "forbidden",
        ErrorCode::Limit => "limit",
        ErrorCode::Unsupported => "unsupported",
        ErrorCode::Unavailable => "unavailable",
    }
}

/// A status as it is written, and as metrics have it.
pub fn status_word(status: ReplyStatus) -> &'static str {
    match status {
        ReplyStatus::Unspecified => "unspecified",
        ReplyStatus::Ok => "ok",
        ReplyStatus::Failed => "failed",
        ReplyStatus::Expired => "expired",
        ReplyStatus::UnknownDevice => "unknown_device",
        ReplyStatus::UnknownCommand => "unknown_command",
        ReplyStatus::Refused => "refused",
    }
}

#[cfg(test)]
mod tests {
    use super::super::order::tests::{NOW, command, grant, order};
    use super::*;

    fn written(order: &Order, event: Event<'_>, arguments: AuditArguments) -> Value {
        serde_json::from_slice(&record(order, event, arguments, "gw-host", NOW)).unwrap()
    }

    #[test]
    fn who_what_when_and_what_came_of_it() {
        let order = order(command("1", "pump-1"), &grant("ann", &["*"]));
        let asked = written(&order, Event::Asked, AuditArguments::Hash);
        for (field, expected) in [
            ("time_us", json!(NOW)),
            ("event", json!("asked")),
            ("subject", json!("ann")),
            ("address", json!("192.0.2.1")),
            ("gateway", json!("gw-host")),
            ("device", json!("pump-1")),
            ("command", json!("set")),
            ("arguments", json!(2)),
            ("id", json!("1")),
            ("command_id", json!(order.command.id)),
        ] {
            assert_eq!(asked[field], expected, "{field}");
        }
        let answered = written(&order, Event::Answered(ReplyStatus::Failed), AuditArguments::Hash);
        assert_eq!(
            (&answered["event"], &answered["outcome"]),
            (&json!("answered"), &json!("failed"))
        );
        let refused = written(
            &order,
            Event::Refused(ErrorCode::Forbidden, "no"),
            AuditArguments::Hash,
        );
        assert_eq!(
            (&refused["outcome"], &refused["detail"]),
            (&json!("forbidden"), &json!("no"))
        );
    }

    #[test]
    fn arguments_are_hashed_unless_their_text_is_wanted() {
        let order = order(command("1", "pump-1"), &grant("ann", &["*"]));
        let hashed = written(&order, Event::Asked, AuditArguments::Hash);
        assert!(!hashed.to_string().contains("hunter2"), "{hashed}");
        assert_eq!(hashed["arguments_sha256"].as_str().unwrap().len(), 64);
        let text = written(&order, Event::Asked, AuditArguments::Text);
        assert_eq!(text["arguments_text"], json!(["uplink.password", "hunter2"]));
        // The same arguments in another command hash to something else, and so do others that join to the same text.
        let mut other = order.clone();
        other.command.id = "2".into();
        assert_ne!(hash(&order), hash(&other));
        let mut joined = order.clone();
        joined.command.arguments = vec!["uplink.passwordhunter2".into()];
        assert_ne!(hash(&order), hash(&joined));
    }

    #[test]
    fn what_nothing_has_checked_is_cut() {
        let order = order(
            command(&"é".repeat(30_000), &"x".repeat(60_000)),
            &grant("ann", &[]),
        );
        let bytes = record(
            &order,
            Event::Refused(ErrorCode::Forbidden, "no"),
            AuditArguments::Hash,
            "g",
            NOW,
        );
        assert!(bytes.len() < 2000, "{}", bytes.len());
    }
}
