//! Subscribers that read more slowly than events come. Never in silence: they are closed, told
//! what was dropped, or told what was passed over.
//!
//! An outbox that is full does not make a subscriber slow: a burst fills it before the sink was
//! run once. What does not fit waits. Only if more than an outbox is still owed after
//! `slow_after`, or more than `burst_bytes` at once, do the policies of its channels decide.

use std::sync::Arc;

use bytes::Bytes;
use fanfare_core::Gap;

use super::{
    Millis, Shard, Stage,
    backlog::{Backlog, Waiting},
    class::{self, Rendered},
    member::millis,
    write::Due,
};
use crate::{CloseReason, config::SlowPolicy, control, frame::Frame, outbox::Key};

impl Shard {
    /// An event did not fit, or something waits before it.
    pub(super) fn on_overfull(&mut self, slot: u32, frame: &Arc<Frame>, bytes: Bytes) {
        let (now, burst) = (self.now, self.config.burst_bytes);
        let Some(member) = self.members.get_mut(slot as usize) else {
            return;
        };
        if matches!(member.stage, Stage::Live) {
            member.stage = Stage::Behind(Box::new(Backlog::new(now)));
            self.overfull.push_back((now, member.key(slot as usize)));
        }
        if member.due == Due::Held {
            // What makes it full waits for more, and more there is.
            self.dirty.add(member, slot, 1);
        }
        let Stage::Behind(backlog) = &mut member.stage else {
            return;
        };
        if backlog.slow {
            self.apply_policy(slot, frame);
        } else {
            backlog.wait(Waiting::Frame(frame.clone(), bytes));
            if backlog.bytes > burst {
                self.decide(slot);
            }
        }
        self.recover(slot);
    }

    /// Looks at those whose time to catch up is over.
    pub(super) fn judge_overfull(&mut self) {
        let grace = millis(self.config.slow_after);
        let upto = self.now.checked_sub(grace);
        while let Some((since, key)) = self.overfull.front().copied()
            && Some(since) <= upto
        {
            self.overfull.pop_front();
            self.judge(key, since);
        }
    }

    fn judge(&mut self, key: Key, since: Millis) {
        let (now, bound) = (self.now, self.config.outbox_bytes);
        let Some(member) = self.members.get_mut(key.slot as usize) else {
            return;
        };
        if member.id != key.id {
            return;
        }
        let queued = member.door.level(&self.runs).bytes;
        let Stage::Behind(backlog) = &mut member.stage else {
            return;
        };
        // Of another time that it fell behind, or decided already.
        if backlog.slow || backlog.since != since {
            return;
        }
        if queued + backlog.bytes > bound {
            self.decide(key.slot);
            self.recover(key.slot);
        } else {
            backlog.since = now;
            self.overfull.push_back((now, key));
        }
    }

    /// The subscriber is slow: the policies decide on all that waits.
    fn decide(&mut self, slot: u32) {
        let Some(member) = self.members.get_mut(slot as usize) else {
            return;
        };
        let Stage::Behind(backlog) = &mut member.stage else {
            return;
        };
        backlog.slow = true;
        backlog.bytes = 0;
        for waiting in std::mem::take(&mut backlog.waiting) {
            match waiting {
                Waiting::Frame(frame, _) => self.apply_policy(slot, &frame),
                Waiting::Gap(gap) => self.lose(slot, &gap),
            }
        }
    }

    fn apply_policy(&mut self, slot: u32, frame: &Arc<Frame>) {
        let bound = self.config.outbox_bytes;
        let policy = self.config.slow_policy(&frame.event.channel);
        let Some(member) = self.members.get_mut(slot as usize) else {
            return;
        };
        let Stage::Behind(backlog) = &mut member.stage else {
            return;
        };
        match policy {
            SlowPolicy::Close => self.close(slot, CloseReason::Slow),
            SlowPolicy::Gap => backlog.drop_event(frame),
            SlowPolicy::Latest => backlog.conflate(frame, bound),
        }
    }

    /// A gap for a subscriber with a full outbox.
    pub(super) fn lose(&mut self, slot: u32, gap: &Arc<Gap>) {
        let Some(member) = self.members.get_mut(slot as usize) else {
            return;
        };
        let Stage::Behind(backlog) = &mut member.stage else {
            return;
        };
        if backlog.slow {
            backlog.lose((**gap).clone());
        } else {
            backlog.wait(Waiting::Gap(gap.clone()));
        }
    }

    /// If there is room again, what waits is handed over, what was lost is told, and the
    /// subscriber is live.
    pub(super) fn recover(&mut self, slot: u32) {
        let half = self.config.outbox_bytes / 2;
        let Some(member) = self.members.get_mut(slot as usize) else {
            return;
        };
        let Stage::Behind(backlog) = &mut member.stage else {
            return;
        };
        let mut moved = false;
        while let Some(waiting) = backlog.waiting.front() {
            if !member.door.want(&self.runs, half) {
                break;
            }
            backlog.bytes -= waiting.bytes();
            match waiting {
                Waiting::Frame(_, bytes) => {
                    self.tally.frames += 1;
                    self.tally.bytes += bytes.len() as u64;
                    member.door.force_framed(bytes.clone());
                }
                Waiting::Gap(gap) => {
                    self.metrics.gap(gap.cause);
                    member.door.force(control::gap(member.asked.format, gap));
                }
            }
            backlog.waiting.pop_front();
            moved = true;
        }
        if moved {
            member.heard = self.now;
        }
        if !backlog.waiting.is_empty() || !member.door.want(&self.runs, half) {
            if moved {
                self.mark(slot);
            }
            return;
        }
        let (gaps, kept) = backlog.settle();
        let late = std::mem::take(&mut backlog.late);
        let unclear = !backlog.unclear.is_empty();
        member.stage = Stage::Live;
        self.hand_over_settled(slot, &gaps, &kept);
        if unclear || !late.is_empty() {
            self.catch_up_again(slot, &late);
        }
    }

    fn hand_over_settled(&mut self, slot: u32, gaps: &[Gap], kept: &[Arc<Frame>]) {
        let member = &mut self.members[slot as usize];
        for gap in gaps {
            self.metrics.gap(gap.cause);
            member.door.force(control::gap(member.asked.format, gap));
        }
        // Ids go by what has been handed over, not by the logs' heads: what is kept of other
        // channels and logs comes after it.
        let mut heads = self.heads.clone();
        for frame in kept.iter().rev() {
            let first = &frame.event.position;
            let Some(log) = self.holds.index(&first.log) else {
                continue;
            };
            heads[usize::from(log)] = Some(first.at(first.offset.before()));
        }
        for frame in kept {
            self.turn += 1;
            let Some(log) = self.holds.index(&frame.event.position.log) else {
                continue;
            };
            heads[usize::from(log)] = Some(frame.event.position.clone());
            let member = &mut self.members[slot as usize];
            let classes = &mut self.classes;
            match classes.render(member.class, self.turn, frame, &heads, &self.logs) {
                Rendered::Bytes(bytes) => {
                    self.tally.frames += 1;
                    self.tally.bytes += bytes.len() as u64;
                    member.door.force_framed(bytes.clone());
                }
                Rendered::Withheld => self.tally.withheld += 1,
                Rendered::Failed => {
                    let gap = class::failed(&frame.event);
                    self.metrics.gap(gap.cause);
                    member.door.force(control::gap(member.asked.format, &gap));
                }
            }
        }
        self.mark(slot);
    }
}
