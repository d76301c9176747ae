//! How busy the processors are, from `/proc/stat` (proc_stat(5)).

use std::io;

use super::shown::Shown;

/// Where the kernel shows it.
const SHOWN: &str = "/proc/stat";

/// The processors' time at the last reading.
pub(super) struct Cpu {
    shown: Shown,
    last: Times,
    usage: Option<f64>,
}

/// Clock ticks of all processors since the machine's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Times {
    busy: u64,
    idle: u64,
}

impl Cpu {
    /// Opens it, and counts from here.
    pub(super) fn open() -> io::Result<Self> {
        let mut shown = Shown::open(SHOWN)?;
        let last = parse(shown.beginning()?).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self {
            shown,
            last,
            usage: None,
        })
    }

    /// The share of all processors' time since the last call that something ran, percent; where no tick of the kernel's has passed, what
    /// it was before.
    pub(super) fn usage(&mut self) -> Option<f64> {
        let now = parse(self.shown.beginning().ok()?)?;
        let last = std::mem::replace(&mut self.last, now);
        self.usage = now.since(last).or(self.usage);
        self.usage
    }
}

impl Times {
    fn since(self, last: Self) -> Option<f64> {
        // The time spent waiting for a disk may go back.
        let (busy, idle) = (
            self.busy.saturating_sub(last.busy),
            self.idle.saturating_sub(last.idle),
        );
        (busy + idle > 0).then(|| busy as f64 * 100.0 / (busy + idle) as f64)
    }
}

/// The first line is of all processors: user, nice, system, idle, iowait, irq, softirq, steal; what follows (guests) is in user and nice already.
fn parse(text: &str) -> Option<Times> {
    let mut times = [0; 8];
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    // Old kernels show fewer.
    for (time, shown) in times.iter_mut().zip(line.split_ascii_whitespace()) {
        *time = shown.parse().ok()?;
    }
    let [user, nice, system, idle, iowait, irq, softirq, steal] = times;
    Some(Times {
        busy: user + nice + system + irq + softirq + steal,
        idle: idle + iowait,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_not_counted_twice_and_old_kernels_show_less() {
        let (busy, idle) = (1 + 2 + 3 + 6 + 7 + 8, 4 + 5);
        let text = "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 5\n";
        assert_eq!(parse(text), Some(Times { busy, idle }));
        let (busy, idle) = (6, 4);
        assert_eq!(parse("cpu  1 2 3 4\n"), Some(Times { busy, idle }));
        assert_eq!(
            (parse("intr 5"), parse("cpu  1 x"), parse("")),
            (None, None, None)
        );
    }

    #[test]
    fn usage_is_of_the_time_between() {
        let (then, now) = (Times { busy: 10, idle: 90 }, Times { busy: 40, idle: 160 });
        assert_eq!(now.since(then), Some(30.0));
        assert_eq!(then.since(then), None);
        let less = Times { busy: 40, idle: 80 };
        assert_eq!(less.since(then), Some(100.0), "iowait may go back");
    }
}
