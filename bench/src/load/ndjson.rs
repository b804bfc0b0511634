//! Publishing as quickly as it goes: NDJSON streamed over one connection, nobody subscribed.

use std::{
    error::Error,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    process,
    wire::{Heard, Reader},
};

/// About the bytes of a piece that is written.
const PIECE: usize = 64 << 10;
/// Channels that are published to in turn.
const CHANNELS: usize = 100;
/// How long the server may be silent.
const SILENCE: Duration = Duration::from_secs(20);

/// What to publish.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NdjsonPlan {
    pub(crate) publish_at: SocketAddr,
    pub(crate) connections: usize,
    pub(crate) bytes: usize,
    pub(crate) pids: Vec<u32>,
    pub(crate) beside: Vec<u32>,
    pub(crate) measure_ms: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct NdjsonMeasured {
    /// Events that were taken, by the second, first byte to last answer.
    pub(crate) events_per_s: f64,
    /// CPU of the server for an event, microseconds.
    pub(crate) cpu_us_per_event: f64,
    /// CPU of the processes beside it for an event, microseconds.
    pub(crate) beside_us_per_event: f64,
    /// Events that were refused.
    pub(crate) errors: u64,
}

/// Publishes for a while over each connection.
///
/// # Errors
/// Where a connection broke or fell silent.
pub(crate) fn run(plan: &NdjsonPlan) -> Result<NdjsonMeasured, Box<dyn Error>> {
    let start = Instant::now();
    let (server, beside) = (process::cpu(&plan.pids)?, process::cpu(&plan.beside)?);
    let until = start + Duration::from_millis(plan.measure_ms);
    let counts = thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.connections.max(1))
            .map(|_| scope.spawn(|| connection(plan, until).map_err(|error| error.to_string())))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|result| result.unwrap_or_else(|_| Err("a thread panicked".into())))
            .collect::<Result<Vec<Answers>, String>>()
    })?;
    let took = start.elapsed().as_secs_f64();
    let events = counts.iter().map(|count| count.taken).sum::<u64>().max(1) as f64;
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / events;
    Ok(NdjsonMeasured {
        events_per_s: events / took,
        cpu_us_per_event: each(process::cpu(&plan.pids)?.since(server).total()),
        beside_us_per_event: each(process::cpu(&plan.beside)?.since(beside).total()),
        errors: counts.iter().map(|count| count.refused).sum(),
    })
}

/// One streamed request; a thread of its own reads the results, without which the server stops.
fn connection(plan: &NdjsonPlan, until: Instant) -> std::io::Result<Answers> {
    let mut stream = TcpStream::connect(plan.publish_at)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let mut reading = stream.try_clone()?;
    let reader = thread::spawn(move || {
        let (mut reader, mut answers) = (Reader::default(), Answers::default());
        let mut buffer = vec![0; 256 << 10];
        while !answers.ended {
            match reading.read(&mut buffer)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                count => reader.take(&buffer[..count], &mut answers)?,
            }
        }
        Ok(answers)
    });
    let data = "x".repeat(plan.bytes);
    let mut piece = Vec::new();
    let mut channel = 0;
    while piece.len() < PIECE {
        writeln!(piece, r#"{{"channel":"p.{channel}","data":"{data}"}}"#)?;
        channel = (channel + 1) % CHANNELS;
    }
    write!(
        stream,
        "POST /publish HTTP/1.1\r\nHost: bench\r\nContent-Type: application/x-ndjson\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    )?;
    let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
    while Instant::now() < until {
        stream.write_all(&chunk)?;
    }
    stream.write_all(b"0\r\n\r\n")?;
    let panicked = || std::io::Error::other("the reader panicked");
    reader.join().map_err(|_| panicked())?
}

#[derive(Debug, Default)]
struct Answers {
    taken: u64,
    refused: u64,
    ended: bool,
}

impl Heard for Answers {
    fn head(&mut self, status: u16) {
        self.refused += u64::from(status != 200);
    }

    fn line(&mut self, line: &[u8]) {
        if memchr::memmem::find(line, b"\"title\"").is_some() {
            self.refused += 1;
        } else {
            self.taken += 1;
        }
    }

    fn end(&mut self) {
        self.ended = true;
    }
}
