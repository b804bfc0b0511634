//! Publications in, and what comes out of poll and history.

#![allow(clippy::unwrap_used, reason = "a test's helpers")]

mod common;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use common::{NDJSON, PATIENCE, answer, head, memory, serve, start, start_with};
use fanfare_core::{
    Broker, BrokerError, Capabilities, Channel, ErrorKind, History, HistoryQuery, Inlet, Pattern,
    Publication, Published, Subscription,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

#[tokio::test]
async fn the_body_is_the_data_as_it_is() {
    let server = start();
    let mut stream = server.stream("/events?channel=a.b&hello=0").await;
    for data in [
        "",
        "x",
        "two\nlines",
        " lead",
        "\u{1f389} é \u{2028}",
        "{\"a\": 1}",
        "\u{feff}bom",
    ] {
        let answer = server.post("/publish/a.b", data).await;
        assert_eq!(answer.status, 201, "{data:?}");
        assert_eq!(answer.json()["channel"], "a.b");
        let event = stream.next().await.unwrap();
        assert_eq!(event.data, data);
        assert_eq!(answer.json()["id"], json!(event.id));
    }
    let large = "x".repeat(1 << 20);
    assert_eq!(server.post("/publish/a.b", &large).await.status, 201);
    assert_eq!(stream.next().await.unwrap().data, large);
    let answer = server.post("/publish/a%2Fb?event=order.created", "x").await;
    assert_eq!(answer.json()["channel"], "a/b");
    let answer = server.post("/publish/a/b", "x").await;
    assert_eq!(
        answer.json()["channel"],
        "a/b",
        "a proxy may have decoded it"
    );
    server.post("/publish/a.b?event=order.created", "x").await;
    assert_eq!(
        stream.next().await.unwrap().event.as_deref(),
        Some("order.created")
    );
    assert_eq!(
        server
            .metric("fanfare_edge_published_total{outcome=\"ok\"}")
            .await,
        11.0
    );
}

#[tokio::test]
async fn bad_publications_are_refused_by_name() {
    let server = start_with(|config| {
        config.limits.event_bytes = 1000;
        config.limits.batch_bytes = 5000;
        config.limits.batch_items = 3;
        config.limits.body_timeout = Duration::from_millis(300);
    });
    for (path, body, status, reason) in [
        ("/publish/a%20b", &b"x"[..], 400, "bad_channel"),
        ("/publish/a.*", b"x", 400, "bad_channel"),
        ("/publish/%ff", b"x", 400, "bad_parameter"),
        ("/publish/a", b"a\xff", 400, "bad_body"),
        ("/publish/a?event=fanfare.gap", b"x", 400, "bad_parameter"),
        ("/publish/a?event=x%0ay", b"x", 400, "bad_parameter"),
        ("/publish/a?evnt=x", b"x", 400, "unknown_parameter"),
        ("/publish/a", &[b'x'; 1001], 413, "too_large"),
        ("/publish", &[b' '; 5001], 413, "too_large"),
        ("/publish", b"", 400, "bad_body"),
        ("/publish", b"[", 400, "bad_body"),
        ("/publish", b"\xff", 400, "bad_body"),
        ("/publish", b"[1,2,3,4]", 413, "too_large"),
        ("/publish", b"{\"channel\":\"a\"}", 400, "bad_body"),
        ("/publish?event=x", b"{}", 400, "unknown_parameter"),
    ] {
        let answer = server.post(path, body).await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (status, reason),
            "{path} {body:?}"
        );
    }
    let huge = vec![b'x'; 4 << 20];
    assert_eq!(
        server.post("/publish/a", &huge).await.status,
        413,
        "the answer outlives the body"
    );
    let chunked = head(
        "POST",
        "/publish/a",
        &[("Transfer-Encoding", "chunked"), ("Connection", "close")],
        None,
    );
    let bytes = [
        chunked.as_bytes(),
        format!("7d0\r\n{}\r\n0\r\n\r\n", "x".repeat(2000)).as_bytes(),
    ]
    .concat();
    assert_eq!(
        common::say(server.public, &bytes).await.status,
        413,
        "its length is not announced"
    );
    for (header, status) in [
        (("Idempotency-Key", ""), 400),
        (("Idempotency-Key", "a b"), 400),
        (("Content-Encoding", "gzip"), 415),
        (("Origin", "https://evil.example"), 403),
        (("Sec-Fetch-Site", "cross-site"), 403),
    ] {
        let answer = server.send("POST", "/publish/a", &[header], b"x").await;
        assert_eq!(answer.status, status, "{header:?}");
        answer.problem();
    }
    // A body that never comes.
    let slow = head("POST", "/publish/a", &[("Connection", "close")], Some(10));
    assert_eq!(
        common::say(server.public, slow.as_bytes()).await.problem(),
        "body_timeout"
    );
    assert_eq!(
        server.get("/history/a").await.json()["events"],
        json!([]),
        "nothing was stored"
    );
}

#[tokio::test]
async fn a_known_key_answers_the_first_id() {
    let server = start();
    let key = [("Idempotency-Key", "k-1")];
    let first = server.send("POST", "/publish/a", &key, b"x").await;
    let again = server.send("POST", "/publish/a", &key, b"x").await;
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(
        first.json(),
        json!({ "channel": "a", "id": first.json()["id"] })
    );
    assert_eq!(
        again.json(),
        json!({ "channel": "a", "id": first.json()["id"], "duplicate": true })
    );
    assert_eq!(
        server.get("/history/a").await.json()["events"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn json_and_arrays_of_it() {
    let server = start();
    let one = json!({ "channel": "a", "event": "e", "data": "x", "key": "k" }).to_string();
    let answer = server.post("/publish", &one).await;
    assert_eq!(answer.status, 201);
    let id = answer.json()["id"].clone();
    let array = json!([
        { "channel": "a", "data": "x", "key": "k" },
        { "channel": "a", "data": { "n": 1 } },
        { "channel": "a b", "data": "" },
        { "channel": "b" },
        17,
        { "channel": "b", "data": "last" },
    ]);
    let answer = server.post("/publish", array.to_string()).await;
    assert_eq!(answer.status, 200);
    let results = answer.json();
    let statuses: Vec<_> = results
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["status"].clone())
        .collect();
    assert_eq!(statuses, [201, 201, 400, 400, 400, 201]);
    assert_eq!(
        (results[0]["id"].clone(), results[0]["duplicate"].clone()),
        (id, json!(true))
    );
    assert_eq!(results[2]["type"], "urn:fanfare:problem:bad_channel");
    let history = server.get("/history/a").await.json();
    assert_eq!(history["events"][1]["data"], "{\"n\":1}");
    assert_eq!(server.post("/publish", "[]").await.json(), json!([]));
    assert_eq!(
        server
            .metric("fanfare_edge_published_total{outcome=\"rejected\"}")
            .await,
        3.0
    );
}

#[tokio::test]
async fn ndjson_is_answered_line_by_line_while_it_comes() {
    let server = start_with(|config| config.limits.event_bytes = 100);
    let mut socket = TcpStream::connect(server.public).await.unwrap();
    let headers = [
        NDJSON,
        ("Transfer-Encoding", "chunked"),
        ("Connection", "close"),
    ];
    socket
        .write_all(head("POST", "/publish", &headers, None).as_bytes())
        .await
        .unwrap();
    let mut heard = Vec::new();
    for n in 0..3 {
        let line = format!("{{\"channel\":\"a\",\"data\":\"{n}\"}}\n");
        // In two pieces: a line may come in any.
        let (one, two) = line.split_at(9);
        for piece in [one, two] {
            let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
            socket.write_all(chunk.as_bytes()).await.unwrap();
        }
        let mut chunk = [0; 4096];
        while heard.iter().filter(|b| **b == b'{').count() <= n {
            let count = time::timeout(PATIENCE, socket.read(&mut chunk))
                .await
                .unwrap()
                .unwrap();
            assert!(count > 0);
            heard.extend_from_slice(&chunk[..count]);
        }
    }
    let long = format!("{{\"channel\":\"a\",\"data\":\"{}\"}}", "x".repeat(20_000));
    let rest =
        format!("\n{long}\n{{\"channel\":\"a\"\n \r\n\u{fe}{{\"channel\":\"a\",\"data\":\"end\"}}");
    let mut rest = rest.into_bytes();
    let at = rest.iter().position(|b| *b == 0xc3).unwrap();
    rest.splice(at..at + 2, *b"\xff\n");
    let mut chunk = format!("{:x}\r\n", rest.len()).into_bytes();
    chunk.extend_from_slice(&rest);
    chunk.extend_from_slice(b"\r\n0\r\n\r\n");
    socket.write_all(&chunk).await.unwrap();
    time::timeout(PATIENCE, socket.read_to_end(&mut heard))
        .await
        .unwrap()
        .unwrap();
    let answer = answer(&heard);
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let text = answer.text();
    let results: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let statuses: Vec<_> = results
        .iter()
        .map(|result| result["status"].as_u64().unwrap())
        .collect();
    assert_eq!(statuses, [201, 201, 201, 413, 400, 400, 201], "{text}");
    let events = server.get("/history/a").await.json()["events"].clone();
    let datas: Vec<_> = events
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["data"].clone())
        .collect();
    assert_eq!(datas, ["0", "1", "2", "end"]);
    assert_eq!(results[6]["id"], events[3]["id"]);
}

#[tokio::test]
async fn ndjson_keeps_order_over_many_lines() {
    let server = start_with(|config| config.server.idle_timeout = Duration::from_secs(5));
    let lines: String = (0..2000)
        .map(|n| format!("{{\"channel\":\"c{}\",\"data\":{n}}}\n", n % 7))
        .collect();
    let mut stream = server.stream("/events?channel=*&hello=0").await;
    let answer = server
        .send("POST", "/publish", &[NDJSON], lines.as_bytes())
        .await;
    assert_eq!(answer.text().lines().count(), 2000);
    let expected: Vec<_> = (0..2000).map(|n| n.to_string()).collect();
    assert_eq!(stream.datas(2000).await, expected);
}

#[tokio::test]
async fn a_poll_waits_answers_and_goes_on_from_its_cursor() {
    let server = start();
    let empty = server.get("/poll?channel=a&channel=b.*&timeout=0").await;
    assert_eq!(empty.status, 200);
    assert_eq!(
        (empty.json()["events"].clone(), empty.json()["gaps"].clone()),
        (json!([]), json!([]))
    );
    let mut cursor = empty.json()["cursor"].as_str().unwrap().to_owned();
    for n in 0..3 {
        server.publish("a", &n.to_string()).await;
    }
    let poll =
        |cursor: &str, more: &str| format!("/poll?channel=a&channel=b.*&cursor={cursor}{more}");
    let page = server.get(&poll(&cursor, "&limit=2")).await.json();
    let datas: Vec<_> = page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["data"].clone())
        .collect();
    assert_eq!(datas, ["0", "1"]);
    assert_eq!(page["events"][1]["id"], page["cursor"]);
    cursor = page["cursor"].as_str().unwrap().to_owned();
    let page = server.get(&poll(&cursor, "")).await.json();
    assert_eq!(page["events"][0]["data"], "2");
    cursor = page["cursor"].as_str().unwrap().to_owned();

    let path = poll(&cursor, "&timeout=30");
    let waiting = server.get(&path);
    let publishing = async {
        server.until_metric("fanfare_edge_connections", 1.0).await;
        server.publish("b.x", "late").await;
    };
    let (page, ()) = tokio::join!(waiting, publishing);
    assert_eq!(page.json()["events"][0]["channel"], "b.x");
    assert_eq!(page.json()["events"].as_array().unwrap().len(), 1);
    let start = time::Instant::now();
    server.get("/poll?channel=a&timeout=0.3").await;
    assert!(start.elapsed() >= Duration::from_millis(300));
    let gap = server
        .get("/poll?channel=a&cursor=m.1.1&timeout=5")
        .await
        .json();
    assert_eq!(gap["gaps"][0]["cause"], "new_epoch", "{gap}");
}

#[tokio::test]
async fn history_is_read_in_pages() {
    let server = start();
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(server.publish("a", &n.to_string()).await);
        server.publish("other", "x").await;
    }
    let page = server.get("/history/a?limit=2").await.json();
    assert_eq!(
        (
            page["channel"].clone(),
            page["gap"].clone(),
            page["more"].clone()
        ),
        (json!("a"), json!(null), json!(true))
    );
    assert_eq!(
        page["events"][0],
        json!({ "channel": "a", "data": "0", "id": ids[0] })
    );
    let mut datas = Vec::new();
    let mut path = "/history/a?limit=2".to_owned();
    loop {
        let page = server.get(&path).await.json();
        datas.extend(
            page["events"]
                .as_array()
                .unwrap()
                .iter()
                .map(|e| e["data"].clone()),
        );
        if page["more"] == json!(false) {
            break;
        }
        path = format!(
            "/history/a?limit=2&since={}",
            page["next"].as_str().unwrap()
        );
    }
    assert_eq!(datas, ["0", "1", "2", "3", "4"]);
    let page = server
        .get(&format!("/history/a?since={}", ids[3]))
        .await
        .json();
    assert_eq!(page["events"].as_array().unwrap().len(), 1);
    let epoch_ago = ids[0].split('.').next().unwrap().to_owned() + ".1.1";
    let page = server
        .get(&format!("/history/a?since={epoch_ago}"))
        .await
        .json();
    assert_eq!(page["gap"]["cause"], "new_epoch");
    assert_eq!(
        server.get("/history/none").await.json()["events"],
        json!([])
    );
}

/// A bus that fails in the way that the channel's name says.
#[derive(Debug)]
struct Failing(Arc<dyn Broker>);

#[async_trait]
impl Broker for Failing {
    async fn publish(
        &self,
        channel: &Channel,
        publication: Publication,
    ) -> Result<Published, BrokerError> {
        let kind = match channel.as_str() {
            "down" => ErrorKind::Unavailable,
            "slow" => ErrorKind::Timeout,
            "large" => ErrorKind::TooLarge,
            "odd" => ErrorKind::Unsupported,
            "denied" => ErrorKind::Rejected,
            "hang" => return std::future::pending().await,
            "raw" => {
                return Ok(Published {
                    position: None,
                    duplicate: false,
                });
            }
            _ => return self.0.publish(channel, publication).await,
        };
        Err(BrokerError::new(kind, "failing", "redis://user:s3cret@bus"))
    }
    async fn subscribe(
        &self,
        pattern: &Pattern,
        inlet: &Inlet,
    ) -> Result<Subscription, BrokerError> {
        if pattern.as_str() == "down" {
            return Err(BrokerError::new(ErrorKind::Unavailable, "failing", "no"));
        }
        self.0.subscribe(pattern, inlet).await
    }
    async fn history(&self, query: HistoryQuery) -> Result<History, BrokerError> {
        if query.channels[0].as_str() == "down" {
            return Err(BrokerError::new(ErrorKind::Unavailable, "failing", "no"));
        }
        self.0.history(query).await
    }
    async fn probe(&self) -> Result<(), BrokerError> {
        Err(BrokerError::new(
            ErrorKind::Unavailable,
            "failing",
            "no canary",
        ))
    }
    async fn close(&self) {}
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
}

#[tokio::test]
async fn a_bus_that_fails_is_told_without_its_secrets() {
    let mut config = common::config();
    config.server.broker_timeout = Duration::from_millis(300);
    let server = serve(config, Arc::new(Failing(memory())), |edge| edge);
    for (channel, status, reason) in [
        ("down", 503, "broker_unavailable"),
        ("slow", 503, "broker_unavailable"),
        ("hang", 503, "broker_unavailable"),
        ("large", 413, "too_large"),
        ("odd", 501, "unsupported"),
        ("denied", 502, "broker_rejected"),
    ] {
        let answer = server.post(&format!("/publish/{channel}"), "x").await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (status, reason),
            "{channel}"
        );
        assert!(!answer.text().contains("s3cret"));
        assert_eq!(
            answer.header("retry-after").is_some(),
            status == 503,
            "{channel}"
        );
    }
    assert_eq!(
        server.post("/publish/raw", "x").await.json(),
        json!({ "channel": "raw", "id": null })
    );
    assert_eq!(server.get("/events?channel=down").await.status, 503);
    assert_eq!(server.get("/poll?channel=down").await.status, 503);
    assert_eq!(server.get("/history/down").await.status, 503);
    assert_eq!(
        server.metric("fanfare_edge_connections").await,
        0.0,
        "a refused stream holds nothing"
    );
    let ready = server.admin("GET", "/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("no canary"), "{}", ready.text());
    assert_eq!(
        server.admin("GET", "/healthz").await.status,
        200,
        "no reason to restart"
    );
    assert_eq!(server.metric("fanfare_edge_ready").await, 0.0);
    assert_eq!(
        server
            .metric("fanfare_edge_published_total{outcome=\"error\"}")
            .await,
        5.0
    );
}

#[tokio::test]
async fn what_stands_behind_a_failure_is_not_tried() {
    let config = common::config();
    let server = serve(config, Arc::new(Failing(memory())), |edge| edge);
    let item = |channel: &str| json!({"channel": channel, "data": channel});
    let items = ["a", "large", "b", "slow", "c"].map(item);
    let answer = server.post("/publish", &json!(items).to_string()).await;
    let status = |result: &serde_json::Value| result["status"].as_u64();
    let results = answer.json();
    let results = results.as_array().unwrap();
    let statuses: Vec<_> = results.iter().filter_map(status).collect();
    assert_eq!(statuses, [201, 413, 201, 503, 503]);
    for (channel, events) in [("b", 1), ("c", 0)] {
        let page = server.get(&format!("/history/{channel}")).await.json();
        assert_eq!(page["events"].as_array().map(Vec::len), Some(events));
    }
}

#[tokio::test]
async fn publish_requests_are_bounded() {
    let server = start_with(|config| config.limits.publishes = 1);
    let mut holding = TcpStream::connect(server.public).await.unwrap();
    let start = head("POST", "/publish/a", &[], Some(3));
    holding.write_all(start.as_bytes()).await.unwrap();
    let mut refused = server.post("/publish/a", "x").await;
    while refused.status == 201 {
        refused = server.post("/publish/a", "x").await;
    }
    assert_eq!((refused.status, refused.problem().as_str()), (503, "busy"));
    holding.write_all(b"abc").await.unwrap();
    let mut chunk = [0; 1024];
    let count = holding.read(&mut chunk).await.unwrap();
    assert!(chunk[..count].starts_with(b"HTTP/1.1 201"));
    assert_eq!(server.post("/publish/a", "x").await.status, 201);
}
