//! Commands that were carried out, with their replies, so that a repeat under the same id gets the same reply and no second effect, even
//! after a restart. What had an effect is kept in the file `commands` of the state directory: replies, each behind its length.

use std::collections::VecDeque;

use headwater_proto::Message;
use headwater_proto::pb::Reply;

/// How many are remembered.
const KEPT: usize = 64;
/// Bytes of a reply's output that outlive the process.
const OUTPUT_KEPT: usize = 1024;

/// Replies by the ids of their commands, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    replies: VecDeque<Entry>,
}

#[derive(Debug, PartialEq)]
struct Entry {
    reply: Reply,
    /// Its repetition would change something.
    effect: bool,
}

impl Ledger {
    /// From the content of the file. What cannot be read is left out: a damaged file must not keep an agent from starting.
    pub(crate) fn read(mut content: &[u8]) -> Self {
        let mut ledger = Self::default();
        while !content.is_empty() {
            match Reply::decode_length_delimited(&mut content) {
                Ok(reply) => ledger.add(reply, true),
                Err(error) => {
                    log::error!("the file of commands that were carried out is damaged: {error}");
                    break;
                }
            }
        }
        ledger
    }

    /// The file's content: those with an effect.
    pub(crate) fn content(&self) -> Vec<u8> {
        let mut content = Vec::new();
        for entry in self.replies.iter().filter(|entry| entry.effect) {
            let mut reply = entry.reply.clone();
            cut(&mut reply.output, OUTPUT_KEPT);
            content.extend(reply.encode_length_delimited_to_vec());
        }
        content
    }

    /// The reply to the command with this id, if it is remembered.
    pub(crate) fn get(&self, id: &str) -> Option<&Reply> {
        let entry = self.replies.iter().find(|entry| entry.reply.id == id);
        entry.map(|entry| &entry.reply)
    }

    /// Remembers a reply, and forgets the oldest if there are too many: one without an effect rather than one with.
    pub(crate) fn add(&mut self, reply: Reply, effect: bool) {
        self.replies.retain(|entry| entry.reply.id != reply.id);
        self.replies.push_back(Entry { reply, effect });
        if self.replies.len() > KEPT {
            let oldest = self.replies.iter().position(|entry| !entry.effect).unwrap_or(0);
            self.replies.remove(oldest);
        }
    }
}

/// Cuts a text to `most` bytes, and says so at its end.
pub(crate) fn cut(text: &mut String, most: usize) {
    const MARK: &str = "… (cut)";
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most.saturating_sub(MARK.len())));
        text.push_str(MARK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(id: &str, output: &str) -> Reply {
        Reply {
            id: id.into(),
            output: output.into(),
            ..Reply::default()
        }
    }

    #[test]
    fn what_had_an_effect_is_found_after_a_restart() {
        let mut ledger = Ledger::default();
        ledger.add(reply("a", "done"), true);
        ledger.add(reply("b", "pong"), false);
        ledger.add(reply("c", &"ü".repeat(5000)), true);
        let read = Ledger::read(&ledger.content());
        assert_eq!(read.get("a"), Some(&reply("a", "done")));
        assert_eq!(read.get("b"), None);
        let output = &read.get("c").unwrap().output;
        assert!(output.len() <= OUTPUT_KEPT && output.ends_with("(cut)"));
    }

    #[test]
    fn the_number_is_bounded_and_effects_are_kept_longer() {
        let mut ledger = Ledger::default();
        ledger.add(reply("first", ""), true);
        for number in 0..1000 {
            ledger.add(reply(&number.to_string(), ""), false);
        }
        assert_eq!(ledger.replies.len(), KEPT);
        assert!(ledger.get("first").is_some() && ledger.get("999").is_some() && ledger.get("900").is_none());
        for number in 1000..2000 {
            ledger.add(reply(&number.to_string(), ""), true);
        }
        assert_eq!(ledger.replies.len(), KEPT);
        assert!(ledger.get("first").is_none() && ledger.get("1999").is_some());
    }

    #[test]
    fn a_damaged_file_costs_what_is_damaged() {
        let mut ledger = Ledger::default();
        ledger.add(reply("a", "done"), true);
        ledger.add(reply("b", "done"), true);
        let content = ledger.content();
        assert!(Ledger::read(&content[..content.len() - 1]).get("a").is_some());
        for length in 0..content.len() {
            Ledger::read(&content[..length]);
        }
        let mut flipped = content.clone();
        for at in 0..content.len() {
            flipped[at] ^= 0xff;
            Ledger::read(&flipped);
        }
    }
}
