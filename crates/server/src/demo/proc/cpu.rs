//! `/proc/stat`.

use serde::Serialize;

use super::{Unreadable, round, unreadable};

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
    fn the_shape_is_that_of_the_page() {
        let ticks = CpuTicks::parse(STAT).unwrap();
        let cpu = serde_json::to_value(ticks.since(&ticks, 1)).unwrap();
        let keys: Vec<_> = cpu.as_object().unwrap().keys().cloned().collect();
        let shape = [
            "at", "cores", "iowait", "per_core", "system", "usage", "user",
        ];
        assert_eq!(keys, shape);
    }
}
