//! Two nodes and a bus between them.

use std::net::TcpStream;

use super::{Bus, NotStarted, Places, Running, fanfare, free_address, has};

pub(super) fn start(places: &Places, bus: Bus, config: &str) -> Result<Running, NotStarted> {
    let mut running = Running::new()?;
    let address = free_address()?;
    let port = address.port().to_string();
    let (program, url) = match bus {
        Bus::Redis => ("redis-server", format!("redis://{address}")),
        Bus::Nats => ("nats-server", format!("nats://{address}")),
    };
    if !has(program) {
        return Err(NotStarted::Missing(format!("{program} is not installed")));
    }
    let directory = running.directory.path().to_owned();
    let mut command = places.pinned(program);
    match bus {
        Bus::Redis => command
            .args(["--bind", "127.0.0.1", "--port", &port, "--save", ""])
            .args(["--appendonly", "no", "--dir"])
            .arg(&directory),
        Bus::Nats => command
            .args([
                "--addr",
                "127.0.0.1",
                "--port",
                &port,
                "--jetstream",
                "--store_dir",
            ])
            .arg(&directory),
    };
    let bus = running.spawn(&mut command)?;
    running.wait_for(|_| TcpStream::connect(address).is_ok())?;
    let config = config.replace("URL", &url);
    let at = running.subscribe_at;
    let subscribed = fanfare::node(&mut running, places, at, &config)?;
    running.publish_at = free_address()?;
    let at = running.publish_at;
    let published = fanfare::node(&mut running, places, at, &config)?;
    running.pids.push(subscribed);
    running.beside.extend([bus, published]);
    Ok(running)
}
