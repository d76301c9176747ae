//! What both forms of the journal promise, tried on both with the same lives.

use std::time::{Duration, Instant};

use headwater_proto::LossReason;
use proptest::prelude::*;

use super::disk::model::{Model, Trouble};
use super::flash::Terms;
use super::rig::{self, InLine, batch, bounds, terms};
use super::{Content, Entry, Forgotten, Journal, Memory, Read, Record};

/// A journal, whose keeper (if it has one) is given its turn.
struct Subject {
    journal: Box<dyn Journal>,
    desk: Option<InLine>,
    now: Instant,
    forgotten: Forgotten,
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

    fn flash(model: &Model, memory: usize, segments: u64, sync_after: Duration) -> Self {
        Self::start(1, model, segments, terms(memory, Some(sync_after)))
    }

    /// A start whose stream is `stream`.
    fn start(stream: u64, model: &Model, segments: u64, terms: Terms) -> Self {
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

    fn settle(&mut self) {
        for _ in 0..40 {
            self.tick();
        }
    }

    fn read(&mut self, stream: u64, seq: u64) -> Option<Record> {
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
    fn chains(&mut self) -> Vec<(u64, rig::Held)> {
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

    fn append(&mut self, length: usize, readings: u64) {
        let extent = *self.journal.streams().last().unwrap();
        let seq = self
            .journal
            .append(batch(extent.stream, extent.last + 1, length, readings));
        assert_eq!(seq, extent.last + 1);
    }

    fn forget(&mut self, stream: u64, through: u64) {
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
                    self.journal.sent(extent.stream, seq);
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
            prop_assert_eq!(memory.journal.streams(), flash.journal.streams());
            prop_assert_eq!(memory.forgotten, flash.forgotten);
        }
    }
}

fn fill(subject: &mut Subject, batches: usize) {
    for _ in 0..batches {
        subject.append(200, 5);
    }
    subject.now += Duration::from_secs(61);
    subject.settle();
}

#[test]
fn what_is_acknowledged_in_time_is_never_written() {
    let model = Model::default();
    let mut subject = Subject::flash(&model, 1 << 20, 8, Duration::from_secs(60));
    let at_start = subject.journal.figures().flash_written;
    for _ in 0..500 {
        subject.append(200, 5);
        subject.now += Duration::from_secs(10);
        subject.settle();
        let extent = subject.journal.streams()[0];
        subject.forget(1, extent.last);
    }
    assert_eq!(subject.journal.figures().flash_written, at_start);
    assert_eq!(subject.forgotten.delivered, 2500);
}

/// Nothing can be written, in any of the ways there are: everything new is in memory, up to its bound, and what is on flash still drains
/// where it can be read. When it is over, what is in memory is written.
#[test]
fn without_flash_it_is_the_journal_in_memory_until_flash_is_back() {
    for (trouble, readable) in [
        (Trouble::Full, true),
        (Trouble::ReadOnly, true),
        (Trouble::Broken, false),
    ] {
        let model = Model::default();
        let mut subject = Subject::flash(&model, 8_000, 8, Duration::from_secs(60));
        fill(&mut subject, 100);
        assert_eq!(subject.journal.figures().fault, None);
        model.trouble(Some(trouble));
        fill(&mut subject, 100);
        let figures = subject.journal.figures();
        assert!(figures.fault.is_some(), "{trouble:?}");
        assert!(figures.memory_bytes < 20_000, "{trouble:?} {figures:?}");
        assert_eq!(
            subject.journal.streams().iter().any(|extent| extent.stream == 1),
            readable
        );
        let waiting = subject.journal.waiting();
        assert_eq!(waiting.readings + waiting.lost, 1000, "{trouble:?}");
        assert!(waiting.lost > 0, "{trouble:?}: memory is bounded");
        if readable {
            assert_eq!(subject.read(1, 50).unwrap().seq, 50);
        }
        model.trouble(None);
        subject.now += Duration::from_secs(61);
        subject.settle();
        subject.settle();
        let figures = subject.journal.figures();
        assert_eq!(figures.fault, None, "{trouble:?}");
        let waiting = subject.journal.waiting();
        assert_eq!(waiting.readings + waiting.lost, 1000, "{trouble:?}");
        subject.chains();
        // It is on flash: another start finds it.
        drop(subject);
        let mut next = Subject::flash(&model, 8_000, 8, Duration::from_secs(60));
        let waiting = next.journal.waiting();
        assert_eq!(waiting.readings + waiting.lost, 1000, "{trouble:?}");
        next.chains();
    }
}

#[test]
fn files_that_are_deleted_are_loss_records_and_it_goes_on() {
    let model = Model::default();
    let mut subject = Subject::flash(&model, 1 << 20, 8, Duration::from_secs(60));
    fill(&mut subject, 100);
    model.wipe();
    fill(&mut subject, 50);
    subject.now += Duration::from_secs(5);
    subject.settle();
    subject.settle();
    assert_eq!(subject.journal.figures().fault, None);
    let chains = subject.chains();
    let lost: u64 = chains
        .iter()
        .filter_map(|record| record.1.2.as_ref().err())
        .map(|loss| loss.0)
        .sum();
    let came = chains.iter().filter(|record| record.1.2.is_ok()).count() as u64;
    assert!(lost > 0 && came >= 50 && lost + came * 5 == 750, "{lost} {came}");
    drop(subject);
    let mut next = Subject::flash(&model, 1 << 20, 8, Duration::from_secs(60));
    assert_eq!(next.chains(), chains);
}

/// The drain of what is there, to its end: batches that came, and readings that are lost.
fn drained(subject: &mut Subject) -> (u64, u64) {
    let chains = subject.chains();
    let lost = chains.iter().filter_map(|(_, record)| record.2.as_ref().err());
    let came = chains.iter().filter(|(_, record)| record.2.is_ok()).count();
    (came as u64, lost.map(|loss| loss.0).sum())
}

#[test]
fn a_file_of_which_nothing_can_be_read_is_set_aside_and_its_readings_are_lost_by_number() {
    for newest in [false, true] {
        let model = Model::default();
        let mut subject = Subject::flash(&model, 1 << 20, 20, Duration::from_secs(60));
        for _ in 0..5 {
            fill(&mut subject, 40);
        }
        let names: Vec<String> = model.content().into_keys().collect();
        assert!(names.len() > 3, "{names:?}");
        let name = if newest { names.last().unwrap() } else { &names[1] };
        if newest {
            drop(subject);
            model.spoil(name);
            subject = Subject::start(2, &model, 20, terms(1 << 20, Some(Duration::from_secs(60))));
        } else {
            model.spoil(name);
        }
        let (came, lost) = drained(&mut subject);
        // What the end of a stream held is known from the file that is gone alone.
        assert!(came > 100 && (newest || came * 5 + lost == 1000), "{came} {lost}");
        assert_eq!(subject.journal.figures().fault, None);
        assert_eq!((model.aside(), subject.journal.figures().quarantined), (1, 1));
        fill(&mut subject, 40);
        assert_eq!(subject.journal.figures().unwritten.batches, 0);
        assert_eq!(drained(&mut subject), (came + 40, lost));
        drop(subject);
        let mut next = Subject::start(3, &model, 20, terms(1 << 20, Some(Duration::from_secs(60))));
        assert_eq!(drained(&mut next), (came + 40, lost), "newest: {newest}");
    }
}

#[test]
fn the_bound_holds_when_the_size_of_a_segment_is_another_than_at_the_last_start() {
    let model = Model::default();
    let mut before = 0;
    for (start, segment) in [(1, 1), (2, 4), (3, 2)] {
        let bounds = super::store::Bounds {
            segment: segment * rig::SEGMENT,
            bytes: 10 * rig::SEGMENT,
            age_us: None,
        };
        let terms = terms(1 << 20, Some(Duration::from_secs(60)));
        let now = Instant::now();
        let (flash, desk) = rig::flash(&model, start, bounds, terms, now);
        let mut subject = Subject {
            journal: Box::new(flash),
            desk: Some(desk),
            now,
            forgotten: Forgotten::default(),
        };
        subject.settle();
        let on_flash = |model: &Model| {
            model
                .content()
                .values()
                .map(|file| file.len() as u64)
                .sum::<u64>()
        };
        assert_eq!(subject.journal.figures().flash_bytes, on_flash(&model));
        for _ in 0..30 {
            fill(&mut subject, 40);
            let bytes = subject.journal.figures().flash_bytes;
            assert_eq!(bytes, on_flash(&model));
            assert!(bytes <= bounds.bytes, "{bytes} with segments of {segment}");
        }
        let bytes = subject.journal.figures().flash_bytes;
        assert!(
            bytes + 4 * rig::SEGMENT > bounds.bytes,
            "{bytes}: room is not used"
        );
        let waiting = subject.journal.waiting();
        before += 30 * 40 * 5;
        assert_eq!(waiting.readings + waiting.lost, before);
    }
}

#[test]
fn at_the_end_it_is_tried_once_more_and_what_memory_alone_holds_is_known_exactly() {
    for over in [true, false] {
        let model = Model::default();
        let mut subject = Subject::flash(&model, 1 << 20, 20, Duration::from_secs(60));
        model.trouble(Some(Trouble::Full));
        // More than the segment that is there takes.
        for _ in 0..4 {
            fill(&mut subject, 40);
        }
        assert!(subject.journal.figures().fault.is_some());
        let unwritten = subject.journal.figures().unwritten.readings;
        assert!(unwritten > 0);
        if over {
            model.trouble(None);
        }
        subject.journal.close();
        // No time goes by: it is not the next try that is due anyway.
        subject.settle();
        assert!(subject.journal.is_closed());
        let left = subject.journal.figures().unwritten.readings;
        drop(subject);
        let next = Subject::start(2, &model, 20, terms(1 << 20, Some(Duration::from_secs(60))));
        let found = next.journal.waiting().readings;
        assert_eq!(found + left, 800, "{found} on flash");
        assert_eq!(left, if over { 0 } else { unwritten });
    }
}

#[test]
fn a_stream_is_torn_unless_it_was_closed_and_until_the_relay_knows() {
    let model = Model::default();
    let start = |stream| Subject::start(stream, &model, 8, terms(1 << 20, Some(Duration::from_secs(60))));
    let torn = |subject: &Subject| -> Vec<u64> {
        let streams = subject.journal.streams();
        streams
            .iter()
            .filter(|extent| extent.torn)
            .map(|extent| extent.stream)
            .collect()
    };
    // Killed before anything was written; and after it has given way to another.
    start(1).append(100, 5);
    let mut second = start(2);
    assert_eq!(torn(&second), [1]);
    second.journal.open_stream(3);
    second.settle();
    drop(second);
    let mut third = start(4);
    assert_eq!(torn(&third), [1, 3]);
    third.journal.told();
    third.settle();
    assert_eq!(torn(&third), Vec::<u64>::new());
    third.append(100, 5);
    third.journal.close();
    third.settle();
    assert!(third.journal.is_closed());
    drop(third);
    let mut fourth = start(5);
    assert_eq!(torn(&fourth), Vec::<u64>::new());
    assert_eq!(fourth.journal.streams().len(), 2);
    assert_eq!(fourth.journal.figures().found, 5);
    assert_eq!(fourth.chains().len(), 1);
}

/// With `sync_after = "never"` nothing is written, and what an earlier start left still drains.
#[test]
fn never_writes_nothing_and_drains_what_is_there() {
    let model = Model::default();
    let mut first = Subject::flash(&model, 1 << 20, 8, Duration::ZERO);
    fill(&mut first, 20);
    drop(first);
    let written = model.operations();
    let mut second = Subject::start(2, &model, 8, terms(1 << 20, None));
    fill(&mut second, 20);
    assert_eq!(second.chains().len(), 40);
    second.forget(1, 20);
    second.settle();
    assert_eq!(second.forgotten.delivered, 100);
    assert_eq!(model.operations(), written);
}
