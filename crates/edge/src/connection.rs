//! One client's socket, from accept to close.
//!
//! hyper reads and writes it through [`Io`]; this task watches it where hyper does not: hyper
//! misses that a client went away when the client had sent even one byte more than its request
//! (`mid_message_detect_eof` in hyper's `proto/h1/conn.rs`). While a stream or a long wait is
//! under way, the socket is read here, and its end is seen at once.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    response::{IntoResponse, Response},
};
use futures_util::{future::AbortHandle, task::AtomicWaker};
use http::{Request, Version, header};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, RwLock};
use tokio::{io::ReadBuf, net::TcpStream, time};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

mod door;
mod h2;
mod io_half;
mod raw;
mod wire;

pub(crate) use door::{Door, Joined};
pub(crate) use raw::no_room;

use door::{Asked, HandOver};
use io_half::Io;
use wire::Wire;

use crate::{listener::Held, problem::Refusal, tls};

/// The most bytes that a client may send past its request while it is being served.
const MAX_STRAY_BYTES: usize = 64 << 10;

/// How long the parts of a connection's life may take, and how large a request's head may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) head_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) head_bytes: usize,
    /// After how long without an answer an HTTP/2 client is given up.
    pub(crate) peer_timeout: Duration,
    /// The most requests at once on one HTTP/2 connection.
    pub(crate) http2_streams: u32,
}

/// A request's hold on its connection. It does not keep the socket open.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    hold: Hold,
    peer: SocketAddr,
}

#[derive(Clone, Debug)]
enum Hold {
    /// Of HTTP/1: the request has the socket for itself.
    Socket(Weak<Socket>),
    /// Of HTTP/2: others share the socket, whose end hyper sees. Aborting resets this stream.
    Stream(AbortHandle),
}

struct Socket {
    wire: Wire,
    state: Mutex<State>,
    aborted: AtomicBool,
    waker: AtomicWaker,
}

struct State {
    reader: Reader,
    phase: Phase,
    target: Target,
    /// What the client sent while the socket was watched; hyper gets it afterwards.
    stash: Vec<u8>,
    stray: usize,
    /// hyper has written something and not told the end of it.
    unflushed: bool,
    hand_over: Option<HandOver>,
}

/// Who reads the socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reader {
    /// hyper, as it likes.
    Hyper,
    /// The watch, for a while: what comes is kept for hyper.
    Watch,
    /// The watch, to the end: what comes is thrown away.
    Stream,
}

/// Where the connection stands between requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Since then a request's head is awaited.
    Head(time::Instant),
    /// A request is being answered.
    Busy,
    /// Since then nothing is under way.
    Idle(time::Instant),
}

/// Where the reader is in a request's first line, whose target may need an escape.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    Awaited,
    Open,
    Past,
}

impl Connection {
    /// Where the socket's other end is.
    pub(crate) fn peer(&self) -> IpAddr {
        self.peer.ip()
    }

    /// Drops the connection at once, with a reset: what is unsent is thrown away. Of HTTP/2, it
    /// drops the request's stream alone.
    pub(crate) fn abort(&self) {
        match &self.hold {
            Hold::Stream(abort) => abort.abort(),
            Hold::Socket(socket) => {
                if let Some(socket) = socket.upgrade() {
                    socket.aborted.store(true, Ordering::Release);
                    socket.waker.wake();
                }
            }
        }
    }

    /// A stream has begun: it is the last that this connection serves, and the client's end is
    /// seen whatever else it sends.
    pub(crate) fn streaming(&self) {
        self.read_by(Reader::Stream);
    }

    /// Sees the client's end for as long as the answer is held, during a wait before a response.
    pub(crate) fn watched(&self) -> Watched {
        self.read_by(Reader::Watch);
        Watched(self.clone())
    }

    fn read_by(&self, reader: Reader) {
        let Hold::Socket(socket) = &self.hold else {
            return;
        };
        let Some(socket) = socket.upgrade() else {
            return;
        };
        let mut state = socket.state.lock();
        if state.reader != Reader::Stream {
            state.reader = reader;
        }
        drop(state);
        socket.waker.wake();
    }
}

/// A wait during which the client's end is seen.
#[must_use = "the watch ends when this is dropped"]
pub(crate) struct Watched(Connection);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.read_by(Reader::Hyper);
    }
}

/// What answers requests: a router, which a reload replaces, and what is done with each answer
/// before it leaves.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) router: Arc<RwLock<Router>>,
    pub(crate) observe: Observe,
}

/// Sees the path of each request and its answer.
pub(crate) type Observe = Arc<dyn Fn(&str, &mut Response) + Send + Sync>;

/// Serves one plain socket until its end, or until it belongs to a shard. `held` goes with it.
pub(crate) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    service: Service,
    bounds: Bounds,
    closing: CancellationToken,
    held: Held,
) {
    let left = serve_h1(Wire::Plain(stream), peer, service, bounds, closing).await;
    if let Some((hand_over, stream)) = left {
        hand_over.complete(stream, held).await;
    }
}

/// Serves one socket with TLS until its end, in the version of HTTP that both sides agreed on.
pub(crate) async fn serve_tls(
    stream: TlsStream<TcpStream>,
    peer: SocketAddr,
    service: Service,
    bounds: Bounds,
    closing: CancellationToken,
) {
    if tls::is_h2(&stream) {
        h2::serve(stream, peer, service, bounds, closing).await;
    } else {
        let wire = Wire::Tls(Box::new(Mutex::new(stream)));
        // What has TLS never leaves hyper.
        let _ = serve_h1(wire, peer, service, bounds, closing).await;
    }
}

/// Answers the socket if it left hyper in one piece, and what to do with it.
async fn serve_h1(
    wire: Wire,
    peer: SocketAddr,
    service: Service,
    bounds: Bounds,
    closing: CancellationToken,
) -> Option<(HandOver, std::net::TcpStream)> {
    let state = State {
        reader: Reader::Hyper,
        phase: Phase::Head(time::Instant::now()),
        target: Target::Awaited,
        stash: Vec::new(),
        stray: 0,
        unflushed: false,
        hand_over: None,
    };
    let socket = Arc::new(Socket {
        wire,
        state: Mutex::new(state),
        aborted: AtomicBool::new(false),
        waker: AtomicWaker::new(),
    });
    let answer = {
        let socket = socket.clone();
        let connection = Connection {
            hold: Hold::Socket(Arc::downgrade(&socket)),
            peer,
        };
        // Boxed: a stream that is answered is rid of the room that answering took.
        move |request| {
            let (service, connection) = (service.clone(), connection.clone());
            Box::pin(answer(service, connection, socket.clone(), request))
        }
    };
    let mut http = http1::Builder::new();
    // The deadlines of heads are kept here: hyper's own would also end idle connections.
    http.header_read_timeout(None)
        .max_buf_size(bounds.head_bytes);
    let io = TokioIo::new(Io(socket.clone()));
    let end = {
        let connection = http.serve_connection(io, hyper::service::service_fn(answer));
        drive(&socket, connection, bounds, closing).await
    };
    match end {
        End::Aborted => socket.wire.set_zero_linger(),
        End::Refused => raw::linger(&socket.wire).await,
        End::Closed => {}
        End::HandedOver => {
            // Held elsewhere is only a socket that is being aborted.
            let Socket { wire, state, .. } = Arc::into_inner(socket)?;
            let hand_over = state.into_inner().hand_over?;
            let Wire::Plain(stream) = wire else {
                return None;
            };
            return Some((hand_over, stream.into_std().ok()?));
        }
    }
    None
}

/// How a connection ended.
enum End {
    Closed,
    /// It did not: hyper and its request are dropped, and the socket goes on elsewhere.
    HandedOver,
    Aborted,
    /// By a request that cannot be read; its answer is written.
    Refused,
}

async fn drive<S>(
    socket: &Socket,
    connection: http1::Connection<TokioIo<Io>, S>,
    bounds: Bounds,
    closing: CancellationToken,
) -> End
where
    S: hyper::service::HttpService<Incoming, ResBody = InFlight<Busy>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut connection = pin!(connection);
    let mut closing = pin!(closing.cancelled_owned());
    let mut is_closing = false;
    let mut deadline: Option<Pin<Box<time::Sleep>>> = None;
    poll_fn(|cx| {
        socket.waker.register(cx.waker());
        if socket.aborted.load(Ordering::Acquire) {
            return Poll::Ready(End::Aborted);
        }
        if !is_closing && closing.as_mut().poll(cx).is_ready() {
            is_closing = true;
            connection.as_mut().graceful_shutdown();
        }
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            let refused = ended.is_err_and(|error| error.is_parse());
            return Poll::Ready(if refused { End::Refused } else { End::Closed });
        }
        if socket.state.lock().hand_over.is_some() {
            return Poll::Ready(End::HandedOver);
        }
        if socket.poll_gone(cx).is_ready() {
            return Poll::Ready(End::Closed);
        }
        if !is_closing && socket.state.lock().reader == Reader::Stream {
            // Nothing is answered after a stream: what the client sent meanwhile is thrown away.
            is_closing = true;
            connection.as_mut().graceful_shutdown();
        }
        match socket.deadline(bounds) {
            None => deadline = None,
            Some(at) => {
                let sleep = deadline.get_or_insert_with(|| Box::pin(time::sleep_until(at)));
                if sleep.deadline() != at {
                    sleep.as_mut().reset(at);
                }
                ready!(sleep.as_mut().poll(cx));
                return Poll::Ready(End::Closed);
            }
        }
        Poll::Pending
    })
    .await
}

impl Socket {
    /// Ready when the client is gone, or sends more than it may. Pending while hyper reads.
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [0; 2048];
        while self.state.lock().reader != Reader::Hyper {
            let mut read = ReadBuf::new(&mut bytes);
            let ended = ready!(self.wire.poll_read(cx, &mut read)).is_err();
            let read = read.filled();
            if ended || read.is_empty() {
                return Poll::Ready(());
            }
            let mut state = self.state.lock();
            state.stray += read.len();
            if state.stray > MAX_STRAY_BYTES {
                return Poll::Ready(());
            }
            if state.reader == Reader::Watch {
                state.stash.extend_from_slice(read);
            }
        }
        Poll::Pending
    }

    fn deadline(&self, bounds: Bounds) -> Option<time::Instant> {
        match self.state.lock().phase {
            Phase::Head(since) => Some(since + bounds.head_timeout),
            Phase::Idle(since) => Some(since + bounds.idle_timeout),
            Phase::Busy => None,
        }
    }
}

async fn answer(
    service: Service,
    connection: Connection,
    socket: Arc<Socket>,
    request: Request<Incoming>,
) -> Result<Response<InFlight<Busy>>, Infallible> {
    socket.state.lock().phase = Phase::Busy;
    let busy = Busy(socket);
    let asked = Asked::of(&request);
    let response = service.answer(connection.clone(), request).await?;
    let response = Joined::through_socket(&busy.0, &connection, response, asked).await;
    Ok(response.map(|body| InFlight { body, _mark: busy }))
}

impl Service {
    async fn answer(
        self,
        connection: Connection,
        mut request: Request<Incoming>,
    ) -> Result<Response, Infallible> {
        let path = request.uri().path().to_owned();
        request.extensions_mut().insert(connection);
        let mut response = match check_host(&request) {
            Ok(()) => {
                let mut router = self.router.read().clone();
                router.call(request.map(Body::new)).await?
            }
            Err(refusal) => refusal.into_response(),
        };
        (self.observe)(&path, &mut response);
        Ok(response)
    }
}

/// RFC 9112, section 3.2: a request of HTTP/1.1 without just one `Host` is refused.
fn check_host(request: &Request<Incoming>) -> Result<(), Refusal> {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if request.version() == Version::HTTP_11 && hosts != 1 {
        return Err(Refusal::invalid(
            "Host",
            format!("is given {hosts} times; once is allowed"),
        ));
    }
    Ok(())
}

/// Until it is dropped, a request is being answered.
struct Busy(Arc<Socket>);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.phase = Phase::Idle(time::Instant::now());
        state.target = Target::Awaited;
    }
}

/// A response's body, and the mark that it is under way until this is dropped.
struct InFlight<M> {
    body: Body,
    _mark: M,
}

impl<M: Unpin> http_body::Body for InFlight<M> {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
