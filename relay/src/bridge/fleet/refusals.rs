//! What is refused, and becomes a dead letter.

use std::sync::Arc;

use headwater_proto::frame::Frame;
use headwater_proto::{Error, Limits, Message as _};

use super::{DEAD_LETTER, DeadLetter, Fleet, Letter, Message, Now, Step, step};
use crate::bridge::stream::{LetterState, Refused};

/// Bytes of a payload that are kept as a dead letter.
const MOST_OF_LETTER: usize = 700_000;
/// Bytes of a series set that are kept with it.
const MOST_OF_SERIES: usize = 200_000;

impl Fleet {
    /// A payload that cannot be told to be of any batch: nothing can be answered.
    pub(super) fn unnamed(
        &mut self,
        now: Now,
        number: u32,
        message: &Message,
        what: &'static str,
        why: String,
    ) -> Step {
        self.metrics.refuse(what);
        let device = &mut self.devices[number as usize];
        if !device.dead_letter(now.at, DEAD_LETTER) {
            return Step::Nothing;
        }
        self.letter(now, number, message, why, None)
    }

    pub(super) fn refuse(
        &mut self,
        now: Now,
        number: u32,
        id: u64,
        seq: u64,
        message: &Message,
        error: Option<&Error>,
    ) -> Step {
        self.metrics.refuse(error.map_or("unfit for Kafka", step::kind));
        let reason = error.map(ToString::to_string).unwrap_or_default();
        let stream = self.devices[number as usize].streams.entry(id).or_default();
        let known = stream.refused.take().filter(|refused| refused.seq == seq);
        let refused = stream.refused.insert(known.unwrap_or(Refused {
            seq,
            reason,
            letter: LetterState::Due,
            unfit: false,
        }));
        let reason = refused.reason.clone();
        match refused.letter {
            LetterState::Due => {
                refused.letter = LetterState::Sent;
                return self.letter(now, number, message, reason, Some((id, seq)));
            }
            LetterState::Sent => {}
            LetterState::Done => self.tell_refusal(now, number, id, seq, reason),
        }
        Step::Nothing
    }

    /// The series set by which a refused frame may be decoded later: on the link it is said once, and forgotten.
    fn series_of(&self, number: u32, message: &Message) -> Option<Vec<u8>> {
        let header = Limits {
            frame_bytes: usize::MAX,
            ..self.limits.clone()
        };
        let hash = Frame::parse(&message.payload, &header).ok()?.series_set().ok()?;
        let set = self.devices[number as usize].series(hash)?;
        Some(set.to_pb().encode_to_vec()).filter(|bytes| bytes.len() <= MOST_OF_SERIES)
    }

    fn letter(
        &self,
        now: Now,
        number: u32,
        message: &Message,
        reason: String,
        refuses: Option<(u64, u64)>,
    ) -> Step {
        // As much as Kafka may be expected to take: a limit can be raised, and the letter retried.
        let keep = message
            .payload
            .len()
            .min(self.limits.body_bytes.min(MOST_OF_LETTER));
        let series = refuses.and_then(|_| self.series_of(number, message));
        Step::DeadLetter(DeadLetter {
            series,
            letter: Letter {
                partition: self.partition,
                term: self.term,
                device: number,
                refuses,
            },
            key: Arc::clone(&self.devices[number as usize].name),
            topic: message.topic.clone(),
            payload: message.payload.slice(..keep),
            length: message.length,
            reason,
            arrival_us: now.us,
        })
    }
}
