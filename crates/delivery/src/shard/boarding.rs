//! A subscriber's socket on its way to the shard.

use std::{fmt, net::TcpStream};

use bytes::Bytes;

use super::{Shard, Stage, door::Door, line::Line};
use crate::{framing::Framing, outbox::Key, sink::Keep};

/// A subscriber's socket, from which everything that went before is read and to which nothing of
/// this response was written.
pub(crate) struct Boarding {
    pub(crate) key: Key,
    pub(crate) socket: TcpStream,
    /// The head of the response.
    pub(crate) head: Bytes,
    pub(crate) framing: Framing,
    pub(crate) keep: Keep,
}

impl Shard {
    /// A subscriber's frames go to its socket from now on, first of all those that waited for it.
    pub(super) fn board(&mut self, boarding: Boarding) {
        let Boarding {
            key,
            socket,
            head,
            framing,
            keep,
        } = boarding;
        let Some(member) = self.members.get_mut(key.slot as usize) else {
            return;
        };
        let Door::Outbox { outbox, .. } = &member.door else {
            return;
        };
        if member.id != key.id {
            return;
        }
        let (waiting, ended) = outbox.take_over();
        let mut line = Line::new(socket, framing, head, keep);
        waiting.into_iter().for_each(|piece| line.force(piece));
        if ended {
            line.end();
        }
        member.door = Door::Socket(line);
        match &mut member.stage {
            Stage::Live => member.class = self.classes.reframe(member.class, framing),
            Stage::Behind(backlog) => {
                member.class = self.classes.reframe(member.class, framing);
                backlog.reframe(framing);
            }
            // A class is entered when it becomes live.
            Stage::CatchingUp(_) | Stage::Closing => {}
        }
        self.arrivals.push(key.slot);
        self.mark(key.slot);
    }
}

impl fmt::Debug for Boarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Boarding")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
