//! Which of the records that were read become open commands, and which are answered at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use headwater_proto::Message as _;
use headwater_proto::pb::ReplyStatus;

use super::answer::Answer;
use super::position::Position;
use super::request::{self, Request};
use super::{Commands, Open};
use crate::bridge::device::Now;

/// What becomes of a command.
enum Verdict {
    Take,
    /// There is no room yet, but soon.
    Hold,
    /// It is open already.
    Repeat,
    Refuse(ReplyStatus, String),
}

impl Commands {
    pub(super) fn admit(&mut self, now: Now, presence: &impl Fn(&str) -> Option<bool>) {
        while let Some(read) = self.backlog.front() {
            let offset = read.offset;
            if self.was_answered(offset) {
                self.looked_at(offset);
                self.backlog.pop_front();
                continue;
            }
            let command = match &read.content {
                Ok(command) => command.clone(),
                Err((why, bytes)) => {
                    let (why, bytes, key) = (why.clone(), bytes.clone(), read.key.clone());
                    self.garbage(offset, key, bytes, why);
                    continue;
                }
            };
            let place = (self.partition, self.shared.partitions);
            let bytes = headwater_proto::pb::Command::encode_to_vec;
            match request::judge(
                &read.key,
                command,
                read.written_us,
                place,
                &self.shared.settings,
                now,
            ) {
                Request::Garbage(why) => {
                    let bytes = read.content.as_ref().map(bytes).unwrap_or_default();
                    let key = read.key.clone();
                    self.garbage(offset, key, bytes.into(), why);
                }
                Request::Refuse {
                    device,
                    id,
                    status,
                    why,
                } => {
                    self.backlog.pop_front();
                    self.looked_at(offset);
                    self.shared.metrics.read.inc();
                    self.answer(now, offset, &device, &id, status, why);
                }
                Request::Carry {
                    device,
                    id,
                    payload,
                    deadline,
                } => {
                    let verdict = self.judge(now.at, &device, &id, presence);
                    if matches!(verdict, Verdict::Hold) {
                        return;
                    }
                    let Some(read) = self.backlog.pop_front() else {
                        return;
                    };
                    self.looked_at(offset);
                    self.shared.metrics.read.inc();
                    match verdict {
                        Verdict::Hold => {}
                        Verdict::Repeat => drop(self.shared.metrics.repeated.inc()),
                        Verdict::Refuse(status, why) => self.answer(now, offset, &device, &id, status, why),
                        Verdict::Take => {
                            self.queues
                                .entry(Arc::clone(&device))
                                .or_default()
                                .push_back(offset);
                            self.shared.metrics.open.inc();
                            let open = Open {
                                device,
                                id,
                                payload,
                                deadline,
                                read_at: now.at,
                                sent: 0,
                                first_sent: None,
                                due: None,
                                _held: read.held,
                            };
                            self.open.insert(offset, open);
                        }
                    }
                }
            }
        }
    }

    /// What becomes of a command that is fit to be sent.
    fn judge(
        &self,
        now: Instant,
        device: &str,
        id: &str,
        presence: &impl Fn(&str) -> Option<bool>,
    ) -> Verdict {
        let there = presence(device);
        let refuse = |why| Verdict::Refuse(ReplyStatus::Refused, why);
        match there {
            // What the broker keeps may still tell of it.
            None if !self.listening => return Verdict::Hold,
            None => {
                let why = "no agent has ever said hello under this name".to_string();
                return Verdict::Refuse(ReplyStatus::UnknownDevice, why);
            }
            Some(_) => {}
        }
        let queue = self.queues.get(device);
        let is_same = |offset: &i64| self.open.get(offset).is_some_and(|open| *open.id == *id);
        if queue.is_some_and(|queue| queue.iter().any(is_same)) {
            return Verdict::Repeat;
        }
        let settings = &self.shared.settings;
        let of_device = queue.map_or(0, VecDeque::len);
        if of_device >= settings.per_device {
            return refuse(format!(
                "{of_device} commands of this device have no reply yet (bridge.commands.per_device)"
            ));
        }
        let (mut prompt, mut waiting) = (0, 0);
        for (device, queue) in &self.queues {
            let head = queue.front().and_then(|offset| self.open.get(offset));
            let is_prompt = self.listening
                && presence(device) == Some(true)
                && head.is_some_and(|open| open.is_prompt(now));
            *if is_prompt { &mut prompt } else { &mut waiting } += queue.len();
        }
        let most = settings.per_partition;
        // A quarter is for devices that are there.
        if there == Some(false) && waiting >= most - most / 4 {
            return refuse(format!(
                "the device is not on line, and {waiting} commands of this partition wait for such already (bridge.commands.per_partition)"
            ));
        }
        let unwritten = self.ready.len() + self.writing.len();
        let count = self.open.len() + unwritten + self.left.open.len();
        let spent = self.shared.bytes.is_spent() && !self.open.is_empty();
        if count < most && !spent && self.position().has_room(&self.shared.writer) {
            return Verdict::Take;
        }
        if prompt + unwritten > 0 {
            return Verdict::Hold;
        }
        refuse(format!(
            "{waiting} commands of this partition wait for devices that do not answer (bridge.commands.per_partition, .memory)"
        ))
    }

    fn was_answered(&self, offset: i64) -> bool {
        offset < self.left.next && !self.left.open.contains(&offset)
    }

    /// Everything before this is answered, open, or left out.
    fn looked_at(&mut self, offset: i64) {
        if offset < self.next {
            tracing::warn!(
                partition = self.partition,
                offset,
                "the topic of commands was made anew; what was open is forgotten"
            );
            self.shared.metrics.open.dec_by(self.open.len() as i64);
            self.left = Position::default();
            self.open.clear();
            self.queues.clear();
            self.ready.clear();
        }
        self.next = offset + 1;
        let later = self.left.open.split_off(&(offset + 1));
        let before = std::mem::replace(&mut self.left.open, later);
        for gone in before.into_iter().filter(|&gone| gone != offset) {
            tracing::warn!(
                partition = self.partition,
                offset = gone,
                "Kafka has deleted a command before it was answered: retention of the topic of commands is too short"
            );
        }
    }

    /// The first of the backlog cannot be answered.
    fn garbage(&mut self, offset: i64, key: String, value: Bytes, why: String) {
        self.backlog.pop_front();
        self.looked_at(offset);
        self.shared.metrics.read.inc();
        let answer = Answer::dead_letter(offset, key, value, why, &self.shared.bytes);
        self.ready.push_back(Arc::new(answer));
    }
}
