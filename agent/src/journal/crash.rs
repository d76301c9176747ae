//! Every power cut: long random lives of a journal on the model of a file system, cut off after each of its operations, with any part of what
//! was not synced.
//!
//! `HEADWATER_CRASH_LIVES` sets how many lives are tried; each takes about a second.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use headwater_proto::LossReason;

use super::disk::model::{Model, Trouble};
use super::flash::Flash;
use super::rig::{self, Chain, Held, InLine, all, batch, bounds, terms};
use super::store::{Store, Unwritten};
use super::{Content, Entry, Journal, Read, Record};

const SYNC_AFTER: Duration = Duration::from_secs(60);
const SEGMENTS: u64 = 6;
const STEPS: usize = 250;

/// xorshift64*: the same lives on every machine.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// What was ever appended: readings, and the length of the batch, or `None` for a loss.
type Appended = BTreeMap<(u64, u64), (u64, Option<usize>)>;

/// A journal and what it should hold.
struct Life {
    model: Model,
    flash: Flash,
    desk: InLine,
    now: Instant,
    random: Random,
    appended: Appended,
    /// What the relay has acknowledged.
    acked: BTreeMap<u64, u64>,
    /// An acknowledgement has ended within a loss record, which then tells of more readings than its numbers had.
    within: bool,
    /// What was read as lost.
    lost: BTreeSet<(u64, u64)>,
    next_stream: u64,
}

/// What is durable after an operation.
struct Moment {
    operations: usize,
    chains: BTreeMap<u64, Chain>,
    acked: BTreeMap<u64, u64>,
    /// The last number of each stream that the journal says is on flash.
    told: BTreeMap<u64, u64>,
}

impl Life {
    fn new(seed: u64) -> Self {
        let model = Model::default();
        let now = Instant::now();
        let (flash, desk) = rig::flash(
            &model,
            1,
            bounds(SEGMENTS),
            terms(12 * 1024, Some(SYNC_AFTER)),
            now,
        );
        Self {
            model,
            flash,
            desk,
            now,
            random: Random(seed | 1),
            appended: BTreeMap::new(),
            acked: BTreeMap::new(),
            within: false,
            lost: BTreeSet::new(),
            next_stream: 2,
        }
    }

    fn tick(&mut self) {
        self.desk.0.lock().unwrap().now = self.now;
        self.flash.tick(self.now);
    }

    fn current(&self) -> u64 {
        self.flash.streams().last().unwrap().stream
    }

    fn append(&mut self) {
        let stream = self.current();
        let seq = self.flash.streams().last().unwrap().last + 1;
        let readings = self.random.below(9) as u64;
        let length = match self.random.below(12) {
            0 => 3000,
            1 => 0,
            _ => self.random.below(400),
        };
        if self.random.below(15) == 0 {
            self.appended.insert((stream, seq), (readings, None));
            let reason = LossReason::Refused;
            assert_eq!(self.flash.append(Entry::Loss { readings, reason }), seq);
        } else {
            self.appended.insert((stream, seq), (readings, Some(length)));
            assert_eq!(self.flash.append(batch(stream, seq, length, readings)), seq);
        }
    }

    /// Reads on in one stream, as the uplink does, and acknowledges some of it.
    fn drain(&mut self) {
        let extents = self.flash.streams();
        let extent = extents[self.random.below(extents.len())];
        let mut seq = extent.first;
        let most = 1 + self.random.below(40);
        let mut through = 0;
        for _ in 0..most {
            match self.flash.read(extent.stream, seq) {
                Read::Record(record) if self.flash.sent(extent.stream, seq) => {
                    if matches!(record.content, Content::Loss(_)) {
                        let numbers = record.seq..=record.through;
                        self.lost.extend(numbers.map(|seq| (extent.stream, seq)));
                    }
                    through = record.through;
                    seq = through + 1;
                }
                Read::Record(_) | Read::Loading => self.tick(),
                Read::None => break,
            }
        }
        if through >= extent.first && self.random.below(3) > 0 {
            self.acked.insert(extent.stream, through);
            let held = self.chains();
            if let Some(chain) = held.get(&extent.stream) {
                self.within |= chain
                    .records
                    .iter()
                    .any(|(seq, last, _)| *seq <= through && through < *last);
            }
            self.flash.forget(extent.stream, through);
        } else if through >= extent.first && self.random.below(6) == 0 {
            self.flash
                .give_up(extent.stream, extent.first, LossReason::Refused);
        }
    }

    fn step(&mut self) {
        match self.random.below(40) {
            0..=19 => {
                for _ in 0..=self.random.below(12) {
                    self.append();
                }
            }
            20..=29 => self.drain(),
            30..=32 => self.now += SYNC_AFTER,
            33 => {
                self.next_stream += 1;
                self.flash.open_stream(self.next_stream);
            }
            34 => self.flash.told(),
            35 => self.restart(),
            36 => {
                self.flash.close();
                for _ in 0..8 {
                    self.tick();
                }
                assert!(self.flash.is_closed());
                self.restart();
            }
            37 => {
                self.model.trouble(Some(Trouble::Torn));
                self.now += SYNC_AFTER;
                self.tick();
                self.model.trouble(None);
                self.now += Duration::from_secs(3);
            }
            _ => self.now += Duration::from_secs(5),
        }
        self.tick();
        self.tick();
    }

    /// A start after a kill: everything that was written is there, and nothing else.
    fn restart(&mut self) {
        self.next_stream += 1;
        let terms = terms(12 * 1024, Some(SYNC_AFTER));
        (self.flash, self.desk) =
            rig::flash(&self.model, self.next_stream, bounds(SEGMENTS), terms, self.now);
    }

    /// What the keeper holds now.
    fn chains(&self) -> BTreeMap<u64, Chain> {
        let mut desk = self.desk.0.lock().unwrap();
        desk.keeper.store().map(all).unwrap_or_default()
    }

    fn moment(&self) -> Moment {
        Moment {
            operations: self.model.operations(),
            chains: self.chains(),
            acked: self.acked.clone(),
            told: self
                .flash
                .streams()
                .iter()
                .map(|extent| (extent.stream, extent.durable))
                .collect(),
        }
    }
}

/// Whether a number is held as a batch.
fn is_batch(chain: &Chain, seq: u64) -> bool {
    chain
        .records
        .iter()
        .any(|(first, _, what)| *first == seq && what.is_ok())
}

/// Whether a number is held as lost.
fn is_lost(chain: Option<&Chain>, seq: u64) -> bool {
    let covers = |record: &Held| (record.0..=record.1).contains(&seq) && record.2.is_err();
    chain.is_some_and(|chain| chain.records.iter().any(covers))
}

/// One medium after a power cut between two moments.
fn check(life: &Life, model: &Model, before: &Moment, after: &Moment) {
    let mut store = Store::open(model.clone(), bounds(SEGMENTS)).unwrap();
    let found = all(&mut store);
    assert_eq!(store.quarantined(), 0, "what was not promised is no damage");
    let acked = |stream: &u64| after.acked.get(stream).copied().unwrap_or(0);
    for (stream, chain) in &found {
        for (seq, through, what) in &chain.records {
            let numbers = *seq..=*through;
            let readings: u64 = numbers
                .clone()
                .map(|seq| match life.appended.get(&(*stream, seq)) {
                    Some((readings, _)) => *readings,
                    None => panic!("{seq} of {stream} was never appended: {chain:?}"),
                })
                .sum();
            match what {
                Ok(body) => {
                    let length = life.appended[&(*stream, *seq)]
                        .1
                        .expect("a batch was appended as a loss");
                    assert_eq!(*body, rig::body(*stream, *seq, length), "batch {seq} of {stream}");
                }
                Err((lost, _)) => {
                    assert!(
                        *lost == readings || (life.within && *lost >= readings),
                        "{lost} readings of {numbers:?} of {stream}, which had {readings}: {chain:?}"
                    );
                    for seq in numbers {
                        let durable = |moment: &Moment| {
                            moment
                                .chains
                                .get(stream)
                                .is_some_and(|chain| is_batch(chain, seq))
                        };
                        let is_gone = !durable(before)
                            || is_lost(after.chains.get(stream), seq)
                            || life.lost.contains(&(*stream, seq));
                        assert!(
                            is_gone,
                            "{seq} of {stream} was durable, and is lost\nbefore {:?}\nafter {:?}\nfound {chain:?}\nacked {}",
                            before.chains.get(stream),
                            after.chains.get(stream),
                            acked(stream)
                        );
                    }
                }
            }
        }
    }
    for (stream, was) in &before.chains {
        let through = acked(stream);
        if was.last <= through {
            continue;
        }
        let now = found
            .get(stream)
            .unwrap_or_else(|| panic!("stream {stream} with {was:?} is gone"));
        assert!(
            now.acked <= through.max(was.acked),
            "{now:?} forgets what is not acknowledged"
        );
        assert!(now.last >= was.last, "the end of {was:?} is gone");
    }
    for (stream, told) in before.told.iter().filter(|(stream, told)| **told > acked(stream)) {
        let last = found.get(stream).map_or(0, |now| now.last);
        assert!(
            last >= *told,
            "of stream {stream} {told} was said to be on flash, and {last} is"
        );
    }
    let again = all(&mut Store::open(model.clone(), bounds(SEGMENTS)).unwrap());
    assert_eq!(again, found, "opened twice, it is another");
    // The next append works.
    let stream = 1 << 60;
    store.begin(stream);
    let Entry::Batch {
        sealed,
        series,
        readings,
        oldest_us,
        ..
    } = batch(stream, 1, 100, 3)
    else {
        unreachable!()
    };
    let content = Content::Batch {
        sealed,
        series: series.clone(),
        clock: None,
    };
    let record = Record {
        seq: 1,
        through: 1,
        content,
    };
    let unwritten = Unwritten {
        stream,
        record,
        readings,
        oldest_us,
    };
    store.write(&[unwritten], &[series]).unwrap();
    let mut again = Store::open(model.clone(), bounds(SEGMENTS)).unwrap();
    let mut with = all(&mut again);
    for segment in again.segments() {
        again.look(segment).unwrap();
    }
    assert_eq!(again.quarantined(), 0, "nor with a newer segment behind it");
    let new = with.remove(&stream).expect("the stream that was just written");
    assert_eq!(new.records, [(1, 1, Ok(rig::body(stream, 1, 100)))]);
    let live = all(&mut store);
    for (stream, chain) in with {
        assert_eq!(
            live.get(&stream).map(|chain| &chain.records),
            Some(&chain.records)
        );
    }
}

#[test]
fn no_power_cut_takes_what_is_durable_or_gives_what_never_was() {
    let lives = std::env::var("HEADWATER_CRASH_LIVES").map_or(2u64, |lives| lives.parse().unwrap());
    let began = Instant::now();
    let mut states = 0u64;
    let mut operations = 0;
    for seed in 1..=lives {
        let mut life = Life::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        life.tick();
        let mut before = Moment {
            operations: 0,
            chains: BTreeMap::new(),
            acked: BTreeMap::new(),
            told: BTreeMap::new(),
        };
        for _ in 0..STEPS {
            life.step();
            let after = life.moment();
            for prefix in before.operations..=after.operations {
                let mut random = Random(seed ^ prefix as u64 | 1);
                let model = life.model.clone();
                model.cuts(prefix, 14, &mut |bound| random.below(bound), |cut| {
                    states += 1;
                    check(&life, &cut, &before, &after);
                });
            }
            before = after;
        }
        operations += before.operations;
    }
    println!(
        "{states} states of the medium after {operations} operations in {lives} lives, {:.1?}",
        began.elapsed()
    );
    assert!(states > 500 * lives, "{states}");
}
