//! From a publish to the sinks of all, and from a cursor to all that was missed.

#![allow(missing_docs, reason = "the harness's own items")]
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

mod world;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::{Builder, Runtime};
use world::World;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn fan_out(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fan-out");
    for clients in [1, 100, 1000, 10_000] {
        let runtime = runtime();
        let world = runtime.block_on(async {
            let world = World::new();
            world.crowd(clients).await;
            world
        });
        group.throughput(Throughput::Elements(clients as u64));
        group.bench_function(BenchmarkId::from_parameter(clients), |bench| {
            bench.iter(|| runtime.block_on(world.fan_out(clients)));
        });
    }
}

fn fan_out_to_sockets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("socket-fan-out");
    for clients in [1, 100, 1000] {
        let runtime = runtime();
        let (world, mut last) = runtime.block_on(async {
            let world = World::new();
            let last = world.crowd_of_sockets(clients).await;
            (world, last)
        });
        group.throughput(Throughput::Elements(clients as u64));
        group.bench_function(BenchmarkId::from_parameter(clients), |bench| {
            bench.iter(|| runtime.block_on(world.fan_out_to_sockets(&mut last)));
        });
    }
}

fn resume(criterion: &mut Criterion) {
    const RETAINED: usize = 1000;
    let mut group = criterion.benchmark_group("resume");
    let runtime = runtime();
    let world = runtime.block_on(async { World::new() });
    let places: Vec<_> = (0..RETAINED)
        .map(|_| runtime.block_on(world.publish()))
        .collect();
    for behind in [1, 100, 900] {
        group.throughput(Throughput::Elements(behind as u64));
        let after = &places[RETAINED - 1 - behind];
        group.bench_function(BenchmarkId::from_parameter(behind), |bench| {
            bench.iter(|| runtime.block_on(world.resume(after, behind)));
        });
    }
}

criterion_group!(benches, fan_out, fan_out_to_sockets, resume);
criterion_main!(benches);
