//! The core is `no_std` + `alloc`: builds `tests/no_std`, a static library with its own panic handler and allocator,
//! and calls it from a C program.

use std::path::Path;
use std::process::Command;

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
}

#[test]
fn builds_and_runs_without_std() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/no_std");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no_std");
    run(Command::new(env!("CARGO"))
        .args(["build", "--locked", "--quiet", "--manifest-path"])
        .arg(source.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .env_remove("CARGO_BUILD_TARGET"));
    let program = target.join("goes_round");
    run(Command::new("cc")
        .arg(source.join("main.c"))
        .arg(target.join("debug/libheadwater_proto_no_std.a"))
        .arg("-o")
        .arg(&program));
    run(&mut Command::new(&program));
}
