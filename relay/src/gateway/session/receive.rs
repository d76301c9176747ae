//! Messages of the client: how many, and what each changes.

use std::time::Instant;

use headwater_proto::{Message as _, pb};
use pb::client_frame::Frame as ClientFrame;
use pb::server_frame::Frame;

use super::{Close, Pace, Refusal, Session, State, Waiting, Window, refused};

/// What a subscription costs of the rate of messages: its globs are compiled.
const SUBSCRIBE_COST: u32 = 10;

impl Session {
    /// A ping or pong of WebSocket's own.
    ///
    /// # Errors
    /// [`Close`] where there are too many.
    pub fn heard(&mut self, now: Instant) -> Result<(), Close> {
        self.spend(1, now)?;
        self.share(1, now).map_err(|why| Close::new(Close::LIMIT, why))
    }

    fn spend(&mut self, cost: u32, now: Instant) -> Result<(), Close> {
        if !self.rate.take(cost, now) {
            let most = self.hub.settings.limits.messages;
            return Err(Close::new(Close::LIMIT, format!("over {most} messages a second")));
        }
        Ok(())
    }

    /// Takes it of what is shared; otherwise the limit that was reached, in words.
    fn share(&mut self, cost: u32, now: Instant) -> Result<(), String> {
        let limits = &self.hub.settings.limits;
        let whose = [
            // The subject first: what it is refused costs others behind the same address nothing.
            (&self.subject, limits.messages_per_subject, "token's subject"),
            (&self.address, limits.messages_per_address, "address"),
        ];
        for (share, most, whose) in whose {
            if share.as_ref().is_some_and(|share| !share.take(cost, now)) {
                return Err(format!(
                    "over {most} messages a second of all connections of your {whose}"
                ));
            }
        }
        Ok(())
    }

    /// A binary message of the client.
    ///
    /// # Errors
    /// [`Close`] where the connection is to end.
    pub fn receive(&mut self, message: &[u8], now: Instant, now_us: i64) -> Result<(), Close> {
        let bad = |why: String| Close::new(Close::BAD_FRAME, why);
        let frame = pb::ClientFrame::decode(message).map_err(|error| bad(format!("not a frame: {error}")))?;
        let frame = frame
            .frame
            .ok_or_else(|| bad("an empty frame, or one of a kind unknown here".into()))?;
        let cost = match frame {
            ClientFrame::Subscribe(_) => SUBSCRIBE_COST,
            _ => 1,
        };
        self.spend(cost, now)?;
        if let Err(why) = self.share(cost, now) {
            self.hub.metrics.refused("shared_rate");
            return match frame {
                // What costs the others most is refused alone.
                ClientFrame::Subscribe(subscribe) if matches!(self.state, State::Open { .. }) => {
                    self.error(subscribe.id, pb::ErrorCode::Limit, why);
                    Ok(())
                }
                _ => Err(Close::new(Close::LIMIT, why)),
            };
        }
        if let (State::AwaitHello, ClientFrame::Hello(hello)) = (&self.state, &frame) {
            return self.hello(hello, now, now_us);
        }
        let State::Open { window, pace, grant } = &mut self.state else {
            return Err(bad("the first frame must be a hello".into()));
        };
        match frame {
            ClientFrame::Hello(_) => return Err(bad("a second hello".into())),
            ClientFrame::Subscribe(subscribe) => self.subscribe(subscribe, now),
            ClientFrame::Unsubscribe(unsubscribe) => self.remove(unsubscribe.id),
            ClientFrame::Ack(ack) => {
                self.hub.metrics.acks.inc();
                let news = window
                    .ack(&ack)
                    .map_err(|beyond| Close::new(Close::ACK, beyond.to_string()))?;
                pace.acked(window.acked_bytes(), now);
                if let Some((frames, sent)) = self.timed
                    && ack.frames_total >= frames
                {
                    self.timed = None;
                    let us = i64::try_from((now - sent).as_micros()).unwrap_or(i64::MAX);
                    self.hub.metrics.round_trip.observe_us(us);
                }
                if window.is_settled() {
                    self.unacked_since = None;
                } else if news {
                    self.unacked_since = Some(now);
                }
            }
            ClientFrame::Token(token) => {
                let fresh = self
                    .hub
                    .keys
                    .check(Some(&token.token))
                    .map_err(|refusal| refused(&refusal))?;
                if fresh.subject != grant.subject {
                    return Err(refused(&Refusal::Subject));
                }
                for entry in self.subscriptions.values_mut() {
                    if let Waiting::Open(subscription) = &mut entry.subscription {
                        subscription.change(grant, &fresh);
                    }
                }
                *grant = fresh;
                let token_expires_us = grant.expires_us.unwrap_or(0);
                self.answers
                    .push_back(Frame::TokenAccepted(pb::TokenAccepted { token_expires_us }));
            }
            ClientFrame::Command(command) => self.command(command, now, now_us),
            ClientFrame::Ping(ping) => {
                let pong = pb::Pong {
                    nonce: ping.nonce,
                    time_us: now_us,
                    wire_bytes: 0,
                };
                self.answers.push_back(Frame::Pong(pong));
            }
        }
        Ok(())
    }

    fn hello(&mut self, hello: &pb::ClientHello, now: Instant, now_us: i64) -> Result<(), Close> {
        // The one in the hello is the later.
        let token = Some(hello.token.clone())
            .filter(|token| !token.is_empty())
            .or(self.token.take());
        let grant = self
            .hub
            .keys
            .check(token.as_deref())
            .map_err(|refusal| refused(&refusal))?;
        if !grant.subject.is_empty() {
            if !self.hub.subject_connects.take(&grant.subject, 1, now) {
                self.hub.metrics.refused("subject_rate");
                let most = self.hub.settings.limits.connects_per_subject;
                let why = format!("over {most} connections a second with this token's subject");
                return Err(Close::new(Close::LIMIT, why));
            }
            self.subject = self.hub.subject_messages.of(&grant.subject, now);
            let seat = self.hub.subjects.take(&grant.subject);
            self.seat = Some(seat.ok_or_else(|| {
                self.hub.metrics.refused("subject");
                let most = self.hub.settings.limits.per_subject;
                Close::new(
                    Close::LIMIT,
                    format!("{most} connections with this token's subject are open"),
                )
            })?);
        }
        let window = Window::new(hello.window, self.hub.settings.window());
        let size = window.size();
        let client: String = hello.client.chars().take(64).collect();
        tracing::debug!(client, subject = %grant.subject, peer = %self.caller.peer, "hello");
        self.answers.push_back(Frame::Welcome(pb::Welcome {
            server: concat!("headwater-relay ", env!("CARGO_PKG_VERSION")).into(),
            window: Some(pb::Window {
                frames: size.frames,
                bytes: size.bytes,
            }),
            partitions: self.hub.log().partitions(),
            time_us: now_us,
            token_expires_us: grant.expires_us.unwrap_or(0),
            subject: grant.subject.clone(),
            may_command: self.may_command(&grant),
        }));
        let pace = Pace::new();
        self.state = State::Open { window, pace, grant };
        Ok(())
    }
}

/// The token in a message, where it has one.
pub fn token(message: &[u8]) -> Option<String> {
    // The tags of `hello` and `token`: no other message is decoded for this.
    if !matches!(message.first(), Some(0x0a | 0x2a)) {
        return None;
    }
    match pb::ClientFrame::decode(message).ok()?.frame? {
        ClientFrame::Hello(hello) => Some(hello.token),
        ClientFrame::Token(token) => Some(token.token),
        _ => None,
    }
}
