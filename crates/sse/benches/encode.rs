//! Encoding one event, and decoding a stream of them.

#![allow(missing_docs, reason = "the harness's own items")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanfare_sse::{Decoder, encode_event};

fn inputs() -> [(&'static str, String); 3] {
    [
        ("100 B", "x".repeat(100)),
        ("1 KiB", "x".repeat(1024)),
        (
            "1 KiB in 32 lines",
            "123456789012345678901234567890\r\n".repeat(32),
        ),
    ]
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    for (name, data) in inputs() {
        group.throughput(Throughput::Bytes(data.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(name), &data, |bench, data| {
            bench.iter(|| {
                let mut out = Vec::new();
                encode_event(&mut out, Some("m1k3f.8120"), Some("order"), black_box(data));
                out
            });
        });
    }
}

fn decode(criterion: &mut Criterion) {
    const EVENTS: usize = 100;
    const CHUNK: usize = 4096;
    let mut group = criterion.benchmark_group("decode 100 events");
    for (name, data) in inputs() {
        let mut stream = Vec::new();
        for _ in 0..EVENTS {
            encode_event(&mut stream, Some("m1k3f.8120"), Some("order"), &data);
        }
        group.throughput(Throughput::Bytes(stream.len() as u64));
        group.bench_with_input(
            BenchmarkId::from_parameter(name),
            &stream,
            |bench, stream| {
                bench.iter(|| {
                    let mut decoder = Decoder::new();
                    let mut items = 0;
                    for chunk in stream.chunks(CHUNK) {
                        decoder.push(chunk);
                        items += decoder.by_ref().count();
                    }
                    assert_eq!(items, EVENTS);
                });
            },
        );
    }
}

criterion_group!(benches, encode, decode);
criterion_main!(benches);
