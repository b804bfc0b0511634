//! Logs that come into being while subscribers follow a wildcard that selects their channels.
//!
//! Such a subscriber is owed all of the log, from its beginning on. When something of the log passes
//! that it does not have yet, it is caught up with the log's history, as if it joined once more: its
//! other logs go on from where it stands. What passed is in history, so nothing depends on whether
//! this was the log's first event.

use fanfare_core::{LogId, Since};

use super::{Shard, Stage, asked::Asked, catch_up::CatchUp};
use crate::{
    CloseReason,
    cursor::MAX_LOGS,
    ring::{LogIndex, Passing},
};

impl Shard {
    /// Something passed of a log that nobody here has.
    pub(super) fn on_new_log(&mut self, log: &LogId, passing: &Passing) {
        if self.map.late(log).is_none() {
            return;
        }
        let slots: Vec<u32> = match passing {
            Passing::Frame(frame) => {
                let mut slots = Vec::new();
                let channel = &frame.event.channel;
                self.interest
                    .each_match(channel, |found| slots.extend_from_slice(found));
                slots.sort_unstable();
                slots.dedup();
                slots
            }
            Passing::Gap(gap) => {
                let touched = self.members.iter().filter(|(_, member)| {
                    let mut own = member.asked.channels.iter();
                    own.any(|own| own.intersects(&gap.scope))
                });
                touched.map(|(slot, _)| slot as u32).collect()
            }
        };
        for slot in slots {
            self.take_up(slot, log);
        }
    }

    /// A subscriber gets a log that it does not have yet, from the log's beginning on.
    pub(super) fn take_up(&mut self, slot: u32, log: &LogId) {
        let Some(late) = self.map.late(log) else {
            return;
        };
        let Some(member) = self.members.get(slot as usize) else {
            return;
        };
        if matches!(member.stage, Stage::Closing) {
            return;
        }
        if member.asked.logs.len() >= MAX_LOGS {
            tracing::warn!(
                most = MAX_LOGS,
                "a client's wildcards select more logs than an id can name; it is told to come back"
            );
            self.close(slot, CloseReason::Broker);
            return;
        }
        let index = self.hold_log(log);
        let Some(member) = self.members.get_mut(slot as usize) else {
            return;
        };
        let mut asked = Asked::clone(&member.asked);
        asked.logs.push(index);
        let before = std::mem::replace(&mut member.asked, self.asked.enter(asked));
        self.asked.leave(before);
        match &mut member.stage {
            Stage::CatchingUp(catch_up) => {
                catch_up.add(
                    log.clone(),
                    &member.asked.channels,
                    Since::After(late.begin),
                );
                self.advance(slot);
            }
            // It is caught up once what waits has gone.
            Stage::Behind(backlog) => backlog.late.push(index),
            Stage::Live => self.catch_up_again(slot, &[index]),
            Stage::Closing => {}
        }
    }

    /// A live subscriber is caught up once more: with logs that it does not have yet, and wherever
    /// history must say which of two epochs is the newer.
    pub(super) fn catch_up_again(&mut self, slot: u32, late: &[LogIndex]) {
        let Some(member) = self.members.get_mut(slot as usize) else {
            return;
        };
        let mut catch_up = CatchUp::again();
        for index in member
            .asked
            .logs
            .iter()
            .filter(|index| !late.contains(index))
        {
            let floor = member.floor(*index);
            let head = self.heads[usize::from(*index)].as_ref();
            let older = floor.and_then(|floor| floor.older);
            let place = match (floor, head) {
                (Some(floor), Some(head)) if head.is_after(&floor.place) == Some(true) => head,
                (Some(floor), _) => &floor.place,
                (None, Some(head)) => head,
                // A live subscriber has one or the other.
                (None, None) => continue,
            };
            let log = self.logs[usize::from(*index)].clone();
            catch_up.stands(log, &member.asked.channels, place.clone(), older);
        }
        for index in late {
            let log = self.logs[usize::from(*index)].clone();
            if let Some(late) = self.map.late(&log) {
                catch_up.add(log, &member.asked.channels, Since::After(late.begin));
            }
        }
        self.classes.leave(member.class);
        member.floors = None;
        member.stage = Stage::CatchingUp(Box::new(catch_up));
        self.advance(slot);
    }
}
