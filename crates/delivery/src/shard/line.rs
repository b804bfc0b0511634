//! A socket that its shard writes itself.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, IoSlice, Read, Write},
    net::{Shutdown, TcpStream},
    num::NonZeroU32,
};

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use super::runs::{RunId, Runs};
use crate::{framing::Framing, outbox::Level, sink::Keep};

/// The most bytes that a client may send on its stream.
const MAX_STRAY_BYTES: u32 = 64 << 10;
/// The most pieces that go to the kernel at once.
const SLICES: usize = 64;

/// A socket that its shard writes itself: as a rule, what a turn brings goes straight to the
/// kernel. What the kernel does not take waits here, as pieces shared with everybody else who
/// gets them, and goes in as few writes as there can be.
#[derive(Debug)]
pub(super) struct Line {
    socket: TcpStream,
    /// What this turn brings; before the queue.
    run: RunId,
    queue: Option<Box<Queue>>,
    pub(super) framing: Framing,
    /// Nothing comes after what is queued.
    ended: bool,
    /// The shard waits until fewer bytes than these wait.
    wanted: Option<NonZeroU32>,
    /// How many bytes the client sent.
    stray: u32,
    _keep: Keep,
}

#[derive(Debug, Default)]
struct Queue {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    /// How often the kernel took something.
    taken: u64,
}

/// How far a line came with writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Written {
    /// Nothing is left, and nothing will come.
    pub(super) ended: bool,
    /// There is the room that the shard waits for.
    pub(super) wanted: bool,
}

impl Line {
    pub(super) fn new(socket: TcpStream, framing: Framing, head: Bytes, keep: Keep) -> Self {
        let mut line = Self {
            socket,
            run: RunId::EMPTY,
            queue: None,
            framing,
            ended: false,
            // Whatever the subscriber waited for at its outbox.
            wanted: Some(NonZeroU32::MAX),
            stray: 0,
            _keep: keep,
        };
        line.enqueue(head);
        line
    }

    /// Takes an event of its class, unless it does not fit. One larger than the bound fits alone.
    pub(super) fn push(
        &mut self,
        runs: &mut Runs,
        class: u32,
        piece: &Bytes,
        bound: usize,
    ) -> bool {
        let waiting = runs.len(self.run) + self.queue.as_ref().map_or(0, |queue| queue.bytes);
        if waiting > 0 && waiting + piece.len() > bound {
            return false;
        }
        match &mut self.queue {
            Some(queue) => queue.push(piece.clone()),
            None => runs.extend(&mut self.run, class, piece),
        }
        true
    }

    /// Takes a frame of its own, whatever the bound.
    pub(super) fn force(&mut self, bytes: Bytes) {
        self.force_framed(self.framing.of(bytes));
    }

    /// Takes a frame that is framed already, whatever the bound.
    pub(super) fn force_framed(&mut self, piece: Bytes) {
        if !self.ended {
            self.enqueue(piece);
        }
    }

    fn enqueue(&mut self, piece: Bytes) {
        self.queue.get_or_insert_default().push(piece);
    }

    /// Takes a heartbeat, where nothing waits.
    pub(super) fn beat(&mut self, runs: &mut Runs) {
        if self.queue.is_none() && self.run == RunId::EMPTY {
            runs.beat(&mut self.run, self.framing);
        }
    }

    pub(super) fn end(&mut self) {
        if !self.ended {
            self.enqueue(self.framing.end());
            self.ended = true;
        }
    }

    pub(super) fn level(&self, runs: &Runs) -> Level {
        let refused = self.refused();
        Level {
            bytes: runs.len(self.run) + refused.bytes,
            ..refused
        }
    }

    /// What the kernel did not take yet. A busy client has a run whenever it is looked at; that
    /// says nothing of the client.
    pub(super) fn refused(&self) -> Level {
        let queue = self.queue.as_deref();
        Level {
            bytes: queue.map_or(0, |queue| queue.bytes),
            taken: queue.map_or(0, |queue| queue.taken),
        }
    }

    /// Whether at most `bytes` wait; if not, the shard hears when some of it went.
    pub(super) fn want(&mut self, runs: &Runs, bytes: usize) -> bool {
        let has_room = self.level(runs).bytes <= bytes;
        if !has_room {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            self.wanted = Some(NonZeroU32::MIN.saturating_add(bytes));
        }
        has_room
    }

    /// Writes what there is until the kernel takes no more.
    ///
    /// # Errors
    /// The client is gone.
    pub(super) fn write(&mut self, runs: &mut Runs) -> io::Result<Written> {
        let mut moved = 0;
        let mut bytes = runs.release(&mut self.run);
        if !bytes.is_empty() {
            if let Some(queue) = &mut self.queue {
                queue.bytes += bytes.len();
                queue.pieces.push_front(bytes);
            } else {
                moved = taken(|| self.socket.write(&bytes))?;
                bytes.advance(moved);
                if !bytes.is_empty() {
                    self.enqueue(bytes);
                }
            }
        }
        moved += self.write_queue()?;
        Ok(Written {
            ended: self.ended && self.queue.is_none(),
            wanted: moved > 0 && self.has_what_is_wanted(),
        })
    }

    fn has_what_is_wanted(&mut self) -> bool {
        let waiting = self.queue.as_ref().map_or(0, |queue| queue.bytes);
        self.wanted
            .take_if(|wanted| waiting < wanted.get() as usize)
            .is_some()
    }

    /// Answers how many bytes the kernel took.
    fn write_queue(&mut self) -> io::Result<usize> {
        let mut moved = 0;
        while let Some(queue) = &mut self.queue {
            let count = if queue.pieces.len() == 1 {
                taken(|| self.socket.write(&queue.pieces[0]))?
            } else {
                let pieces = queue.pieces.iter().take(SLICES);
                let slices: SmallVec<[IoSlice<'_>; SLICES]> =
                    pieces.map(|piece| IoSlice::new(piece)).collect();
                taken(|| self.socket.write_vectored(&slices))?
            };
            moved += count;
            queue.take(count);
            if queue.bytes == 0 {
                self.queue = None;
            } else if count == 0 {
                break;
            }
        }
        Ok(moved)
    }

    /// Reads what the client sent and throws it away.
    ///
    /// # Errors
    /// The client is gone, or sends more than it may.
    pub(super) fn listen(&mut self) -> io::Result<()> {
        let mut bytes = [0; 2048];
        loop {
            let count = match self.socket.read(&mut bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.stray = self.stray.saturating_add(count as u32);
            if self.stray > MAX_STRAY_BYTES {
                return Err(ErrorKind::InvalidData.into());
            }
        }
    }

    /// Gives up what this turn brought: the member is gone.
    pub(super) fn give_up(&mut self, runs: &mut Runs) {
        runs.release(&mut self.run);
    }

    /// Says the end to the client, after all that was written.
    pub(super) fn finish(&self) {
        // Where it fails the client is gone, and has its end.
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Lets the connection end with a reset: what is unsent is thrown away.
    pub(super) fn reset(&self) {
        let _ = socket2::SockRef::from(&self.socket).set_linger(Some(std::time::Duration::ZERO));
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

impl Queue {
    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        self.pieces.push_back(piece);
    }

    fn take(&mut self, mut count: usize) {
        self.taken += u64::from(count > 0);
        self.bytes -= count;
        while let Some(piece) = self.pieces.front_mut() {
            if count < piece.len() {
                piece.advance(count);
                return;
            }
            count -= piece.len();
            self.pieces.pop_front();
        }
    }
}

/// What the kernel took; none where it takes no more for now.
fn taken(mut write: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match write() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            written => return written,
        }
    }
}
