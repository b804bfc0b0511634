//! Writes that wait for more: what a busy channel brings is handed over at once, and written when
//! its delay is over or the subscriber is written to for any other reason.
//!
//! It is the write that waits, not the event: an event stands in its subscriber's door, in order
//! and within its bounds, from the moment that it passed. So nothing can overtake it, and all that
//! is decided about what waits in a door holds for it as well.

use fanfare_core::{Channel, Pattern};

use super::{
    Millis,
    member::{Member, millis},
    write::{Dirty, Due},
};
use crate::DeliveryConfig;

/// The delays of channels, and whose writes wait for them.
#[derive(Debug)]
pub(super) struct Delays {
    /// First match counts.
    rules: Vec<(Pattern, Option<LaneId>)>,
    /// Of all other channels.
    rest: Option<LaneId>,
    lanes: Vec<Lane>,
}

/// An index into the lanes, and a bit of [`Member::lanes`].
#[derive(Clone, Copy, Debug)]
pub(super) struct LaneId(u8);

/// All that is delayed by the same time: it is written together, so that a shard has a handful of
/// times to wait for however many subscribers there are.
#[derive(Debug)]
struct Lane {
    delay: Millis,
    /// When the first of those who wait is to be written.
    due: Option<Millis>,
    slots: Vec<u32>,
}

impl Delays {
    pub(super) fn new(config: &DeliveryConfig) -> Self {
        let mut delays = Self {
            rules: Vec::new(),
            rest: None,
            lanes: Vec::new(),
        };
        delays.rest = delays.lane(config.write_delay);
        for rule in &config.write_delays {
            let lane = delays.lane(rule.delay);
            delays.rules.push((rule.channels.clone(), lane));
        }
        delays
    }

    fn lane(&mut self, delay: std::time::Duration) -> Option<LaneId> {
        let delay = millis(delay.min(DeliveryConfig::MAX_WRITE_DELAY));
        if delay == 0 {
            return None;
        }
        let known = self.lanes.iter().position(|lane| lane.delay == delay);
        let index = known.unwrap_or(self.lanes.len());
        if index == DeliveryConfig::MAX_WRITE_DELAYS {
            return None;
        }
        if known.is_none() {
            self.lanes.push(Lane {
                delay,
                due: None,
                slots: Vec::new(),
            });
        }
        u8::try_from(index).ok().map(LaneId)
    }

    /// With what a channel's events wait; `None` is not at all.
    pub(super) fn of(&self, channel: &Channel) -> Option<LaneId> {
        let rule = self.rules.iter().find(|(own, _)| own.matches(channel));
        rule.map_or(self.rest, |(_, lane)| *lane)
    }

    /// Something was handed to a member whose write may wait.
    pub(super) fn hold(&mut self, id: LaneId, member: &mut Member, slot: u32, now: Millis) {
        if member.due == Due::Now {
            return;
        }
        member.due = Due::Held;
        let bit = 1 << id.0;
        // Listed once in a lane's time, however often it is written meanwhile.
        if member.lanes & bit != 0 {
            return;
        }
        let Some(lane) = self.lanes.get_mut(usize::from(id.0)) else {
            return;
        };
        member.lanes |= bit;
        lane.due.get_or_insert(now + lane.delay);
        lane.slots.push(slot);
    }

    /// When the next writes are due.
    pub(super) fn next_due(&self) -> Option<Millis> {
        self.lanes.iter().filter_map(|lane| lane.due).min()
    }

    /// Whoever's time has come is to be written when the turn ends.
    pub(super) fn release(
        &mut self,
        upto: Millis,
        members: &mut slab::Slab<Member>,
        dirty: &mut Dirty,
    ) {
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            if lane.due.is_none_or(|due| due > upto) {
                continue;
            }
            lane.due = None;
            let others = lane.slots.len();
            for slot in lane.slots.drain(..) {
                // It may be gone; another in its slot is not harmed.
                let Some(member) = members.get_mut(slot as usize) else {
                    continue;
                };
                member.lanes &= !(1 << index);
                if member.due == Due::Held {
                    dirty.add(member, slot, others);
                }
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
