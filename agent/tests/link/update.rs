//! A version on trial, as it looks at itself: a copy of the program in a slot, its trial in the slots' state, and a relay that answers as the test has it.

use std::fs;
use std::path::PathBuf;

use crc::{CRC_32_ISCSI, Crc};
use ring::digest::{SHA256, digest};

use crate::library::wait_for;
use crate::site::Site;

const SUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
const OWN: &str = env!("CARGO_PKG_VERSION");

/// A box whose next start is the trial of what was signed as this version.
async fn on_trial(version: &str, within: u64, rest: &str) -> Site {
    let mut site = Site::start(rest).await;
    site.kill();
    let slots = slots(&site);
    fs::create_dir_all(&slots).unwrap();
    let program = slots.join("a");
    let own = env!("CARGO_BIN_EXE_headwater-agent");
    // Where it lies on the same file system it need not be copied: it is only run, and unlinked.
    fs::hard_link(own, &program)
        .or_else(|_| fs::copy(own, &program).map(drop))
        .unwrap();
    let content = fs::read(&program).unwrap();
    let sum: String = digest(&SHA256, &content)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let size = content.len();
    let state = format!(
        "next a {version} {size} {sum} {OWN}\ncommand c\nurl http://127.0.0.1/x\nhave {size}\ntag \nwithin {within}\ntrial 0 0\n"
    );
    let check = SUM.checksum(state.as_bytes());
    fs::write(slots.join("state"), format!("{state}sum {check:08x}\n")).unwrap();
    site
}

fn slots(site: &Site) -> PathBuf {
    site.folder.path().join("state/slots")
}

/// What came of it, as soon as something has.
async fn outcome(site: &Site) -> String {
    let state = || fs::read_to_string(slots(site).join("state")).unwrap();
    wait_for("the end of the trial", || !state().contains("\nwithin ")).await;
    state()
}

/// It runs: a batch would stay open for an hour, and is closed so that it can be acknowledged.
#[tokio::test]
async fn a_batch_that_would_stay_open_for_longer_than_the_trial_is_closed_for_it() {
    let mut site = on_trial(OWN, 60, "[batch]\nage = '1h'\nreadings = 100000\n").await;
    site.run().await;
    let state = outcome(&site).await;
    assert!(
        state.contains(&format!("\nupdated {OWN} ")) && state.starts_with("current a "),
        "{state}"
    );
}

#[tokio::test]
async fn who_reaches_the_relay_and_gets_nothing_acknowledged_goes_back() {
    // What it holds in memory it waits for, at its stop, for longer than the watch over the trial would have left it.
    let rest = "[journal]\nsync_after = 'never'\n[update]\nconfirm_within = '4s'\n";
    let mut site = on_trial(OWN, 4, rest).await;
    let text = site
        .text(rest)
        .replace("ack_timeout", "stop_timeout = '8s'\nack_timeout");
    fs::write(site.config(), text).unwrap();
    site.bridge.state(|state| state.script.lose_every = 1);
    let hellos = site.hellos();
    site.run().await;
    let state = outcome(&site).await;
    let part =
        format!("rolled back: {OWN} did not reach the relay within 4s: the relay acknowledged nothing");
    assert!(state.contains(&part), "{state}");
    wait_for("the packaged program's hello", || site.hellos() >= hellos + 2).await;
    assert!(!slots(&site).join("a").exists());
}

#[tokio::test]
async fn who_has_nothing_to_send_holds_once_the_relay_has_answered_all_the_time() {
    let mut site = on_trial(OWN, 2, "").await;
    // Its only source says nothing.
    let silent =
        "[[source]]\ntype = 'exec'\nname = 'silent'\ncommand = ['/bin/sleep', '1000']\npersistent = true\n";
    let text = site.text("");
    let text = format!("{}{silent}", text.split("[[source]]").next().unwrap());
    fs::write(site.config(), text).unwrap();
    // What the start before has left would be sent, and acknowledged. It may have written nothing yet.
    let _ = fs::remove_dir_all(site.folder.path().join("state/journal"));
    site.run().await;
    let begun = std::time::Instant::now();
    let state = outcome(&site).await;
    assert!(state.contains(&format!("\nupdated {OWN} ")), "{state}");
    assert!(begun.elapsed().as_secs() >= 1, "not before its time is over");
}

#[tokio::test]
async fn what_says_that_it_is_another_version_than_was_signed_goes_back_at_once() {
    let mut site = on_trial("99.0.0", 600, "").await;
    site.run().await;
    let state = outcome(&site).await;
    let part = format!("rolled back: what was signed as 99.0.0 says that it is {OWN}");
    assert!(state.contains(&part), "{state}");
    assert!(!slots(&site).join("a").exists());
}
