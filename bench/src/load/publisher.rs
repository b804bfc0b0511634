//! Publishes over one connection that is kept alive, without waiting for answers.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
};

use mio::net::TcpStream;

use super::{
    Totals,
    flow::Due,
    plan::{Dialect, Flow},
};
use crate::wire::{Heard, Reader};

/// Digits that an event's data begins with.
pub(super) const NUMBER: usize = 10;

pub(super) struct Publisher {
    stream: TcpStream,
    reader: Reader,
    out: Vec<u8>,
    /// Fields of every request's head.
    fields: String,
    dialect: Dialect,
    filler: String,
}

impl Publisher {
    pub(super) fn connect(
        server: SocketAddr,
        dialect: Dialect,
        token: Option<&str>,
        flow: &Flow,
    ) -> io::Result<Self> {
        let stream = std::net::TcpStream::connect(server)?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
        Ok(Self {
            stream: TcpStream::from_std(stream),
            reader: Reader::default(),
            out: Vec::new(),
            fields: format!("Host: {server}\r\n{}", token.unwrap_or_default()),
            dialect,
            filler: "x".repeat(flow.bytes.saturating_sub(NUMBER)),
        })
    }

    pub(super) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Publishes what is due.
    ///
    /// # Errors
    /// Where the connection broke.
    pub(super) fn publish(&mut self, flow: &Flow, due: &[Due]) -> io::Result<()> {
        if flow.batch && self.dialect.batches() {
            let mut body = Vec::new();
            for due in due {
                let (channel, number) = (flow.channel(due.channel), due.number);
                let filler = &self.filler;
                writeln!(
                    body,
                    r#"{{"channel":"{channel}","data":"{number:010}{filler}"}}"#
                )?;
            }
            let kind = "Content-Type: application/x-ndjson\r\n";
            self.request("/publish", kind, &body)?;
        } else {
            for due in due {
                let target = self.dialect.publish(&flow.channel(due.channel));
                let body = format!("{:010}{}", due.number, self.filler);
                self.request(&target, "", body.as_bytes())?;
            }
        }
        self.flush()
    }

    fn request(&mut self, target: &str, fields: &str, body: &[u8]) -> io::Result<()> {
        let (length, every) = (body.len(), &self.fields);
        write!(
            self.out,
            "POST {target} HTTP/1.1\r\n{every}{fields}Content-Length: {length}\r\n\r\n"
        )?;
        self.out.extend_from_slice(body);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(sent) => drop(self.out.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends what waits, and reads answers.
    ///
    /// # Errors
    /// Where the connection broke.
    pub(super) fn ready(&mut self, scratch: &mut [u8], totals: &mut Totals) -> io::Result<()> {
        self.flush()?;
        loop {
            match self.stream.read(scratch) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.reader.take(&scratch[..count], &mut Answers(totals))?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

struct Answers<'a>(&'a mut Totals);

impl Heard for Answers<'_> {
    fn head(&mut self, status: u16) {
        if !(200..300).contains(&status) {
            self.0
                .error(|| format!("a publish was answered by {status}"));
        }
    }

    fn line(&mut self, line: &[u8]) {
        // A problem (RFC 9457), as the answer to an item of a batch.
        if memchr::memmem::find(line, b"\"title\"").is_some() {
            let text = String::from_utf8_lossy(line).into_owned();
            self.0.error(|| format!("a publish was answered by {text}"));
        }
    }

    fn end(&mut self) {}
}
