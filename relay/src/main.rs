//! The `headwater-relay` program: see the library.

fn main() {}
