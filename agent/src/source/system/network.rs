//! What the network interfaces have carried, from `/proc/net/dev` (proc_pid_net(5)). One file for all of them, where /sys has several
//! for each.

use std::collections::BTreeMap;
use std::io;

use super::shown::Shown;

/// Where the kernel shows it.
const SHOWN: &str = "/proc/net/dev";
/// The interface that leads nowhere.
const LOOPBACK: &str = "lo";

/// The interfaces' counters at the last reading.
pub(super) struct Network {
    shown: Shown,
    last: BTreeMap<String, Counters>,
}

/// Bytes since the interface came up; they wrap or begin anew when the driver does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counters {
    received: u64,
    sent: u64,
}

impl Network {
    /// Opens it, and counts from here.
    pub(super) fn open() -> io::Result<Self> {
        let mut network = Self {
            shown: Shown::open(SHOWN)?,
            last: BTreeMap::new(),
        };
        network.read()?;
        Ok(network)
    }

    /// Bytes received and sent by each interface since the last call, by name; none for one that is new or whose counters went back.
    pub(super) fn carried(&mut self) -> io::Result<Vec<(String, u64, u64)>> {
        let before = std::mem::take(&mut self.last);
        self.read()?;
        let since = |(name, now): (&String, &Counters)| {
            let then = before.get(name)?;
            let received = now.received.checked_sub(then.received)?;
            let sent = now.sent.checked_sub(then.sent)?;
            Some((name.clone(), received, sent))
        };
        Ok(self.last.iter().filter_map(since).collect())
    }

    fn read(&mut self) -> io::Result<()> {
        self.last = parse(&self.shown.all()?);
        Ok(())
    }
}

/// Two lines of heading, then `name: ` and sixteen counters: the first is of bytes received, the ninth of bytes sent.
fn parse(text: &str) -> BTreeMap<String, Counters> {
    let interface = |line: &str| {
        // A name may hold a colon (an alias); a counter may not.
        let (name, counters) = line.rsplit_once(':')?;
        let mut counters = counters.split_ascii_whitespace();
        let received = counters.next()?.parse().ok()?;
        let sent = counters.nth(7)?.parse().ok()?;
        Some((name.trim().to_owned(), Counters { received, sent }))
    };
    let found = text.lines().skip(2).filter_map(interface);
    found.filter(|(name, _)| name != LOOPBACK).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_as_the_kernel_writes_it() {
        let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 9151620   18640    0    0    0     0          0         0  9151620   18640    0    0    0     0       0          0
  eth0:18446744073709551615 7 0 0 0 0 0 0 1500 1 0 0 0 0 0 0
eth0:1: 10 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0
broken: 1 2 3
";
        let found = parse(text);
        assert_eq!(found.len(), 2);
        let (received, sent) = (u64::MAX, 1500);
        assert_eq!(found["eth0"], Counters { received, sent });
        assert_eq!(
            found["eth0:1"],
            Counters {
                received: 10,
                sent: 20
            }
        );
    }

    #[test]
    fn this_machine_s_are_counted_from_one_call_to_the_next() {
        let mut network = Network::open().unwrap();
        network
            .last
            .insert("gone".into(), Counters { received: 1, sent: 1 });
        let ahead = Counters {
            received: u64::MAX,
            sent: u64::MAX,
        };
        let known: Vec<String> = network.last.keys().cloned().collect();
        assert!(
            network
                .carried()
                .unwrap()
                .iter()
                .all(|(name, ..)| known.contains(name) && name != "gone")
        );
        for counters in network.last.values_mut() {
            *counters = ahead;
        }
        // Counters that went back tell nothing of what was carried.
        assert_eq!(network.carried().unwrap(), []);
    }
}
