//! The life of a connection: limits, and a slot that is free the moment its client is gone.

#![allow(clippy::unwrap_used, reason = "a test's helpers")]

mod common;

use std::time::Duration;

use common::{Answer, PATIENCE, Server, Stream, answer, head, say, serve, start, start_with};
use fanfare_edge::{RefusalMode, config::LimitsConfig};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

const EVENTS: &str = "/events?channel=a";
const HELD: &str = "fanfare_edge_connections";
const TOO_MANY: &str = "fanfare_edge_refusals_total{reason=\"too_many_connections\"}";

fn six(limits: &mut LimitsConfig) {
    limits.connections_per_client = 6;
}

async fn forwarded(server: &Server, address: &str) -> Answer {
    let bytes = head("GET", EVENTS, &[("X-Forwarded-For", address)], None);
    let mut socket = TcpStream::connect(server.public).await.unwrap();
    socket.write_all(bytes.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    let mut chunk = [0; 4096];
    while common::find(&heard, b"\r\n\r\n").is_none() {
        let count = socket.read(&mut chunk).await.unwrap();
        heard.extend_from_slice(&chunk[..count]);
    }
    let end = common::find(&heard, b"\r\n\r\n").unwrap() + 4;
    // Held open: the slot stays taken.
    std::mem::forget(socket);
    answer(&heard[..end])
}

#[tokio::test]
async fn the_seventh_is_refused_and_a_slot_is_free_however_a_client_went() {
    let server = start_with(|config| six(&mut config.limits));
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(server.stream(EVENTS).await);
    }
    let refused = server.get(EVENTS).await;
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (429, "too_many_connections")
    );
    assert_eq!(refused.header("retry-after"), Some("2"));
    assert_eq!(server.metric(TOO_MANY).await, 1.0);
    assert_eq!(
        server.get("/poll?channel=a&timeout=0").await.status,
        429,
        "a poll is a connection"
    );
    assert_eq!(
        server.get("/history/a").await.status,
        200,
        "history holds nothing"
    );

    let reset = |stream: &Stream| {
        SockRef::from(&stream.socket)
            .set_linger(Some(Duration::ZERO))
            .unwrap()
    };
    for way in [
        "close",
        "reset",
        "half-close",
        "stray byte, close",
        "stray byte, reset",
        "pipelined, close",
    ] {
        let mut gone = held.pop().unwrap();
        match way {
            "close" => {}
            "reset" => reset(&gone),
            "half-close" => gone.socket.shutdown().await.unwrap(),
            "stray byte, close" | "stray byte, reset" => {
                gone.socket.write_all(b"x").await.unwrap();
                // The server has read it before the end comes: it answers an event.
                server.publish("a", way).await;
                assert_eq!(gone.event().await.data, way);
                if way.ends_with("reset") {
                    reset(&gone);
                }
            }
            _ => {
                gone.socket
                    .write_all(head("GET", "/poll?channel=a", &[], None).as_bytes())
                    .await
                    .unwrap();
            }
        }
        let kept = (way == "half-close").then_some(gone);
        let start = time::Instant::now();
        server.until_metric(HELD, 5.0).await;
        assert!(start.elapsed() < Duration::from_secs(5), "{way}");
        held.push(server.stream(EVENTS).await);
        drop(kept);
        let full = server.get(EVENTS).await;
        assert_eq!(full.status, 429, "{way}");
        for stream in &mut held {
            // What the test published stays unread here.
            assert!(!stream.ended);
        }
    }
}

#[tokio::test]
async fn a_pipelined_request_behind_the_streams_own_is_never_answered_in_it() {
    let server = start();
    let two = head("GET", EVENTS, &[], None) + &head("GET", "/page.json", &[], None);
    let mut stream = Stream::say(server.public, two.as_bytes()).await;
    stream.hello().await;
    server.publish("a", "only events").await;
    assert_eq!(stream.next().await.unwrap().data, "only events");
    // hyper has read past the request, and misses the end of this client; the watch does not.
    drop(stream);
    server.until_metric(HELD, 0.0).await;
}

#[tokio::test]
async fn a_flood_of_stray_bytes_ends_the_stream() {
    let server = start();
    let mut stream = server.stream(EVENTS).await;
    let flood = vec![b'x'; 256 << 10];
    let _ = stream.socket.write_all(&flood).await;
    server.until_metric(HELD, 0.0).await;
}

#[tokio::test]
async fn a_poll_whose_client_went_gives_its_slot_back() {
    let server = start();
    for stray in [&b""[..], b"x"] {
        let mut socket = TcpStream::connect(server.public).await.unwrap();
        let request = head("GET", "/poll?channel=a&timeout=60", &[], None);
        socket
            .write_all(&[request.as_bytes(), stray].concat())
            .await
            .unwrap();
        server.until_metric(HELD, 1.0).await;
        drop(socket);
        server.until_metric(HELD, 0.0).await;
    }
}

#[tokio::test]
async fn what_comes_during_a_poll_is_answered_after_it() {
    let server = start();
    let mut socket = TcpStream::connect(server.public).await.unwrap();
    socket
        .write_all(head("GET", "/poll?channel=a&timeout=30", &[], None).as_bytes())
        .await
        .unwrap();
    server.until_metric(HELD, 1.0).await;
    server
        .until_metric("fanfare_delivery_subscribers", 1.0)
        .await;
    let next = head("GET", "/page.json", &[("Connection", "close")], None);
    socket.write_all(next.as_bytes()).await.unwrap();
    server.publish("a", "x").await;
    let mut heard = String::new();
    time::timeout(PATIENCE, socket.read_to_string(&mut heard))
        .await
        .unwrap()
        .unwrap();
    let (poll, page) = (
        heard.find("\"data\":\"x\"").unwrap(),
        heard.find("test-node").unwrap(),
    );
    assert!(poll < page, "{heard}");
}

#[tokio::test]
async fn pages_that_nobody_reads_are_bounded() {
    let mut config = common::config();
    config.limits.histories = 1;
    config.server.answer_timeout = Duration::from_secs(2);
    config.server.send_buffer = Some(16 << 10);
    let server = serve(config, common::memory(), |edge| edge);
    let large = "x".repeat(1 << 20);
    for _ in 0..2 {
        server.publish("a", &large).await;
    }
    let page = server.get("/history/a").await;
    assert_eq!(
        page.header("content-length"),
        Some(page.body.len().to_string().as_str())
    );
    assert_eq!(page.json()["events"][1]["data"], large);

    let connect = async || {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(server.public).await.unwrap()
    };
    let mut stalled = connect().await;
    stalled
        .write_all(head("GET", "/history/a", &[], None).as_bytes())
        .await
        .unwrap();
    stalled.readable().await.unwrap();
    let refused = server.get("/history/a").await;
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (429, "too_many_connections")
    );
    drop(stalled);
    let free = async { while server.get("/history/a").await.status != 200 {} };
    time::timeout(PATIENCE, free).await.unwrap();

    // A poll's slot too is held until its answer is read.
    let mut stalled = connect().await;
    let poll = head("GET", "/poll?channel=a&since=oldest", &[], None);
    stalled.write_all(poll.as_bytes()).await.unwrap();
    stalled.readable().await.unwrap();
    assert_eq!(server.metric(HELD).await, 1.0);
    // Not for ever.
    server.until_metric(HELD, 0.0).await;
    drop(stalled);
}

#[tokio::test]
async fn the_node_has_a_bound_too() {
    let server = start_with(|config| config.limits.connections = 1);
    let held = server.stream(EVENTS).await;
    assert_eq!(server.metric("fanfare_edge_connections_limit").await, 1.0);
    assert!(server.get(EVENTS).await.text().contains("this node"));
    drop(held);
    server.until_metric(HELD, 0.0).await;
    server.stream(EVENTS).await;
}

#[tokio::test]
async fn forwarded_addresses_count_only_from_trusted_proxies() {
    let server = start_with(|config| config.limits.connections_per_client = 1);
    assert_eq!(forwarded(&server, "192.0.2.1").await.status, 200);
    assert_eq!(
        forwarded(&server, "192.0.2.2").await.status,
        429,
        "one peer, whatever it writes"
    );

    let server = start_with(|config| {
        config.limits.connections_per_client = 1;
        config.limits.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    });
    assert_eq!(forwarded(&server, "192.0.2.1").await.status, 200);
    assert_eq!(forwarded(&server, "192.0.2.2").await.status, 200);
    assert_eq!(forwarded(&server, "192.0.2.1").await.status, 429);
    assert_eq!(
        forwarded(&server, "198.51.100.9, 192.0.2.1").await.status,
        429,
        "spoofed left"
    );
    assert_eq!(forwarded(&server, "2001:db8::1").await.status, 200);
    assert_eq!(
        forwarded(&server, "2001:db8::2").await.status,
        429,
        "one /64"
    );
}

#[tokio::test]
async fn a_browser_is_refused_for_now_with_a_stream() {
    let browser = [("Accept", "text/event-stream"), ("Sec-Fetch-Mode", "cors")];
    for (mode, plain, event_source) in [
        (RefusalMode::Auto, 429, 200),
        (RefusalMode::Status, 429, 429),
        (RefusalMode::RetryStream, 200, 200),
    ] {
        let server = start_with(|config| {
            config.limits.connections_per_client = 1;
            config.limits.refusal = mode;
        });
        let _held = server.stream(EVENTS).await;
        assert_eq!(server.get(EVENTS).await.status, plain, "{mode}");
        let refused = server.send("GET", EVENTS, &browser, b"").await;
        assert_eq!(refused.status, event_source, "{mode}");
        if event_source == 200 {
            let text = refused.text();
            assert_eq!(refused.header("content-type"), Some("text/event-stream"));
            assert!(text.starts_with("retry: "), "{text}");
            assert!(
                text.contains("event: fanfare.close\ndata: {\"reason\":\"limit\""),
                "{text}"
            );
        }
        // What will not get better by itself is told by its status.
        assert_eq!(
            server
                .send("GET", "/events?channel=", &browser, b"")
                .await
                .status,
            400
        );
        assert!(server.metric(TOO_MANY).await >= 2.0);
    }
}

#[tokio::test]
async fn a_head_has_a_deadline_and_an_idle_connection_another() {
    let server = start_with(|config| {
        config.server.head_timeout = Duration::from_millis(200);
        config.server.idle_timeout = Duration::from_secs(3);
    });
    let end = |mut socket: TcpStream| async move {
        let start = time::Instant::now();
        let mut heard = Vec::new();
        let _ = time::timeout(PATIENCE, socket.read_to_end(&mut heard))
            .await
            .expect("no end");
        (start.elapsed(), heard)
    };
    // Nothing at all, and a head that never ends.
    let (after, heard) = end(TcpStream::connect(server.public).await.unwrap()).await;
    assert!(after >= Duration::from_millis(150) && heard.is_empty());
    let mut slow = TcpStream::connect(server.public).await.unwrap();
    let trickle = async {
        for byte in b"GET /events?channel=a HTTP/1.1\r\nHost: a\r\n"
            .iter()
            .cycle()
        {
            if slow.write_all(&[*byte]).await.is_err() {
                return;
            }
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    time::timeout(PATIENCE, trickle)
        .await
        .expect("a slow head is cut");
    // Between requests there is more time; for the next head as little as for the first.
    let mut idle = TcpStream::connect(server.public).await.unwrap();
    idle.write_all(head("GET", "/page.json", &[], None).as_bytes())
        .await
        .unwrap();
    let (after, heard) = end(idle).await;
    assert!(after >= Duration::from_millis(2500), "{after:?}");
    assert!(heard.starts_with(b"HTTP/1.1 200"));
    let mut second = TcpStream::connect(server.public).await.unwrap();
    second
        .write_all(head("GET", "/page.json", &[], None).as_bytes())
        .await
        .unwrap();
    let mut chunk = [0; 4096];
    assert!(second.read(&mut chunk).await.unwrap() > 0);
    time::sleep(Duration::from_millis(50)).await;
    second.write_all(b"GET / HT").await.unwrap();
    let (after, _) = end(second).await;
    assert!(after < Duration::from_millis(2500), "{after:?}");
    // A stream outlives both.
    let mut stream = server.stream(EVENTS).await;
    time::sleep(Duration::from_millis(3500)).await;
    server.publish("a", "still here").await;
    assert_eq!(stream.event().await.data, "still here");
    server.until_metric("fanfare_edge_sockets", 2.0).await;
}

#[tokio::test]
async fn what_is_no_request_gets_a_problem_too() {
    let server = start();
    let large = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(1 << 20)
    );
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000));
    let long = format!(
        "GET /events?channel={} HTTP/1.1\r\nHost: a\r\n\r\n",
        "x".repeat(1 << 20)
    );
    for (bytes, status) in [
        (&large, 431),
        (&many, 431),
        (&long, 431),
        (&"GET / HTTP/1.1\r\nX: a\0b\r\n\r\n".to_owned(), 400),
        (&"GET  HTTP/1.1\r\n\r\n".to_owned(), 400),
        (&"\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\r\n\r\n".to_owned(), 400),
        (
            &"POST /publish/a HTTP/1.1\r\nContent-Length: x\r\n\r\n".to_owned(),
            400,
        ),
    ] {
        let answer = say(server.public, bytes.as_bytes()).await;
        assert_eq!(answer.status, status, "{:.60}", bytes);
        answer.problem();
    }
    // Other forms of the target are served.
    let absolute =
        "GET http://localhost/page.json HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(say(server.public, absolute.as_bytes()).await.status, 200);
    let chunked = "GET /history/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
                   Connection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(say(server.public, chunked.as_bytes()).await.status, 200);
}

#[tokio::test]
async fn sockets_are_bounded_and_operators_have_their_own() {
    let server = start_with(|config| config.server.sockets = 2);
    let _held = [server.stream(EVENTS).await, server.stream(EVENTS).await];
    let mut third = TcpStream::connect(server.public).await.unwrap();
    let mut heard = String::new();
    time::timeout(PATIENCE, third.read_to_string(&mut heard))
        .await
        .unwrap()
        .unwrap();
    assert!(heard.starts_with("HTTP/1.1 503"), "{heard}");
    assert_eq!(
        server.metric("fanfare_edge_sockets_refused_total").await,
        1.0
    );
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut_and_others_do_not_notice() {
    let mut config = common::config();
    config.delivery.stall_timeout = Duration::from_millis(300);
    config.delivery.outbox_bytes = 64 << 10;
    config.server.send_buffer = Some(16 << 10);
    let server = serve(config, common::memory(), |edge| edge);
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stalled = socket.connect(server.public).await.unwrap();
    stalled
        .write_all(head("GET", EVENTS, &[], None).as_bytes())
        .await
        .unwrap();
    server.until_metric(HELD, 1.0).await;
    let mut reader = server.stream(EVENTS).await;
    let large = "x".repeat(8 << 10);
    for n in 0..64 {
        let data = format!("{n}{large}");
        server.publish("a", &data).await;
        assert_eq!(reader.event().await.data, data);
    }
    server.until_metric(HELD, 1.0).await;
    server.publish("a", "last").await;
    assert_eq!(reader.event().await.data, "last");
}
