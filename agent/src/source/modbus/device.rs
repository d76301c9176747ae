//! A device: what is asked of it, and what is made of its answers. Pure: time is an argument.
//!
//! Nothing that a device does costs another: who does not answer is asked more and more seldom; who refuses a request is asked for its
//! parts, until it is known which register is the reason; that one is left alone for an hour.

use std::time::{Duration, Instant};

use super::plan::{Block, plan};
use super::register::Register;
use crate::config::{ModbusDevice, ModbusSource, ModbusTable};
use crate::error::SourceError;
use crate::source::Reading;

/// Who does not answer is asked at least so often.
const SELDOM: Duration = Duration::from_secs(60);
/// A refused register is asked for again after this long: the device's program may have changed.
const REFUSED: Duration = Duration::from_secs(3600);

/// See the module.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) id: u8,
    interval: Duration,
    asked: Vec<Asked>,
    /// Rounds in a row that ended without an answer.
    failures: u32,
    /// It is not asked before.
    until: Option<Instant>,
    /// An exception that passes was told, and no good answer came since.
    excused: bool,
    faults: Vec<(String, bool)>,
}

#[derive(Debug)]
struct Asked {
    block: Block,
    refused: Option<Instant>,
    told: bool,
}

/// What came of a request.
#[derive(Debug)]
pub(super) enum Answer {
    /// As many words as were asked for; 0 or 1 for each coil.
    Words(Vec<u16>),
    /// The device's, or a gateway's, own word for why there is none.
    Exception(u8),
    /// Nothing in time.
    Silence,
    /// Something else: why.
    Garbled(String),
}

/// How a round goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Step {
    /// With the next request.
    Next,
    /// With this place, where there is another request now.
    Again,
    /// No more of this device in this round.
    Stop,
}

impl Device {
    pub(super) fn new(source: &ModbusSource, settings: &ModbusDevice) -> Result<Self, SourceError> {
        let registers: Vec<Register> = settings
            .registers
            .iter()
            .map(|register| Register::new(&source.prefix, settings, register))
            .collect::<Result<_, _>>()?;
        let asked = plan(registers, source.max_registers, source.max_gap)
            .into_iter()
            .map(Asked::new)
            .collect();
        Ok(Self {
            id: settings.id,
            interval: settings.interval.unwrap_or(source.interval),
            asked,
            failures: 0,
            until: None,
            excused: false,
            faults: Vec::new(),
        })
    }

    /// The names of its metrics.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.asked
            .iter()
            .flat_map(|asked| &asked.block.registers)
            .map(|register| &*register.metric.name)
    }

    /// The first request from place `at` on that is due.
    pub(super) fn next(&self, at: usize, now: Instant) -> Option<(usize, &Block)> {
        if self.until.is_some_and(|until| now < until) {
            return None;
        }
        let due = |asked: &Asked| asked.refused.is_none_or(|until| now >= until);
        let mut places = self.asked.iter().enumerate().skip(at);
        places
            .find(|(_, asked)| due(asked))
            .map(|(at, asked)| (at, &asked.block))
    }

    /// Takes the answer to the request at place `at`; readings go to `readings`.
    pub(super) fn take(
        &mut self,
        at: usize,
        answer: Answer,
        now: Instant,
        readings: &mut Vec<Reading>,
    ) -> Step {
        match answer {
            Answer::Words(words) => {
                self.answered();
                if self.excused {
                    log::info!("modbus: device {} is well again", self.id);
                    self.excused = false;
                }
                let asked = &mut self.asked[at];
                asked.refused = None;
                for (register, words) in asked.block.values(&words) {
                    if let Some(value) = register.value(words) {
                        readings.push(Reading::new(register.metric.clone(), value));
                    }
                }
                Step::Next
            }
            Answer::Exception(code @ 1..=3) => {
                self.answered();
                self.refused(at, code, now)
            }
            Answer::Exception(code @ (0x0A | 0x0B)) => {
                let why = format!("the gateway says that it {}", meaning(code));
                self.silent(&why, now)
            }
            Answer::Exception(code) => {
                self.answered();
                let (id, meaning) = (self.id, meaning(code));
                let text = format!(
                    "device {id} says that it {meaning} (exception {code}); asking again at the next poll"
                );
                self.faults
                    .push((text, !std::mem::replace(&mut self.excused, true)));
                Step::Next
            }
            Answer::Silence => self.silent("it does not answer in time", now),
            Answer::Garbled(why) => self.silent(&format!("its answer makes no sense ({why})"), now),
        }
    }

    /// What went wrong since the last call, and whether that is new.
    pub(super) fn faults(&mut self) -> Vec<(String, bool)> {
        std::mem::take(&mut self.faults)
    }

    fn answered(&mut self) {
        if self.failures > 0 {
            log::info!("modbus: device {} answers again", self.id);
        }
        (self.failures, self.until) = (0, None);
    }

    fn silent(&mut self, why: &str, now: Instant) -> Step {
        self.failures += 1;
        let text = format!(
            "device {}: {why}; check its unit id, its wiring, its power and the line's settings; it is asked more seldom until it answers",
            self.id
        );
        self.faults.push((text, self.failures == 1));
        if self.failures > 1 {
            // The first time the next poll comes as ever: a single answer may be lost.
            let wait = self.interval.saturating_mul(1 << (self.failures - 1).min(10));
            // The tick that is due then may come a little early.
            self.until = Some(now + wait.min(SELDOM.max(self.interval)) - self.interval / 2);
        }
        Step::Stop
    }

    fn refused(&mut self, at: usize, code: u8, now: Instant) -> Step {
        let asked = &mut self.asked[at];
        if let Some((low, high)) = asked.block.split() {
            asked.block = low;
            self.asked.insert(at + 1, Asked::new(high));
            return Step::Again;
        }
        asked.refused = Some(now + REFUSED);
        let register = &asked.block.registers[0];
        let advice = match (code, register.table) {
            (1, _) => "check `table`",
            (2, ModbusTable::Holding | ModbusTable::Input) => {
                "check `table` and `address` in its manual; addresses count from 0, without the leading 3 or 4"
            }
            (2, _) => "check `table` and `address` in its manual; addresses count from 0",
            _ => "check `type` and `length`",
        };
        let text = format!(
            "device {} refuses {}: it {} (exception {code}); {advice}; it is left out and asked for again in an hour",
            self.id,
            register.title(),
            meaning(code)
        );
        self.faults
            .push((text, !std::mem::replace(&mut asked.told, true)));
        Step::Next
    }
}

impl Asked {
    fn new(block: Block) -> Self {
        Self {
            block,
            refused: None,
            told: false,
        }
    }
}

/// An exception code's meaning, as of the Modbus Application Protocol V1.1b3, section 7.
fn meaning(code: u8) -> &'static str {
    match code {
        1 => "does not know this function",
        2 => "has no such address",
        3 => "does not read this many at once",
        4 => "has failed",
        5 => "needs longer for the answer",
        6 => "is busy",
        8 => "found a parity error in its memory",
        0x0A => "has no path to this device",
        0x0B => "gets no answer from this device",
        _ => "has a reason of its own",
    }
}
