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
use super::integers::{self, Scratch};
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
enum Finish {
    Plain,
    Digits15,
    Single,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grid {
    scale: u8,
    divisor: u8,
    finish: Finish,
}

impl Grid {
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

pub(super) fn encode(out: &mut Writer, values: &[f64], scratch: &mut Scratch, integers: &mut Vec<i64>) {
    // Most columns are decimals without exceptions, and a few values tell.
    if let Some(scale) = glance(values) {
        if let Some(first) = scratch.narrow.fit(values, scale) {
            out.put(DECIMAL | u64::from(scale) << 2, 8);
            integers::encode_taken(out, first, &mut scratch.narrow, values.len());
            return;
        }
        if fit(values, scale, integers) {
            out.put(DECIMAL | u64::from(scale) << 2, 8);
            integers::encode(out, integers, scratch);
            return;
        }
    }
    let Some(grid) = choose(values) else {
        out.put(BITS, 2);
        integers.clear();
        integers.extend(values.iter().map(|value| value.to_bits() as i64));
        integers::encode(out, integers, scratch);
        return;
    };
    if grid.divisor == 0 && grid.finish == Finish::Plain {
        out.put(DECIMAL, 2);
        out.put(u64::from(grid.scale), 5);
    } else {
        out.put(GRID, 2);
        out.put(u64::from(grid.scale), 5);
        out.put(u64::from(grid.divisor), 3);
        out.put(grid.finish as u64, 2);
    }
    let steps = grid.steps();
    let mut exact = true;
    integers.clear();
    integers.extend(values.iter().map(|value| {
        let (integer, on_grid) = grid.integer(*value, steps);
        exact &= on_grid;
        integer
    }));
    out.put(u64::from(!exact), 1);
    if !exact {
        except(out, values, integers, grid);
    }
    integers::encode(out, integers, scratch);
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

/// Reads `count` doubles.
///
/// # Errors
/// What is wrong.
pub(super) fn decode(
    bits: &mut Reader<'_>,
    count: usize,
    scratch: &mut Scratch,
) -> Result<Vec<f64>, &'static str> {
    let form = bits.get(2);
    if form == BITS {
        let integers = integers::decode(bits, count, scratch)?;
        return Ok(integers
            .into_iter()
            .map(|integer| f64::from_bits(integer as u64))
            .collect());
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
    let integers = integers::decode(bits, count, scratch)?;
    let steps = grid.steps();
    let mut values: Vec<f64> = match grid.finish {
        Finish::Plain => integers
            .into_iter()
            .map(|integer| integer as f64 / steps)
            .collect(),
        _ => integers
            .into_iter()
            .map(|integer| grid.value(integer as f64, steps))
            .collect(),
    };
    for (at, off) in exceptions {
        values[at] = f64::from_bits(values[at].to_bits().wrapping_add(off));
    }
    Ok(values)
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
