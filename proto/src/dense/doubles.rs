//! A column of doubles: as integers on a grid, with exceptions, or as their bits.
//!
//! ```text
//! form        2 bits    0: decimal, the grid is 1 / 10^scale; 1: another grid; 2: the bits of the doubles as integers
//! scale       5 bits    forms 0 and 1
//! divisor     3 bits    form 1: index into DIVISORS
//! finish      2 bits    form 1: 0 as it is, 1 rounded to 15 significant digits, 2 rounded to single precision
//! exceptions  1 bit     forms 0 and 1; if 1: their number (small), then for each its distance from the one before
//!                       (small) and the distance of its bits from those of the grid's value (number, zigzag)
//! integers              see integers.rs
//! ```
//!
//! A value on a grid is `finish(integer / (divisor × 10^scale))` in doubles.

use alloc::vec::Vec;

use super::bits::{Reader, Writer};
use super::choice::Choice;
use super::integers;
use crate::decimal::{LARGEST, POWERS, fit, misses_at, round};
use crate::varint::{unzigzag, zigzag};

const DECIMAL: u64 = 0;
const GRID: u64 = 1;
const BITS: u64 = 2;

const DIVISORS: [f64; 8] = [1.0, 3.0, 9.0, 7.0, 11.0, 13.0, 27.0, 63.0];
/// What a divisor costs each value, in bits.
const DIVISOR_BITS: [f64; 8] = [0.0, 1.6, 3.2, 2.8, 3.5, 3.7, 4.8, 6.0];
const DIGIT_BITS: f64 = 3.32;
const EXCEPTION_BITS: f64 = 48.0;
/// Divisors are not looked for on a finer scale: what is so fine needs none.
const DIVIDED_SCALE: usize = 5;
/// A decimal scale from which on the digits may be those of a fraction.
const FINE: u8 = 9;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    Plain,
    Digits15,
    Single,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    scale: u8,
    divisor: u8,
    finish: Finish,
}

/// How a column is written: on a grid with so many sixteenths of exceptions, or as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Grid(Grid, u8),
    Bits,
}

impl Grid {
    fn decimal(scale: u32) -> Self {
        Self {
            scale: scale as u8,
            divisor: 0,
            finish: Finish::Plain,
        }
    }

    fn is_decimal(self) -> bool {
        self.divisor == 0 && self.finish == Finish::Plain
    }

    fn steps(self) -> f64 {
        DIVISORS[usize::from(self.divisor)] * POWERS[usize::from(self.scale)]
    }

    fn value(self, integer: f64, steps: f64) -> f64 {
        let value = integer / steps;
        match self.finish {
            Finish::Plain => value,
            Finish::Digits15 => digits15(value),
            Finish::Single => f64::from(value as f32),
        }
    }

    /// The nearest integer and whether it gives the value back.
    fn integer(self, value: f64, steps: f64) -> (i64, bool) {
        let x = value * steps;
        let (rounded, integer) = round(x);
        (
            integer,
            (x.abs() <= LARGEST) & (self.value(rounded, steps).to_bits() == value.to_bits()),
        )
    }

    fn misses(self, values: &[f64]) -> usize {
        let steps = self.steps();
        values
            .iter()
            .map(|value| usize::from(!self.integer(*value, steps).1))
            .sum()
    }
}

/// Rounded to 15 significant decimal digits, as far as doubles can compute it; below 1e-7 as it is.
fn digits15(value: f64) -> f64 {
    let magnitude = value.abs();
    let mut decimals = 22;
    while decimals > 0 && magnitude * POWERS[decimals] >= 1e15 {
        decimals -= 1;
    }
    let scaled = value * POWERS[decimals];
    if scaled.abs() >= 1e15 {
        return value;
    }
    round(scaled).0 / POWERS[decimals]
}

/// Buffers that columns share.
#[derive(Default)]
pub(super) struct Scratch {
    mantissas: Vec<i64>,
    pub(super) integers: integers::Scratch,
}

pub(super) fn encode(out: &mut Writer, values: &[f64], scratch: &mut Scratch, choice: &mut Choice) {
    match choice.form {
        Some(Form::Grid(grid, misses)) => {
            let most = values.len() * usize::from(misses) / 16;
            if (grid.is_decimal() && encode_exact(out, values, grid, scratch, choice))
                || encode_near(out, values, grid, most, scratch, choice).is_some()
            {
                return;
            }
        }
        Some(Form::Bits) if glance(values).is_none() => {
            encode_bits(out, values, scratch, choice);
            return;
        }
        _ => {}
    }
    choice.forget();
    // Most columns are decimals without exceptions, and a few values tell.
    if let Some(scale) = glance(values) {
        let grid = Grid::decimal(scale);
        if encode_exact(out, values, grid, scratch, choice) {
            choice.form = Some(Form::Grid(grid, 0));
            return;
        }
    }
    let form = choose(values).and_then(|grid| {
        let misses = encode_near(out, values, grid, values.len(), scratch, choice)?;
        Some(Form::Grid(grid, (misses * 16).div_ceil(values.len()) as u8))
    });
    if form.is_none() {
        encode_bits(out, values, scratch, choice);
    }
    choice.form = Some(form.unwrap_or(Form::Bits));
}

fn encode_bits(out: &mut Writer, values: &[f64], scratch: &mut Scratch, choice: &mut Choice) {
    out.put_few(BITS, 2);
    let bits = values.iter().map(|value| value.to_bits() as i64);
    scratch.mantissas.clear();
    scratch.mantissas.extend(bits);
    integers::encode(out, &scratch.mantissas, &mut scratch.integers, choice);
}

/// Writes decimals if there are no exceptions.
#[inline]
fn encode_exact(
    out: &mut Writer,
    values: &[f64],
    grid: Grid,
    scratch: &mut Scratch,
    choice: &mut Choice,
) -> bool {
    let scale = u32::from(grid.scale);
    let head = |out: &mut Writer| out.put_few(DECIMAL | u64::from(scale) << 2, 8);
    let narrow = &mut scratch.integers.narrow;
    let factor = choice.integers().map_or(1, |known| known.factor);
    let mut first = narrow.fit(values, scale, factor);
    if first.is_none() && factor != 1 {
        choice.forget_integers();
        first = narrow.fit(values, scale, 1);
    }
    if let Some(first) = first {
        head(out);
        integers::encode_taken(out, first, narrow, choice);
        return true;
    }
    let exact = fit(values, scale, &mut scratch.mantissas);
    if exact {
        head(out);
        integers::encode(out, &scratch.mantissas, &mut scratch.integers, choice);
    }
    exact
}

/// Writes values that are on a grid, but for `most` exceptions; their number.
fn encode_near(
    out: &mut Writer,
    values: &[f64],
    grid: Grid,
    most: usize,
    scratch: &mut Scratch,
    choice: &mut Choice,
) -> Option<usize> {
    let steps = grid.steps();
    let mut misses = 0;
    let integers = &mut scratch.mantissas;
    integers.clear();
    integers.extend(values.iter().map(|value| {
        let (integer, on_grid) = grid.integer(*value, steps);
        misses += usize::from(!on_grid);
        integer
    }));
    if misses > most {
        return None;
    }
    if grid.is_decimal() {
        out.put_few(DECIMAL | u64::from(grid.scale) << 2, 7);
    } else {
        out.put_few(GRID | u64::from(grid.scale) << 2, 7);
        out.put_few(u64::from(grid.divisor) | (grid.finish as u64) << 3, 5);
    }
    out.put_few(u64::from(misses > 0), 1);
    if misses > 0 {
        except(out, values, integers, grid);
    }
    integers::encode(out, integers, &mut scratch.integers, choice);
    Some(misses)
}

/// The first scale that suits a few values, if it is not a fine one.
fn glance(values: &[f64]) -> Option<u32> {
    let mut sample = [0.0; 8];
    let step = values.len().div_ceil(sample.len()).max(1);
    // Where there are fewer, 0.0 suits every scale.
    for (place, value) in sample.iter_mut().zip(values.iter().step_by(step)) {
        *place = *value;
    }
    let (early, late) = sample.split_at(4);
    (0..u32::from(FINE)).find(|scale| misses_at(early, *scale) == 0 && misses_at(late, *scale) == 0)
}

fn except(out: &mut Writer, values: &[f64], integers: &mut [i64], grid: Grid) {
    let steps = grid.steps();
    let mut exceptions = Vec::new();
    let mut last = 0;
    for (at, value) in values.iter().enumerate() {
        if (value * steps).abs() <= LARGEST {
            last = integers[at];
        } else {
            integers[at] = last;
        }
        let off = value
            .to_bits()
            .wrapping_sub(grid.value(integers[at] as f64, steps).to_bits()) as i64;
        if off != 0 {
            exceptions.push((at, off));
        }
    }
    out.small(exceptions.len() as u64);
    let mut next = 0;
    for (at, off) in exceptions {
        out.small((at - next) as u64);
        out.number(zigzag(off));
        next = at + 1;
    }
}

/// What stands before the integers of a column.
enum Head {
    Grid(Grid, Vec<(usize, u64)>),
    Bits,
}

/// What a column turned out to be when it was read as integers: decimals, as mantissas on this scale; or doubles that are none.
pub(super) enum Read {
    Decimals(u32),
    Doubles(Vec<f64>),
}

/// Reads `count` doubles.
///
/// # Errors
/// What is wrong.
pub(super) fn decode(
    bits: &mut Reader<'_>,
    count: usize,
    scratch: &mut integers::Scratch,
) -> Result<Vec<f64>, &'static str> {
    let head = Head::read(bits, count)?;
    let integers = integers::decode(bits, count, scratch)?;
    Ok(head.values(&integers))
}

/// Reads `count` doubles, those that are decimals without exceptions as their mantissas, into `mantissas`.
///
/// # Errors
/// What is wrong.
pub(super) fn read(
    bits: &mut Reader<'_>,
    count: usize,
    scratch: &mut integers::Scratch,
    mantissas: &mut Vec<i64>,
) -> Result<Read, &'static str> {
    let head = Head::read(bits, count)?;
    integers::decode_into(bits, count, scratch, mantissas)?;
    if let Head::Grid(grid, exceptions) = &head
        && grid.is_decimal()
        && exceptions.is_empty()
    {
        let union = mantissas.iter().fold(0, |union, m| union | m ^ (m >> 63));
        // Beyond, an integer may not be what its double is.
        if union < LARGEST as i64 {
            return Ok(Read::Decimals(u32::from(grid.scale)));
        }
    }
    Ok(Read::Doubles(head.values(mantissas)))
}

/// The doubles of mantissas that [`read`] gave.
pub(super) fn decimals(mantissas: &[i64], scale: u32) -> Vec<f64> {
    Head::Grid(Grid::decimal(scale), Vec::new()).values(mantissas)
}

impl Head {
    fn read(bits: &mut Reader<'_>, count: usize) -> Result<Self, &'static str> {
        let form = bits.get(2);
        if form == BITS {
            return Ok(Self::Bits);
        }
        let mut grid = Grid {
            scale: bits.get(5) as u8,
            divisor: 0,
            finish: Finish::Plain,
        };
        if form == GRID {
            grid.divisor = bits.get(3) as u8;
            grid.finish = match bits.get(2) {
                0 => Finish::Plain,
                1 => Finish::Digits15,
                2 => Finish::Single,
                _ => return Err("an unknown finish"),
            };
        } else if form != DECIMAL {
            return Err("an unknown form");
        }
        if usize::from(grid.scale) >= POWERS.len() {
            return Err("a scale over 22");
        }
        let mut exceptions = Vec::new();
        if bits.get(1) == 1 {
            let number = bits.small();
            if number > count as u64 || number > bits.left() as u64 {
                return Err("more exceptions than values");
            }
            let mut next = 0;
            for _ in 0..number {
                let at = bits.small().saturating_add(next);
                if at >= count as u64 {
                    return Err("an exception beyond its end");
                }
                exceptions.push((at as usize, unzigzag(bits.number()) as u64));
                next = at + 1;
            }
        }
        Ok(Self::Grid(grid, exceptions))
    }

    fn values(&self, integers: &[i64]) -> Vec<f64> {
        let integers = integers.iter();
        let (grid, exceptions) = match self {
            Self::Bits => return integers.map(|integer| f64::from_bits(*integer as u64)).collect(),
            Self::Grid(grid, exceptions) => (grid, exceptions),
        };
        let steps = grid.steps();
        let mut values: Vec<f64> = match grid.finish {
            Finish::Plain => integers.map(|integer| *integer as f64 / steps).collect(),
            _ => integers
                .map(|integer| grid.value(*integer as f64, steps))
                .collect(),
        };
        for (at, off) in exceptions {
            values[*at] = f64::from_bits(values[*at].to_bits().wrapping_add(*off));
        }
        values
    }
}

/// The grid with the least cost, judged by a sample of the column; `None` if most values are on none.
fn choose(values: &[f64]) -> Option<Grid> {
    let mut sample = [0.0; 64];
    for samples in [8, 64] {
        let step = values.len().div_ceil(samples).max(1);
        let mut len = 0;
        for value in values.iter().step_by(step) {
            sample[len] = *value;
            len += 1;
        }
        let sample = &sample[..len];
        let (grid, misses) = cheapest(sample);
        let all = len == values.len();
        if samples == 64 || all || grid.misses(values) * 8 <= values.len() {
            return (misses * 2 <= len).then_some(grid);
        }
    }
    None
}

fn cheapest(sample: &[f64]) -> (Grid, usize) {
    let mut search = Search {
        sample,
        best: Grid {
            scale: 0,
            divisor: 0,
            finish: Finish::Plain,
        },
        misses: usize::MAX,
        cost: f64::INFINITY,
    };
    search.scales(0, Finish::Plain, POWERS.len() - 1);
    if search.misses == 0 && search.best.scale < FINE {
        return (search.best, 0);
    }
    if sample
        .iter()
        .all(|value| f64::from(*value as f32).to_bits() == value.to_bits())
    {
        search.scales(0, Finish::Single, 9);
        return (search.best, search.misses);
    }
    for divisor in 1..DIVISORS.len() as u8 {
        for finish in [Finish::Digits15, Finish::Plain] {
            search.scales(divisor, finish, DIVIDED_SCALE);
        }
    }
    (search.best, search.misses)
}

struct Search<'a> {
    sample: &'a [f64],
    best: Grid,
    misses: usize,
    cost: f64,
}

impl Search<'_> {
    /// Tries the scales up to `most` until all values fit or no finer one can be cheaper.
    fn scales(&mut self, divisor: u8, finish: Finish, most: usize) {
        for scale in 0..=most {
            let bits = scale as f64 * DIGIT_BITS + DIVISOR_BITS[usize::from(divisor)];
            let floor = bits * self.sample.len() as f64;
            if floor >= self.cost {
                return;
            }
            let grid = Grid {
                scale: scale as u8,
                divisor,
                finish,
            };
            let misses = grid.misses(self.sample);
            let cost = floor + misses as f64 * EXCEPTION_BITS;
            if cost < self.cost {
                (self.best, self.misses, self.cost) = (grid, misses, cost);
            }
            if misses == 0 {
                return;
            }
        }
    }
}
