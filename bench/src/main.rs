//! A load generator: the real binary on one side, many SSE clients on the other, one row out.
//!
//! Every client checks that every event came once and in order; a row with a loss is an error and
//! not a figure.

#![allow(clippy::print_stdout, reason = "the row is the product")]

mod process;

use std::{error::Error, fmt::Write as _, time::Instant};

use clap::Parser;
use fanfare_testkit::{Fanfare, SseClient, SseRequest, http};
use futures_util::future::try_join_all;

type Failure = Box<dyn Error + Send + Sync>;

/// Fans events out to many clients and prints what that cost the server.
#[derive(Debug, Parser)]
struct Options {
    /// SSE clients, each on a connection of its own.
    #[arg(long, default_value_t = 1_000)]
    clients: usize,
    /// Channels; clients are spread over them evenly.
    #[arg(long, default_value_t = 1)]
    channels: usize,
    /// Events, in turn over the channels.
    #[arg(long, default_value_t = 2_000)]
    events: usize,
    /// Bytes of data in each event.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    /// Events in one publish request; the next request waits until everybody has them.
    #[arg(long, default_value_t = 32)]
    window: usize,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let config = "[broker]\nkind = \"memory\"\n[limits]\nconnections_per_client = 1000000\n";
    let node = Fanfare::start(config).await;
    let idle = process::pss(node.id())?;
    let mut clients = connect(&node, &options).await?;
    let per_client = process::pss(node.id())?.saturating_sub(idle) / options.clients as u64;

    let cpu = process::cpu(node.id())?;
    let start = Instant::now();
    let deliveries = run(&node, &mut clients, &options).await?;
    let (elapsed, cpu) = (start.elapsed(), process::cpu(node.id())? - cpu);

    println!(
        "clients\tchannels\tevents\tbytes\twindow\tdeliveries\tseconds\tdeliveries_per_s\tcpu_s_per_million\tpss_bytes_per_idle_client"
    );
    println!(
        "{}\t{}\t{}\t{}\t{}\t{deliveries}\t{:.2}\t{:.0}\t{:.2}\t{per_client}",
        options.clients,
        options.channels,
        options.events,
        options.bytes,
        options.window,
        elapsed.as_secs_f64(),
        deliveries as f64 / elapsed.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / deliveries as f64,
    );
    Ok(())
}

async fn connect(node: &Fanfare, options: &Options) -> Result<Vec<SseClient>, Failure> {
    let mut clients = Vec::with_capacity(options.clients);
    // In pieces, so that the listen queue is not what is measured.
    for piece in (0..options.clients).collect::<Vec<_>>().chunks(256) {
        let connecting = piece.iter().map(|index| {
            let path = format!("/events?hello=0&channel=c.{}", index % options.channels);
            SseRequest::get(node.address(), path).connect()
        });
        clients.extend(try_join_all(connecting).await?);
    }
    match clients.iter().find(|client| client.status() != 200) {
        Some(client) => Err(format!("a client got {}", client.status()).into()),
        None => Ok(clients),
    }
}

/// Publishes window by window; answers how many deliveries there were.
async fn run(node: &Fanfare, clients: &mut [SseClient], options: &Options) -> Result<u64, Failure> {
    let url = format!("{}/publish", node.base_url());
    let filler = "x".repeat(options.bytes.saturating_sub(8));
    let mut published = vec![0_u64; options.channels];
    let mut deliveries = 0;
    let mut event = 0;
    while event < options.events {
        let until = (event + options.window).min(options.events);
        let mut lines = String::new();
        let before = published.clone();
        for event in event..until {
            let channel = event % options.channels;
            let number = published[channel];
            writeln!(
                lines,
                r#"{{"channel":"c.{channel}","data":"{number:08}{filler}"}}"#
            )?;
            published[channel] += 1;
        }
        event = until;
        let headers = [("Content-Type", "application/x-ndjson")];
        let publishing = http::request("POST", &url, &headers, lines.as_bytes());
        let reading = clients.iter_mut().enumerate().map(|(index, client)| {
            let channel = index % options.channels;
            read(client, before[channel]..published[channel])
        });
        let (reply, read) = tokio::join!(publishing, try_join_all(reading));
        let reply = reply?;
        if reply.status != 200 {
            return Err(format!("publishing got {}: {}", reply.status, reply.text()).into());
        }
        deliveries += read?.into_iter().sum::<u64>();
    }
    Ok(deliveries)
}

async fn read(client: &mut SseClient, numbers: std::ops::Range<u64>) -> Result<u64, Failure> {
    let count = numbers.end - numbers.start;
    for number in numbers {
        let event = client
            .next_event(std::time::Duration::from_secs(60))
            .await?;
        let event = event.ok_or("the stream ended")?;
        let came: u64 = event.data.get(..8).unwrap_or_default().parse()?;
        if came != number {
            return Err(format!("event {came} came in the place of {number}").into());
        }
    }
    Ok(count)
}
