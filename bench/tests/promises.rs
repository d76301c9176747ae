//! The sizes that Headwater states. They do not depend on the machine, so a change that makes frames larger fails here.

use headwater_bench::{table, trace};

#[test]
fn sizes_are_as_promised() {
    let mut shortfalls = Vec::new();
    for rows in [10, 60, 480] {
        for file in trace::own().expect("the traces of the repository") {
            let totals = table::of(&file, rows).expect("a trace that comes back as it was");
            assert!(totals.readings > 0, "{}", file.display());
            shortfalls.extend(totals.shortfalls());
        }
    }
    assert!(shortfalls.is_empty(), "{}", shortfalls.join("\n"));
}
