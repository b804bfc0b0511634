//! A hundred thousand bad inputs: each gets a clear 4xx, nothing panics, nothing answers 5xx.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use fanfare_testkit::{Fanfare, http};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const INPUTS: usize = 100_000;

const CONFIG: &str = r#"
    [broker]
    kind = "memory"
    [limits]
    connections_per_client = 10000
"#;

/// One request that must be refused: its bytes, and the statuses that are right.
struct Bad {
    request: Vec<u8>,
    expected: &'static [u16],
}

fn percent(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() {
            out.push(char::from(*byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

fn junk(rng: &mut fastrand::Rng, most: usize) -> Vec<u8> {
    let length = rng.usize(1..=most);
    match rng.u32(0..4) {
        0 => (0..length).map(|_| rng.u8(..)).collect(),
        1 => (0..length)
            .map(|_| *rng.choice(b"a.*>?[]\\\" \t\r\n\0").unwrap())
            .collect(),
        2 => (0..length).map(|_| rng.u8(0x20..0x7f)).collect(),
        _ => (0..length)
            .flat_map(|_| rng.char(..).to_string().into_bytes())
            .collect(),
    }
}

/// A name that is no channel, whatever the junk was.
fn bad_channel(rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut name = junk(rng, 40);
    let bad: &[u8] = rng
        .choice([
            &b".."[..],
            b" ",
            b"*a",
            b"a>",
            b"\0",
            b"\xff",
            b"?",
            b"[",
            b"\n",
        ])
        .unwrap();
    let at = rng.usize(0..=name.len());
    name.splice(at..at, bad.iter().copied());
    // A lone `*` or a last `>` would make it a pattern.
    name.extend_from_slice(b"..");
    name
}

fn bad_cursor(rng: &mut fastrand::Rng) -> String {
    let mut cursor: String = (0..rng.usize(1..30))
        .map(|_| rng.char('!'..='~'))
        .filter(|c| *c != '&')
        .collect();
    cursor.push_str(rng.choice(["!", "..", "~~", "A.B.C", "-1"]).unwrap());
    cursor
}

fn bad_json(rng: &mut fastrand::Rng) -> Vec<u8> {
    let good = br#"{"channel":"a","data":"x","event":"t","key":"k"}"#;
    match rng.u32(0..6) {
        0 => good[..rng.usize(0..good.len())].to_vec(),
        1 => br#"{"channel":"a b","data":"x"}"#.to_vec(),
        2 => br#"{"channel":"a","data":"x","event":"fanfare.gap"}"#.to_vec(),
        3 => format!(r#"{{"channel":"a","data":"x","surplus":{}}}"#, rng.u8(..)).into_bytes(),
        4 => "[".repeat(rng.usize(1..5_000)).into_bytes(),
        _ => {
            let mut bytes = junk(rng, 60);
            bytes.insert(0, b'}');
            bytes
        }
    }
}

fn request(method: &str, target: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = if method == "GET" {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    let mut out =
        format!("{method} {target} HTTP/1.1\r\nHost: x\r\n{length}{headers}\r\n").into_bytes();
    out.extend_from_slice(body);
    out
}

fn bad(rng: &mut fastrand::Rng) -> Bad {
    let sse = "Accept: text/event-stream\r\n";
    let json = "Content-Type: application/json\r\n";
    let (request, expected): (_, &[u16]) = match rng.u32(0..14) {
        0 | 1 => {
            let target = format!("/events?channel={}", percent(&bad_channel(rng)));
            (request("GET", &target, sse, b""), &[400])
        }
        2 => {
            let target = format!("/publish/{}", percent(&bad_channel(rng)));
            (request("POST", &target, "", b"x"), &[400, 404])
        }
        3 => {
            let headers = format!("{sse}Last-Event-ID: {}\r\n", bad_cursor(rng));
            (request("GET", "/events?channel=a", &headers, b""), &[400])
        }
        4 => {
            let target = format!(
                "/events?channel=a&last_event_id={}",
                percent(bad_cursor(rng).as_bytes())
            );
            (request("GET", &target, sse, b""), &[400])
        }
        5 => (
            request("POST", "/publish", json, &bad_json(rng)),
            &[400, 413],
        ),
        6 => (
            request("POST", "/events", &format!("{json}{sse}"), &bad_json(rng)),
            &[400, 413],
        ),
        7 => {
            let mut body = junk(rng, 40);
            body.push(0xff);
            (request("POST", "/publish/a", "", &body), &[400])
        }
        8 => {
            let last = rng
                .choice(["0", "-1", "x", "99999999999999999999", "1.5", ""])
                .unwrap();
            (
                request("GET", &format!("/events?channel=a&last={last}"), sse, b""),
                &[400],
            )
        }
        9 => (request("GET", "/events", sse, b""), &[400]),
        10 => {
            let event = percent(&[b"\n", &junk(rng, 20)[..]].concat());
            (
                request("POST", &format!("/publish/a?event={event}"), "", b"x"),
                &[400],
            )
        }
        11 => {
            let target = format!("/{}", percent(&junk(rng, 30)));
            (request("GET", &target, "", b""), &[404, 405])
        }
        12 => {
            let target = format!("/history/{}", percent(&bad_channel(rng)));
            (request("GET", &target, "", b""), &[400, 404])
        }
        _ => {
            let target = format!(
                "/poll?channel=a&cursor={}",
                percent(bad_cursor(rng).as_bytes())
            );
            (request("GET", &target, "", b""), &[400])
        }
    };
    Bad { request, expected }
}

/// Reads one response: its status, content type and body.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(u16, String, Vec<u8>)> {
    buffer.clear();
    let head_end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).to_ascii_lowercase();
    let field = |name: &str| {
        let line = head.lines().find(|line| line.starts_with(name))?;
        Some(line[name.len()..].trim().to_owned())
    };
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length: usize = field("content-length:")
        .and_then(|length| length.parse().ok())
        .unwrap_or(0);
    while buffer.len() < head_end + length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    Some((
        status,
        field("content-type:").unwrap_or_default(),
        buffer[head_end..head_end + length].to_vec(),
    ))
}

async fn throw(node: std::net::SocketAddr, seed: u64, count: usize) -> BTreeMap<u16, usize> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut statuses = BTreeMap::new();
    let mut stream: Option<TcpStream> = None;
    let mut buffer = Vec::new();
    for _ in 0..count {
        let bad = bad(&mut rng);
        let shown = || {
            String::from_utf8_lossy(&bad.request)
                .chars()
                .take(300)
                .collect::<String>()
        };
        // The server may close a connection after a refusal; the next input takes a new one.
        let answered = loop {
            let fresh = stream.is_none();
            let mut open = match stream.take() {
                Some(open) => open,
                None => TcpStream::connect(node).await.unwrap(),
            };
            let written = open.write_all(&bad.request).await;
            match answer(&mut open, &mut buffer).await {
                Some(answered) => {
                    stream = Some(open);
                    break answered;
                }
                None => assert!(!fresh, "no answer ({written:?}) to {}", shown()),
            }
        };
        let (status, content_type, body) = answered;
        assert!(bad.expected.contains(&status), "{status} to {}", shown());
        assert_eq!(
            content_type,
            "application/problem+json",
            "{status} to {}",
            shown()
        );
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem["status"], status, "{problem}");
        assert!(problem["title"].is_string(), "{problem}");
        *statuses.entry(status).or_insert(0) += 1;
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_bad_inputs_are_refused_clearly() {
    let node = Fanfare::start(CONFIG).await;
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let workers = 8;
    let throwing = (0..workers).map(|worker| {
        tokio::spawn(throw(
            node.address(),
            seed.wrapping_add(worker),
            INPUTS / workers as usize,
        ))
    });
    let mut statuses = BTreeMap::new();
    for done in futures_util::future::join_all(throwing).await {
        for (status, count) in done.unwrap() {
            *statuses.entry(status).or_insert(0) += count;
        }
    }
    eprintln!("REPORT bad inputs: {statuses:?}");
    assert!(!node.output().contains("panicked"), "{}", node.output());
    let fine = http::request("POST", &format!("{}/publish/a", node.base_url()), &[], b"x")
        .await
        .unwrap();
    assert_eq!(fine.status, 201);
}
