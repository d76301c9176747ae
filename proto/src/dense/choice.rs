//! What was chosen for a column, to be tried first on the batch after it: choosing takes longer than all the rest.
//!
//! A column is much like it was a batch ago. So a sealer keeps, for each series of the set and each time column, the
//! form, the factor and the predictor, and the next batch takes them over. Whether they are right is not a matter of
//! trust: the pass that makes a column's integers proves each value, and a factor is proved by division; what fails is
//! chosen anew at once. Whether they are still good is judged by the bits that come out: a choice is dropped when a
//! column takes clearly more than it did, and after [`TURNS`] batches in any case.

use alloc::vec::Vec;

use super::doubles::Form;
use super::predict::Predictor;

/// Batches that a choice serves.
const TURNS: u8 = 32;
/// Time columns whose choices are kept. Few have more than a handful.
const MOST_TIMES: usize = 64;

/// What was chosen for a column.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Choice {
    /// Of a column of doubles.
    pub(super) form: Option<Form>,
    integers: Option<Integers>,
    turns: u8,
}

/// How a column's integers were coded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Integers {
    pub(super) factor: u64,
    pub(super) predictor: Predictor,
    /// Sixteenths of a bit that a residual took.
    cost: u32,
}

impl Choice {
    /// At the beginning of each batch.
    fn turn(&mut self) -> &mut Self {
        match self.turns.checked_sub(1) {
            Some(left) => self.turns = left,
            None => {
                *self = Self {
                    turns: TURNS - 1,
                    ..Self::default()
                };
            }
        }
        self
    }

    /// What is to be tried first.
    pub(super) fn integers(&self) -> Option<&Integers> {
        self.integers.as_ref()
    }

    /// It did not suit.
    pub(super) fn forget(&mut self) {
        self.form = None;
        self.integers = None;
    }

    /// The integers are not what they were.
    pub(super) fn forget_integers(&mut self) {
        self.integers = None;
    }

    /// What was chosen for this batch and the next ones, and took so many bits for so many residuals.
    pub(super) fn keep(&mut self, factor: u64, predictor: Predictor, bits: usize, residuals: usize) {
        self.integers = Some(Integers {
            factor,
            predictor,
            cost: (bits * 16 / residuals) as u32,
        });
    }

    /// How many bits it took this time, for so many residuals.
    pub(super) fn judge(&mut self, bits: usize, residuals: usize) {
        if let Some(integers) = &self.integers {
            let most = integers.cost + integers.cost / 8 + 8;
            if bits * 16 > most as usize * residuals {
                self.turns = 0;
            }
        }
    }
}

/// What was chosen for the columns of a series set. It grows with the columns of one batch and no further.
#[derive(Default)]
pub(super) struct Memory {
    set: u32,
    columns: Vec<Choice>,
    times: Vec<Choice>,
    /// For time columns beyond the most; it remembers nothing.
    spare: Choice,
}

impl Memory {
    /// Forgets what belongs to another set than this.
    pub(super) fn of(&mut self, set: u32, series: usize) {
        if self.set != set || self.columns.len() != series {
            self.set = set;
            self.columns.clear();
            self.columns.resize(series, Choice::default());
            self.times.clear();
        }
    }

    /// For the column of the series at this place.
    pub(super) fn column(&mut self, place: usize) -> &mut Choice {
        self.columns[place].turn()
    }
    /// For the time column of this index.
    pub(super) fn times(&mut self, index: usize) -> &mut Choice {
        if index == self.times.len() && index < MOST_TIMES {
            self.times.push(Choice::default());
        }
        match self.times.get_mut(index) {
            Some(choice) => choice.turn(),
            None => {
                self.spare = Choice::default();
                &mut self.spare
            }
        }
    }
}
