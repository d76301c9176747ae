//! Somebody who sends commands to a device and reads its replies, as the relay will.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headwater_proto::frame::{open_control, seal_control};
use headwater_proto::pb::{Command, Reply};
use headwater_proto::topic::{Kind, topic};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tokio::task::JoinHandle;

use crate::library::wait_for;

pub(crate) const DEVICE: &str = "gw-01";

pub(crate) struct Operator {
    client: AsyncClient,
    replies: Arc<Mutex<Vec<Reply>>>,
    task: JoinHandle<()>,
    next: AtomicU32,
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Operator {
    /// Connected, and subscribed to replies.
    pub(crate) async fn start(port: u16) -> Self {
        let mut options = MqttOptions::new("operator", "127.0.0.1", port);
        options.set_max_packet_size(1 << 24, 1 << 24);
        let (client, mut eventloop) = AsyncClient::new(options, 100);
        let replies: Arc<Mutex<Vec<Reply>>> = Arc::default();
        let subscribed = Arc::new(Mutex::new(false));
        let (kept, ready, subscriber) = (replies.clone(), subscribed.clone(), client.clone());
        let task = tokio::spawn(async move {
            loop {
                match eventloop.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        let replies = topic(DEVICE, Kind::Reply);
                        subscriber.try_subscribe(replies, QoS::AtLeastOnce).unwrap();
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => *ready.lock().unwrap() = true,
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        assert!(publish.qos == QoS::AtLeastOnce && !publish.retain);
                        let reply = open_control("reply", &publish.payload).unwrap();
                        kept.lock().unwrap().push(reply);
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        wait_for("the operator's subscription", || *subscribed.lock().unwrap()).await;
        Self {
            client,
            replies,
            task,
            next: AtomicU32::new(1),
        }
    }

    /// A command with an id of its own, and a minute's time.
    pub(crate) fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64;
        Command {
            id: format!("command-{}", self.next.fetch_add(1, Ordering::Relaxed)),
            device: DEVICE.into(),
            name: name.into(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            expires_us: now + 60_000_000,
            issuer: "operator".into(),
            issued_us: now,
        }
    }

    pub(crate) fn send(&self, command: &Command) {
        self.send_payload(seal_control(command));
    }

    pub(crate) fn send_payload(&self, payload: Vec<u8>) {
        let topic = topic(DEVICE, Kind::Command);
        self.client
            .try_publish(topic, QoS::AtLeastOnce, false, payload)
            .unwrap();
    }

    /// All replies to this id, in order.
    pub(crate) fn replies(&self, id: &str) -> Vec<Reply> {
        let replies = self.replies.lock().unwrap();
        replies.iter().filter(|reply| reply.id == id).cloned().collect()
    }

    /// Waits for the first reply.
    pub(crate) async fn reply(&self, id: &str) -> Reply {
        wait_for(&format!("the reply to {id}"), || !self.replies(id).is_empty()).await;
        self.replies(id).remove(0)
    }

    /// Sends a command and waits for its reply.
    pub(crate) async fn ask(&self, name: &str, arguments: &[&str]) -> Reply {
        let command = self.command(name, arguments);
        self.send(&command);
        self.reply(&command.id).await
    }
}
