//! The topics: their names, their creation, and the rule that their partitions match.
//!
//! Telemetry, devices and commands have the same power-of-two number of partitions (≤ 256), so that a device's shard
//! decides its partition in all three, and so that it is the partition Kafka's default partitioner picks.

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode;
use tokio_util::sync::CancellationToken;

use super::{Context, Error, KafkaSettings};
use crate::admin::Check;

/// How long records of the audit are kept, milliseconds.
const A_YEAR_MS: &str = "31536000000";

/// The topics' names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    /// Batches; key: device.
    pub telemetry: String,
    /// A state per device, compacted; key: device.
    pub devices: String,
    /// Commands to devices; key: device.
    pub commands: String,
    /// Their replies; key: device.
    pub replies: String,
    /// What could not be taken in, as it came.
    pub deadletter: String,
    /// One record a reading, where rows are made; key: device.
    pub readings: String,
    /// Who sent which command, and what came of it; key: device.
    pub audit: String,
}

impl Topics {
    /// With this in front: `headwater` makes `headwater.telemetry`.
    pub fn new(prefix: &str) -> Self {
        Self {
            telemetry: format!("{prefix}.telemetry"),
            devices: format!("{prefix}.devices"),
            commands: format!("{prefix}.commands"),
            replies: format!("{prefix}.replies"),
            deadletter: format!("{prefix}.deadletter"),
            readings: format!("{prefix}.readings"),
            audit: format!("{prefix}.audit"),
        }
    }

    /// All that bridge and gateway need: those whose partitions must match first.
    pub fn all(&self) -> [&str; 5] {
        [
            &self.telemetry,
            &self.devices,
            &self.commands,
            &self.replies,
            &self.deadletter,
        ]
    }

    /// How many of [`Topics::all`] are partitioned by shard.
    pub const SHARDED: usize = 3;
}

/// Makes sure that all topics exist with matching partitions, creating what is missing where the settings say so.
/// Returns the number of partitions.
///
/// # Errors
/// [`Error::Unreachable`] while Kafka does not answer, [`Error::Missing`] while there is a topic that is not to be created or cannot be; the
/// others where only another start can help.
pub async fn ensure_topics(settings: &KafkaSettings) -> Result<u32, Error> {
    let topics = settings.topics();
    let mut found = partitions(settings).await?;
    let sharded = found[..Topics::SHARDED].iter().copied().find(|&count| count > 0);
    let missing: Vec<usize> = (0..found.len()).filter(|&index| found[index] == 0).collect();
    if !missing.is_empty() {
        if !settings.create_topics {
            let topic = topics.all()[missing[0]].to_string();
            let why = "does not exist; create it, or set kafka.create_topics = true".into();
            return Err(Error::Missing { topic, why });
        }
        // Where some exist already, the others follow them rather than the settings.
        let count = sharded.unwrap_or(settings.partitions);
        let names = topics.all();
        let new = missing.iter().map(|&index| {
            let partitions = if index < Topics::SHARDED { count } else { 1 };
            let topic = new_topic(settings, names[index], partitions);
            if names[index] == topics.devices {
                topic.set("cleanup.policy", "compact")
            } else {
                topic
            }
        });
        create(settings, new.collect()).await?;
        // A topic just made takes a moment to show in the metadata.
        for _ in 0..50 {
            found = partitions(settings).await?;
            if found.iter().all(|&count| count > 0) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
    judge(&topics, &found)
}

/// Makes sure that a topic beside those exists with so many partitions, creating it where the settings say so.
///
/// # Errors
/// As [`ensure_topics`].
pub async fn ensure_topic(settings: &KafkaSettings, name: &str, partitions: u32) -> Result<(), Error> {
    let found = counts(settings, vec![name.to_owned()]).await?[0];
    let topic = name.to_string();
    match found {
        _ if found == partitions => Ok(()),
        0 if settings.create_topics => create(settings, vec![new_topic(settings, name, partitions)]).await,
        0 => {
            let why = "does not exist; create it, or set kafka.create_topics = true".into();
            Err(Error::Missing { topic, why })
        }
        _ => {
            let why = format!("has {found} partitions, but telemetry has {partitions}; they must match");
            Err(Error::Topic { topic, why })
        }
    }
}

/// Makes sure that the topic of the audit exists, with any number of partitions. Where it is created it has one, and keeps its records for a year.
///
/// # Errors
/// As [`ensure_topics`].
pub async fn ensure_audit(settings: &KafkaSettings) -> Result<(), Error> {
    let topic = settings.topics().audit;
    match counts(settings, vec![topic.clone()]).await?[0] {
        0 if settings.create_topics => {
            let new = new_topic(settings, &topic, 1).set("retention.ms", A_YEAR_MS);
            create(settings, vec![new]).await
        }
        0 => {
            let why = "does not exist; create it, or set kafka.create_topics = true".into();
            Err(Error::Missing { topic, why })
        }
        _ => Ok(()),
    }
}

/// [`ensure_topics`], again and again while Kafka does not answer or topics are missing, with the reason in `check`. `None` once `shutdown`.
///
/// # Errors
/// Where only an operator can help.
pub async fn await_topics(
    settings: &KafkaSettings,
    check: &Check,
    shutdown: &CancellationToken,
) -> Result<Option<u32>, Error> {
    loop {
        let attempt = tokio::select! {
            attempt = ensure_topics(settings) => attempt,
            () = shutdown.cancelled() => return Ok(None),
        };
        match attempt {
            Ok(partitions) => return Ok(Some(partitions)),
            Err(error) if error.is_transient() => check.failing(format!("{error}; trying again")),
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = tokio::time::sleep(std::time::Duration::from_secs(1)) => {}
            () = shutdown.cancelled() => return Ok(None),
        }
    }
}

/// Partitions of each topic in the order of [`Topics::all`], 0 where it does not exist.
async fn partitions(settings: &KafkaSettings) -> Result<Vec<u32>, Error> {
    let names = settings.topics().all().map(str::to_owned).to_vec();
    counts(settings, names).await
}

/// Partitions of each of these topics, 0 where it does not exist.
async fn counts(settings: &KafkaSettings, names: Vec<String>) -> Result<Vec<u32>, Error> {
    let config = settings.client_config(&[("allow.auto.create.topics", "false")])?;
    let settings = settings.clone();
    let work = move || {
        let consumer = settings.consumer(&config)?;
        let metadata = consumer
            .fetch_metadata(None, settings.timeout)
            .map_err(|error| settings.unreachable(&consumer, &error))?;
        let count = |name: &String| {
            let topic = metadata.topics().iter().find(|topic| topic.name() == name);
            topic.map_or(0, |topic| topic.partitions().len() as u32)
        };
        Ok(names.iter().map(count).collect())
    };
    // librdkafka's metadata call blocks.
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

fn new_topic<'a>(settings: &KafkaSettings, name: &'a str, partitions: u32) -> NewTopic<'a> {
    let copies = TopicReplication::Fixed(i32::from(settings.replication));
    NewTopic::new(name, partitions as i32, copies)
}

async fn create(settings: &KafkaSettings, new: Vec<NewTopic<'_>>) -> Result<(), Error> {
    let config = settings.client_config(&[])?;
    let admin: AdminClient<Context> = config
        .create_with_context(settings.context())
        .map_err(Error::Client)?;
    let options = AdminOptions::new()
        .request_timeout(Some(settings.timeout))
        .operation_timeout(Some(settings.timeout));
    let results = admin
        .create_topics(&new, &options)
        .await
        .map_err(|error| Error::Unreachable {
            bootstrap: settings.bootstrap.clone(),
            why: error.to_string(),
        })?;
    for result in results {
        match result {
            // Another relay was quicker.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => {
                let why = format!(
                    "is missing and cannot be created: {code}; create it by hand, or look at kafka.replication"
                );
                return Err(Error::Missing { topic, why });
            }
        }
    }
    tracing::info!(topics = ?new.iter().map(|topic| topic.name).collect::<Vec<_>>(), "created topics");
    Ok(())
}

/// The rule: equal powers of two.
fn judge(topics: &Topics, found: &[u32]) -> Result<u32, Error> {
    let names = topics.all();
    let first = found[0];
    for (&name, &count) in names.iter().zip(found).take(Topics::SHARDED) {
        let why = if count == 0 {
            let (topic, why) = (name.to_string(), "does not exist".to_string());
            return Err(Error::Missing { topic, why });
        } else if !count.is_power_of_two() || count > headwater_proto::shard::SHARDS {
            format!(
                "has {count} partitions; it must be a power of two up to 256, so that a device's shard decides its \
                 partition. Create it anew, or choose another kafka.prefix"
            )
        } else if count != first {
            format!(
                "has {count} partitions but {} has {first}; they must match. Add partitions to the smaller, or create \
                 it anew",
                names[0]
            )
        } else {
            continue;
        };
        return Err(Error::Topic {
            topic: name.to_string(),
            why,
        });
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_must_be_equal_powers_of_two() {
        let topics = Topics::new("hw");
        assert_eq!(judge(&topics, &[8, 8, 8, 1, 3]).unwrap(), 8);
        let why = |found: &[u32]| judge(&topics, found).unwrap_err().to_string();
        assert!(why(&[6, 6, 6, 1, 1]).starts_with("topic hw.telemetry: has 6 partitions"));
        assert!(
            why(&[8, 4, 8, 1, 1]).starts_with("topic hw.devices: has 4 partitions but hw.telemetry has 8")
        );
        assert!(why(&[512, 512, 512, 1, 1]).contains("power of two up to 256"));
        assert!(why(&[8, 8, 0, 1, 1]).contains("hw.commands does not exist"));
    }
}
