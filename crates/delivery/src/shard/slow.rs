//! Subscribers that read more slowly than events come. Never in silence: they are closed, told
//! what was dropped, or told what was passed over.

use std::{collections::BTreeMap, sync::Arc};

use fanfare_core::{Channel, Gap, GapCause, Pattern, Position};

use super::{
    Shard, Stage,
    class::{self, Rendered},
};
use crate::{CloseReason, config::SlowPolicy, control, frame::Frame};

/// The most losses that are told one by one; beyond that one gap over all channels is told.
const MAX_LOSSES: usize = 32;

/// What a subscriber with a full outbox is owed.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    losses: Vec<Gap>,
    /// The newest event of each channel that is conflated, and where the channel's conflated
    /// events began.
    latest: BTreeMap<Channel, Conflated>,
    bytes: usize,
}

#[derive(Debug)]
struct Conflated {
    newest: Arc<Frame>,
    /// The first that another one took the place of, if any did.
    over: Option<(Position, Position)>,
}

impl Backlog {
    /// Adds a loss, joined with an earlier one of the same channels, log and cause.
    pub(super) fn lose(&mut self, gap: Gap) {
        let same = |held: &&mut Gap| {
            held.scope == gap.scope && held.next.log == gap.next.log && held.cause == gap.cause
        };
        if let Some(held) = self.losses.iter_mut().find(same) {
            held.next = gap.next;
            return;
        }
        if self.losses.len() < MAX_LOSSES {
            self.losses.push(gap);
            return;
        }
        // Too many to name: one for each log over all channels, which covers them.
        let mut all: Vec<Gap> = Vec::new();
        for loss in self.losses.drain(..).chain([gap]) {
            match all.iter_mut().find(|held| held.next.log == loss.next.log) {
                Some(held) => held.next = loss.next,
                None => all.push(Gap {
                    scope: Pattern::all(),
                    ..loss
                }),
            }
        }
        self.losses = all;
    }

    fn drop_event(&mut self, frame: &Frame) {
        let position = &frame.event.position;
        self.lose(Gap {
            scope: (&frame.event.channel).into(),
            cause: GapCause::Slow,
            after: Some(position.at(position.offset.before())),
            next: position.clone(),
        });
    }

    fn conflate(&mut self, frame: &Arc<Frame>, bound: usize) {
        let channel = &frame.event.channel;
        let position = &frame.event.position;
        if let Some(held) = self.latest.get_mut(channel) {
            let passed = std::mem::replace(&mut held.newest, frame.clone());
            self.bytes = (self.bytes + frame.weight()).saturating_sub(passed.weight());
            let passed = &passed.event.position;
            let first = passed.at(passed.offset.before());
            let after = held.over.take().map_or(first, |(after, _)| after);
            held.over = Some((after, passed.clone()));
        } else if self.bytes + frame.weight() > bound && !self.latest.is_empty() {
            // So many channels that even the newest of each is too much.
            self.drop_event(frame);
        } else {
            self.bytes += frame.weight();
            self.latest.insert(
                channel.clone(),
                Conflated {
                    newest: frame.clone(),
                    over: None,
                },
            );
        }
        debug_assert!(
            self.latest
                .get(channel)
                .is_none_or(|c| c.newest.event.position.offset <= position.offset)
        );
    }
}

impl Shard {
    /// An event did not fit, or the subscriber is behind already: its channel's policy decides.
    pub(super) fn on_overfull(&mut self, slot: u32, frame: &Arc<Frame>) {
        let policy = self.config.slow_policy(&frame.event.channel);
        if policy == SlowPolicy::Close {
            self.close(slot, CloseReason::Slow);
            return;
        }
        let bound = self.config.outbox_bytes;
        let Some(member) = self.members.get_mut(slot as usize) else {
            return;
        };
        if matches!(member.stage, Stage::Live) {
            member.stage = Stage::Behind(Box::default());
        }
        let Stage::Behind(backlog) = &mut member.stage else {
            return;
        };
        match policy {
            SlowPolicy::Latest => backlog.conflate(frame, bound),
            SlowPolicy::Gap | SlowPolicy::Close => backlog.drop_event(frame),
        }
        if member.outbox.want(bound / 2) {
            self.recover(slot);
        }
    }

    /// There is room again: what was lost is told, what was kept is handed over, and the
    /// subscriber is live.
    pub(super) fn recover(&mut self, slot: u32) {
        let Some(member) = self.members.get_mut(slot as usize) else {
            return;
        };
        if !member.outbox.want(self.config.outbox_bytes / 2) {
            return;
        }
        let Stage::Behind(backlog) = std::mem::replace(&mut member.stage, Stage::Live) else {
            return;
        };
        let mut backlog = *backlog;
        let conflated = backlog.latest.iter().filter_map(|(channel, held)| {
            let (after, next) = held.over.clone()?;
            Some(Gap {
                scope: channel.into(),
                cause: GapCause::Conflated,
                after: Some(after),
                next,
            })
        });
        let conflated: Vec<Gap> = conflated.collect();
        for gap in backlog.losses.drain(..).chain(conflated) {
            self.metrics.gap(gap.cause);
            member.outbox.force(control::gap(member.format, &gap));
        }
        let mut kept: Vec<Arc<Frame>> = backlog
            .latest
            .into_values()
            .map(|held| held.newest)
            .collect();
        kept.sort_by_key(|frame| frame.event.position.offset);
        // Ids go by what has been handed over, not by the logs' heads: what is kept of other
        // channels and logs comes after it.
        let mut heads = self.heads.clone();
        for frame in kept.iter().rev() {
            let first = &frame.event.position;
            let log = self.log_index(&first.log);
            heads[usize::from(log)] = Some(first.at(first.offset.before()));
        }
        for frame in kept {
            self.turn += 1;
            let class = self.members[slot as usize].class;
            let log = self.log_index(&frame.event.position.log);
            heads[usize::from(log)] = Some(frame.event.position.clone());
            let rendered = self
                .classes
                .render(class, self.turn, &frame, &heads, &self.logs);
            let member = &self.members[slot as usize];
            match rendered {
                Rendered::Bytes(bytes) => {
                    self.tally.frames += 1;
                    self.tally.bytes += bytes.len() as u64;
                    member.outbox.force(bytes);
                }
                Rendered::Withheld => self.tally.withheld += 1,
                Rendered::Failed => {
                    let gap = class::failed(&frame.event);
                    member.outbox.force(control::gap(member.format, &gap));
                }
            }
        }
        self.dirty.push(slot);
    }
}
