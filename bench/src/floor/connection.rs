//! One client of a floor server.

use std::io::{self, Read, Write};

use mio::net::TcpStream;

use super::request::{self, Request};

/// The most bytes that wait for a client that does not read; then it is dropped.
const MOST_WAITING: usize = 64 << 20;

pub(super) struct Connection {
    stream: TcpStream,
    /// A request that has not wholly come.
    held: Vec<u8>,
    /// What the kernel did not take.
    waiting: Vec<u8>,
    follows: bool,
    broken: bool,
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            held: Vec::new(),
            waiting: Vec::new(),
            follows: false,
            broken: false,
        }
    }

    /// Whether it subscribed.
    pub(super) fn follows(&self) -> bool {
        self.follows
    }

    /// Reads all that came; an error is the connection's end.
    pub(super) fn read(
        &mut self,
        scratch: &mut [u8],
        requests: &mut Vec<Request>,
    ) -> io::Result<()> {
        loop {
            match self.stream.read(scratch) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.held.extend_from_slice(&scratch[..count]);
                    self.parse(requests)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    fn parse(&mut self, requests: &mut Vec<Request>) -> io::Result<()> {
        let mut from = 0;
        while let Some((request, size)) = request::parse(&self.held[from..])? {
            self.follows |= matches!(request, Request::Subscribe { .. });
            requests.push(request);
            from += size;
        }
        if from == self.held.len() {
            // An idle connection holds no buffer.
            self.held = Vec::new();
        } else {
            self.held.drain(..from);
        }
        Ok(())
    }

    /// One `send`; what the kernel does not take is kept.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        let sent = if self.waiting.is_empty() {
            match self.stream.write(bytes) {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        } else {
            0
        };
        if sent < bytes.len() {
            self.waiting.extend_from_slice(&bytes[sent..]);
            self.broken |= self.waiting.len() > MOST_WAITING;
        }
    }

    /// Sends what waits.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() {
            match self.stream.write(&self.waiting) {
                Ok(sent) => drop(self.waiting.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
