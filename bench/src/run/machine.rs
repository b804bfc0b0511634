//! What a run ran on.

use std::{fmt::Write as _, fs, io, process::Command, thread, time::Duration};

use crate::process;

/// How long to look before a run.
const LOOK: Duration = Duration::from_secs(2);

/// A description for whoever reads the figures later.
pub(crate) fn describe() -> String {
    let mut text = String::new();
    let mut add = |name: &str, value: Option<String>| {
        let value = value.unwrap_or_else(|| "unknown".into());
        // Writing to a String does not fail.
        let _ = writeln!(text, "{name}: {}", value.trim());
    };
    add("date", output("date", &["-u", "+%F %H:%M UTC"]));
    add("kernel", output("uname", &["-srm"]));
    add("processor", of_file("/proc/cpuinfo", "model name"));
    add(
        "cores",
        thread::available_parallelism()
            .ok()
            .map(|it| it.to_string()),
    );
    add("memory", of_file("/proc/meminfo", "MemTotal"));
    add(
        "open files",
        output("sh", &["-c", "ulimit -Sn; ulimit -Hn"]).map(|it| it.replace('\n', " ")),
    );
    for setting in [
        "net/core/somaxconn",
        "net/ipv4/tcp_max_syn_backlog",
        "net/ipv4/ip_local_port_range",
        "net/ipv4/tcp_mem",
        "net/ipv4/tcp_wmem",
        "net/ipv4/tcp_rmem",
    ] {
        add(
            setting,
            fs::read_to_string(format!("/proc/sys/{setting}")).ok(),
        );
    }
    add("load average", fs::read_to_string("/proc/loadavg").ok());
    add(
        "commit",
        output("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
    );
    add("rustc", output("rustc", &["--version"]));
    add("redis-server", output("redis-server", &["--version"]));
    add("nats-server", output("nats-server", &["--version"]));
    text
}

/// How many cores others keep busy just now.
pub(crate) fn others() -> io::Result<f64> {
    let before = process::machine()?;
    thread::sleep(LOOK);
    let busy = process::machine()?.busy.saturating_sub(before.busy);
    Ok(busy.as_secs_f64() / LOOK.as_secs_f64())
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(text)
}

fn of_file(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.to_owned())
}
