//! What processes, and the machine, have used, as the kernel accounts it.

use std::{fs, io, time::Duration};

/// Clock ticks a second in `/proc`: 100 on every Linux that Rust's std runs on.
const TICKS: u64 = 100;

/// CPU time so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    /// In user space.
    pub(crate) user: Duration,
    /// In the kernel.
    pub(crate) system: Duration,
}

impl Cpu {
    pub(crate) fn total(self) -> Duration {
        self.user + self.system
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
        }
    }
}

/// User and system CPU time of processes: how much, to the nanosecond, from the `schedstat` of
/// their threads; how it divides, from fields 14 and 15 of `stat`, which count ticks (`proc(5)`).
///
/// # Errors
/// Where one is gone.
pub(crate) fn cpu(pids: &[u32]) -> io::Result<Cpu> {
    let mut sum = Cpu::default();
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (user, system) = parse_stat(&stat);
        // A thread that ended is in the ticks alone.
        let total = on_cpu(*pid).max(ticks(user + system));
        let share = user as f64 / (user + system).max(1) as f64;
        let user = total.mul_f64(share);
        sum.user += user;
        sum.system += total.saturating_sub(user);
    }
    Ok(sum)
}

/// What the threads of a process had of a CPU; zero where the kernel does not say.
fn on_cpu(pid: u32) -> Duration {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Duration::ZERO;
    };
    let of_thread = |thread: io::Result<fs::DirEntry>| -> Option<u64> {
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    Duration::from_nanos(threads.filter_map(of_thread).sum())
}

fn parse_stat(stat: &str) -> (u64, u64) {
    // The name, in parentheses, may hold spaces: fields are counted from behind it.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let mut numbers = fields
        .split_whitespace()
        .skip(11)
        .map(|field| field.parse().unwrap_or_default());
    let user = numbers.next().unwrap_or_default();
    (user, numbers.next().unwrap_or_default())
}

/// Proportional set size in bytes (`proc(5)`, `smaps_rollup`) without what is of files: memory of
/// user space that the work takes, not the program's own text, which is read in as it is first run.
///
/// # Errors
/// Where a process is gone.
pub(crate) fn pss(pids: &[u32]) -> io::Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let of = |name: &str| {
            let line = rollup.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        let kib = ["Pss_Anon:", "Pss_Shmem:"].map(|name| of(name).unwrap_or_default());
        sum += kib.iter().sum::<u64>() * 1024;
    }
    Ok(sum)
}

/// CPU time of the whole machine that was not idle, and that the hypervisor took away.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Machine {
    /// All but idle, waiting for disks, and stolen.
    pub(crate) busy: Duration,
    /// Stolen.
    pub(crate) stolen: Duration,
}

/// How busy the machine was so far (`proc(5)`, `/proc/stat`).
///
/// # Errors
/// Where there is no `/proc`.
pub(crate) fn machine() -> io::Result<Machine> {
    Ok(parse_machine(&fs::read_to_string("/proc/stat")?))
}

fn parse_machine(stat: &str) -> Machine {
    let line = stat.lines().next().unwrap_or_default();
    let numbers: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .map(|field| field.parse().unwrap_or_default())
        .collect();
    let at = |index: usize| numbers.get(index).copied().unwrap_or_default();
    Machine {
        // user nice system idle iowait irq softirq steal
        busy: ticks(at(0) + at(1) + at(2) + at(5) + at(6)),
        stolen: ticks(at(7)),
    }
}

fn ticks(count: u64) -> Duration {
    Duration::from_millis(count * 1000 / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_moves_no_field() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 9 0 0 0 150 25 0 0 20 0 1 0 5";
        assert_eq!(parse_stat(stat), (150, 25));
    }

    #[test]
    fn idle_and_stolen_time_is_not_busy() {
        let machine = parse_machine("cpu  100 1 50 9999 77 2 3 44 0 0\ncpu0 1 1");
        assert_eq!(machine.busy, Duration::from_millis(1560));
        assert_eq!(machine.stolen, Duration::from_millis(440));
    }

    #[test]
    fn this_process_has_used_something() {
        let pid = [std::process::id()];
        assert!(pss(&pid).unwrap() > 0);
        cpu(&pid).unwrap();
    }
}
