//! A journal on the model of a file system, for tests: the keeper is asked in the same thread, at a time of the test's own.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use headwater_proto::frame::Sealed;
use headwater_proto::{LossReason, SeriesSet};

use super::disk::model::Model;
use super::flash::{Flash, Port, Terms};
use super::keeper::{Keeper, Medium, Request, Response};
use super::sent::Sent;
use super::store::{Bounds, Store};
use super::{Content, Entry, Record};

/// The keeper, and what it was asked and has not done.
pub(super) struct Desk {
    pub(super) keeper: Keeper<Model>,
    asked: VecDeque<Request>,
    pub(super) now: Instant,
}

#[derive(Clone)]
pub(super) struct InLine(pub(super) Arc<Mutex<Desk>>);

impl Port for InLine {
    fn ask(&mut self, request: Request) {
        self.0.lock().unwrap().asked.push_back(request);
    }

    fn answer(&mut self) -> Option<Response> {
        let mut desk = self.0.lock().unwrap();
        let now = desk.now;
        if let Some(response) = desk.keeper.tick(now) {
            return Some(response);
        }
        match desk.asked.pop_front() {
            Some(request) => Some(desk.keeper.handle(request, now)),
            None => desk.keeper.tidy(now),
        }
    }
}

struct Same(Model);

impl Medium<Model> for Same {
    fn open(&mut self) -> io::Result<Model> {
        Ok(self.0.clone())
    }

    fn now_us(&self) -> Option<i64> {
        None
    }
}

pub(super) const SEGMENT: u64 = 16 * 1024;

pub(super) fn bounds(segments: u64) -> Bounds {
    Bounds {
        segment: SEGMENT,
        bytes: segments * SEGMENT,
        age_us: None,
    }
}

pub(super) fn terms(memory: usize, sync_after: Option<Duration>) -> Terms {
    Terms {
        memory,
        sync_after,
        write_at: 6 * 1024,
    }
}

/// A journal on `model`.
pub(super) fn flash(
    model: &Model,
    stream: u64,
    bounds: Bounds,
    terms: Terms,
    now: Instant,
) -> (Flash, InLine) {
    let sent = Sent::default();
    let medium = Box::new(Same(model.clone()));
    let keeper = Keeper::new(Path::new("model"), bounds, medium, sent.clone(), now);
    let desk = InLine(Arc::new(Mutex::new(Desk {
        keeper,
        asked: VecDeque::new(),
        now,
    })));
    let mut next = stream;
    let draw = Box::new(move || {
        next += 1 << 32;
        next
    });
    (
        Flash::with(stream, terms, Box::new(desk.clone()), Arc::default(), sent, draw),
        desk,
    )
}

/// Three sets, as different starts may have them.
pub(super) fn sets() -> Vec<Arc<SeriesSet>> {
    (1..=3)
        .map(|salt| Arc::new(SeriesSet::new(Vec::new(), salt)))
        .collect()
}

/// A batch that tells its stream and number apart from every other.
pub(super) fn batch(stream: u64, seq: u64, length: usize, readings: u64) -> Entry {
    let series = sets()[(seq % 3) as usize].clone();
    let sealed = Sealed {
        envelope: 0x11,
        series_set: series.hash(),
        body: body(stream, seq, length),
    };
    Entry::batch(sealed, series, readings, seq as i64 + 1)
}

pub(super) fn body(stream: u64, seq: u64, length: usize) -> Vec<u8> {
    let mark = stream.to_le_bytes().into_iter().chain(seq.to_le_bytes());
    mark.chain((0..length).map(|at| (at as u64 ^ seq ^ stream) as u8))
        .collect()
}

/// What is held of a stream: numbers that are acknowledged, and the records behind.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Chain {
    pub(super) acked: u64,
    pub(super) last: u64,
    pub(super) ended: bool,
    pub(super) records: Vec<Held>,
}

/// First and last number, and the body of a batch or readings and reason of a loss.
pub(super) type Held = (u64, u64, Result<Vec<u8>, (u64, LossReason)>);

/// Everything that a store holds.
pub(super) fn all(store: &mut Store<Model>) -> BTreeMap<u64, Chain> {
    let held: Vec<_> = store.held().collect();
    let mut chains = BTreeMap::new();
    for held in held {
        let mut records = Vec::new();
        let mut seq = held.acked + 1;
        loop {
            let (more, _) = store.load(held.stream, seq, 4096).unwrap();
            let Some(last) = more.last() else { break };
            seq = last.through + 1;
            records.extend(more.into_iter().map(
                |Record {
                     seq,
                     through,
                     content,
                 }| {
                    let what = match content {
                        Content::Batch { sealed, series, .. } => {
                            assert_eq!(series.hash(), sealed.series_set);
                            Ok(sealed.body.clone())
                        }
                        Content::Loss(loss) => Err((loss.readings, loss.reason)),
                    };
                    (seq, through, what)
                },
            ));
        }
        let (acked, last, ended) = (held.acked, held.last, held.ended);
        let mut next = acked + 1;
        for (seq, through, _) in &records {
            assert_eq!(*seq, next, "a hole or a repetition in {records:?}");
            next = through + 1;
        }
        assert_eq!(
            next,
            last.max(acked) + 1,
            "its end is missing: {acked} {last} {records:?}"
        );
        chains.insert(
            held.stream,
            Chain {
                acked,
                last,
                ended,
                records,
            },
        );
    }
    chains
}
