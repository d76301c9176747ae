//! Which commands are under way on this gateway, who waits for their replies, and which replies are remembered. Pure.
//!
//! - A command is its device and its id in Kafka. One that is under way here is not written a second time: who repeats it waits for the same reply.
//! - Replies of commands that were carried out are remembered, whichever gateway wrote the command, so that a repeat gets the reply that is there.
//!   Of all others a repeat is tried anew: nothing was done.
//! - What is remembered, and what is under way, is bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use headwater_proto::pb::{Reply, ReplyStatus};
use tokio::sync::oneshot;

use super::order::{Answer, Order};
use super::settings::CommandSettings;

/// Bytes of replies that are remembered.
const REMEMBERED: usize = 8 << 20;
/// What a reply takes beside its texts.
const OVERHEAD: usize = 256;
/// Those who may wait for one reply.
const WAITING: usize = 16;

/// A command's device, and its id in Kafka.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    device: Arc<str>,
    id: Arc<str>,
}

impl Key {
    /// Of an order.
    pub fn of(order: &Order) -> Self {
        Self {
            device: order.command.device.as_str().into(),
            id: order.command.id.as_str().into(),
        }
    }
}

/// What is to be done about an order.
#[derive(Debug)]
pub enum Asked {
    /// It has been carried out: this is the reply.
    Known(Reply),
    /// It is under way: its reply comes here too.
    Joined(oneshot::Receiver<Answer>),
    /// It is to be written; its reply comes here. [`Desk::close`] has to be called in the end.
    New(oneshot::Receiver<Answer>),
    /// There are too many.
    Full(String),
}

/// A command under way.
#[derive(Debug)]
struct Open {
    subject: Arc<str>,
    waiting: Vec<oneshot::Sender<Answer>>,
}

/// The commands of this gateway.
#[derive(Debug)]
pub struct Desk {
    settings: CommandSettings,
    open: HashMap<Key, Open>,
    of_subject: HashMap<Arc<str>, usize>,
    replies: HashMap<Key, Reply>,
    /// The oldest first.
    order: VecDeque<Key>,
    bytes: usize,
}

impl Desk {
    /// Without any.
    pub fn new(settings: &CommandSettings) -> Self {
        Self {
            settings: settings.clone(),
            open: HashMap::new(),
            of_subject: HashMap::new(),
            replies: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Commands under way.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// The reply to a command that has been carried out.
    pub fn known(&self, order: &Order) -> Option<Reply> {
        self.replies.get(&Key::of(order)).cloned()
    }

    /// Somebody asks for a command that nothing else speaks against.
    pub fn ask(&mut self, order: &Order) -> Asked {
        if let Some(reply) = self.known(order) {
            return Asked::Known(reply);
        }
        let key = Key::of(order);
        let (tell, told) = oneshot::channel();
        if let Some(open) = self.open.get_mut(&key) {
            open.waiting.retain(|waiting| !waiting.is_closed());
            if open.waiting.len() >= WAITING {
                return Asked::Full(format!("{WAITING} others wait for this command's reply"));
            }
            open.waiting.push(tell);
            return Asked::Joined(told);
        }
        let (most, of_subject) = (self.settings.in_flight, self.settings.per_subject);
        if self.open.len() >= most {
            return Asked::Full(format!(
                "{most} commands have no reply yet (gateway.commands.in_flight)"
            ));
        }
        let subject: Arc<str> = order.subject.as_str().into();
        let count = self.of_subject.entry(Arc::clone(&subject)).or_default();
        if *count >= of_subject {
            return Asked::Full(format!(
                "{of_subject} commands of this subject have no reply yet (gateway.commands.per_subject)"
            ));
        }
        *count += 1;
        let waiting = vec![tell];
        self.open.insert(key, Open { subject, waiting });
        Asked::New(told)
    }

    /// A reply stands in Kafka. Who waits for it is told.
    pub fn reply(&mut self, reply: Reply) {
        let key = Key {
            device: reply.device.as_str().into(),
            id: reply.id.as_str().into(),
        };
        if let Some(open) = self.open.get_mut(&key) {
            for waiting in open.waiting.drain(..) {
                // Whoever left does not want it any more.
                let _ = waiting.send(Answer::Reply(reply.clone()));
            }
        }
        if matches!(reply.status(), ReplyStatus::Ok | ReplyStatus::Failed) {
            self.remember(key, reply);
        }
    }

    fn remember(&mut self, key: Key, reply: Reply) {
        let size = |reply: &Reply| reply.output.len() + reply.id.len() + reply.device.len() + OVERHEAD;
        self.bytes += size(&reply);
        match self.replies.insert(key.clone(), reply) {
            Some(before) => self.bytes -= size(&before),
            None => self.order.push_back(key),
        }
        while self.bytes > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            if let Some(gone) = self.replies.remove(&oldest) {
                self.bytes -= size(&gone);
            }
        }
    }

    /// The command is under way no longer. Who still waits for it is told this.
    pub fn close(&mut self, key: &Key, answer: &Answer) {
        let Some(open) = self.open.remove(key) else {
            return;
        };
        for waiting in open.waiting {
            let _ = waiting.send(answer.clone());
        }
        if let Some(count) = self.of_subject.get_mut(&open.subject) {
            *count -= 1;
            if *count == 0 {
                self.of_subject.remove(&open.subject);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::order::tests::{command, grant, order};
    use super::*;

    fn of(subject: &str, id: &str) -> Order {
        order(command(id, "pump-1"), &grant(subject, &["*"]))
    }

    fn reply(order: &Order, status: ReplyStatus) -> Reply {
        Reply {
            id: order.command.id.clone(),
            device: order.command.device.clone(),
            status: status.into(),
            output: "done".into(),
            replied_us: 1,
        }
    }

    fn desk(per_subject: usize, in_flight: usize) -> Desk {
        Desk::new(&CommandSettings {
            per_subject,
            in_flight,
            ..CommandSettings::default()
        })
    }

    fn status(told: &mut oneshot::Receiver<Answer>) -> ReplyStatus {
        match told.try_recv().unwrap() {
            Answer::Reply(reply) => reply.status(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_repeat_waits_for_the_same_reply_and_gets_it_again_afterwards() {
        let (mut desk, order) = (desk(4, 4), of("ann", "1"));
        let Asked::New(mut first) = desk.ask(&order) else {
            panic!()
        };
        let Asked::Joined(mut second) = desk.ask(&order) else {
            panic!()
        };
        desk.reply(reply(&order, ReplyStatus::Ok));
        assert_eq!(
            (status(&mut first), status(&mut second)),
            (ReplyStatus::Ok, ReplyStatus::Ok)
        );
        desk.close(&Key::of(&order), &Answer::Reply(reply(&order, ReplyStatus::Ok)));
        let Asked::Known(known) = desk.ask(&order) else {
            panic!()
        };
        assert_eq!(known.output, "done");
        assert_eq!(desk.open(), 0);
        // Another's command under the same id is another command.
        assert!(matches!(desk.ask(&of("bob", "1")), Asked::New(_)));
    }

    #[test]
    fn what_was_written_by_another_gateway_is_known_here() {
        let (mut desk, order) = (desk(4, 4), of("ann", "1"));
        desk.reply(reply(&order, ReplyStatus::Failed));
        assert!(matches!(desk.ask(&order), Asked::Known(reply) if reply.status() == ReplyStatus::Failed));
    }

    #[test]
    fn what_was_not_carried_out_is_tried_anew() {
        for status in [
            ReplyStatus::Expired,
            ReplyStatus::Refused,
            ReplyStatus::UnknownDevice,
            ReplyStatus::UnknownCommand,
        ] {
            let (mut desk, order) = (desk(4, 4), of("ann", "1"));
            desk.reply(reply(&order, status));
            assert!(matches!(desk.ask(&order), Asked::New(_)), "{status:?}");
        }
    }

    #[test]
    fn a_subject_does_not_take_the_room_of_others() {
        let mut desk = desk(2, 3);
        let first = of("ann", "1");
        let _kept = [desk.ask(&first), desk.ask(&of("ann", "2"))];
        assert!(matches!(desk.ask(&of("ann", "3")), Asked::Full(why) if why.contains("per_subject")));
        let Asked::New(_third) = desk.ask(&of("bob", "1")) else {
            panic!()
        };
        assert!(matches!(desk.ask(&of("eve", "1")), Asked::Full(why) if why.contains("in_flight")));
        // A repeat needs no room; and one that ends makes some.
        assert!(matches!(desk.ask(&first), Asked::Joined(_)));
        let gone = Answer::Error(headwater_proto::pb::ErrorCode::Unavailable, "gone".into());
        desk.close(&Key::of(&first), &gone);
        assert!(matches!(desk.ask(&of("ann", "3")), Asked::New(_)));
    }

    #[test]
    fn who_waits_for_one_command_is_bounded_too() {
        let (mut desk, order) = (desk(4, 4), of("ann", "1"));
        let mut kept: Vec<Asked> = (0..WAITING).map(|_| desk.ask(&order)).collect();
        assert!(matches!(desk.ask(&order), Asked::Full(_)));
        kept.pop();
        assert!(matches!(desk.ask(&order), Asked::Joined(_)), "one has left");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut desk = desk(4, 4);
        for number in 0..100 {
            let order = of("ann", &number.to_string());
            let output = "x".repeat(256 << 10);
            desk.reply(Reply {
                output,
                ..reply(&order, ReplyStatus::Ok)
            });
        }
        assert!(desk.bytes <= REMEMBERED && desk.replies.len() == desk.order.len());
        assert!(matches!(desk.ask(&of("ann", "99")), Asked::Known(_)));
        assert!(matches!(desk.ask(&of("ann", "0")), Asked::New(_)));
    }
}
