//! What both forms of the journal promise, tried on both with the same lives.

use std::time::{Duration, Instant};

use headwater_proto::LossReason;
use proptest::prelude::*;

use super::disk::model::Model;
use super::flash::Terms;
use super::rig::{self, InLine, batch, bounds, terms};
use super::{Content, Entry, Forgotten, Journal, Memory, Read, Record};

/// A journal, whose keeper (if it has one) is given its turn.
pub(super) struct Subject {
    pub(super) journal: Box<dyn Journal>,
    pub(super) desk: Option<InLine>,
    pub(super) now: Instant,
    pub(super) forgotten: Forgotten,
}

impl Subject {
    fn memory(bound: usize) -> Self {
        Self {
            journal: Box::new(Memory::new(1, bound)),
            desk: None,
            now: Instant::now(),
            forgotten: Forgotten::default(),
        }
    }

    pub(super) fn flash(model: &Model, memory: usize, segments: u64, sync_after: Duration) -> Self {
        Self::start(1, model, segments, terms(memory, Some(sync_after)))
    }

    /// A start whose stream is `stream`.
    pub(super) fn start(stream: u64, model: &Model, segments: u64, terms: Terms) -> Self {
        let now = Instant::now();
        let (flash, desk) = rig::flash(model, stream, bounds(segments), terms, now);
        let mut subject = Self {
            journal: Box::new(flash),
            desk: Some(desk),
            now,
            forgotten: Forgotten::default(),
        };
        subject.settle();
        subject
    }

    fn tick(&mut self) {
        if let Some(desk) = &self.desk {
            desk.0.lock().unwrap().now = self.now;
        }
        let more = self.journal.tick(self.now);
        self.forgotten = self.forgotten.and(more);
    }

    pub(super) fn settle(&mut self) {
        for _ in 0..40 {
            self.tick();
        }
    }

    pub(super) fn read(&mut self, stream: u64, seq: u64) -> Option<Record> {
        for _ in 0..10 {
            match self.journal.read(stream, seq) {
                Read::Record(record) => return Some(record),
                Read::Loading => self.tick(),
                Read::None => return None,
            }
        }
        panic!("{seq} of {stream} is never loaded: {:?}", self.journal.streams());
    }

    /// Every stream's records: stream, first, last, and the body or readings and reason.
    pub(super) fn chains(&mut self) -> Vec<(u64, rig::Held)> {
        let mut chains = Vec::new();
        for extent in self.journal.streams() {
            let mut seq = extent.first;
            while seq <= extent.last {
                let record = self
                    .read(extent.stream, seq)
                    .unwrap_or_else(|| panic!("a hole at {seq} in {extent:?}"));
                assert_eq!(record.seq, seq);
                let what = match record.content {
                    Content::Batch { sealed, series, .. } => {
                        assert_eq!(series.hash(), sealed.series_set);
                        Ok(sealed.body.clone())
                    }
                    Content::Loss(loss) => {
                        assert_eq!(loss.through, record.through);
                        Err((loss.readings, loss.reason))
                    }
                };
                chains.push((extent.stream, (seq, record.through, what)));
                seq = record.through + 1;
            }
            assert_eq!(seq, extent.last + 1, "{extent:?}");
        }
        chains
    }

    pub(super) fn append(&mut self, length: usize, readings: u64) {
        let extent = *self.journal.streams().last().unwrap();
        let seq = self
            .journal
            .append(batch(extent.stream, extent.last + 1, length, readings));
        assert_eq!(seq, extent.last + 1);
    }

    pub(super) fn forget(&mut self, stream: u64, through: u64) {
        let more = self.journal.forget(stream, through);
        self.forgotten = self.forgotten.and(more);
    }

    /// Takes a step; `sent` are the extents that are known outside.
    fn step(&mut self, step: &Step, appended: &mut u64, sent: &mut Vec<(u64, u64, u64)>) {
        match *step {
            Step::Append(length, readings) => {
                *appended += readings;
                self.append(length, readings);
            }
            Step::AppendLoss(readings) => {
                *appended += readings;
                let reason = LossReason::Refused;
                self.journal.append(Entry::Loss { readings, reason });
            }
            Step::Send(at, ahead) => {
                let streams = self.journal.streams();
                let extent = streams[at % streams.len()];
                let mut seq = extent.first;
                for _ in 0..=ahead {
                    let Some(record) = self.read(extent.stream, seq) else {
                        break;
                    };
                    if !self.journal.sent(extent.stream, seq) {
                        // It has made way since it was read: next time it is read anew.
                        break;
                    }
                    if !sent.contains(&(extent.stream, seq, record.through)) {
                        sent.push((extent.stream, seq, record.through));
                    }
                    seq = record.through + 1;
                }
            }
            Step::Forget(ahead) => {
                let first = |stream| {
                    let streams = self.journal.streams();
                    streams
                        .iter()
                        .find(|extent| extent.stream == stream)
                        .map(|extent| extent.first)
                };
                let held = sent
                    .iter()
                    .copied()
                    .filter(|(stream, seq, _)| first(*stream).is_some_and(|first| *seq >= first));
                if let Some((stream, _, through)) = held.clone().nth(ahead) {
                    self.forget(stream, through);
                }
            }
            Step::GiveUp(ahead) => {
                let extent = self.journal.streams()[0];
                self.journal
                    .give_up(extent.stream, extent.first + ahead, LossReason::Refused);
            }
            Step::OpenStream => {
                let newest = self.journal.streams().last().unwrap().stream;
                self.journal.open_stream(newest + 1);
            }
            Step::Wait(seconds) => self.now += Duration::from_secs(seconds),
        }
        self.settle();
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(usize, u64),
    AppendLoss(u64),
    Send(usize, u64),
    Forget(usize),
    GiveUp(u64),
    OpenStream,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0usize..600, 0u64..9).prop_map(|(length, readings)| Step::Append(length, readings)),
        1 => (0u64..9).prop_map(Step::AppendLoss),
        4 => (0usize..4, 0u64..6).prop_map(|(stream, ahead)| Step::Send(stream, ahead)),
        2 => (0usize..6).prop_map(Step::Forget),
        1 => (0u64..6).prop_map(Step::GiveUp),
        1 => Just(Step::OpenStream),
        2 => (0u64..90).prop_map(Step::Wait),
    ]
}

/// No hole, every reading accounted for, what was sent keeps its extent.
fn check(subject: &mut Subject, appended: u64, sent: &[(u64, u64, u64)]) {
    let chains = subject.chains();
    let waiting = subject.journal.waiting();
    let Forgotten { delivered, lost } = subject.forgotten;
    assert_eq!(
        appended,
        delivered + lost + waiting.readings + waiting.lost,
        "{waiting:?}"
    );
    let streams = subject.journal.streams();
    for (stream, seq, through) in sent {
        let first = streams
            .iter()
            .find(|extent| extent.stream == *stream)
            .map(|extent| extent.first);
        if first.is_some_and(|first| *seq >= first) {
            let is_it =
                |record: &(u64, rig::Held)| (record.0, record.1.0, record.1.1) == (*stream, *seq, *through);
            assert!(
                chains.iter().any(is_it),
                "{seq}..={through} of {stream} was sent: {streams:?}"
            );
        }
    }
    if chains.is_empty() {
        assert_eq!((waiting.batches, waiting.readings, waiting.lost), (0, 0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_in_memory(steps in prop::collection::vec(step(), 0..150)) {
        let mut subject = Subject::memory(6_000);
        let (mut appended, mut sent) = (0, Vec::new());
        for step in &steps {
            subject.step(step, &mut appended, &mut sent);
            check(&mut subject, appended, &sent);
        }
    }

    #[test]
    fn whatever_happens_on_flash(steps in prop::collection::vec(step(), 0..150), soon in any::<bool>()) {
        let sync_after = Duration::from_secs(if soon { 0 } else { 60 });
        let mut subject = Subject::flash(&Model::default(), 8_000, 4, sync_after);
        let (mut appended, mut sent) = (0, Vec::new());
        for step in &steps {
            subject.step(step, &mut appended, &mut sent);
            check(&mut subject, appended, &sent);
        }
    }

    /// Where nothing is given up, both hold the same.
    #[test]
    fn both_forms_hold_the_same(steps in prop::collection::vec(step(), 0..150)) {
        let mut memory = Subject::memory(1 << 20);
        let mut flash = Subject::flash(&Model::default(), 1 << 20, 1000, Duration::from_secs(60));
        let (mut a, mut b) = ((0, Vec::new()), (0, Vec::new()));
        let kept = |step: &&Step| !matches!(step, Step::AppendLoss(_) | Step::GiveUp(_));
        for step in steps.iter().filter(kept) {
            memory.step(step, &mut a.0, &mut a.1);
            flash.step(step, &mut b.0, &mut b.1);
            prop_assert_eq!(memory.chains(), flash.chains());
            // But for what is on flash.
            let mut streams = flash.journal.streams();
            for extent in &mut streams {
                prop_assert!((extent.first - 1..=extent.last).contains(&extent.durable));
                extent.durable = extent.first - 1;
            }
            prop_assert_eq!(memory.journal.streams(), streams);
            prop_assert_eq!(memory.forgotten, flash.forgotten);
        }
    }
}
