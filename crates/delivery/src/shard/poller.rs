//! Tells a shard which of its sockets are ready.

use std::{
    io,
    net::TcpStream,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use mio::{Events, Interest, Poll, Registry, Token, unix::SourceFd};
use tokio::io::unix::AsyncFd;

/// The most events that are taken in one turn.
const EVENTS: usize = 1024;

/// A shard's own epoll, which the runtime's watches: a socket costs no more of the runtime than
/// its place in the kernel.
#[derive(Debug)]
pub(crate) struct Poller {
    poll: AsyncFd<Poll>,
    events: Events,
}

/// A socket that is ready for something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub(crate) slot: u32,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

impl Poller {
    /// # Errors
    /// Where the process has no file descriptor left.
    #[expect(
        deprecated,
        reason = "`register` is unsafe, since a source might change its descriptor: a `Poll` does not"
    )]
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            poll: AsyncFd::new(Poll::new()?)?,
            events: Events::with_capacity(EVENTS),
        })
    }

    /// Tells of a socket from now on. Each change is told once: whoever is told reads and writes
    /// until the kernel has no more. Closing the socket ends it.
    pub(crate) fn watch(&self, socket: &TcpStream, slot: u32) -> io::Result<()> {
        let registry: &Registry = self.poll.get_ref().registry();
        let fd = socket.as_fd().as_raw_fd();
        // For both at once: where nothing waits to be written, writability never changes.
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut SourceFd(&fd), Token(slot as usize), interest)
    }

    /// Waits for sockets that are ready, and puts them into `into`. Cancel safe.
    pub(crate) async fn ready(&mut self, into: &mut Vec<Ready>) -> io::Result<()> {
        loop {
            let mut guard = self.poll.readable_mut().await?;
            guard
                .get_inner_mut()
                .poll(&mut self.events, Some(Duration::ZERO))?;
            let ready = self.events.iter().map(|event| Ready {
                slot: event.token().0 as u32,
                readable: event.is_readable() || event.is_read_closed() || event.is_error(),
                writable: event.is_writable(),
            });
            into.extend(ready);
            if into.len() < EVENTS {
                // That was all: the runtime tells of what comes after this.
                guard.clear_ready();
            }
            if !into.is_empty() {
                return Ok(());
            }
        }
    }
}
