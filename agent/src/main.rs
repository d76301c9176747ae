//! The `headwater-agent` program: see the library.

fn main() {}
