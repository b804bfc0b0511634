//! The real binary.

use std::{fs, net::SocketAddr, process::Command};

use super::{NotStarted, Places, Running, answers, free_address};

/// Of a bench. A real one is long, random, and nobody else's.
const SECRET: &str = "a secret of the bench, of 32 bytes or more";

/// One node on the memory broker.
pub(super) fn start(places: &Places, config: &str) -> Result<Running, NotStarted> {
    let mut running = Running::new()?;
    let at = running.subscribe_at;
    let pid = node(&mut running, places, at, config)?;
    running.pids.push(pid);
    Ok(running)
}

/// The same with tokens.
pub(super) fn start_with_token(places: &Places) -> Result<Running, NotStarted> {
    let config = format!("[auth.jwt]\nsecret = \"{SECRET}\"\n");
    let mut running = start(places, &config)?;
    let mut command = Command::new(&places.fanfare);
    command.args(["token", "--subscribe", ">", "--publish", ">"]);
    command
        .args(["--secret-env", "BENCH_SECRET"])
        .env("BENCH_SECRET", SECRET);
    let output = command.output()?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(NotStarted::Failed(why));
    }
    let token = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    running.token = Some(token);
    Ok(running)
}

/// Starts a node; settings that this version does not have are missing, not failed.
pub(super) fn node(
    running: &mut Running,
    places: &Places,
    listen: SocketAddr,
    config: &str,
) -> Result<u32, NotStarted> {
    let admin = free_address()?;
    let file = running
        .directory
        .path()
        .join(format!("{}.toml", listen.port()));
    let text = format!(
        "[server]\nlisten = \"{listen}\"\nnode = \"bench\"\n\
         [admin]\nlisten = \"{admin}\"\n\
         [limits]\nconnections_per_client = 1000000\n\
         [log]\nlevel = \"warn\"\n{config}"
    );
    fs::write(&file, text)?;
    let mut check = Command::new(&places.fanfare);
    let checked = check
        .args(["check-config", "--config"])
        .arg(&file)
        .output()?;
    if !checked.status.success() {
        let why = String::from_utf8_lossy(&checked.stderr);
        let why: Vec<&str> = why.split_whitespace().collect();
        return Err(NotStarted::Missing(format!(
            "this version refuses it: {}",
            why.join(" ")
        )));
    }
    let mut command = places.pinned(&places.fanfare);
    command.args(["serve", "--config"]).arg(&file);
    let pid = running.spawn(&mut command)?;
    running.wait_for(|_| answers(admin, "/readyz"))?;
    Ok(pid)
}
