//! One subscriber.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Instant,
};

use mio::net::TcpStream;
use socket2::{Domain, Socket, Type};

use super::{Totals, flow::Running};
use crate::{
    sequence::Sequence,
    wire::{Heard, Reader},
};

/// Connections from one source address: well under the number of its ports.
const PER_ADDRESS: usize = 1000;
/// `EINPROGRESS` of Linux.
const IN_PROGRESS: i32 = 115;

pub(super) struct Client {
    stream: TcpStream,
    reader: Reader,
    /// What to send once connected.
    request: Vec<u8>,
    pub(super) seat: Seat,
}

/// Where it sits, and what became of it.
pub(super) struct Seat {
    pub(super) flow: usize,
    pub(super) channel: usize,
    pub(super) sequence: Sequence,
    /// Came back with a cursor; and up to where it has to catch up.
    pub(super) owed: Option<u64>,
    pub(super) open: bool,
    /// Remembers ids, for those who come back.
    pub(super) notes_ids: bool,
    /// In the middle of an event that is not ours.
    control: bool,
    id: String,
}

impl Seat {
    pub(super) fn new(flow: usize, channel: usize, sequence: Sequence) -> Self {
        Self {
            flow,
            channel,
            sequence,
            owed: None,
            open: false,
            notes_ids: false,
            control: false,
            id: String::new(),
        }
    }

    /// Whether it came back and has not caught up.
    pub(super) fn is_behind(&self) -> bool {
        self.owed.is_some_and(|until| self.sequence.next() < until)
    }
}

impl Client {
    /// Begins to connect, from one of many loopback addresses.
    pub(super) fn connect(
        index: usize,
        server: SocketAddr,
        request: Vec<u8>,
        seat: Seat,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        if server.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) {
            let address = index / PER_ADDRESS;
            let [high, low] = ((address + 1) as u16).to_be_bytes();
            let source = SocketAddr::from((Ipv4Addr::new(127, 1, high, low), 0));
            socket.bind(&source.into())?;
        }
        match socket.connect(&server.into()) {
            Err(error) if error.raw_os_error() == Some(IN_PROGRESS) => {}
            other => other?,
        }
        Ok(Self {
            stream: TcpStream::from_std(socket.into()),
            reader: Reader::default(),
            request,
            seat,
        })
    }

    pub(super) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Reads what came, or sends the request.
    ///
    /// # Errors
    /// The end of the stream, too.
    pub(super) fn ready(
        &mut self,
        scratch: &mut [u8],
        flows: &mut [Running],
        totals: &mut Totals,
    ) -> io::Result<()> {
        if !self.request.is_empty() {
            match self.stream.write(&self.request) {
                Ok(sent) => drop(self.request.drain(..sent)),
                Err(error) if not_yet(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
            if self.request.is_empty() {
                self.request = Vec::new();
            }
        }
        loop {
            let count = match self.stream.read(scratch) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if not_yet(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            totals.reads += 1;
            totals.bytes += count as u64;
            let mut hearing = Hearing {
                flow: &mut flows[self.seat.flow],
                seat: &mut self.seat,
                totals,
                now: Instant::now(),
            };
            self.reader.take(&scratch[..count], &mut hearing)?;
            // A read that did not fill the buffer took all that there was (`epoll(7)`).
            if count < scratch.len() {
                return Ok(());
            }
        }
    }
}

fn not_yet(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::NotConnected
    )
}

struct Hearing<'a> {
    flow: &'a mut Running,
    seat: &'a mut Seat,
    totals: &'a mut Totals,
    now: Instant,
}

impl Heard for Hearing<'_> {
    fn head(&mut self, status: u16) {
        if status == 200 {
            self.seat.open = true;
            self.totals.opened += 1;
        } else {
            self.totals
                .error(|| format!("a stream was answered by {status}"));
        }
    }

    fn line(&mut self, line: &[u8]) {
        if let Some(data) = line.strip_prefix(b"data: ") {
            if !std::mem::take(&mut self.seat.control) {
                self.data(data);
            }
        } else if let Some(event) = line.strip_prefix(b"event: ") {
            self.seat.control = event.starts_with(b"fanfare.");
            match event {
                b"fanfare.gap" => self.totals.gaps += 1,
                b"fanfare.close" => self.totals.error(|| "a stream was closed".into()),
                _ => {}
            }
        } else if self.seat.notes_ids
            && let Some(id) = line.strip_prefix(b"id: ")
        {
            self.seat.id = String::from_utf8_lossy(id).into_owned();
        }
    }

    fn end(&mut self) {}
}

impl Hearing<'_> {
    fn data(&mut self, data: &[u8]) {
        let digits = data.get(..10).unwrap_or_default();
        let mut number = 0_u64;
        for digit in digits {
            number = number * 10 + u64::from(digit.wrapping_sub(b'0'));
        }
        let seat = &mut *self.seat;
        let first = seat.sequence.came(number, &mut self.totals.faults);
        match seat.owed {
            Some(until) => {
                self.totals.replayed += u64::from(number < until);
                self.totals.storm_events += 1;
                self.totals.caught_up += usize::from(number + 1 == until);
            }
            None if first => self.flow.came(seat.channel, number, self.now),
            None => {}
        }
        if seat.notes_ids {
            self.flow.remember(number, &seat.id);
        }
    }
}
