//! Commands from Kafka to the devices, and answers back to Kafka. Nothing of it holds readings up: answers have a way to Kafka of their own.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{BURST, Driver, blocking};
use crate::admin::Monitor;
use crate::bridge::budget::Budget;
use crate::bridge::commands::metrics::Metrics;
use crate::bridge::commands::position::Position;
use crate::bridge::commands::reader::Reader;
use crate::bridge::commands::request::Read;
use crate::bridge::commands::{Batch, Shared};
use crate::bridge::device::Now;
use crate::bridge::reader;
use crate::bridge::settings::BridgeSettings;
use crate::bridge::writer::{Answers, answers_id};
use crate::kafka::{self, KafkaSettings};

/// A new way to Kafka, and what Kafka holds of each partition's commands, with the terms.
type Ready = (Answers, Vec<(u32, u64, Position)>);
/// `None` when stopped meanwhile.
type Made = Result<Option<Ready>, kafka::Error>;

/// Answers of a partition that are on their way to Kafka.
struct OnWay {
    /// So many reports are still to come.
    reports: usize,
    /// Whether all is well so far.
    well: bool,
    /// What is to be committed when they are in: of a bridge that is alone.
    position: Option<(i64, String)>,
}

/// What is needed beside the commands themselves.
pub(super) struct Down {
    pub(super) reader: Reader,
    answers: Option<Answers>,
    making: Option<JoinHandle<Made>>,
    /// Answers on their way, by partition and term.
    on_way: BTreeMap<(u32, u64), OnWay>,
    /// In a row.
    failures: u32,
}

impl Down {
    pub(super) fn new(reader: Reader) -> Self {
        Self {
            reader,
            answers: None,
            making: None,
            on_way: BTreeMap::new(),
            failures: 0,
        }
    }

    /// The way to Kafka that is being made; never, while none is.
    pub(super) async fn made(&mut self) -> Made {
        let Some(making) = &mut self.making else {
            return std::future::pending().await;
        };
        let made = making.await;
        self.making = None;
        made.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}

/// What all partitions share of commands. `writer`: our transactional id, where there is one.
pub(super) fn shared(
    kafka: &KafkaSettings,
    bridge: &BridgeSettings,
    writer: Option<&str>,
    partitions: u32,
    monitor: &Monitor,
) -> Shared {
    Shared {
        settings: bridge.commands.clone(),
        partitions,
        writer: writer.map_or_else(|| kafka.group(), answers_id).into(),
        bytes: Budget::new(bridge.commands.memory.as_u64() as usize),
        metrics: monitor.register(Metrics::new),
    }
}

impl Driver {
    /// Makes the way for answers, for the first time.
    pub(super) fn begin_answers(&mut self) {
        self.make_answers(None, Duration::ZERO);
    }

    /// It has failed: makes it anew. Until then answers wait, and so do commands in the end; readings do not.
    pub(super) fn recover_answers(&mut self, reason: &str) {
        let Some(old) = self.commands.answers.take() else {
            return;
        };
        self.fleets.of_commands.metrics.recoveries.inc();
        self.commands.failures = self.commands.failures.saturating_add(1);
        if self.commands.failures == 2 {
            tracing::warn!("replies to commands cannot be written, and wait: {reason}; trying again");
        } else {
            tracing::debug!("replies to commands were not written: {reason}");
        }
        // The first time at once: a rebalance does it, too. Then ever slower.
        let wait = Duration::from_millis(250) * ((1 << self.commands.failures.min(6)) - 2);
        self.make_answers(Some(old), wait);
    }

    fn make_answers(&mut self, old: Option<Answers>, wait: Duration) {
        let (maker, side, stop) = (self.maker.clone(), self.side.clone(), self.shutdown.clone());
        let terms = self.fleets.terms();
        self.commands.making = Some(tokio::spawn(async move {
            blocking(move || drop(old)).await;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => return Ok(None),
            }
            blocking(move || {
                let Some(answers) = maker.answers(&side, &stop)? else {
                    return Ok(None);
                };
                // Now nothing of the old one is open any more: what was committed unheard shows.
                let partitions: Vec<u32> = terms.iter().map(|(partition, _)| *partition).collect();
                if partitions.is_empty() {
                    return Ok(Some((answers, Vec::new())));
                }
                let own = maker.group.as_ref().map(|(_, id)| id.as_str());
                let (kafka, bridge) = (&maker.kafka, &maker.bridge);
                let positions = reader::read_positions(kafka, bridge, own, &partitions, &maker.check, &stop)?;
                let Some(positions) = positions else {
                    return Ok(None);
                };
                let positions = positions.into_iter().filter_map(|(partition, position)| {
                    let (_, term) = terms.iter().find(|(other, _)| *other == partition)?;
                    Some((partition, *term, position))
                });
                Ok(Some((answers, positions.collect())))
            })
            .await
        }));
    }

    pub(super) fn answers_made(&mut self, made: Option<Ready>) {
        let Some((answers, positions)) = made else { return };
        for (partition, term, position) in positions {
            self.fleets.committed(partition, term, &position);
        }
        self.commands.answers = Some(answers);
        self.step_commands();
    }

    pub(super) fn commands_read(&mut self, first: Read, more: &mut mpsc::UnboundedReceiver<Read>) {
        self.fleets.command(first);
        for _ in 1..BURST {
            let Ok(read) = more.try_recv() else { break };
            self.fleets.command(read);
        }
        self.step_commands();
    }

    /// Sends and answers what can be sent and answered.
    pub(super) fn step_commands(&mut self) {
        let connection = &self.connection;
        self.fleets.commands(Now::read(), |topic, payload| {
            connection.publish(topic, payload.to_vec()).is_ok()
        });
        if self.commands.answers.is_none() {
            return;
        }
        for batch in self.fleets.answers() {
            self.write_answers(batch);
        }
    }

    fn write_answers(&mut self, batch: Batch) {
        let Some(answers) = &self.commands.answers else {
            return;
        };
        let (partition, term, count) = (batch.partition, batch.term, batch.answers.len());
        let (position, expected) = match answers {
            Answers::Plain(_) => (Some((batch.offset, batch.metadata.clone())), count),
            Answers::Transactions(_) => (None, 1),
        };
        let reports = answers.write(batch);
        if reports == 0 {
            return self.fleets.answered(partition, term, false);
        }
        let on_way = OnWay {
            reports,
            well: reports == expected,
            position,
        };
        self.commands.on_way.insert((partition, term), on_way);
    }

    pub(super) fn answered(&mut self, partition: u32, term: u64, stored: bool) {
        let Some(on_way) = self.commands.on_way.get_mut(&(partition, term)) else {
            return;
        };
        on_way.reports -= 1;
        on_way.well &= stored;
        if on_way.reports > 0 {
            return;
        }
        let Some(on_way) = self.commands.on_way.remove(&(partition, term)) else {
            return;
        };
        if on_way.well {
            self.commands.failures = 0;
            if let Some((offset, metadata)) = on_way.position {
                self.commands.reader.commit(partition, offset, metadata);
            }
        }
        self.fleets.answered(partition, term, on_way.well);
    }
}
