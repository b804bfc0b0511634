//! A real edge on free ports, and a client that says exactly the bytes a test wants.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    clippy::unwrap_used
)]

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use fanfare_core::{Broker, BrokerMetrics};
use fanfare_edge::{Drained, Edge, EdgeConfig};
use fanfare_memory::{MemoryBroker, MemoryConfig};
use prometheus::Registry;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time,
};

/// Long enough for a busy machine; a test that reaches it has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// The header of a body with a publication in each line.
pub const NDJSON: (&str, &str) = ("Content-Type", "application/x-ndjson");

pub struct Server {
    pub public: SocketAddr,
    pub admin: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<Drained>>,
}

pub fn memory() -> Arc<MemoryBroker> {
    Arc::new(MemoryBroker::new(
        MemoryConfig::default(),
        BrokerMetrics::unregistered("memory"),
    ))
}

pub fn config() -> EdgeConfig {
    let mut config = EdgeConfig::default();
    config.server.listen = ([127, 0, 0, 1], 0).into();
    config.admin.listen = ([127, 0, 0, 1], 0).into();
    config.server.node = "test-node".into();
    config.server.drain_window = Duration::from_millis(100);
    config.delivery.shards = 2;
    // As the system tests have it: the suite at the other door.
    config.delivery.socket = std::env::var("FANFARE_TEST_DOOR").as_deref() != Ok("body");
    config
}

pub fn start() -> Server {
    start_with(|_| {})
}

pub fn start_with(change: impl FnOnce(&mut EdgeConfig)) -> Server {
    let mut config = config();
    change(&mut config);
    serve(config, memory(), |edge| edge)
}

pub fn serve(
    config: EdgeConfig,
    broker: Arc<dyn Broker>,
    dress: impl FnOnce(Edge) -> Edge,
) -> Server {
    let edge = dress(Edge::build(config, broker, &Registry::new()).unwrap());
    let (public, admin) = (edge.public_addr(), edge.admin_addr());
    let (stop, stopped) = oneshot::channel::<()>();
    let task =
        tokio::spawn(async move { edge.run(async move { drop(stopped.await) }).await.unwrap() });
    Server {
        public,
        admin,
        stop: Some(stop),
        task: Some(task),
    }
}

impl Server {
    pub fn shut_down(&mut self) {
        drop(self.stop.take());
    }

    pub async fn drained(&mut self) -> Drained {
        self.shut_down();
        self.ended().await
    }

    pub async fn ended(&mut self) -> Drained {
        time::timeout(PATIENCE, self.task.take().unwrap())
            .await
            .unwrap()
            .unwrap()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"").await
    }

    pub async fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.send("POST", path, &[], body.as_ref()).await
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        request(self.public, method, path, headers, body).await
    }

    pub async fn admin(&self, method: &str, path: &str) -> Answer {
        request(self.admin, method, path, &[], b"").await
    }

    pub async fn stream(&self, path: &str) -> Stream {
        self.stream_with(path, &[]).await
    }

    pub async fn stream_with(&self, path: &str, headers: &[(&str, &str)]) -> Stream {
        let stream = Stream::open(self.public, "GET", path, headers, b"").await;
        assert!(
            stream.head.starts_with("HTTP/1.1 200"),
            "{path}: {}",
            stream.head
        );
        stream
    }

    pub async fn publish(&self, channel: &str, data: &str) -> String {
        let answer = self.post(&format!("/publish/{channel}"), data).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    pub async fn metric(&self, line: &str) -> f64 {
        let text = self.admin("GET", "/metrics").await.text();
        let found = text
            .lines()
            .find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
        found
            .unwrap_or_else(|| panic!("no {line} in\n{text}"))
            .parse()
            .unwrap()
    }

    /// Waits until a metric has a value.
    pub async fn until_metric(&self, line: &str, value: f64) {
        self.until_metric_is(line, |now| now == value).await;
    }

    /// Waits until a metric has a value that is looked for.
    pub async fn until_metric_is(&self, line: &str, is: impl Fn(f64) -> bool) {
        let look = async {
            while !is(self.metric(line).await) {
                time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(
            time::timeout(PATIENCE, look).await.is_ok(),
            "{line} never became what it should"
        );
    }
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// The reason of the problem, after a look at what all problems have.
    pub fn problem(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{problem}");
        assert!(
            problem["title"].is_string() && problem["detail"].is_string(),
            "{problem}"
        );
        problem["type"]
            .as_str()
            .unwrap()
            .strip_prefix("urn:fanfare:problem:")
            .unwrap()
            .to_owned()
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

pub fn head(method: &str, path: &str, headers: &[(&str, &str)], length: Option<usize>) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if let Some(length) = length {
        head += &format!("Content-Length: {length}\r\n");
    }
    head + "\r\n"
}

pub async fn request(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut headers = headers.to_vec();
    headers.push(("Connection", "close"));
    let length = (method == "POST").then_some(body.len());
    let mut bytes = head(method, path, &headers, length).into_bytes();
    bytes.extend_from_slice(body);
    say(to, &bytes).await
}

/// Says these bytes and hears the answer to its end.
pub async fn say(to: SocketAddr, bytes: &[u8]) -> Answer {
    let mut socket = TcpStream::connect(to).await.unwrap();
    let (mut reader, mut writer) = socket.split();
    let mut heard = Vec::new();
    let talk = async {
        // The server may answer and close before all is said.
        let said = async { drop(writer.write_all(bytes).await) };
        let hear = async {
            let mut chunk = [0; 16 << 10];
            while let Ok(count @ 1..) = reader.read(&mut chunk).await {
                heard.extend_from_slice(&chunk[..count]);
            }
        };
        tokio::join!(said, hear);
    };
    time::timeout(PATIENCE, talk)
        .await
        .expect("the answer has no end");
    answer(&heard)
}

pub fn answer(heard: &[u8]) -> Answer {
    let told = String::from_utf8_lossy(heard);
    let end = find(heard, b"\r\n\r\n").unwrap_or_else(|| panic!("no head: {told:?}"));
    let head = String::from_utf8(heard[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut body = heard[end + 4..].to_vec();
    if header(&head, "transfer-encoding") == Some("chunked") && !body.is_empty() {
        let mut dechunk = Dechunk::default();
        body = dechunk.push(&body);
        assert!(dechunk.ended, "the body has no end: {told:?}");
    }
    Answer { status, head, body }
}

pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[derive(Default)]
struct Dechunk {
    held: Vec<u8>,
    ended: bool,
}

impl Dechunk {
    fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let mut out = Vec::new();
        while let Some(end) = find(&self.held, b"\r\n") {
            let size = std::str::from_utf8(&self.held[..end]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            if self.held.len() < end + 2 + size + 2 {
                break;
            }
            out.extend_from_slice(&self.held[end + 2..end + 2 + size]);
            self.held.drain(..end + 2 + size + 2);
            self.ended |= size == 0;
        }
        out
    }
}

/// An SSE client.
pub struct Stream {
    pub socket: TcpStream,
    pub head: String,
    dechunk: Option<Dechunk>,
    text: String,
    events: VecDeque<Sse>,
    pub ended: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sse {
    pub id: Option<String>,
    pub event: Option<String>,
    pub data: String,
}

impl Sse {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap()
    }
}

impl Stream {
    pub async fn open(
        to: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Self {
        let length = (method == "POST").then_some(body.len());
        let mut bytes = head(method, path, headers, length).into_bytes();
        bytes.extend_from_slice(body);
        Self::say(to, &bytes).await
    }

    pub async fn say(to: SocketAddr, bytes: &[u8]) -> Self {
        let mut socket = TcpStream::connect(to).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        let mut heard = Vec::new();
        let end = loop {
            if let Some(end) = find(&heard, b"\r\n\r\n") {
                break end;
            }
            let mut chunk = [0; 4096];
            let count = time::timeout(PATIENCE, socket.read(&mut chunk))
                .await
                .unwrap()
                .unwrap();
            assert!(
                count > 0,
                "closed without an answer: {:?}",
                String::from_utf8_lossy(&heard)
            );
            heard.extend_from_slice(&chunk[..count]);
        };
        let head = String::from_utf8(heard[..end + 4].to_vec()).unwrap();
        let chunked = header(&head, "transfer-encoding") == Some("chunked");
        let mut stream = Self {
            socket,
            head,
            dechunk: chunked.then(Dechunk::default),
            text: String::new(),
            events: VecDeque::new(),
            ended: false,
        };
        stream.push(&heard[end + 4..]);
        stream
    }

    fn push(&mut self, bytes: &[u8]) {
        let plain = match &mut self.dechunk {
            Some(dechunk) => {
                let plain = dechunk.push(bytes);
                self.ended |= dechunk.ended;
                plain
            }
            None => bytes.to_vec(),
        };
        self.text += std::str::from_utf8(&plain).unwrap();
        while let Some(end) = self.text.find("\n\n") {
            let block: String = self.text.drain(..end + 2).collect();
            let mut event = Sse::default();
            let mut data: Vec<&str> = Vec::new();
            for line in block.lines() {
                let (name, value) = line.split_once(':').unwrap_or((line, ""));
                let value = value.strip_prefix(' ').unwrap_or(value);
                match name {
                    "id" => event.id = Some(value.into()),
                    "event" => event.event = Some(value.into()),
                    "data" => data.push(value),
                    _ => {}
                }
            }
            if !data.is_empty() {
                event.data = data.join("\n");
                self.events.push_back(event);
            }
        }
    }

    /// The next event, Fanfare's own among them; `None` at the end.
    pub async fn next(&mut self) -> Option<Sse> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            let mut chunk = [0; 16 << 10];
            let read = time::timeout(PATIENCE, self.socket.read(&mut chunk));
            match read.await.expect("nothing came") {
                Ok(count @ 1..) => self.push(&chunk[..count]),
                _ => self.ended = true,
            }
        }
    }

    /// The next event that is not the hello.
    pub async fn event(&mut self) -> Sse {
        loop {
            let event = self.next().await.expect("the stream ended");
            if event.event.as_deref() != Some("fanfare.hello") {
                return event;
            }
        }
    }

    pub async fn datas(&mut self, count: usize) -> Vec<String> {
        let mut datas = Vec::new();
        while datas.len() < count {
            datas.push(self.event().await.data);
        }
        datas
    }

    pub async fn hello(&mut self) -> Sse {
        let event = self.next().await.unwrap();
        assert_eq!(event.event.as_deref(), Some("fanfare.hello"));
        event
    }
}
