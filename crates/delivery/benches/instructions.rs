//! A fixed piece of work, so many times: `bench/instructions` counts what it takes.
//!
//! One thread, and time stands still, so that two runs do the same.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

mod world;

use std::{env, hint::black_box};

use fanfare_sse::encode_event;
use tokio::runtime::Builder;
use world::{DATA, World};

const CLIENTS: usize = 1000;
const BEHIND: usize = 100;

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let [_, work, times, ..] = &arguments[..] else {
        // `cargo bench` runs every bench; this one counts only under a counter.
        return;
    };
    let Ok(times) = times.parse::<usize>() else {
        return;
    };
    match work.as_str() {
        "encode" => (0..times).for_each(|_| encode(DATA)),
        "encode-32-lines" => {
            let data = "a line of thirty bytes, or so.\n".repeat(32);
            (0..times).for_each(|_| encode(&data));
        }
        other => {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(hub(other, times));
        }
    }
}

fn encode(data: &str) {
    let mut out = Vec::new();
    encode_event(
        &mut out,
        Some("m.1x8wabc0de.5k"),
        Some("quote"),
        black_box(data),
    );
    black_box(out);
}

async fn hub(work: &str, times: usize) {
    let world = World::new();
    match work {
        "fan-out-1" => {
            world.crowd(1).await;
            for _ in 0..times {
                world.fan_out(1).await;
            }
        }
        "fan-out-1000" => {
            world.crowd(CLIENTS).await;
            for _ in 0..times {
                world.fan_out(CLIENTS).await;
            }
        }
        "socket-fan-out-1000" => {
            let mut last = world.crowd_of_sockets(CLIENTS).await;
            for _ in 0..times {
                world.fan_out_to_sockets(&mut last).await;
            }
        }
        "resume-100" => {
            let after = world.publish().await;
            for _ in 0..BEHIND {
                world.publish().await;
            }
            for _ in 0..times {
                world.resume(&after, BEHIND).await;
            }
        }
        other => panic!("no such work: {other}"),
    }
}
