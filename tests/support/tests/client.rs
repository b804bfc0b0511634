//! The SSE client and the HTTP helper against answers written byte by byte.

mod common;

use std::{io::ErrorKind, net::IpAddr, time::Duration};

use common::{Scripted, answer};
use fanfare_testkit::{SseClient, SseRequest, http, try_eventually};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const SOON: Duration = Duration::from_secs(10);
const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";

#[tokio::test]
async fn a_client_reads_a_chunked_stream_and_resumes_from_its_last_id() {
    let first = format!(
        "{STREAM}Transfer-Encoding: chunked\r\n\r\n\
         d\r\nretry: 250\n:\n\r\n\
         6\r\nid: 7\n\r\nA\r\ndata: a\r\n\n\r\n\
         e\r\ndata: cut off\n\r\n"
    );
    let second = format!("{STREAM}\r\ndata: b\n\ndata: c\n\n");
    let server = Scripted::start([answer(first), answer(second)]).await;

    let mut client = SseClient::connect(server.address, "/events?channel=a", &[("X-A", "b")])
        .await
        .unwrap();
    assert_eq!(client.status(), 200);
    assert_eq!(
        client.head().header("content-TYPE"),
        Some("text/event-stream")
    );
    let event = client.next_event(SOON).await.unwrap().unwrap();
    assert_eq!((&*event.id, &*event.data), ("7", "a"));
    assert_eq!(client.retry(), Some(Duration::from_millis(250)));
    assert_eq!((client.comments(), client.last_id()), (1, "7"));
    let cut_off = client.next_event(SOON).await.unwrap_err();
    assert_eq!(cut_off.kind(), ErrorKind::UnexpectedEof);
    assert!(!client.is_open());

    client.resume().await.unwrap();
    let events = client.next_events(2, SOON).await.unwrap();
    let read: Vec<_> = events
        .iter()
        .map(|event| (&*event.id, &*event.data))
        .collect();
    assert_eq!(read, [("7", "b"), ("7", "c")]);
    assert_eq!(client.next_event(SOON).await.unwrap(), None);

    let requests = server.requests.lock().clone();
    assert!(requests[0].starts_with("GET /events?channel=a HTTP/1.1\r\n"));
    assert!(requests[0].contains("\r\nX-A: b\r\n") && !requests[0].contains("Last-Event-ID"));
    assert!(
        requests[1].contains("\r\nLast-Event-ID: 7\r\n"),
        "{}",
        requests[1]
    );
}

#[tokio::test]
async fn waiting_is_bounded_and_loses_nothing() {
    let server = Scripted::start([answer(format!("{STREAM}\r\ndata: a\n\nda")).stays_open()]).await;
    let mut client = SseRequest::post(server.address, "/events", &json!({"channels": ["a"]}))
        .last_event_id("3")
        .connect()
        .await
        .unwrap();
    assert_eq!(client.last_id(), "3");
    let late = client
        .next_events(2, Duration::from_millis(50))
        .await
        .unwrap_err();
    assert_eq!(late.kind(), ErrorKind::TimedOut);
    assert!(late.to_string().ends_with("after 1 of 2 events"), "{late}");
    assert!(client.is_open());
    assert!(server.requests.lock()[0].starts_with("POST /events HTTP/1.1\r\n"));
    assert!(server.requests.lock()[0].contains("Content-Length: 18\r\n"));
}

#[tokio::test]
async fn refusals_are_read_whole() {
    let refusal = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3\r\nContent-Length: 2\r\n\r\n{}";
    let server = Scripted::start([answer(refusal).stays_open()]).await;
    let mut client = SseClient::connect(server.address, "/events", &[])
        .await
        .unwrap();
    assert_eq!(client.status(), 429);
    assert_eq!(client.head().header("Retry-After"), Some("3"));
    assert_eq!(client.body(SOON).await.unwrap(), b"{}");

    let reply = http::request(
        "PUT",
        &format!("http://{}/x?y", server.address),
        &[],
        b"body",
    )
    .await
    .unwrap();
    assert_eq!((reply.status, reply.json()), (429, json!({})));
    assert!(server.requests.lock()[1].ends_with("Content-Length: 4\r\n\r\nbody"));
    let head = http::request("HEAD", &format!("http://{}", server.address), &[], b"").await;
    assert_eq!(head.unwrap().body, b"");
}

/// A client that does not read, with a small window, stops the server's writes; one that resets
/// is seen at once; one from another address is seen as such.
#[tokio::test]
async fn clients_can_be_slow_reset_and_somebody_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let source: IpAddr = "127.0.0.77".parse().unwrap();
    let connect = tokio::spawn(
        SseRequest::get(address, "/")
            .receive_buffer(2048)
            .source(source)
            .connect(),
    );
    let (mut server, peer) = listener.accept().await.unwrap();
    assert_eq!(peer.ip(), source);
    server
        .write_all(format!("{STREAM}\r\n").as_bytes())
        .await
        .unwrap();
    let mut client = connect.await.unwrap().unwrap();

    let block = vec![b':'; 64 << 10];
    let mut written = 0_usize;
    let stalled = try_eventually(SOON, async || {
        match tokio::time::timeout(Duration::from_millis(500), server.write(&block)).await {
            Ok(count) => {
                written += count.unwrap();
                None
            }
            Err(_) => Some(()),
        }
    });
    assert!(stalled.await.is_some(), "{written} bytes and no stall");

    client.reset().unwrap();
    let mut rest = Vec::new();
    while let Ok(1..) = server.read_buf(&mut rest).await {}
    let gone = server.read(&mut [0]).await;
    let write = server.write(b"x").await;
    assert!(gone.is_err() || write.is_err(), "{gone:?} {write:?}");
}
