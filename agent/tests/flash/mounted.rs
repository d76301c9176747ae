//! What an agent says of the way its journal is mounted, on real mounts.

use std::fs;
use std::path::Path;

use crate::agent::{Agent, program, settings};
use crate::mount::Mount;

const FEW: &str = "type = 'simulated'\ninterval = '50ms'\nsensors = 8";

/// The options of the example for `/etc/fstab`.
fn example() -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/fstab")).unwrap();
    let line = text.lines().find(|line| !line.starts_with('#')).unwrap();
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, _, kind, options, dump, pass] = fields[..] else {
        panic!("not the six fields of fstab(5): {line}");
    };
    assert_eq!((kind, dump, pass), ("ext4", "0", "2"));
    options.into()
}

/// What `headwater-agent check` says of the disk.
fn checked(state: &Path) -> String {
    let folder = tempfile::tempdir().unwrap();
    let config = settings(folder.path(), state, FEW);
    // The test's medium is small.
    let text = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        text.replace("[journal]\n", "[journal]\nmax_bytes = '2 MiB'\n"),
    )
    .unwrap();
    let output = program(&["check", "--config", config.to_str().unwrap()])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, disk) = text.split_once("disk ").unwrap_or_else(|| panic!("{text}"));
    disk.to_string()
}

#[test]
fn a_mount_that_wears_the_flash_is_told_once_with_the_line_that_spares_it() {
    let mount = Mount::ext4();
    let advice = format!(
        "`{} {} ext4 defaults,errors=remount-ro,commit=1800 0 2`",
        mount.device(),
        mount.path().display()
    );
    let disk = checked(&mount.state());
    // A table breaks lines where it likes.
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words(&disk).contains(&advice), "{advice}\n{disk}");
    let mut agent = Agent::start(&mount.state(), FEW);
    agent.until("flash is written", |stats| stats.waiting_batches > 2);
    let log = agent.stop();
    assert_eq!(log.matches(&advice).count(), 1, "{log}");
    assert!(log.contains("36.7 MB") && log.contains("14.2"), "{log}");

    mount.remount(&example());
    let disk = checked(&mount.state());
    assert!(disk.contains("writable") && !disk.contains("fstab"), "{disk}");
    let mut agent = Agent::start(&mount.state(), FEW);
    agent.until("flash is written", |stats| stats.waiting_batches > 2);
    let log = agent.stop();
    assert!(!log.contains("fstab"), "{log}");
}
