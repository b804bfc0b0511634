//! `/events` over a real socket: the head's bytes, what is asked for, and where it resumes.

#![allow(clippy::unwrap_used, reason = "a test's helpers")]

mod common;

use common::{Stream, start, start_with};
use serde_json::json;
use tokio::io::AsyncReadExt;

#[tokio::test]
async fn the_head_is_these_bytes() {
    let server = start();
    let path = "/events?channel=a";
    let stream = server.stream(path).await;
    let date = stream
        .head
        .lines()
        .find(|line| line.starts_with("date: "))
        .unwrap();
    let golden = [
        "HTTP/1.1 200 OK",
        "content-type: text/event-stream",
        "cache-control: no-cache, no-store, no-transform",
        "x-accel-buffering: no",
        "connection: keep-alive",
        "transfer-encoding: chunked",
        date,
        "",
        "",
    ];
    assert_eq!(stream.head.split("\r\n").collect::<Vec<_>>(), golden);

    let head = server.send("HEAD", path, &[], b"").await;
    assert_eq!(head.status, 200);
    assert!(head.body.is_empty());
    let names = |head: &str| -> Vec<String> {
        let keep = |line: &&str| {
            // A HEAD may leave out what only a body has (RFC 9110, section 9.3.2).
            !["date", "connection", "transfer-encoding"]
                .iter()
                .any(|name| line.starts_with(name))
        };
        head.lines()
            .filter(|line| !line.is_empty())
            .filter(keep)
            .map(String::from)
            .collect()
    };
    assert_eq!(names(&head.head), names(&stream.head));
    assert_eq!(
        server.metric("fanfare_edge_connections").await,
        1.0,
        "HEAD holds nothing"
    );
}

#[tokio::test]
async fn http_1_0_gets_bytes_until_the_close() {
    let server = start();
    let request = b"GET /events?channel=a&hello=0 HTTP/1.0\r\n\r\n";
    let mut stream = Stream::say(server.public, request).await;
    assert!(stream.head.starts_with("HTTP/1.0 200"), "{}", stream.head);
    for absent in ["transfer-encoding", "keep-alive", "content-length"] {
        assert!(!stream.head.contains(absent), "{}", stream.head);
    }
    server.publish("a", "x").await;
    let event = stream.next().await.unwrap();
    assert_eq!(event.data, "x");
    // The same on the wire, bare.
    let mut bare = tokio::net::TcpStream::connect(server.public).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(
        &mut bare,
        b"GET /events?channel=a&last=1&hello=0 HTTP/1.0\r\n\r\n",
    )
    .await
    .unwrap();
    let (mut heard, mut chunk) = (Vec::new(), [0; 4096]);
    while common::find(&heard, b"data: x\n\n").is_none() {
        let count = bare.read(&mut chunk).await.unwrap();
        assert!(count > 0);
        heard.extend_from_slice(&chunk[..count]);
    }
    let heard = String::from_utf8(heard).unwrap();
    let body = heard.split_once("\r\n\r\n").unwrap().1;
    let retry = body.strip_prefix("retry: ").unwrap();
    let rest = retry.trim_start_matches(|c: char| c.is_ascii_digit());
    let id = event.id.unwrap();
    assert_eq!(rest, format!("\n:\nid: {id}\ndata: x\n\n"));
}

#[tokio::test]
async fn several_channels_patterns_envelope_and_hello() {
    let server = start();
    let mut stream = server
        .stream("/events?channel=a&channel=b.*&channel=a&envelope=1")
        .await;
    let hello = stream.hello().await;
    assert_eq!(hello.json()["node"], "test-node");
    assert_eq!(hello.json()["channels"], json!(["a", "b.*"]));
    assert!(hello.id.is_some());
    server.publish("b.x", "one").await;
    server.publish("c", "unseen").await;
    let id = server.publish("a", "two").await;
    let first = stream.event().await.json();
    assert_eq!(
        (first["channel"].clone(), first["data"].clone()),
        (json!("b.x"), json!("one"))
    );
    let second = stream.event().await;
    assert_eq!(
        second.json(),
        json!({ "channel": "a", "data": "two", "id": id })
    );

    let mut silent = server.stream("/events?channel=a&hello=0").await;
    server.publish("a", "three").await;
    assert_eq!(silent.next().await.unwrap().data, "three");
}

#[tokio::test]
async fn a_pattern_may_stand_in_the_url_as_it_is_typed() {
    let server = start();
    let mut typed = server
        .stream("/events?channel=a.>&channel=b.>&hello=0")
        .await;
    let mut escaped = server.stream("/events?channel=a.%3E&hello=0").await;
    server.publish("a.b.c", "x").await;
    assert_eq!(
        (typed.event().await.data, escaped.event().await.data),
        ("x".into(), "x".into())
    );
    // In the second request of a connection too, and nowhere but in the first line.
    let one = common::head("GET", "/page.json", &[], None);
    let two = common::head(
        "GET",
        "/history/a>b",
        &[("Connection", "close"), ("X", "a > b")],
        None,
    );
    let mut socket = tokio::net::TcpStream::connect(server.public).await.unwrap();
    for (request, expected) in [(one, "test-node"), (two, "'>'")] {
        tokio::io::AsyncWriteExt::write_all(&mut socket, request.as_bytes())
            .await
            .unwrap();
        let (mut heard, mut chunk) = (Vec::new(), [0; 4096]);
        while common::find(&heard, expected.as_bytes()).is_none() {
            let count = socket.read(&mut chunk).await.unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&heard));
            heard.extend_from_slice(&chunk[..count]);
        }
    }
}

#[tokio::test]
async fn a_list_too_long_for_a_url_comes_as_json() {
    let server = start();
    let id = server.publish("x.0", "missed").await;
    let before = server.get("/history/x.0").await.json()["events"][0]["id"].clone();
    assert_eq!(before, json!(id));
    server.publish("x.1", "resumed").await;
    let channels: Vec<_> = (0..100).map(|n| format!("x.{n}")).collect();
    let body = json!({ "channels": channels, "last_event_id": id, "hello": false }).to_string();
    let mut stream = Stream::open(server.public, "POST", "/events", &[], body.as_bytes()).await;
    assert!(stream.head.starts_with("HTTP/1.1 200"), "{}", stream.head);
    assert_eq!(stream.next().await.unwrap().data, "resumed");
    server.publish("x.99", "live").await;
    assert_eq!(stream.next().await.unwrap().data, "live");

    for (bad, word) in [
        ("", "EOF"),
        ("{}", "channels"),
        ("[]", "invalid"),
        (r#"{"channels":[]}"#, "missing"),
        (r#"{"channels":["a"],"chanels":[]}"#, "chanels"),
        (r#"{"channels":["a"],"last":0}"#, "last"),
        (r#"{"channels":["a"],"since":"x"}"#, "since"),
        (r#"{"channels":["a b"]}"#, "a b"),
        (r#"{"channels":["a"],"last_event_id":"x"}"#, "last_event_id"),
    ] {
        let answer = server.post("/events", bad).await;
        assert_eq!(answer.status, 400, "{bad}");
        answer.problem();
        assert!(answer.text().contains(word), "{bad}: {}", answer.text());
    }
    let answer = server
        .post("/events?channel=a", r#"{"channels":["a"]}"#)
        .await;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (400, "unknown_parameter")
    );
    let large = format!(r#"{{"channels":["{}"]}}"#, "a".repeat(300 << 10));
    assert_eq!(server.post("/events", large).await.status, 413);
}

#[tokio::test]
async fn the_header_resumes_before_the_query_and_all_channels_from_one_id() {
    let server = start();
    let mut ids = Vec::new();
    for n in 0..6 {
        ids.push(
            server
                .publish(if n % 2 == 0 { "a" } else { "b" }, &n.to_string())
                .await,
        );
    }
    let path = "/events?channel=a&channel=b";
    let resume = |name: &str, id: &str| format!("{path}&{name}={id}");
    let header = [("Last-Event-ID", ids[3].as_str())];
    let mut stream = server
        .stream_with(&resume("last_event_id", &ids[1]), &header)
        .await;
    assert_eq!(stream.datas(2).await, ["4", "5"]);
    let empty = [("Last-Event-ID", "")];
    let mut stream = server
        .stream_with(&resume("last_event_id", &ids[1]), &empty)
        .await;
    assert_eq!(stream.datas(4).await, ["2", "3", "4", "5"]);
    for name in ["last_event_id", "lastEventId", "lastEventID"] {
        let mut stream = server.stream(&resume(name, &ids[4])).await;
        assert_eq!(stream.datas(1).await, ["5"], "{name}");
    }
    // A polyfill's URL grows old: the cursor wins over where the URL began.
    let mut stream = server
        .stream_with(&format!("{path}&since=oldest"), &header)
        .await;
    assert_eq!(stream.datas(2).await, ["4", "5"]);
    let mut stream = server.stream(&format!("{path}&since=oldest")).await;
    assert_eq!(stream.datas(6).await, ["0", "1", "2", "3", "4", "5"]);
    let mut stream = server.stream(&format!("{path}&last=1")).await;
    assert_eq!(stream.datas(2).await, ["4", "5"]);
    // A foreign id: a gap, never silence.
    let mut stream = server.stream(&resume("last_event_id", "m.1.5")).await;
    assert_eq!(stream.event().await.event.as_deref(), Some("fanfare.gap"));
}

#[tokio::test]
async fn every_refusal_names_what_is_wrong() {
    let server = start();
    let many: String = (0..129).map(|n| format!("&channel=c{n}")).collect();
    let long = format!("/events?channel={}", "a".repeat(256));
    for (path, status, reason, word) in [
        ("/events", 400, "bad_parameter", "`channel` is missing"),
        ("/events?channel=", 400, "bad_channel", "is empty"),
        ("/events?channel=a%20b", 400, "bad_channel", "' '"),
        ("/events?channel=a..b", 400, "bad_channel", "empty segment"),
        ("/events?channel=a*", 400, "bad_channel", "wildcard"),
        (&long, 400, "bad_channel", "255"),
        (&format!("/events?{many}"), 400, "bad_parameter", "128"),
        ("/events?channel=%ff", 400, "bad_parameter", "UTF-8"),
        ("/events?channel=%4", 400, "bad_parameter", "hexadecimal"),
        ("/events?chanel=a", 400, "unknown_parameter", "channel"),
        (
            "/events?channel=a&last=0",
            400,
            "bad_parameter",
            "1 to 1000",
        ),
        (
            "/events?channel=a&last=1001",
            400,
            "bad_parameter",
            "1 to 1000",
        ),
        (
            "/events?channel=a&last=-1",
            400,
            "bad_parameter",
            "1 to 1000",
        ),
        (
            "/events?channel=a&last=1&since=oldest",
            400,
            "bad_parameter",
            "one is allowed",
        ),
        (
            "/events?channel=a&since=newest",
            400,
            "bad_parameter",
            "oldest",
        ),
        (
            "/events?channel=a&envelope=yes",
            400,
            "bad_parameter",
            "1 and 0",
        ),
        (
            "/events?channel=a&hello=0&hello=1",
            400,
            "bad_parameter",
            "more than once",
        ),
        (
            "/events?channel=a&last_event_id=rubbish",
            400,
            "bad_cursor",
            "last_event_id",
        ),
        (
            "/events?channel=a&access_token=tok",
            400,
            "bad_parameter",
            "Authorization",
        ),
        (
            "/poll?channel=a&timeout=61",
            400,
            "bad_parameter",
            "0 to 60",
        ),
        (
            "/poll?channel=a&timeout=-1",
            400,
            "bad_parameter",
            "0 to 60",
        ),
        (
            "/poll?channel=a&timeout=NaN",
            400,
            "bad_parameter",
            "0 to 60",
        ),
        ("/poll?channel=a&cursor=x", 400, "bad_cursor", "cursor"),
        (
            "/poll?channel=a&envelope=1",
            400,
            "unknown_parameter",
            "timeout",
        ),
        ("/history/a%20b", 400, "bad_channel", "' '"),
        ("/history/a.*", 400, "bad_channel", "'*'"),
        ("/history/a?limit=1001", 400, "bad_parameter", "1 to 1000"),
        ("/history/a?since=x", 400, "bad_cursor", "since"),
        ("/history/a?since=zz.1.1", 400, "bad_parameter", "log"),
        ("/nothing", 404, "not_found", "nothing"),
        ("/history/", 404, "not_found", "nothing"),
        ("/publish/", 404, "not_found", "nothing"),
    ] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert_eq!(answer.problem(), reason, "{path}");
        assert!(answer.text().contains(word), "{path}: {}", answer.text());
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    let header = [("Last-Event-ID", "not-a-cursor")];
    let answer = server.send("GET", "/events?channel=a", &header, b"").await;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (400, "bad_cursor")
    );
    let accept = [("Accept", "application/json")];
    let answer = server.send("GET", "/events?channel=a", &accept, b"").await;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (406, "not_acceptable")
    );
    for (method, path, allow) in [
        ("DELETE", "/events", "GET,HEAD,POST"),
        ("GET", "/publish", "POST"),
        ("PUT", "/publish/a", "POST"),
        ("POST", "/poll", "GET,HEAD"),
        ("POST", "/", "GET,HEAD"),
        ("OPTIONS", "/events", "GET,HEAD,POST"),
    ] {
        let answer = server.send(method, path, &[], b"").await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (405, "method_not_allowed"),
            "{method} {path}"
        );
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
    let refused = "fanfare_edge_refusals_total{reason=\"bad_channel\"}";
    assert_eq!(server.metric(refused).await, 7.0);
}

#[tokio::test]
async fn the_page_is_served_and_can_be_turned_off() {
    let server = start_with(|config| {
        config.page.title = "Orders".into();
        config.page.channels = vec!["orders.>".parse().unwrap()];
    });
    let page = server.get("/").await;
    assert_eq!(page.status, 200);
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert!(page.text().contains("app.js"));
    // Every asset that the page names is there.
    let text = page.text();
    let named: Vec<_> = text
        .split('"')
        .filter(|word| word.ends_with(".js") || word.ends_with(".css"))
        .collect();
    assert!(named.len() >= 3, "{named:?}");
    for asset in named {
        assert_eq!(
            server.get(&format!("/{asset}")).await.status,
            200,
            "{asset}"
        );
    }
    let facts = server.get("/page.json").await.json();
    assert_eq!(
        (facts["title"].clone(), facts["node"].clone()),
        (json!("Orders"), json!("test-node"))
    );
    assert_eq!(facts["channels"], json!(["orders.>"]));
    let server = start_with(|config| config.page.enabled = false);
    for path in ["/", "/app.js", "/page.json"] {
        assert_eq!(server.get(path).await.problem(), "not_found", "{path}");
    }
}
