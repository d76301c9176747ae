//! The devices that there are, as `headwater.devices` has them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use headwater_proto::Message as _;
use headwater_proto::pb::DeviceState;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use crate::kafka::{Error, KafkaSettings};

/// How long reading waits for Kafka without a record.
const PATIENCE: Duration = Duration::from_secs(30);

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its device's name.
    pub device: String,
    /// The version that it told with its last hello.
    pub version: String,
    /// The target that it was built for.
    pub target: String,
    /// Whether it is there.
    pub online: bool,
}

/// All agents, by name. Blocks until the topic is read to its end.
///
/// # Errors
/// Those of Kafka.
pub fn agents(kafka: &KafkaSettings, partitions: u32) -> Result<Vec<Agent>, Error> {
    let topic = kafka.topics().devices;
    let config = kafka.client_config(&[
        // No group is used, but the library wants the name of one.
        ("group.id", "headwater-relay-fleet"),
        ("enable.auto.commit", "false"),
        ("isolation.level", "read_committed"),
        ("allow.auto.create.topics", "false"),
        ("enable.partition.eof", "true"),
    ])?;
    let consumer = kafka.consumer(&config)?;
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions as i32 {
        list.add_partition_offset(&topic, partition, Offset::Beginning)
            .map_err(Error::Client)?;
    }
    consumer.assign(&list).map_err(Error::Client)?;
    let mut behind: BTreeSet<i32> = (0..partitions as i32).collect();
    let mut agents = BTreeMap::new();
    let mut heard = Instant::now();
    while !behind.is_empty() {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                heard = Instant::now();
                let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
                let state = message
                    .payload()
                    .and_then(|payload| DeviceState::decode(payload).ok());
                match state.and_then(agent) {
                    Some(agent) => drop(agents.insert(key, agent)),
                    // Gone, or none of ours.
                    None => drop(agents.remove(&key)),
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                heard = Instant::now();
                behind.remove(&partition);
            }
            Some(Err(error)) => tracing::debug!("reading {topic}: {error}"),
            None => {}
        }
        if heard.elapsed() > PATIENCE {
            let why = format!("was not read to its end within {PATIENCE:?}");
            return Err(Error::Topic { topic, why });
        }
    }
    Ok(agents.into_values().collect())
}

fn agent(state: DeviceState) -> Option<Agent> {
    let about = state
        .agent
        .filter(|_| state.checkpoint.is_none() && state.foreign.is_none())?;
    Some(Agent {
        device: state.device,
        version: about.version,
        target: about.target,
        online: state.online,
    })
}
