//! Figures of this machine, read from `/proc`: pure parsers (proc(5) describes the files).

use std::time::Duration;

use serde::Serialize;

/// Why a file of `/proc` cannot be read as expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {what}")]
pub(crate) struct Unreadable {
    file: &'static str,
    what: &'static str,
}

fn unreadable(file: &'static str, what: &'static str) -> Unreadable {
    Unreadable { file, what }
}

/// `/proc/stat`: ticks since boot, of all cores together and of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CpuTicks {
    all: Ticks,
    /// By the core's number; a core that is off has no line.
    cores: Vec<(u32, Ticks)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Ticks {
    user: u64,
    system: u64,
    idle: u64,
    iowait: u64,
    steal: u64,
}

/// Shares of time, from 0 to 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Cpu {
    pub(crate) at: u64,
    pub(crate) cores: usize,
    pub(crate) usage: f64,
    pub(crate) per_core: Vec<f64>,
    pub(crate) user: f64,
    pub(crate) system: f64,
    pub(crate) iowait: f64,
}

impl Ticks {
    fn parse<'a>(mut fields: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut next = || fields.next()?.parse::<u64>().ok();
        let (user, nice, system, idle) = (next()?, next()?, next()?, next()?);
        // Columns that older kernels do not have. The time of guests is in `user` already.
        let mut later = || next().unwrap_or(0);
        let (iowait, irq, softirq, steal) = (later(), later(), later(), later());
        Some(Self {
            user: user + nice,
            system: system + irq + softirq,
            idle,
            iowait,
            steal,
        })
    }

    fn total(&self) -> u64 {
        self.user + self.system + self.idle + self.iowait + self.steal
    }

    /// What was added since `before`. The kernel lets `iowait` fall at times: then 0.
    fn since(&self, before: &Self) -> Self {
        Self {
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
            idle: self.idle.saturating_sub(before.idle),
            iowait: self.iowait.saturating_sub(before.iowait),
            steal: self.steal.saturating_sub(before.steal),
        }
    }

    fn share(&self, part: u64) -> f64 {
        match self.total() {
            0 => 0.0,
            total => round(part as f64 / total as f64, 4),
        }
    }

    fn busy(&self) -> f64 {
        self.share(self.user + self.system + self.steal)
    }
}

impl CpuTicks {
    pub(crate) fn parse(stat: &str) -> Result<Self, Unreadable> {
        let bad = |what| unreadable("/proc/stat", what);
        let mut all = None;
        let mut cores = Vec::new();
        for line in stat.lines() {
            let mut fields = line.split_ascii_whitespace();
            let Some(name) = fields.next().and_then(|name| name.strip_prefix("cpu")) else {
                continue;
            };
            let ticks = Ticks::parse(fields).ok_or_else(|| bad("a cpu line has no numbers"))?;
            match name.parse::<u32>() {
                Ok(core) => cores.push((core, ticks)),
                Err(_) => all = Some(ticks),
            }
        }
        let all = all.ok_or_else(|| bad("no cpu line"))?;
        Ok(Self { all, cores })
    }

    /// The shares of the time between `before` and now.
    pub(crate) fn since(&self, before: &Self, at: u64) -> Cpu {
        let all = self.all.since(&before.all);
        let per_core = self.cores.iter().map(|(core, now)| {
            let then = before.cores.iter().find(|(other, _)| other == core);
            then.map_or(0.0, |(_, then)| now.since(then).busy())
        });
        Cpu {
            at,
            cores: self.cores.len(),
            usage: all.busy(),
            per_core: per_core.collect(),
            user: all.share(all.user),
            system: all.share(all.system),
            iowait: all.share(all.iowait),
        }
    }
}

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

/// `/proc/loadavg`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Load {
    pub(crate) at: u64,
    pub(crate) one: f64,
    pub(crate) five: f64,
    pub(crate) fifteen: f64,
    pub(crate) tasks_running: u64,
    pub(crate) tasks: u64,
}

impl Load {
    pub(crate) fn parse(loadavg: &str, at: u64) -> Result<Self, Unreadable> {
        let read = || {
            let mut fields = loadavg.split_ascii_whitespace();
            let mut average = || fields.next()?.parse::<f64>().ok();
            let (one, five, fifteen) = (average()?, average()?, average()?);
            let (running, tasks) = fields.next()?.split_once('/')?;
            Some(Self {
                at,
                one,
                five,
                fifteen,
                tasks_running: running.parse().ok()?,
                tasks: tasks.parse().ok()?,
            })
        };
        read().ok_or(unreadable("/proc/loadavg", "not five fields"))
    }
}

/// `/proc/net/dev`: bytes since boot of each interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetworkBytes(Vec<(String, u64, u64)>);

/// Bytes a second.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Network {
    pub(crate) at: u64,
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) rx_bytes_per_second: f64,
    pub(crate) tx_bytes_per_second: f64,
}

/// Bytes a second of one interface.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) rx_bytes_per_second: f64,
    pub(crate) tx_bytes_per_second: f64,
}

impl NetworkBytes {
    /// The loopback interface is left out where there is another: what a machine says to itself
    /// is not traffic.
    pub(crate) fn parse(dev: &str) -> Result<Self, Unreadable> {
        let mut interfaces = Vec::new();
        for line in dev.lines().skip(2) {
            // Old kernels put no space after the colon.
            let read = || {
                let (name, numbers) = line.split_once(':')?;
                let mut numbers = numbers.split_ascii_whitespace();
                let rx = numbers.next()?.parse().ok()?;
                let tx = numbers.nth(7)?.parse().ok()?;
                Some((name.trim().to_owned(), rx, tx))
            };
            interfaces.push(read().ok_or(unreadable("/proc/net/dev", "a line is too short"))?);
        }
        if interfaces.iter().any(|(name, ..)| name != "lo") {
            interfaces.retain(|(name, ..)| name != "lo");
        }
        Ok(Self(interfaces))
    }

    /// The rates of the time between `before` and now.
    pub(crate) fn since(&self, before: &Self, elapsed: Duration, at: u64) -> Network {
        let rate = |now: u64, then: u64| {
            round(
                now.saturating_sub(then) as f64 / elapsed.as_secs_f64().max(0.001),
                1,
            )
        };
        let interfaces: Vec<Interface> = self
            .0
            .iter()
            .filter_map(|(name, rx, tx)| {
                let (_, rx_then, tx_then) = before.0.iter().find(|(other, ..)| other == name)?;
                Some(Interface {
                    name: name.clone(),
                    rx_bytes_per_second: rate(*rx, *rx_then),
                    tx_bytes_per_second: rate(*tx, *tx_then),
                })
            })
            .collect();
        let sum = |of: fn(&Interface) -> f64| round(interfaces.iter().map(of).sum(), 1);
        Network {
            at,
            rx_bytes_per_second: sum(|interface| interface.rx_bytes_per_second),
            tx_bytes_per_second: sum(|interface| interface.tx_bytes_per_second),
            interfaces,
        }
    }
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  8236 12 3410 91533 220 0 41 17 0 0\n\
        cpu0 4100 6 1700 45800 110 0 21 9 0 0\n\
        cpu1 4136 6 1710 45733 110 0 20 8 0 0\n\
        intr 2011223 0 9 0\nctxt 4522311\nbtime 1763000000\nprocs_running 2\n";

    #[test]
    fn cpu_shares_are_those_of_the_time_between_two_samples() {
        let before = CpuTicks::parse(STAT).unwrap();
        // cpu0: 30 user, 10 system, 60 idle; cpu1: 100 idle; together 200 ticks.
        let after = CpuTicks::parse(
            "cpu  8266 12 3420 91693 220 0 41 17 0 0\n\
             cpu0 4130 6 1710 45860 110 0 21 9 0 0\n\
             cpu1 4136 6 1710 45833 110 0 20 8 0 0\n",
        )
        .unwrap();
        let cpu = after.since(&before, 7);
        assert_eq!((cpu.at, cpu.cores), (7, 2));
        assert_eq!(cpu.per_core, [0.4, 0.0]);
        assert_eq!(
            (cpu.usage, cpu.user, cpu.system, cpu.iowait),
            (0.2, 0.15, 0.05, 0.0)
        );
        // The same sample twice: no time passed, so nothing was used.
        assert_eq!(before.since(&before, 0).usage, 0.0);
    }

    #[test]
    fn old_and_odd_cpu_lines() {
        let short = CpuTicks::parse("cpu 1 2 3 4\ncpu0 1 2 3 4\n").unwrap();
        assert_eq!(short.all.total(), 10);
        // A core that was switched on meanwhile has nothing to compare with.
        let more = CpuTicks::parse("cpu 1 2 3 4\ncpu0 1 2 3 4\ncpu5 9 9 9 9\n").unwrap();
        assert_eq!(more.since(&short, 0).per_core, [0.0, 0.0]);
        // `iowait` may fall.
        let before = CpuTicks::parse("cpu 1 0 0 1 100\n").unwrap();
        let after = CpuTicks::parse("cpu 2 0 0 2 90\n").unwrap();
        assert_eq!(after.since(&before, 0).usage, 0.5);
        assert!(CpuTicks::parse("").is_err());
        assert!(CpuTicks::parse("cpu x y z\n").is_err());
    }

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

    #[test]
    fn load_and_tasks() {
        let load = Load::parse("0.50 0.41 0.30 2/210 12345\n", 3).unwrap();
        assert_eq!((load.one, load.five, load.fifteen), (0.5, 0.41, 0.3));
        assert_eq!((load.tasks_running, load.tasks, load.at), (2, 210, 3));
        assert!(Load::parse("0.50 0.41", 3).is_err());
    }

    const DEV: &str = "Inter-|   Receive                                                |  Transmit\n\
        \u{20}face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
        \u{20}   lo: 9000 10 0 0 0 0 0 0 9000 10 0 0 0 0 0 0\n\
        \u{20} eth0:1000 10 0 0 0 0 0 0 500 10 0 0 0 0 0 0\n\
        \u{20} eth1: 7 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n";

    #[test]
    fn network_rates_leave_loopback_out() {
        let before = NetworkBytes::parse(DEV).unwrap();
        let after = DEV
            .replace("eth0:1000", "eth0: 3468")
            .replace("0 500 ", "0 698 ");
        let after = NetworkBytes::parse(&after).unwrap();
        let network = after.since(&before, Duration::from_secs(2), 5);
        let names: Vec<_> = network.interfaces.iter().map(|one| &*one.name).collect();
        assert_eq!(names, ["eth0", "eth1"]);
        assert_eq!(network.interfaces[0].rx_bytes_per_second, 1234.0);
        assert_eq!(
            (network.rx_bytes_per_second, network.tx_bytes_per_second),
            (1234.0, 99.0)
        );
        // Counters that began again are not a flood.
        assert_eq!(
            before
                .since(&after, Duration::from_secs(1), 5)
                .rx_bytes_per_second,
            0.0
        );
    }

    #[test]
    fn a_machine_with_loopback_only_shows_it() {
        let lo: String = DEV
            .lines()
            .take(3)
            .map(|line| format!("{line}\n"))
            .collect();
        let bytes = NetworkBytes::parse(&lo).unwrap();
        assert_eq!(bytes.0, [("lo".to_owned(), 9000, 9000)]);
        assert!(NetworkBytes::parse("a\nb\nc: 1 2").is_err());
    }

    #[test]
    fn the_shapes_are_those_of_the_page() {
        let ticks = CpuTicks::parse(STAT).unwrap();
        let cpu = serde_json::to_value(ticks.since(&ticks, 1)).unwrap();
        let keys: Vec<_> = cpu.as_object().unwrap().keys().cloned().collect();
        assert_eq!(
            keys,
            [
                "at", "cores", "iowait", "per_core", "system", "usage", "user"
            ]
        );
        let bytes = NetworkBytes::parse(DEV).unwrap();
        let network = serde_json::to_value(bytes.since(&bytes, Duration::from_secs(1), 1)).unwrap();
        assert_eq!(network["interfaces"][0]["name"], "eth0");
        assert_eq!(network["interfaces"][0]["rx_bytes_per_second"], 0.0);
    }
}
