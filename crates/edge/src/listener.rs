//! A listening socket and its accept loop.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time,
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use crate::{
    config::ServerConfig,
    connection::{self, Bounds, Service, no_room},
    metrics::Metrics,
    tls::Tls,
};

/// How long nothing is accepted after the process ran out of file descriptors.
const BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// A bound socket.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: StdListener,
    backlog: u32,
    pub(crate) address: SocketAddr,
}

/// What an accept loop needs of its edge.
pub(crate) struct Loop {
    pub(crate) service: Service,
    pub(crate) bounds: Bounds,
    /// `None`: sockets are plain.
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) sockets: usize,
    pub(crate) metrics: Metrics,
    /// Holds every connection's task.
    pub(crate) tasks: TaskTracker,
    /// Nothing more is accepted.
    pub(crate) stop: CancellationToken,
    /// Connections end after the request under way.
    pub(crate) closing: CancellationToken,
    /// Connections end at once.
    pub(crate) cut: CancellationToken,
}

impl Listener {
    /// Binds and listens; nothing is accepted yet.
    pub(crate) fn bind(address: SocketAddr, server: &ServerConfig) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        // A node that restarts does not wait for its old connections to time out.
        socket.set_reuse_address(true)?;
        if let Some(bytes) = server.send_buffer {
            // Accepted sockets inherit it.
            socket.set_send_buffer_size(bytes)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(i32::try_from(server.backlog).unwrap_or(i32::MAX))?;
        let socket = StdListener::from(socket);
        let address = socket.local_addr()?;
        Ok(Self {
            socket,
            backlog: server.backlog,
            address,
        })
    }

    /// Accepts until told to stop.
    pub(crate) async fn run(self, with: Loop) -> io::Result<()> {
        let listener = TcpListener::from_std(self.socket)?;
        let room = with.sockets.min(descriptors()).min(Semaphore::MAX_PERMITS);
        let room = Arc::new(Room {
            free: Semaphore::new(room),
            metrics: with.metrics.clone(),
            tasks: with.tasks.clone(),
        });
        let mut backoff = BACKOFF;
        loop {
            let accepted = tokio::select! {
                biased;
                () = with.stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    backoff = BACKOFF;
                    with.take(stream, peer, &room);
                }
                Err(error) => {
                    let full = is_fd_limit(&error);
                    with.metrics.accept_error(full);
                    if full {
                        tracing::warn!(%error, ?backoff, "out of file descriptors: not accepting");
                        time::sleep(backoff).await;
                        backoff = (backoff * 2).min(MAX_BACKOFF);
                    } else {
                        // A connection that died in the queue. Never a reason to spin.
                        time::sleep(Duration::from_millis(1)).await;
                    }
                }
            }
        }
        // What the kernel has queued gets its answer before the socket is closed on it.
        for _ in 0..self.backlog {
            let Some(Ok((stream, peer))) = listener.accept().now_or_never() else {
                break;
            };
            with.take(stream, peer, &room);
        }
        Ok(())
    }
}

impl Loop {
    fn take(&self, stream: TcpStream, peer: SocketAddr, room: &Arc<Room>) {
        let Some(held) = Held::new(room) else {
            self.metrics.sockets_refused.inc();
            if self.tls.is_none() {
                let _ = stream.try_write(&no_room());
            }
            return;
        };
        if let Err(error) = tune(&stream, self.bounds.peer_timeout) {
            // The client is gone already.
            tracing::trace!(%error, "a socket takes no options");
            return;
        }
        let (service, bounds, closing) = (self.service.clone(), self.bounds, self.closing.clone());
        let cut = self.cut.clone();
        // Two tasks of two sizes: a plain socket does not hold the room that TLS needs.
        match self.tls.clone() {
            None => self.tasks.spawn(async move {
                let serve = connection::serve(stream, peer, service, bounds, closing, held);
                // Boxed: what is passed on is held twice.
                cut.run_until_cancelled(Box::pin(serve)).await;
            }),
            Some(tls) => self.tasks.spawn(async move {
                let _held = held;
                let serve = async {
                    if let Some(stream) = tls.accept(stream).await {
                        connection::serve_tls(stream, peer, service, bounds, closing).await;
                    }
                };
                cut.run_until_cancelled(Box::pin(serve)).await;
            }),
        };
    }
}

/// What the sockets of a listener share.
struct Room {
    free: Semaphore,
    metrics: Metrics,
    /// Holds every connection's task.
    tasks: TaskTracker,
}

/// What an open socket holds: counted and given back also when its task panics.
pub(crate) struct Held(Arc<Room>);

/// The same without the connection's task, which the drain waits for in its stead.
pub(crate) struct Served {
    _held: Held,
    _task: TaskTrackerToken,
}

impl Held {
    fn new(room: &Arc<Room>) -> Option<Self> {
        room.free.try_acquire().ok()?.forget();
        room.metrics.sockets.inc();
        Some(Self(room.clone()))
    }

    /// Goes on without a task.
    pub(crate) fn outlive(self) -> Served {
        Served {
            _task: self.0.tasks.token(),
            _held: self,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.metrics.sockets.dec();
        self.0.free.add_permits(1);
    }
}

/// Finds a peer that vanished: with bytes unacknowledged or silent, it is given up in time.
fn tune(stream: &TcpStream, peer_timeout: Duration) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let second = Duration::from_secs(1);
    let keepalive = TcpKeepalive::new()
        .with_time((peer_timeout / 2).max(second))
        .with_interval((peer_timeout / 6).max(second))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(peer_timeout))?;
    Ok(())
}

/// How many sockets the process may have open, less a reserve: clients never take the descriptors
/// that operators, the bus and files need.
fn descriptors() -> usize {
    const RESERVE: u64 = 256;
    let Ok(most) = rlimit::Resource::NOFILE.get_soft() else {
        return usize::MAX;
    };
    usize::try_from(most - RESERVE.min(most / 4)).unwrap_or(usize::MAX)
}

fn is_fd_limit(error: &io::Error) -> bool {
    // EMFILE and ENFILE, the same numbers on every Unix.
    matches!(error.raw_os_error(), Some(24 | 23))
}
