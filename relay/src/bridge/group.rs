//! The bridge as a member of a consumer group on `headwater.commands`: who owns which partition.
//!
//! A thread of its own asks Kafka's client, and tells what it is given and what is taken from it. Two rules make it that no two
//! bridges write one partition's readings:
//!
//! - A partition that is asked back is handed over only when the bridge has let go of it (or has not managed to within a
//!   bounded time): until then the group waits.
//! - A term ([`Terms`]) ends here, in the client's callback, before the client can join the group anew. So whoever reads
//!   the group's generation *first* and finds a term running *then* knows that the term belongs to that generation or to a later one,
//!   and Kafka refuses the offsets of an earlier one ([`transactions`](super::transactions)).
//!
//! Cooperative-sticky: what a bridge keeps it goes on with while the others move. With the eager protocols each bridge that comes or goes
//! would stop all of them, and every partition would be scanned again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata, Rebalance};
use tokio::sync::mpsc;

use super::ownership::Terms;
use super::settings::BridgeSettings;
use crate::kafka::{Context, Error, KafkaSettings, as_context};

/// What the group tells.
#[derive(Debug)]
pub enum Event {
    /// These partitions are ours, each in a term that began just now. None: others have them all.
    Assigned(Vec<(u32, u64)>),
    /// These are asked back. The other side lets go of them and says so on the channel; the group waits, for a while.
    Revoked(Vec<u32>, SyncSender<()>),
    /// These are another's already.
    Lost(Vec<u32>),
    /// The group does not have us, for this reason, for now.
    Fault(String),
    /// There are more partitions than there were at the start.
    Grown(u32),
}

/// The membership.
#[derive(Clone)]
pub struct Group {
    consumer: Arc<BaseConsumer<Membership>>,
    leave: Arc<AtomicBool>,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").finish_non_exhaustive()
    }
}

impl Group {
    /// Joins the group and stays in it until [`Group::leave`]. The handle ends after that, when all is handed over.
    ///
    /// # Errors
    /// [`Error::Client`], [`Error::Secret`].
    pub fn join(
        kafka: &KafkaSettings,
        bridge: &BridgeSettings,
        terms: Terms,
        context: Context,
        tell: mpsc::UnboundedSender<Event>,
    ) -> Result<(Self, JoinHandle<()>), Error> {
        let session = bridge.session_timeout.as_millis().to_string();
        let beat = (bridge.session_timeout / 5).as_millis().to_string();
        let config = kafka.client_config(&[
            ("group.id", &kafka.group()),
            ("session.timeout.ms", &session),
            ("heartbeat.interval.ms", &beat),
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("enable.auto.commit", "false"),
            ("auto.offset.reset", "latest"),
            ("allow.auto.create.topics", "false"),
        ])?;
        let membership = Membership {
            context,
            terms,
            // The rest of the session is for what the group itself has to say.
            patience: bridge.session_timeout / 2,
            tell: tell.clone(),
        };
        let consumer: BaseConsumer<Membership> =
            config.create_with_context(membership).map_err(Error::Client)?;
        consumer
            .subscribe(&[&kafka.topics().commands])
            .map_err(Error::Client)?;
        let group = Self {
            consumer: Arc::new(consumer),
            leave: Arc::default(),
        };
        let of_thread = group.clone();
        let thread = std::thread::Builder::new()
            .name("group".into())
            .spawn(move || of_thread.stay(&tell))
            .map_err(Error::Thread)?;
        Ok((group, thread))
    }

    /// What Kafka judges by whether we may write: member and generation, as of now.
    pub fn metadata(&self) -> Option<ConsumerGroupMetadata> {
        self.consumer.group_metadata()
    }

    /// Hands everything over and leaves the group.
    pub fn leave(&self) {
        self.leave.store(true, Ordering::SeqCst);
    }

    fn stay(&self, tell: &mpsc::UnboundedSender<Event>) {
        while !self.leave.load(Ordering::SeqCst) {
            // Partitions are paused as they are assigned: what comes is errors and, inside the call, rebalances.
            if let Some(Err(error)) = self.consumer.poll(Duration::from_millis(100)) {
                let _ = tell.send(Event::Fault(format!("the group of bridges: {error}")));
            }
        }
        // What is ours is asked back, inside these calls, and then the group is left.
        self.consumer.unsubscribe();
        for _ in 0..100 {
            let _ = self.consumer.poll(Duration::from_millis(20));
            let none = self.consumer.assignment().is_ok_and(|list| list.count() == 0);
            if none {
                return;
            }
        }
    }
}

/// The client's callbacks.
struct Membership {
    context: Context,
    terms: Terms,
    patience: Duration,
    tell: mpsc::UnboundedSender<Event>,
}

as_context!(Membership);

impl ConsumerContext for Membership {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Revoke(list) = rebalance else {
            return;
        };
        let partitions = numbers(list);
        if partitions.is_empty() {
            return;
        }
        let lost = consumer.assignment_lost();
        tracing::info!(?partitions, lost, "partitions are taken from this bridge");
        if lost {
            partitions.iter().for_each(|&partition| self.terms.end(partition));
            let _ = self.tell.send(Event::Lost(partitions));
            return;
        }
        let (done, is_done) = sync_channel(1);
        let told = self.tell.send(Event::Revoked(partitions.clone(), done));
        if told.is_ok() && is_done.recv_timeout(self.patience).is_err() {
            tracing::warn!(
                ?partitions,
                "not everything in flight was finished in time: it is void"
            );
        }
        partitions.iter().for_each(|&partition| self.terms.end(partition));
        let _ = self.tell.send(Event::Lost(partitions));
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let list = match rebalance {
            Rebalance::Assign(list) => list,
            Rebalance::Revoke(_) => return,
            Rebalance::Error(error) => {
                let _ = self
                    .tell
                    .send(Event::Fault(format!("the group of bridges: {error}")));
                return;
            }
        };
        // Nothing is read here.
        if let Err(error) = consumer.pause(list) {
            tracing::debug!("pausing what was assigned: {error}");
        }
        let partitions = numbers(list);
        let mut begun = Vec::new();
        for partition in partitions {
            let Some(term) = self.terms.begin(partition) else {
                let _ = self.tell.send(Event::Grown(partition));
                return;
            };
            begun.push((partition, term));
        }
        let _ = self.tell.send(Event::Assigned(begun));
    }
}

fn numbers(list: &TopicPartitionList) -> Vec<u32> {
    let elements = list.elements();
    elements
        .iter()
        .map(|element| element.partition() as u32)
        .collect()
}
