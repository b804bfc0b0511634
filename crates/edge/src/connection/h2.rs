//! HTTP/2 on one socket with TLS.
//!
//! Many streams share the socket, so what ends one of them must leave the others alone.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{
    future::{AbortHandle, Abortable},
    task::AtomicWaker,
};
use hyper::{rt::Executor, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, time};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::{Bounds, Connection, Door, Hold, InFlight, Joined, Service};

/// What a client may send on one stream, and on all of them, before the edge has read it: bodies
/// of publications.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What hyper takes of a stream's body ahead of the client's window. What waits beyond it waits
/// in the subscriber's outbox, where the policy for slow clients sees it.
const SEND_BUFFER: usize = 16 << 10;

tokio::task_local! {
    /// Ends the stream whose task this is.
    static ABORT: AbortHandle;
}

/// Serves until the client, the last request or `closing` ends it.
pub(super) async fn serve(
    stream: TlsStream<TcpStream>,
    peer: SocketAddr,
    service: Service,
    bounds: Bounds,
    closing: CancellationToken,
) {
    let requests = Arc::new(Requests::default());
    let answer = {
        let requests = requests.clone();
        move |request| {
            let (service, requests) = (service.clone(), requests.clone());
            // Boxed: a stream that is answered is rid of the room that answering took.
            Box::pin(async move {
                let abort = ABORT.try_with(Clone::clone);
                let connection = Connection {
                    hold: Hold::Stream(abort.unwrap_or_else(|_| AbortHandle::new_pair().0)),
                    peer,
                };
                let mark = UnderWay::new(requests);
                let response = service.answer(connection.clone(), request).await?;
                let response = Joined::through_body(&connection, response, Door::Http2);
                Ok::<_, Infallible>(response.map(|body| InFlight { body, _mark: mark }))
            })
        }
    };
    let mut http = http2::Builder::new(Streams);
    http.timer(TokioTimer::new())
        .keep_alive_interval(bounds.peer_timeout / 2)
        .keep_alive_timeout(bounds.peer_timeout / 2)
        .max_concurrent_streams(bounds.http2_streams)
        .max_header_list_size(u32::try_from(bounds.head_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER);
    let connection = http.serve_connection(TokioIo::new(stream), service_fn(answer));
    let mut connection = pin!(connection);
    let mut closing = pin!(closing.cancelled_owned());
    let mut idle = Idle::new(bounds);
    let mut is_closing = false;
    poll_fn(|cx| {
        requests.waker.register(cx.waker());
        if !is_closing && closing.as_mut().poll(cx).is_ready() {
            is_closing = true;
            connection.as_mut().graceful_shutdown();
        }
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match idle.poll(cx, requests.are_none()) {
            Some(Waited::Long) if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
                // It may be over by that, and says so only when it is asked.
                connection.as_mut().poll(cx).map(drop)
            }
            Some(Waited::TooLong) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
}

/// How many requests are under way.
#[derive(Debug, Default)]
struct Requests {
    count: AtomicUsize,
    waker: AtomicWaker,
}

impl Requests {
    fn are_none(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }
}

/// Until it is dropped, a request is being answered.
#[derive(Debug)]
struct UnderWay(Arc<Requests>);

impl UnderWay {
    fn new(requests: Arc<Requests>) -> Self {
        requests.count.fetch_add(1, Ordering::AcqRel);
        Self(requests)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.waker.wake();
        }
    }
}

/// How long nothing has been under way.
struct Idle {
    /// After which the client is told to go, and after which it is cut off.
    steps: [(Duration, Waited); 2],
    step: usize,
    sleep: Option<Pin<Box<time::Sleep>>>,
}

#[derive(Clone, Copy)]
enum Waited {
    Long,
    TooLong,
}

impl Idle {
    fn new(bounds: Bounds) -> Self {
        Self {
            steps: [
                (bounds.idle_timeout, Waited::Long),
                (bounds.head_timeout, Waited::TooLong),
            ],
            step: 0,
            sleep: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, is_idle: bool) -> Option<Waited> {
        if !is_idle {
            (self.step, self.sleep) = (0, None);
            return None;
        }
        let (patience, waited) = *self.steps.get(self.step)?;
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(time::sleep(patience)));
        if sleep.as_mut().poll(cx).is_pending() {
            return None;
        }
        self.step += 1;
        self.sleep = None;
        // The next step's sleep is not polled yet.
        cx.waker().wake_by_ref();
        Some(waited)
    }
}

/// Gives every stream a task that can be ended alone: hyper looks at nothing else of a stream
/// while it waits for the client's window.
#[derive(Clone, Debug)]
struct Streams;

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        // No async block around it, which would hold the stream twice. Dropping it resets it.
        let (abort, registration) = AbortHandle::new_pair();
        let task = Abortable::new(stream, registration);
        tokio::spawn(ABORT.scope(abort, task));
    }
}
