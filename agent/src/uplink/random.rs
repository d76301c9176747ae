//! Numbers that nobody can foretell, from one seed: so what draws them stays plain and repeatable.

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014). One seed's numbers do not repeat.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    /// `seed`: truly random, where the numbers have to be.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Uniform over all of `u64`.
    pub(super) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
