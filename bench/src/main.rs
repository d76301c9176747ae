//! `headwater-bench`: measurements beside named peers.

fn main() {}
