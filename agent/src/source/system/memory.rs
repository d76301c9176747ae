//! Memory, from `/proc/meminfo` (proc_meminfo(5)).

/// Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) used: u64,
    pub(super) available: u64,
    pub(super) swap_used: u64,
}

/// Lines of `name: figure kB`, of 1,024 bytes each; `None` where the total is missing.
pub(super) fn parse(text: &str) -> Option<Memory> {
    let mut total = None;
    let mut told = None;
    // What can be had without swapping, where the kernel does not tell (before 3.14).
    let (mut free, mut shared) = (0, 0);
    let (mut swap, mut swap_free) = (0, 0);
    for line in text.lines() {
        let Some((name, figure)) = line.split_once(':') else {
            continue;
        };
        let figure = figure.split_ascii_whitespace().next();
        let Some(bytes) = figure.and_then(|kib| kib.parse::<u64>().ok()?.checked_mul(1024)) else {
            continue;
        };
        match name {
            "MemTotal" => total = Some(bytes),
            "MemAvailable" => told = Some(bytes),
            "MemFree" | "Buffers" | "Cached" | "SReclaimable" => free += bytes,
            "Shmem" => shared = bytes,
            "SwapTotal" => swap = bytes,
            "SwapFree" => swap_free = bytes,
            _ => {}
        }
    }
    let total: u64 = total?;
    let available = told.unwrap_or(free.saturating_sub(shared));
    Some(Memory {
        used: total.saturating_sub(available),
        available,
        swap_used: swap.saturating_sub(swap_free),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_available_is_told_or_estimated() {
        let old = "MemTotal: 100 kB\nMemFree: 10 kB\nBuffers: 5 kB\nCached: 20 kB\nSwapCached: 7 kB\nSwapTotal: 50 kB\n\
                   SwapFree: 48 kB\nShmem: 3 kB\nSReclaimable: 2 kB\nHugePages_Total: 0\n";
        let kib = |used: u64, available: u64, swap_used: u64| Memory {
            used: used * 1024,
            available: available * 1024,
            swap_used: swap_used * 1024,
        };
        assert_eq!(parse(old), Some(kib(66, 34, 2)));
        let told = format!("{old}MemAvailable: 40 kB\n");
        assert_eq!(parse(&told), Some(kib(60, 40, 2)));
        assert_eq!(parse("MemFree: 10 kB\n"), None);
    }
}
