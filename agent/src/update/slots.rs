//! What is remembered of programs: which one runs, which one is on its way, what came of the last. Pure.
//!
//! It is one small file, `slots/state`, that is read by the packaged program and by those in the slots, of whatever version: lines of a word and its
//! value, the last of them a checksum over the others. Words that a version does not know it leaves out.
//!
//! ```text
//! current a 0.2.0 3118072 <sha256> 0.1.0      the program that holds: slot, version, size, sum, the packaged program's version
//! next b 0.3.0 3118072 <sha256> 0.1.0         the one that is on its way or on trial
//! command 7f3a…                               the command it came by
//! url https://releases.example/…              where it comes from
//! have 262144                                 bytes of it that are on the medium
//! spent 271902                                bytes that have passed the network for it, as of the last piece
//! tag "a1b2"                                  the server's mark of what they are a piece of
//! within 600                                  seconds it has, to reach the relay
//! trial 2 1                                   its starts; those that ended by themselves
//! begun <boot id> 1234                        when the last one was, seconds since the machine's start; gone after a clean stop
//! failed 0.3.0 <sha256> 7f3a… rolled back: …  or `updated …`: what came of the last one
//! sum 1a2b3c4d                                CRC-32C of the lines before
//! ```

use std::fmt::Write as _;

use crc::{CRC_32_ISCSI, Crc, NoTable};

const SUM: Crc<u32, NoTable> = Crc::<u32, NoTable>::new(&CRC_32_ISCSI);
/// The longest state that makes sense, bytes.
const LENGTH_MAX: usize = 16 * 1024;

/// One of the two places for a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    A,
    B,
}

impl Slot {
    /// Its file's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::A, Self::B].into_iter().find(|slot| slot.name() == text)
    }
}

/// A program in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) slot: Slot,
    pub(crate) version: String,
    /// Bytes.
    pub(crate) size: u64,
    /// Hexadecimal, in lower case.
    pub(crate) sha256: String,
    /// The version of the packaged program when this one was taken; empty: not known yet. A package that is installed later, and is newer,
    /// wins.
    pub(crate) packaged: String,
}

/// A start of a program on trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Begun {
    pub(crate) boot: String,
    /// Seconds since the machine's start.
    pub(crate) uptime: u64,
}

/// A trial that is under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trial {
    /// Starts so far.
    pub(crate) starts: u32,
    /// Those among them that ended by themselves while the machine ran on.
    pub(crate) ends: u32,
    /// The last one, if it has not ended cleanly.
    pub(crate) begun: Option<Begun>,
}

/// A program that is on its way, or on trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) program: Program,
    /// The id of the command that it came by.
    pub(crate) command: String,
    pub(crate) url: String,
    /// Bytes of it that are on the medium.
    pub(crate) have: u64,
    /// Bytes that have passed the network for it, both ways, however often it began anew.
    pub(crate) spent: u64,
    /// The server's entity tag, for the next piece; empty: none.
    pub(crate) tag: String,
    /// Seconds that a start of it has to reach the relay.
    pub(crate) within: u64,
    /// `None`: it is on its way.
    pub(crate) trial: Option<Trial>,
}

/// What came of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) updated: bool,
    pub(crate) version: String,
    pub(crate) sha256: String,
    pub(crate) command: String,
    /// For a person; one line.
    pub(crate) what: String,
}

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slots {
    /// `None`: the packaged program.
    pub(crate) current: Option<Program>,
    pub(crate) next: Option<Next>,
    pub(crate) last: Option<Outcome>,
}

/// What an outcome begins with whose program was on trial here, and did not hold.
pub(crate) const ROLLED_BACK: &str = "rolled back: ";
/// And one whose program never came as far.
pub(crate) const NOT_INSTALLED: &str = "not installed: ";

impl Outcome {
    /// Whether the program itself has failed here. What did not arrive whole says nothing of it.
    pub(crate) fn is_rolled_back(&self) -> bool {
        !self.updated && self.what.starts_with(ROLLED_BACK)
    }
}

impl Slots {
    /// The slot that the program which holds is not in.
    pub(crate) fn free(&self) -> Slot {
        match &self.current {
            Some(program) if program.slot == Slot::A => Slot::B,
            _ => Slot::A,
        }
    }

    /// The program that is on trial.
    pub(crate) fn on_trial(&self) -> Option<(&Next, &Trial)> {
        let next = self.next.as_ref()?;
        Some((next, next.trial.as_ref()?))
    }

    /// As the file has it.
    pub(crate) fn content(&self) -> Vec<u8> {
        let mut text = String::new();
        // Writing to a string cannot fail.
        macro_rules! line {
            ($($what:tt)*) => { let _ = writeln!(text, $($what)*); };
        }
        let program = |of: &Program| {
            let slot = of.slot.name();
            format!("{slot} {} {} {} {}", of.version, of.size, of.sha256, of.packaged)
        };
        if let Some(current) = &self.current {
            line!("current {}", program(current));
        }
        if let Some(next) = &self.next {
            line!("next {}", program(&next.program));
            line!("command {}", next.command);
            line!("url {}", next.url);
            line!("have {}", next.have);
            line!("spent {}", next.spent);
            line!("tag {}", next.tag);
            line!("within {}", next.within);
            if let Some(trial) = &next.trial {
                line!("trial {} {}", trial.starts, trial.ends);
                if let Some(begun) = &trial.begun {
                    line!("begun {} {}", begun.boot, begun.uptime);
                }
            }
        }
        if let Some(last) = &self.last {
            let word = if last.updated { "updated" } else { "failed" };
            let what = last.what.replace(['\n', '\r'], " ");
            line!("{word} {} {} {} {what}", last.version, last.sha256, last.command);
        }
        let sum = SUM.checksum(text.as_bytes());
        let _ = writeln!(text, "sum {sum:08x}");
        text.into_bytes()
    }

    /// From the file's content. `None`: it is not whole.
    pub(crate) fn read(content: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(content)
            .ok()
            .filter(|text| text.len() <= LENGTH_MAX)?;
        let at = text
            .rfind("sum ")
            .filter(|at| *at == 0 || text.as_bytes()[at - 1] == b'\n')?;
        let (text, sum) = text.split_at(at);
        let sum = sum.strip_prefix("sum ")?.trim_end();
        if u32::from_str_radix(sum, 16) != Ok(SUM.checksum(text.as_bytes())) {
            return None;
        }
        let mut slots = Self::default();
        for line in text.lines() {
            let (word, value) = line.split_once(' ')?;
            let next = slots.next.as_mut();
            match (word, next) {
                ("current", _) => slots.current = Some(program(value)?),
                ("next", _) => {
                    slots.next = Some(Next {
                        program: program(value)?,
                        command: String::new(),
                        url: String::new(),
                        have: 0,
                        spent: 0,
                        tag: String::new(),
                        within: 0,
                        trial: None,
                    });
                }
                ("command", Some(next)) => next.command = value.into(),
                ("url", Some(next)) => next.url = value.into(),
                ("have", Some(next)) => next.have = value.parse().ok()?,
                ("spent", Some(next)) => next.spent = value.parse().ok()?,
                ("tag", Some(next)) => next.tag = value.into(),
                ("within", Some(next)) => next.within = value.parse().ok()?,
                ("trial", Some(next)) => {
                    let (starts, ends) = value.split_once(' ')?;
                    next.trial = Some(Trial {
                        starts: starts.parse().ok()?,
                        ends: ends.parse().ok()?,
                        begun: None,
                    });
                }
                ("begun", Some(next)) => {
                    let (boot, uptime) = value.rsplit_once(' ')?;
                    next.trial.as_mut()?.begun = Some(Begun {
                        boot: boot.into(),
                        uptime: uptime.parse().ok()?,
                    });
                }
                ("updated" | "failed", _) => {
                    let mut words = value.splitn(4, ' ').map(str::to_string);
                    slots.last = Some(Outcome {
                        updated: word == "updated",
                        version: words.next()?,
                        sha256: words.next()?,
                        command: words.next()?,
                        what: words.next()?,
                    });
                }
                _ => {}
            }
        }
        Some(slots)
    }
}

fn program(value: &str) -> Option<Program> {
    let mut words = value.split(' ');
    Some(Program {
        slot: Slot::parse(words.next()?)?,
        version: words.next()?.into(),
        size: words.next()?.parse().ok()?,
        sha256: words.next()?.into(),
        packaged: words.next()?.into(),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn programs() -> impl Strategy<Value = Program> {
        (
            any::<bool>(),
            "[0-9.a-z-]{1,12}",
            any::<u64>(),
            "[0-9a-f]{64}",
            "[0-9.]{0,8}",
        )
            .prop_map(|(a, version, size, sha256, packaged)| Program {
                slot: if a { Slot::A } else { Slot::B },
                version,
                size,
                sha256,
                packaged,
            })
    }

    fn trials() -> impl Strategy<Value = Trial> {
        let begun = ("[0-9a-f-]{0,36}", any::<u64>()).prop_map(|(boot, uptime)| Begun { boot, uptime });
        (any::<u32>(), any::<u32>(), proptest::option::of(begun)).prop_map(|(starts, ends, begun)| Trial {
            starts,
            ends,
            begun,
        })
    }

    fn nexts() -> impl Strategy<Value = Next> {
        let texts = ("[!-~]{1,64}", "[!-~]{0,40}", "[!-~]{0,20}");
        (
            programs(),
            texts,
            any::<(u64, u64, u64)>(),
            proptest::option::of(trials()),
        )
            .prop_map(
                |(program, (command, url, tag), (have, spent, within), trial)| Next {
                    program,
                    command,
                    url,
                    have,
                    spent,
                    tag,
                    within,
                    trial,
                },
            )
    }

    fn outcomes() -> impl Strategy<Value = Outcome> {
        (
            any::<bool>(),
            "[0-9.]{1,8}",
            "[0-9a-f]{64}",
            "[!-~]{1,64}",
            "[ -~ä]{0,80}",
        )
            .prop_map(|(updated, version, sha256, command, what)| Outcome {
                updated,
                version,
                sha256,
                command,
                what,
            })
    }

    proptest! {
        #[test]
        fn what_is_remembered_is_read_again(
            current in proptest::option::of(programs()),
            next in proptest::option::of(nexts()),
            last in proptest::option::of(outcomes()),
        ) {
            let slots = Slots { current, next, last };
            prop_assert_eq!(Slots::read(&slots.content()), Some(slots));
        }

        #[test]
        fn whatever_was_altered_is_not_believed(
            current in programs(), next in nexts(), at in any::<prop::sample::Index>(), bit in 0..8u8,
        ) {
            let slots = Slots { current: Some(current), next: Some(next), last: None };
            let mut content = slots.content();
            // The line's end behind the sum may be anything blank.
            let at = at.index(content.len() - 1);
            content[at] ^= 1 << bit;
            // In the sum's digits a letter's case says nothing.
            prop_assert!(Slots::read(&content).is_none_or(|read| read == slots));
            prop_assert_eq!(Slots::read(&slots.content()[..at]), None);
        }

        #[test]
        fn nothing_that_is_read_panics(content in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Slots::read(&content);
        }
    }

    #[test]
    fn what_did_not_arrive_whole_says_nothing_of_its_program() {
        let outcome = |updated, what: &str| Outcome {
            updated,
            version: "0.2.0".into(),
            sha256: String::new(),
            command: "c".into(),
            what: format!("{what}why"),
        };
        assert!(outcome(false, ROLLED_BACK).is_rolled_back());
        assert!(!outcome(false, NOT_INSTALLED).is_rolled_back());
        assert!(!outcome(true, "").is_rolled_back());
    }

    #[test]
    fn a_later_version_s_words_are_left_out() {
        let slots = Slots::default();
        let text = format!("colour blue\n{}", "");
        let content = format!("{text}sum {:08x}\n", SUM.checksum(text.as_bytes()));
        assert_eq!(Slots::read(content.as_bytes()), Some(slots.clone()));
        assert_eq!(Slots::read(&slots.content()), Some(slots));
        assert_eq!(Slots::read(b""), None);
    }
}
