//! Floor servers: the least that any server has to do, on one thread.
//!
//! The same requests and the same bytes on the wire as Fanfare, and nothing of what makes a server:
//! no limits, no authorisation, no history, no resume, no heartbeats. What they cost is the price of
//! the kernel, which is why other figures are given as multiples of theirs.

mod connection;
mod frame;
mod request;

use std::{collections::HashMap, io, net::SocketAddr};

use connection::Connection;
use frame::Frames;
use mio::{Events, Interest, Poll, Token, net::TcpListener};
use request::Request;
use slab::Slab;

const LISTENER: Token = Token(usize::MAX);
const BACKLOG: i32 = 4096;
const EVENTS: usize = 1024;

/// What a floor does with several events that wait at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sending {
    /// One `send` for each event and subscriber.
    Each,
    /// First all input of the turn, then one `send` for each subscriber.
    Coalesced,
}

struct Floor {
    sending: Sending,
    poll: Poll,
    listener: TcpListener,
    connections: Slab<Connection>,
    channels: HashMap<String, Channel>,
    frames: Frames,
    scratch: Vec<u8>,
}

#[derive(Default)]
struct Channel {
    subscribers: Vec<usize>,
    /// What waits for the end of the turn.
    waiting: Vec<u8>,
}

/// Serves until the process is ended.
///
/// # Errors
/// Where the address cannot be listened on.
pub(crate) fn serve(address: SocketAddr, sending: Sending) -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let mut listener = TcpListener::from_std(socket.into());
    let poll = Poll::new()?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut floor = Floor {
        sending,
        poll,
        listener,
        connections: Slab::new(),
        channels: HashMap::new(),
        frames: Frames::default(),
        scratch: vec![0; 256 << 10],
    };
    let mut events = Events::with_capacity(EVENTS);
    loop {
        match floor.poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            match event.token() {
                LISTENER => floor.accept()?,
                Token(slot) => floor.ready(slot, event.is_writable()),
            }
        }
        floor.flush();
    }
}

impl Floor {
    fn accept(&mut self) -> io::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((mut stream, _)) => {
                    stream.set_nodelay(true)?;
                    let entry = self.connections.vacant_entry();
                    let both = Interest::READABLE | Interest::WRITABLE;
                    let token = Token(entry.key());
                    self.poll.registry().register(&mut stream, token, both)?;
                    entry.insert(Connection::new(stream));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn ready(&mut self, slot: usize, writable: bool) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let mut requests = Vec::new();
        let lives = (!writable || connection.flush().is_ok())
            && connection.read(&mut self.scratch, &mut requests).is_ok();
        for request in requests {
            self.answer(slot, request);
        }
        if !lives {
            self.forget(slot);
        }
    }

    fn answer(&mut self, slot: usize, request: Request) {
        let answer = match request {
            Request::Subscribe { channel } => {
                let channel = self.channels.entry(channel.clone()).or_default();
                channel.subscribers.push(slot);
                frame::HEAD.to_vec()
            }
            Request::Publish { channel, data } => {
                let id = self.publish(&channel, &data);
                let body = format!(r#"{{"channel":"{channel}","id":"{id}"}}"#);
                frame::created("201 Created", &body)
            }
            Request::Batch(items) => {
                let mut body = String::new();
                for (channel, data) in items {
                    let id = self.publish(&channel, &data);
                    let line = format!(r#"{{"channel":"{channel}","id":"{id}","status":201}}"#);
                    body.push_str(&line);
                    body.push('\n');
                }
                frame::created("200 OK", &body)
            }
        };
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.send(&answer);
        }
    }

    fn publish(&mut self, name: &str, data: &str) -> String {
        let (id, frame) = self.frames.next(data);
        if let Some(channel) = self.channels.get_mut(name) {
            match self.sending {
                Sending::Coalesced => channel.waiting.extend_from_slice(frame),
                Sending::Each => {
                    for slot in &channel.subscribers {
                        if let Some(connection) = self.connections.get_mut(*slot) {
                            connection.send(frame);
                        }
                    }
                }
            }
        }
        id
    }

    /// Ends a turn.
    fn flush(&mut self) {
        if self.sending == Sending::Each {
            return;
        }
        for channel in self.channels.values_mut() {
            if channel.waiting.is_empty() {
                continue;
            }
            for slot in &channel.subscribers {
                if let Some(connection) = self.connections.get_mut(*slot) {
                    connection.send(&channel.waiting);
                }
            }
            channel.waiting.clear();
        }
    }

    fn forget(&mut self, slot: usize) {
        let connection = self.connections.remove(slot);
        if connection.follows() {
            for channel in self.channels.values_mut() {
                channel.subscribers.retain(|held| *held != slot);
            }
        }
    }
}
