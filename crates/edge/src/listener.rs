//! A listening socket and its accept loop.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    pin::pin,
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
/// Whether a socket has the options of the one that accepted it. Linux clones the listening one
/// whole (`inet_csk_clone_lock`), which saves six calls for each client.
const IS_INHERITED: bool = cfg!(target_os = "linux");

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
            socket.set_send_buffer_size(bytes)?;
        }
        if IS_INHERITED {
            tune(&socket, server.peer_timeout)?;
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
        if !IS_INHERITED && let Err(error) = tune(&SockRef::from(&stream), self.bounds.peer_timeout)
        {
            // The client is gone already.
            tracing::trace!(%error, "a socket takes no options");
            return;
        }
        let (service, bounds, closing) = (self.service.clone(), self.bounds, self.closing.clone());
        let cut = self.cut.clone();
        // Two tasks of two sizes: a plain socket does not hold the room that TLS needs.
        match self.tls.clone() {
            None => self.tasks.spawn(async move {
                // Pinned here: every hand that a future goes through has room for it in the task.
                let serve = connection::serve(stream, peer, service, bounds, closing, held);
                cut.run_until_cancelled(pin!(serve)).await;
            }),
            Some(tls) => self.tasks.spawn(async move {
                let _held = held;
                let serve = async {
                    if let Some(stream) = tls.accept(stream).await {
                        connection::serve_tls(stream, peer, service, bounds, closing).await;
                    }
                };
                cut.run_until_cancelled(pin!(serve)).await;
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
fn tune(socket: &Socket, peer_timeout: Duration) -> io::Result<()> {
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn an_accepted_socket_finds_a_peer_that_vanished() {
        let config = ServerConfig {
            peer_timeout: Duration::from_secs(12),
            ..ServerConfig::default()
        };
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), &config).unwrap();
        let _client = std::net::TcpStream::connect(listener.address).unwrap();
        listener.socket.set_nonblocking(false).unwrap();
        let (accepted, _) = listener.socket.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(
            socket.tcp_user_timeout().unwrap(),
            Some(Duration::from_secs(12))
        );
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(6));
        assert_eq!(
            socket.tcp_keepalive_interval().unwrap(),
            Duration::from_secs(2)
        );
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
    }
}
