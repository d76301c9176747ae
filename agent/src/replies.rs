//! Replies to commands on their way to the broker. A reply stays here until the broker has it: what was on its way when a connection
//! ended goes out again on the next. Its receiver tells a repeat by the command's id.

use std::collections::VecDeque;

use crate::uplink::Publication;

/// Replies that wait for a connection. Beyond it the oldest makes way; who sent its command asks again.
const WAITING_MAX: usize = 64;

/// Replies that wait, and those on their way.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    waiting: VecDeque<Publication>,
    /// With the number of its packet among those of QoS 1 in this connection.
    sent: VecDeque<(u64, Publication)>,
}

impl Replies {
    pub(crate) fn push(&mut self, reply: Publication) {
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(reply);
    }

    /// The next to hand to the network, which makes it packet `number`, counted from 1, of those of QoS 1 in this connection.
    pub(crate) fn next(&mut self, number: u64) -> Option<Publication> {
        let reply = self.waiting.pop_front()?;
        self.sent.push_back((number, reply.clone()));
        Some(reply)
    }

    /// The broker has this many packets of QoS 1 of this connection. It confirms them in order [MQTT-4.6.0-2].
    pub(crate) fn confirmed(&mut self, packets: u64) {
        while self.sent.pop_front_if(|(number, _)| *number <= packets).is_some() {}
    }

    /// The connection is gone.
    pub(crate) fn disconnected(&mut self) {
        while let Some((_, reply)) = self.sent.pop_back() {
            self.waiting.push_front(reply);
        }
    }

    /// Whether the broker has all.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.sent.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_proto::topic::Kind;

    fn reply(number: u8) -> Publication {
        Publication {
            kind: Kind::Reply,
            payload: vec![number],
        }
    }

    #[test]
    fn what_is_not_confirmed_goes_out_again_in_order() {
        let mut replies = Replies::default();
        (0..4).for_each(|number| replies.push(reply(number)));
        for number in [3, 4, 9] {
            replies.next(number).unwrap();
        }
        replies.confirmed(3);
        assert!(!replies.is_empty());
        replies.disconnected();
        let again: Vec<_> = (1..).map_while(|number| replies.next(number)).collect();
        assert_eq!(again, [reply(1), reply(2), reply(3)]);
        replies.confirmed(2);
        assert!(!replies.is_empty());
        replies.confirmed(3);
        assert!(replies.is_empty());
    }

    #[test]
    fn their_number_is_bounded() {
        let mut replies = Replies::default();
        (0..=255).for_each(|number| replies.push(reply(number)));
        assert_eq!(replies.waiting.len(), WAITING_MAX);
        assert_eq!(replies.next(1), Some(reply(192)));
    }
}
