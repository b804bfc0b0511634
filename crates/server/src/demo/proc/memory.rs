//! `/proc/meminfo`.

use serde::Serialize;

use super::{Unreadable, unreadable};

/// `/proc/meminfo`, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    pub(crate) at: u64,
    pub(crate) total: u64,
    pub(crate) used: u64,
    pub(crate) available: u64,
    pub(crate) cached: u64,
    pub(crate) swap_total: u64,
    pub(crate) swap_used: u64,
}

impl Memory {
    pub(crate) fn parse(meminfo: &str, at: u64) -> Result<Self, Unreadable> {
        let field = |name: &str| {
            meminfo.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                let kib: u64 = value.split_ascii_whitespace().next()?.parse().ok()?;
                (key == name).then_some(kib * 1024)
            })
        };
        let total = field("MemTotal").ok_or(unreadable("/proc/meminfo", "no MemTotal"))?;
        let cached = field("Cached").unwrap_or(0);
        // Kernels before 3.14 do not say what is available.
        let available = field("MemAvailable")
            .unwrap_or_else(|| field("MemFree").unwrap_or(0) + cached)
            .min(total);
        let swap_total = field("SwapTotal").unwrap_or(0);
        Ok(Self {
            at,
            total,
            used: total - available,
            available,
            cached,
            swap_total,
            swap_used: swap_total.saturating_sub(field("SwapFree").unwrap_or(0)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_in_bytes() {
        let memory = Memory::parse(
            "MemTotal:        3964636 kB\nMemFree:          200000 kB\nMemAvailable:    2964636 kB\n\
             Buffers:           50000 kB\nCached:          1500000 kB\nSwapCached:            9 kB\n\
             SwapTotal:       1048576 kB\nSwapFree:        1000000 kB\nHugePages_Total:       0\n",
            1,
        )
        .unwrap();
        assert_eq!(memory.total, 3_964_636 * 1024);
        assert_eq!(memory.used, 1_000_000 * 1024);
        assert_eq!(memory.available, 2_964_636 * 1024);
        assert_eq!(memory.cached, 1_500_000 * 1024);
        assert_eq!(
            (memory.swap_total, memory.swap_used),
            (1_073_741_824, 48_576 * 1024)
        );
        let old = Memory::parse("MemTotal: 100 kB\nMemFree: 20 kB\nCached: 30 kB\n", 1).unwrap();
        assert_eq!((old.available, old.swap_total), (50 * 1024, 0));
        assert!(Memory::parse("MemFree: 1 kB", 1).is_err());
    }
}
