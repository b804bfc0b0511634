//! An SSE client over its own HTTP/1.1: thousands of them fit in one process.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use fanfare_sse::{Decoder, Event, Item};
use socket2::SockRef;
use tokio::net::TcpSocket;

use crate::http::{Exchange, Head, encode_request};

/// How long the head of a response may take.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
const LAST_EVENT_ID: &str = "Last-Event-ID";

/// What a client asks for, each time it connects.
#[derive(Debug, Clone)]
pub struct SseRequest {
    address: SocketAddr,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
    receive_buffer: Option<u32>,
    source: Option<IpAddr>,
}

/// An SSE client.
///
/// It reads only while [`next_item`](Self::next_item) or [`next_event`](Self::next_event) is
/// awaited: not calling them is how a client is slow. A small
/// [`receive_buffer`](SseRequest::receive_buffer) makes that felt at the server soon.
#[derive(Debug)]
pub struct SseClient {
    request: SseRequest,
    head: Head,
    exchange: Option<Exchange>,
    decoder: Decoder,
    scratch: Vec<u8>,
    retry: Option<Duration>,
    comments: u64,
}

impl SseRequest {
    /// `GET` of a path with its query.
    pub fn get(address: SocketAddr, path_and_query: impl Into<String>) -> Self {
        Self {
            address,
            path: path_and_query.into(),
            headers: vec![("Accept".into(), "text/event-stream".into())],
            body: None,
            receive_buffer: None,
            source: None,
        }
    }

    /// `POST` of JSON.
    pub fn post(
        address: SocketAddr,
        path_and_query: impl Into<String>,
        json: &serde_json::Value,
    ) -> Self {
        Self {
            body: Some(json.to_string().into_bytes()),
            ..Self::get(address, path_and_query).header("Content-Type", "application/json")
        }
    }

    /// Adds a header, as it is.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Starts after this id.
    #[must_use]
    pub fn last_event_id(mut self, id: impl Into<String>) -> Self {
        self.headers.retain(|(name, _)| name != LAST_EVENT_ID);
        self.header(LAST_EVENT_ID, id)
    }

    /// Sets `SO_RCVBUF`, in bytes; the kernel doubles it and has a least of its own (about 2 KiB).
    #[must_use]
    pub fn receive_buffer(mut self, bytes: u32) -> Self {
        self.receive_buffer = Some(bytes);
        self
    }

    /// Connects from this address of the machine: another client to the server, and more ports
    /// than one address has.
    #[must_use]
    pub fn source(mut self, address: IpAddr) -> Self {
        self.source = Some(address);
        self
    }

    /// Connects and reads the head of the response, whatever its status.
    ///
    /// # Errors
    /// Those of the socket; `InvalidData` for what is not HTTP/1.1; `TimedOut` after 30 s.
    pub async fn connect(self) -> io::Result<SseClient> {
        let exchange = self.open().await?;
        let resumed = self.headers.iter().find(|(name, _)| name == LAST_EVENT_ID);
        let id = resumed.map_or("", |(_, id)| id);
        Ok(SseClient {
            head: exchange.head.clone(),
            exchange: Some(exchange),
            decoder: Decoder::new().resuming(id),
            scratch: Vec::new(),
            retry: None,
            comments: 0,
            request: self,
        })
    }

    async fn open(&self) -> io::Result<Exchange> {
        let socket = match self.address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(source) = self.source {
            socket.bind((source, 0).into())?;
        }
        let (method, body) = match &self.body {
            Some(body) => ("POST", &body[..]),
            None => ("GET", &[][..]),
        };
        let host = self.address.to_string();
        let request = encode_request(method, &host, &self.path, &self.headers, body);
        let exchange = async {
            let stream = socket.connect(self.address).await?;
            Exchange::open(stream, method, &request).await
        };
        match tokio::time::timeout(HEAD_WITHIN, exchange).await {
            Ok(exchange) => exchange,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl SseClient {
    /// Connects with `GET`; see [`SseRequest`] for more.
    ///
    /// # Errors
    /// As [`SseRequest::connect`].
    pub async fn connect(
        address: SocketAddr,
        path_and_query: &str,
        headers: &[(&str, &str)],
    ) -> io::Result<Self> {
        let request = SseRequest::get(address, path_and_query);
        let add = |request: SseRequest, (name, value): &(&str, &str)| request.header(*name, *value);
        headers.iter().fold(request, add).connect().await
    }

    /// The status of the newest response.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The head of the newest response.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The last event id so far: of the connection, or of one before it.
    pub fn last_id(&self) -> &str {
        self.decoder.last_event_id()
    }

    /// The newest `retry:` that was read.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// How many comments were read over all connections: heartbeats, mostly.
    pub fn comments(&self) -> u64 {
        self.comments
    }

    /// Whether the connection is open, as far as was read.
    pub fn is_open(&self) -> bool {
        self.exchange.is_some()
    }

    /// The next event, of any type; `None` where the stream ended as it should. Nothing is lost
    /// if cancelled.
    ///
    /// # Errors
    /// `TimedOut` after `within`; those of the socket; `UnexpectedEof` where the stream broke off.
    pub async fn next_event(&mut self, within: Duration) -> io::Result<Option<Event>> {
        let next = async {
            loop {
                match self.item().await? {
                    Some(Item::Event(event)) => return Ok(Some(event)),
                    Some(Item::Comment(_) | Item::Retry(_)) => {}
                    None => return Ok(None),
                }
            }
        };
        in_time(within, next).await
    }

    /// The next item: event, comment or retry. Otherwise as [`next_event`](Self::next_event).
    ///
    /// # Errors
    /// As [`next_event`](Self::next_event).
    pub async fn next_item(&mut self, within: Duration) -> io::Result<Option<Item>> {
        in_time(within, self.item()).await
    }

    /// The next `count` events.
    ///
    /// # Errors
    /// As [`next_event`](Self::next_event), with `within` for all of them together, and
    /// `UnexpectedEof` where the stream ends before.
    pub async fn next_events(&mut self, count: usize, within: Duration) -> io::Result<Vec<Event>> {
        let deadline = tokio::time::Instant::now() + within;
        let mut events = Vec::with_capacity(count);
        while events.len() < count {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            match self.next_event(left).await {
                Ok(Some(event)) => events.push(event),
                Ok(None) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) => {
                    let came = events.len();
                    let why = format!("{error} after {came} of {count} events");
                    return Err(io::Error::new(error.kind(), why));
                }
            }
        }
        Ok(events)
    }

    /// The rest of the response as it is, for one that is no stream: a refusal.
    ///
    /// # Errors
    /// As [`next_event`](Self::next_event).
    pub async fn body(&mut self, within: Duration) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        let read = async {
            if let Some(mut exchange) = self.exchange.take() {
                while exchange.read(&mut body).await? {}
            }
            Ok(())
        };
        in_time(within, read).await?;
        Ok(body)
    }

    /// Connects again, with `Last-Event-ID` if there is an id, as a browser does.
    ///
    /// # Errors
    /// As [`SseRequest::connect`]; then the client is not connected, and may try again.
    pub async fn resume(&mut self) -> io::Result<()> {
        self.close();
        let id = self.last_id().to_owned();
        let request = match id.is_empty() {
            true => self.request.clone(),
            false => self.request.clone().last_event_id(&id),
        };
        let exchange = request.open().await?;
        self.head = exchange.head.clone();
        self.exchange = Some(exchange);
        self.decoder = Decoder::new().resuming(id);
        Ok(())
    }

    /// Closes the connection (FIN, or RST where bytes are unread).
    pub fn close(&mut self) {
        self.exchange = None;
    }

    /// Closes the connection with a reset.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn reset(&mut self) -> io::Result<()> {
        if let Some(exchange) = self.exchange.take() {
            SockRef::from(&exchange.stream).set_linger(Some(Duration::ZERO))?;
        }
        Ok(())
    }

    async fn item(&mut self) -> io::Result<Option<Item>> {
        loop {
            if let Some(item) = self.decoder.next() {
                let item = item.map_err(io::Error::other)?;
                match &item {
                    Item::Retry(wait) => self.retry = Some(*wait),
                    Item::Comment(_) => self.comments += 1,
                    Item::Event(_) => {}
                }
                return Ok(Some(item));
            }
            let Some(exchange) = &mut self.exchange else {
                return Ok(None);
            };
            self.scratch.clear();
            match exchange.read(&mut self.scratch).await {
                Ok(true) => self.decoder.push(&self.scratch),
                Ok(false) => self.exchange = None,
                Err(error) => {
                    self.exchange = None;
                    return Err(error);
                }
            }
        }
    }
}

async fn in_time<T>(within: Duration, read: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(within, read).await {
        Ok(read) => read,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("nothing within {within:?}"),
        )),
    }
}
