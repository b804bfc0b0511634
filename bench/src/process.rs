//! What a process has used, as the kernel accounts it.

use std::{fs, io, time::Duration};

/// Clock ticks a second in `/proc/PID/stat`: 100 on every Linux that Rust's std runs on.
const TICKS: u64 = 100;

/// User and system CPU time of a process so far (`proc(5)`, fields 14 and 15 of `stat`).
///
/// # Errors
/// Where the process is gone.
pub(crate) fn cpu(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold spaces: fields are counted from behind it.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

/// Proportional set size in bytes (`proc(5)`, `smaps_rollup`): memory of user space alone.
///
/// # Errors
/// Where the process is gone.
pub(crate) fn pss(pid: u32) -> io::Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find(|line| line.starts_with("Pss:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    Ok(kib.unwrap_or_default() * 1024)
}
