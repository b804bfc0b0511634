//! Ten thousand bad inputs, made by the seed that a failure prints: 4xx and problem+json, never
//! 5xx, never a panic. What happens to be good is served.

#![allow(clippy::unwrap_used, reason = "a test's helpers")]

mod common;

use std::net::SocketAddr;

use common::{answer, start};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

const INPUTS: usize = 10_000;
const WORKERS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_inputs_are_the_clients_fault() {
    let server = start();
    // A panic in a connection's task would be a closed connection; count it as what it is.
    let workers = (0..WORKERS).map(|worker| tokio::spawn(run(server.public, worker)));
    let mut refused = 0;
    for worker in workers.collect::<Vec<_>>() {
        refused += worker.await.unwrap();
    }
    assert!(refused > INPUTS / 2, "most of them are bad: {refused}");
    assert_eq!(
        server
            .metric("fanfare_edge_requests_total{route=\"events\",status=\"5xx\"}")
            .await,
        0.0
    );
    server.until_metric("fanfare_edge_connections", 0.0).await;
    assert_eq!(server.get("/page.json").await.status, 200);
}

async fn run(to: SocketAddr, worker: usize) -> usize {
    let mut refused = 0;
    for index in (worker..INPUTS).step_by(WORKERS) {
        let seed = u64::try_from(index).unwrap();
        let request = make(&mut fastrand::Rng::with_seed(seed));
        let heard = say(to, &request).await;
        let shown = String::from_utf8_lossy(&request);
        assert!(!heard.is_empty(), "seed {seed}: no answer to {shown:?}");
        let answer = answer(&heard);
        assert!(
            answer.status < 500,
            "seed {seed}: {} to {shown:?}",
            answer.status
        );
        if answer.status >= 400 {
            answer.problem();
            refused += 1;
        }
    }
    refused
}

/// A request of which some part is bad more often than not.
fn make(rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut target = match rng.u8(..8) {
        0..=2 => "/events?channel=".to_owned() + &text(rng),
        3 => "/publish/".to_owned() + &text(rng),
        4 => "/history/".to_owned() + &text(rng),
        5 => "/poll?timeout=0&channel=".to_owned() + &text(rng),
        6 => "/publish".to_owned(),
        _ => "/".to_owned() + &text(rng),
    };
    for _ in 0..rng.usize(..3) {
        let names = [
            "channel",
            "last",
            "since",
            "last_event_id",
            "envelope",
            "hello",
            "limit",
            "cursor",
            "event",
            "x",
        ];
        let name = rng.choice(names).unwrap();
        let join = if target.contains('?') { '&' } else { '?' };
        target += &format!("{join}{name}={}", text(rng));
    }
    let method = *rng
        .choice(&["GET", "GET", "POST", "PUT", "HEAD", "x"])
        .unwrap();
    // A HEAD has no body to look at, and one that is good never ends.
    let method = if method == "HEAD" { "DELETE" } else { method };
    let mut bytes =
        format!("{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n").into_bytes();
    let names = [
        "Last-Event-ID",
        "Accept",
        "Idempotency-Key",
        "Authorization",
        "Origin",
        "X-Forwarded-For",
        "Content-Type",
        "Content-Encoding",
        "Cookie",
        "Transfer-Encoding",
        "Content-Length",
        "Expect",
    ];
    for _ in 0..rng.usize(..3) {
        bytes.extend_from_slice(rng.choice(names).unwrap().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(&junk(rng));
        bytes.extend_from_slice(b"\r\n");
    }
    let body = match rng.u8(..4) {
        0 => Vec::new(),
        1 => junk(rng),
        2 => format!("{{\"channel\":\"{}\",\"data\":{}}}", text(rng), text(rng)).into_bytes(),
        _ => format!(
            "{{\"channels\":[\"{}\"],\"last\":{}}}",
            text(rng),
            text(rng)
        )
        .into_bytes(),
    };
    bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

fn text(rng: &mut fastrand::Rng) -> String {
    let parts = [
        "a",
        "b.c",
        ".",
        "*",
        ">",
        "%",
        "%ff",
        "%00",
        "%0a",
        "+",
        "\u{e9}",
        "[",
        "\\",
        "\"",
        "m.1.2",
        "~",
        "-1",
        "99999999999999999999",
        "oldest",
        "1",
        "=",
        "&",
        "#",
        "/",
        "..",
        "%e2%80%a8",
        "null",
        "{}",
        "\u{feff}",
    ];
    (0..rng.usize(..5))
        .map(|_| *rng.choice(&parts).unwrap())
        .collect()
}

fn junk(rng: &mut fastrand::Rng) -> Vec<u8> {
    match rng.u8(..3) {
        0 => text(rng).into_bytes(),
        1 => (0..rng.usize(..40)).map(|_| rng.u8(..)).collect(),
        _ => vec![b'x'; rng.usize(..20_000)],
    }
}

/// The head and the beginning of the body are enough of a stream.
async fn say(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(to).await.unwrap();
    let (mut reader, mut writer) = socket.split();
    let mut heard = Vec::new();
    let hear = async {
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut chunk).await {
            heard.extend_from_slice(&chunk[..count]);
            if let Some(end) = common::find(&heard, b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&heard[..end]).to_lowercase();
                if head.contains("text/event-stream") {
                    heard.truncate(end + 4);
                    return;
                }
            }
        }
    };
    let talk = async { tokio::join!(writer.write_all(bytes), hear) };
    let _ = time::timeout(common::PATIENCE, talk)
        .await
        .expect("no end of the answer");
    heard
}
