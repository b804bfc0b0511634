//! Which way a stream's bytes leave: through hyper as a response's body, or straight from a shard
//! that has taken the socket over.

use std::{future::pending, net::TcpStream, sync::Arc, time::SystemTime};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use fanfare_delivery::{Framing, Seat};
use http::{HeaderValue, Method, Request, Version, header};
use hyper::body::Incoming;
use parking_lot::Mutex;

use super::{Connection, Socket, wire::Wire};
use crate::{listener::Held, metrics::Metrics, registry::Live};

/// A subscriber that has joined, on its way from its route to a door: rides in the response, whose
/// head is decided when it gets there.
#[derive(Clone)]
pub(crate) struct Joined {
    seat: Arc<Mutex<Option<Seat>>>,
    live: Arc<Live>,
    takes_sockets: bool,
    metrics: Metrics,
}

/// The door that a stream took, as it is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Door {
    /// The shard has the socket.
    Socket,
    /// hyper has it: TLS needs its hands on every byte.
    Tls,
    /// So have the other streams of the connection.
    Http2,
    /// The settings say so.
    Off,
    /// The request came with a body, which hyper may not have read to its end.
    Body,
    /// An earlier answer on the connection has not left hyper yet.
    Unflushed,
}

/// What a request says about its door, kept past the routes, which consume it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    version: Version,
    is_bare: bool,
}

/// A socket that leaves hyper, and what to do with it.
pub(super) struct HandOver {
    seat: Seat,
    live: Arc<Live>,
    head: Bytes,
    framing: Framing,
}

impl Door {
    pub(crate) const ALL: [Self; 6] = [
        Self::Socket,
        Self::Tls,
        Self::Http2,
        Self::Off,
        Self::Body,
        Self::Unflushed,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Tls => "body_tls",
            Self::Http2 => "body_http2",
            Self::Off => "body_off",
            Self::Body => "body_request",
            Self::Unflushed => "body_unflushed",
        }
    }
}

impl Joined {
    /// Puts a subscriber into the response whose body is its stream.
    pub(crate) fn put(
        response: &mut Response,
        seat: Seat,
        live: Arc<Live>,
        takes_sockets: bool,
        metrics: Metrics,
    ) {
        response.extensions_mut().insert(Self {
            seat: Arc::new(Mutex::new(Some(seat))),
            live,
            takes_sockets,
            metrics,
        });
    }

    fn take(response: &mut Response) -> Option<(Self, Seat)> {
        let joined: Self = response.extensions_mut().remove()?;
        let seat = joined.seat.lock().take()?;
        Some((joined, seat))
    }

    /// Answers with a body where the response is a stream.
    pub(super) fn through_body(
        connection: &Connection,
        mut response: Response,
        door: Door,
    ) -> Response {
        match Self::take(&mut response) {
            Some((joined, seat)) => joined.body(connection, response, seat, door),
            None => response,
        }
    }

    fn body(self, connection: &Connection, response: Response, seat: Seat, door: Door) -> Response {
        self.metrics.door(door);
        connection.streaming();
        response.map(|_| Body::new(seat.into_body()))
    }

    /// Lets the shard have the socket where the response is a stream and nothing stands against
    /// it, and never answers then: hyper must write nothing. What it may have read past the
    /// request is thrown away at either door, since nothing is answered after a stream.
    pub(super) async fn through_socket(
        socket: &Socket,
        connection: &Connection,
        mut response: Response,
        asked: Asked,
    ) -> Response {
        let Some((joined, seat)) = Self::take(&mut response) else {
            return response;
        };
        let door = match () {
            () if !matches!(socket.wire, Wire::Plain(_)) => Door::Tls,
            () if !joined.takes_sockets => Door::Off,
            () if !asked.is_bare => Door::Body,
            () if socket.state.lock().unflushed => Door::Unflushed,
            () => Door::Socket,
        };
        if door != Door::Socket {
            return joined.body(connection, response, seat, door);
        }
        joined.metrics.door(door);
        let framing = match asked.version {
            Version::HTTP_11 => Framing::Chunked,
            _ => Framing::Plain,
        };
        socket.state.lock().hand_over = Some(HandOver {
            seat,
            live: joined.live,
            head: head(&mut response, framing),
            framing,
        });
        socket.waker.wake();
        pending().await
    }
}

impl Asked {
    pub(super) fn of(request: &Request<Incoming>) -> Self {
        Self {
            version: request.version(),
            is_bare: request.method() == Method::GET
                && http_body::Body::is_end_stream(request.body()),
        }
    }
}

impl HandOver {
    /// Gives the socket, of which hyper has let go, to the shard.
    pub(super) async fn complete(self, socket: TcpStream, held: Held) {
        self.live.keep(held);
        drop(self.live);
        self.seat.into_socket(socket, self.head, self.framing).await;
    }
}

/// The head as hyper writes it.
fn head(response: &mut Response, framing: Framing) -> Bytes {
    let (line, status) = match framing {
        Framing::Chunked => ("HTTP/1.1 ", response.status()),
        Framing::Plain => ("HTTP/1.0 ", response.status()),
    };
    let headers = response.headers_mut();
    match framing {
        Framing::Chunked => {
            let chunked = HeaderValue::from_static("chunked");
            headers.insert(header::TRANSFER_ENCODING, chunked);
        }
        Framing::Plain => {
            let close = HeaderValue::from_static("close");
            headers.insert(header::CONNECTION, close);
        }
    }
    let mut out = Vec::with_capacity(384);
    out.extend_from_slice(line.as_bytes());
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    for (name, value) in headers.iter() {
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
    }
    out.extend_from_slice(b"\r\ndate: ");
    out.extend_from_slice(httpdate::fmt_http_date(SystemTime::now()).as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
    out.into()
}
