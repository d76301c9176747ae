//! What the system tells of its clocks.

use std::fs;
use std::path::Path;

use rustix::time::{ClockId, clock_gettime};

use super::timeline::{Hardware, Observation};

/// Made by systemd-timesyncd when it has set the clock in this boot (`/run` does not outlive it).
const TIMESYNCD: &str = "/run/systemd/timesync/synchronized";
/// Where the kernel shows its real-time clocks.
const RTCS: &str = "/sys/class/rtc";

/// Microseconds since the machine's start, suspended time included.
pub(super) fn boot_us() -> i64 {
    us(ClockId::Boottime)
}

/// What the clocks show now. `hardware` is what was last seen of it.
pub(super) fn observe(hardware: Hardware) -> Observation {
    // The wall clock between two looks at the other; again if something came between.
    let mut best = (i64::MAX, 0, 0);
    for _ in 0..4 {
        let (before, wall, after) = (
            us(ClockId::Boottime),
            us(ClockId::Realtime),
            us(ClockId::Boottime),
        );
        if after - before < best.0 {
            best = (after - before, before + (after - before) / 2, wall);
        }
        if best.0 < 50 {
            break;
        }
    }
    Observation {
        boot_us: best.1,
        wall_us: best.2,
        synchronised: is_synchronised(),
        hardware,
    }
}

/// What keeps the wall clock while the machine is off. It may take as long as a bus takes: not for the agent's own task.
pub(super) fn hardware() -> Hardware {
    let clocks = fs::read_dir(Path::new(RTCS)).into_iter().flatten().flatten();
    let times = clocks.filter_map(|clock| {
        let text = fs::read_to_string(clock.path().join("since_epoch")).ok()?;
        text.trim().parse::<i64>().ok()
    });
    let wall_us = us(ClockId::Realtime);
    // Of several, the one that the wall clock was set by.
    if let Some(seconds) = times.min_by_key(|seconds| (seconds * 1_000_000 - wall_us).abs()) {
        return Hardware::Rtc(seconds * 1_000_000);
    }
    // x86 tells a guest by a processor flag, others by a node of the device tree.
    let guest = Path::new("/proc/device-tree/hypervisor").exists()
        || fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| {
            let flags = text.lines().find(|line| line.starts_with("flags"));
            flags.is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"))
        });
    if guest { Hardware::Host } else { Hardware::None }
}

/// Whether a time daemon vouches for the wall clock.
fn is_synchronised() -> bool {
    kernel_says_so() || Path::new(TIMESYNCD).exists()
}

/// The flag that every time daemon clears once it has set the clock, and that the kernel raises when it hears of none for hours.
#[cfg(target_pointer_width = "64")]
fn kernel_says_so() -> bool {
    /// adjtimex(2): the clock is not synchronised.
    const TIME_ERROR: i32 = 5;
    let state = rtime_clock::adjtime::adjtimex(&mut rtime_clock::adjtime::Timex::new());
    state.is_ok_and(|state| state != TIME_ERROR)
}

/// No safe way to ask is known for 32 bits: there it is systemd-timesyncd's mark, the hardware, or the settings.
#[cfg(not(target_pointer_width = "64"))]
fn kernel_says_so() -> bool {
    false
}

fn us(id: ClockId) -> i64 {
    let time = clock_gettime(id);
    time.tv_sec.saturating_mul(1_000_000) + time.tv_nsec as i64 / 1_000
}
