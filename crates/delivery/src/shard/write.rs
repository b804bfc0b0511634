//! The end of a turn: what it brought is written, in slices, so that a fan-out to many does not
//! hold up what others wait for.

use std::{collections::VecDeque, net::TcpStream};

use super::{Millis, Shard, door::Door, member::Member};
use crate::CloseReason;

/// A fan-out to at most this many is written before what is left of larger ones.
const FEW: usize = 64;
/// The most members of a slice that go on with their history or their backlog: each has much more
/// to do than a write.
const ROOMY: usize = 4;

/// When what a member was handed is to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// It has nothing.
    Nothing,
    /// When a delay is over; see [`Delays`](super::delay::Delays).
    Held,
    /// When the turn ends.
    Now,
}

/// Slots that have something to write, each once.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// Of fan-outs to few, and whatever else concerns one subscriber.
    few: VecDeque<u32>,
    many: VecDeque<u32>,
    /// Members that waited for room, and have some.
    roomy: VecDeque<u32>,
}

impl Dirty {
    /// Adds a member to whom something was handed, with `others` beside it.
    pub(super) fn add(&mut self, member: &mut Member, slot: u32, others: usize) {
        if std::mem::replace(&mut member.due, Due::Now) == Due::Now {
            return;
        }
        if others <= FEW {
            self.few.push_back(slot);
        } else {
            self.many.push_back(slot);
        }
    }

    fn next(&mut self) -> Option<u32> {
        self.few.pop_front().or_else(|| self.many.pop_front())
    }

    fn is_empty(&self) -> bool {
        self.few.is_empty() && self.many.is_empty() && self.roomy.is_empty()
    }
}

impl Shard {
    /// Something was put into a member's door.
    pub(super) fn mark(&mut self, slot: u32) {
        if let Some(member) = self.members.get_mut(slot as usize) {
            self.dirty.add(member, slot, 1);
        }
    }

    /// Writes what turns brought to at most `most` members.
    pub(crate) fn flush(&mut self, most: usize) {
        // Where runs are many, whoever holds one for later gives it up.
        let upto = if self.runs.is_crowded() {
            Millis::MAX
        } else {
            self.now
        };
        self.delays
            .release(upto, &mut self.members, &mut self.dirty);
        for _ in 0..most {
            let Some(slot) = self.dirty.next() else {
                break;
            };
            self.write(slot);
        }
        for _ in 0..ROOMY.min(most) {
            let Some(slot) = self.dirty.roomy.pop_front() else {
                break;
            };
            self.on_room(slot);
        }
        let tally = std::mem::take(&mut self.tally);
        self.metrics.frames.inc_by(tally.frames);
        self.metrics.bytes.inc_by(tally.bytes);
        self.metrics.withheld.inc_by(tally.withheld);
        self.metrics.replayed.inc_by(tally.replayed);
    }

    /// When writes that wait for more are due.
    pub(crate) fn next_due(&self) -> Option<Millis> {
        self.delays.next_due()
    }

    /// Nothing comes any more: no write waits for it.
    pub(crate) fn release_all(&mut self) {
        self.delays
            .release(Millis::MAX, &mut self.members, &mut self.dirty);
    }

    /// Whether all that turns brought is written, but for what is delayed.
    pub(crate) fn is_settled(&self) -> bool {
        self.dirty.is_empty()
    }

    /// Whether so many frames were handed to members since the last [`flush`](Self::flush).
    pub(crate) fn has_handed_over(&self, frames: u64) -> bool {
        self.tally.frames >= frames
    }

    /// Whether so much is to be written that no more shall be taken in before it is.
    pub(crate) fn is_full(&self) -> bool {
        self.runs.is_full()
    }

    fn write(&mut self, slot: u32) {
        let Some(member) = self.members.get_mut(slot as usize) else {
            return;
        };
        member.due = Due::Nothing;
        let line = match &mut member.door {
            Door::Outbox { outbox, .. } => return outbox.wake(),
            Door::Socket(line) => line,
        };
        match line.write(&mut self.runs) {
            Ok(written) if written.ended => {
                line.finish();
                self.forget(slot, CloseReason::Client);
            }
            Ok(written) if written.wanted => self.dirty.roomy.push_back(slot),
            Ok(_) => {}
            Err(_) => self.forget(slot, CloseReason::Client),
        }
    }

    /// A socket is ready for something. What is said of a socket that is gone by now, and of
    /// another one in its slot, is harmless.
    pub(crate) fn on_socket(&mut self, slot: u32, readable: bool, writable: bool) {
        let Some(member) = self.members.get_mut(slot as usize) else {
            return;
        };
        let Door::Socket(line) = &mut member.door else {
            return;
        };
        if readable && line.listen().is_err() {
            self.forget(slot, CloseReason::Client);
        } else if writable && line.level(&self.runs).bytes > 0 {
            self.mark(slot);
        }
    }

    /// The sockets that are not watched yet, with their slots.
    pub(crate) fn arrivals(&mut self) -> impl Iterator<Item = (u32, &TcpStream)> {
        let members = &self.members;
        self.arrivals.drain(..).filter_map(|slot| {
            let member = members.get(slot as usize)?;
            match &member.door {
                Door::Socket(line) => Some((slot, line.socket())),
                Door::Outbox { .. } => None,
            }
        })
    }

    /// A socket cannot be watched.
    pub(crate) fn on_unwatchable(&mut self, slot: u32) {
        self.forget(slot, CloseReason::Client);
    }

    /// Ends every socket at once.
    pub(super) fn cut_all(&mut self) {
        let on_socket = |(slot, member): (usize, &Member)| {
            matches!(member.door, Door::Socket(_)).then_some(slot as u32)
        };
        let all: Vec<u32> = self.members.iter().filter_map(on_socket).collect();
        for slot in all {
            self.forget(slot, CloseReason::Drain);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        DeliveryConfig,
        shard::delay::tests::{Client, World},
    };

    fn written(clients: &[Client]) -> usize {
        clients.iter().map(|client| client.read().len()).sum()
    }

    #[test]
    fn a_slice_writes_no_more_than_its_bound_and_few_come_before_many() {
        for socket in [true, false] {
            let mut world = World::new(DeliveryConfig::default());
            let many: Vec<Client> = (0..100).map(|_| world.join(socket, &["big"])).collect();
            let few = world.join(socket, &["small"]);
            world.hand("big", "1");
            world.shard.flush(7);
            assert_eq!(written(&many), 7);
            world.hand("small", "2");
            assert!(few.read().is_empty());
            world.shard.flush(7);
            assert_eq!(few.read(), ["2"], "in the next slice, not after the rest");
            assert_eq!(written(&many), 6);
            let mut slices = 0;
            while !world.shard.is_settled() {
                slices += 1;
                world.shard.flush(7);
            }
            assert_eq!((written(&many), slices), (87, 13));
        }
    }
}
