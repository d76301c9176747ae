//! What is written to Kafka, and what becomes of it.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::{BEAT, BURST, Driver, LAST_WORDS, blocking};
use crate::bridge::device::Now;
use crate::bridge::fleet::{Outcome, Record};
use crate::bridge::producer::{Pieces, Refusal, Report};
use crate::bridge::reader;
use crate::bridge::scan::Scan;
use crate::bridge::transactions::Writes;
use crate::bridge::writer::Writer;
use crate::kafka;

/// Records in flight that get no report for this long: Kafka is not well.
const SILENCE: Duration = Duration::from_secs(5);

/// How long records go to Kafka one by one after it refused some that went together.
const ONE_BY_ONE: Duration = Duration::from_secs(600);

/// What is in Kafka of what a writer was given, and the next one; `None` when stopped meanwhile.
pub(super) type Recovered = Result<Option<(Vec<(u32, Scan)>, Writer)>, kafka::Error>;

impl Driver {
    pub(super) fn produce(&mut self, record: Record) {
        let Some(writer) = &self.writer else { return };
        if self.fleets.in_flight() == 0 {
            self.last_report = Instant::now();
        }
        // Before it is handed over: then its report may come.
        self.fleets.sent(&record);
        if let Err((refusal, record)) = writer.record(record) {
            self.fleets.taken_back(&record);
            match refusal {
                Refusal::Full => self.fleets.unsent(&record, None),
                Refusal::Unfit(reason) => self.fleets.unsent(&record, Some(reason)),
                Refusal::Fatal(reason) => self.recover(&reason),
            }
        }
    }

    pub(super) fn reports(&mut self, first: Report, more: &mut mpsc::UnboundedReceiver<Report>) {
        self.report(first);
        for _ in 1..BURST {
            let Ok(report) = more.try_recv() else { break };
            self.report(report);
        }
    }

    pub(super) fn report(&mut self, report: Report) {
        let now = Now::read();
        match report {
            Report::Telemetry(ticket, outcome) => {
                let failed = !matches!(outcome, Outcome::Stored(_));
                if outcome == Outcome::Suspect && self.one_by_one.is_none() {
                    tracing::warn!(
                        "Kafka refuses records for the size or content of one, or for their size together: for a while each goes \
                         by itself, so that the others go on. Is max.message.bytes of {} smaller than bridge.limits.body?",
                        self.maker.kafka.topics().telemetry
                    );
                    self.one_by_one = Some(now.at);
                }
                let current = self.fleets.reported(now, &ticket, outcome);
                self.last_report = now.at;
                if failed && current {
                    self.recover("records were not delivered");
                } else if !failed && self.recovery.is_none() {
                    self.recoveries = 0;
                }
            }
            Report::State(entered, offset) => self.fleets.state(now.at, entered, offset.is_some()),
            Report::DeadLetter(letter, outcome) => self.fleets.dead_letter(now, &letter, &outcome),
            Report::Answers(partition, term, stored) => self.answered(partition, term, stored),
            Report::Ended(Writes::Records, reason) => self.recover(&reason),
            Report::Ended(Writes::Answers, reason) => self.recover_answers(&reason),
        }
    }

    /// Makes the first writer.
    pub(super) fn begin(&mut self) {
        self.fleets.halt();
        let (maker, stop) = (self.maker.clone(), self.shutdown.clone());
        self.recovery = Some(tokio::spawn(blocking(move || {
            Ok(maker
                .make(Pieces::Many, &stop)?
                .map(|writer| (Vec::new(), writer)))
        })));
    }

    /// Makes the writer anew: ends the old one, waits for its reports, and scans what of it got through.
    pub(super) fn recover(&mut self, reason: &str) {
        let Some(old) = self.writer.take() else { return };
        tracing::debug!("making the producer anew: {reason}");
        self.metrics.recoveries.inc();
        let fault = format!("{reason}: finding out what got through, then going on from there");
        self.maker.check.failing(fault.clone());
        self.fault = Some(fault);
        self.recoveries += 1;
        let from = self.fleets.halt();
        let (maker, stop) = (self.maker.clone(), self.shutdown.clone());
        let pieces = match self.one_by_one {
            Some(_) => Pieces::One,
            None => Pieces::Many,
        };
        // The first time at once: it may have been one record. Then ever slower.
        let wait = Duration::from_millis(250) * ((1 << self.recoveries.min(6)) - 2).min(20);
        self.recovery = Some(tokio::spawn(async move {
            blocking(move || drop(old)).await;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => return Ok(None),
            }
            // They may be the reason.
            let Some(partitions) = kafka::await_topics(&maker.kafka, &maker.check, &stop).await? else {
                return Ok(None);
            };
            maker.keeps_partitions(partitions)?;
            blocking(move || {
                // First the next writer: with it, nothing of the old one is open any more.
                let Some(writer) = maker.make(pieces, &stop)? else {
                    return Ok(None);
                };
                let partitions: Vec<u32> = from.iter().map(|(partition, _)| *partition).collect();
                let gone = reader::states_are_gone(&maker.kafka, &partitions)?;
                let scan = |(partition, gone): (u32, bool)| {
                    let mut scan = Scan::default();
                    scan.begun = !gone;
                    (partition, scan)
                };
                let scans = partitions.into_iter().zip(gone).map(scan).collect();
                let limits = maker.bridge.limits.codec();
                let scans = reader::read_telemetry(&maker.kafka, scans, &from, &limits, &maker.check, &stop)?;
                Ok(scans.map(|scans| (scans, writer)))
            })
            .await
        }));
    }

    /// Records go together again when they went one by one for long enough.
    pub(super) fn together_again(&mut self) {
        let over = |since: Instant| since.elapsed() >= ONE_BY_ONE;
        if self.writer.is_some() && self.one_by_one.is_some_and(over) {
            self.one_by_one = None;
            self.recover("records go together again");
        }
    }

    pub(super) fn recovered(&mut self, recovered: Option<(Vec<(u32, Scan)>, Writer)>) {
        if let Some((scans, writer)) = recovered {
            self.fleets.resume(Now::read(), scans);
            self.leaving.iter().for_each(|leaving| {
                leaving.partitions.iter().for_each(|&at| self.fleets.retire(at));
            });
            self.writer = Some(writer);
            self.last_report = Instant::now();
            // Before anybody is told to send again.
            self.judge_kafka();
        }
    }

    pub(super) fn states(&mut self, now: Instant) {
        let Some(writer) = &self.writer else { return };
        while self.states_budget >= 1.0 {
            let Some(state) = self.fleets.next_state(now) else {
                return;
            };
            self.states_budget -= 1.0;
            let entered = state.entered;
            if writer.state(state, &self.side).is_err() {
                self.fleets.state(now, entered, false);
                return;
            }
        }
    }

    pub(super) fn judge_kafka(&mut self) {
        let bootstrap = &self.maker.kafka.bootstrap;
        if self.writer.is_some() {
            self.fault = None;
        }
        if self.maker.context.all_down() {
            if self
                .probe
                .as_ref()
                .is_none_or(tokio::task::JoinHandle::is_finished)
            {
                let side = self.side.clone();
                self.probe = Some(tokio::task::spawn_blocking(move || {
                    if !side.probe(Duration::from_secs(1)) {
                        std::thread::sleep(Duration::from_millis(500));
                    }
                }));
            }
            self.fault = Some(format!("no broker of {bootstrap} can be reached"));
        } else if self.fleets.in_flight() > 0 && self.last_report.elapsed() > SILENCE {
            self.fault = Some(format!("{bootstrap} confirms nothing that was sent"));
        }
        match &self.fault {
            // What is waited for is said by whoever waits.
            _ if self.recovery.is_some() => {}
            Some(reason) => self.maker.check.failing(reason.clone()),
            None if self.writer.is_none() || !self.joined || !self.takeovers.is_empty() => {}
            None => self.maker.check.ready(),
        }
    }

    /// Lets what is in flight arrive, tells the agents, leaves states and checkpoints behind.
    pub(super) async fn stop(mut self, reports: &mut mpsc::UnboundedReceiver<Report>) {
        let until = tokio::time::Instant::now() + LAST_WORDS;
        while self.fleets.in_flight() > 0 {
            match tokio::time::timeout_at(until, reports.recv()).await {
                Ok(Some(report)) => self.reports(report, reports),
                _ => break,
            }
        }
        tokio::time::sleep(self.maker.bridge.ack_interval.min(BEAT)).await;
        self.acks();
        self.connection.stop().await;
        self.fleets.mark(Now::read());
        let partitions = self.fleets.partitions();
        let until = tokio::time::Instant::now() + LAST_WORDS;
        // Everything that changed is due now.
        let due = Instant::now() + self.maker.bridge.state_interval;
        while !self.fleets.are_clean(&partitions) {
            while let (Some(writer), Some(state)) = (&self.writer, self.fleets.next_state(due)) {
                let entered = state.entered;
                if writer.state(state, &self.side).is_err() {
                    self.fleets.state(due, entered, false);
                    break;
                }
            }
            match tokio::time::timeout_at(until, reports.recv()).await {
                Ok(Some(Report::State(entered, offset))) => self.fleets.state(due, entered, offset.is_some()),
                Ok(Some(_)) => {}
                _ => break,
            }
        }
        let (writer, side, commands) = (self.writer, self.side, self.commands);
        blocking(move || {
            // Dead letters may still be on their way.
            side.flush(LAST_WORDS);
            drop((writer, side, commands));
        })
        .await;
    }
}
