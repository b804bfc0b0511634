//! Publishes on ten million distinct channels, one after the other, and shows that memory comes
//! back.
//!
//! ```sh
//! cargo run --release -p fanfare-memory --example distinct_channels
//! ```
//!
//! An argument sets another number of channels.
//!
//! How much of what was freed the process gives back to the system is up to its allocator: glibc
//! keeps a part for what comes next; jemalloc (`LD_PRELOAD=libjemalloc.so.2`) gives back nearly
//! all of it within seconds, or at once with `MALLOC_CONF=dirty_decay_ms:0,muzzy_decay_ms:0`.

#![allow(clippy::print_stdout, reason = "it is what the program is for")]

use std::{
    error::Error,
    time::{Duration, Instant},
};

use fanfare_core::{
    Broker, BrokerMetrics, Channel, Pattern, Publication, Retention, RetentionRule,
};
use fanfare_memory::{MemoryBroker, MemoryConfig};

const MAX_AGE: Duration = Duration::from_secs(5);

/// Resident memory in MiB, of Linux.
fn resident() -> Result<f64, Box<dyn Error>> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split(' ').nth(1).ok_or("no second field")?;
    // 4 KiB a page on every platform that this is run on.
    Ok(pages.parse::<f64>()? * 4.0 / 1024.0)
}

fn show(what: &str, broker: &MemoryBroker) -> Result<(), Box<dyn Error>> {
    let held = broker.holding();
    println!(
        "{what:>20}: {:7.1} MiB resident; {} events, {} channels known, {:.1} MiB accounted",
        resident()?,
        held.events,
        held.known,
        held.bytes as f64 / 1048576.0
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let channels: u64 = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => 10_000_000,
    };
    let mut config = MemoryConfig::default();
    config.store.retention = Retention::new([RetentionRule {
        max_age: MAX_AGE,
        ..RetentionRule::of(Pattern::all())
    }]);
    let broker = MemoryBroker::new(config, BrokerMetrics::unregistered("memory"));
    show("at first", &broker)?;
    let start = Instant::now();
    for index in 0..channels {
        let channel = Channel::parse(&format!("distinct.{index}"))?;
        broker.publish(&channel, Publication::new("x")).await?;
        if (index + 1) % (channels / 10).max(1) == 0 {
            show(&format!("{} channels", index + 1), &broker)?;
        }
    }
    let took = start.elapsed();
    println!(
        "{:.0} channels a second",
        channels as f64 / took.as_secs_f64()
    );
    while broker.holding().known > 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    show("after the last aged", &broker)
}
