//! What a shard handed on lately, for subscribers that are joining: the last stretch of the seam.

use std::{collections::VecDeque, sync::Arc};

use fanfare_core::{Epoch, Gap, Offset, Position};

use crate::frame::Frame;

/// An index of a log within a shard.
pub(crate) type LogIndex = u16;

/// What passes through a shard: an event's frame, or a gap.
#[derive(Clone, Debug)]
pub(crate) enum Passing {
    Frame(Arc<Frame>),
    Gap(Arc<Gap>),
}

impl Passing {
    pub(crate) fn position(&self) -> &Position {
        match self {
            Self::Frame(frame) => &frame.event.position,
            Self::Gap(gap) => &gap.next,
        }
    }

    fn weight(&self) -> usize {
        match self {
            Self::Frame(frame) => frame.weight(),
            Self::Gap(_) => 160,
        }
    }
}

/// Recent frames of every log of a shard, bounded in bytes over all of them.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    logs: Vec<Recent>,
    /// The log of each entry, oldest first, so that the oldest of all goes first.
    order: VecDeque<LogIndex>,
    bytes: usize,
    bound: usize,
}

#[derive(Debug, Default)]
struct Recent {
    epoch: Option<Epoch>,
    entries: VecDeque<Passing>,
    /// The highest offset of this epoch that was let go of.
    evicted: Offset,
}

/// Whether a ring holds everything after a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cover {
    /// It does.
    Whole,
    /// It let go of something after it.
    Short,
    /// It is of another epoch: this one.
    Foreign(Epoch),
}

impl Ring {
    pub(crate) fn new(bound: usize) -> Self {
        Self {
            bound,
            ..Self::default()
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts what has just been handed on. Entries of one log come in offset order.
    pub(crate) fn push(&mut self, log: LogIndex, passing: Passing) {
        let recent = self.recent(log);
        let epoch = passing.position().epoch;
        if recent.epoch != Some(epoch) {
            // What is left of an older epoch holds for nobody who stands in this one. Its entries
            // stay in `order` as blanks until their turn comes.
            let old = std::mem::take(&mut recent.entries);
            recent.epoch = Some(epoch);
            recent.evicted = Offset::ZERO;
            self.bytes -= old.iter().map(Passing::weight).sum::<usize>();
            let mut blanks = old.len();
            self.order.retain(|index| {
                let blank = blanks > 0 && *index == log;
                blanks -= usize::from(blank);
                !blank
            });
        }
        self.bytes += passing.weight();
        self.recent(log).entries.push_back(passing);
        self.order.push_back(log);
        while self.bytes > self.bound && self.order.len() > 1 {
            self.evict();
        }
    }

    /// Lets go of all of a log, as if nothing of it had passed. Answers the bytes.
    pub(crate) fn forget(&mut self, log: LogIndex) -> usize {
        let Some(recent) = self.logs.get_mut(usize::from(log)) else {
            return 0;
        };
        let recent = std::mem::take(recent);
        if recent.entries.is_empty() {
            return 0;
        }
        self.order.retain(|index| *index != log);
        let freed = recent.entries.iter().map(Passing::weight).sum();
        self.bytes -= freed;
        freed
    }

    fn evict(&mut self) {
        let Some(log) = self.order.pop_front() else {
            return;
        };
        let recent = &mut self.logs[usize::from(log)];
        if let Some(oldest) = recent.entries.pop_front() {
            recent.evicted = oldest.position().offset;
            self.bytes -= oldest.weight();
        }
    }

    fn recent(&mut self, log: LogIndex) -> &mut Recent {
        let index = usize::from(log);
        if self.logs.len() <= index {
            self.logs.resize_with(index + 1, Recent::default);
        }
        &mut self.logs[index]
    }

    /// Whether the ring holds everything of its log that was handed on after `place`.
    pub(crate) fn covers(&self, log: LogIndex, place: &Position) -> Cover {
        match self.logs.get(usize::from(log)) {
            Some(Recent {
                epoch: Some(epoch),
                evicted,
                ..
            }) => match () {
                () if *epoch != place.epoch => Cover::Foreign(*epoch),
                () if *evicted > place.offset => Cover::Short,
                () => Cover::Whole,
            },
            _ => Cover::Whole,
        }
    }

    /// The frame of the event at a place, if it is still held.
    pub(crate) fn find(&self, log: Option<LogIndex>, place: &Position) -> Option<&Arc<Frame>> {
        let recent = self.logs.get(usize::from(log?))?;
        if recent.epoch != Some(place.epoch) {
            return None;
        }
        let of = |entry: &Passing| entry.position().offset;
        let first = recent
            .entries
            .partition_point(|entry| of(entry) < place.offset);
        let same = recent.entries.range(first..);
        same.take_while(|entry| of(entry) == place.offset)
            .find_map(|entry| match entry {
                Passing::Frame(frame) => Some(frame),
                Passing::Gap(_) => None,
            })
    }

    /// The entries of a log after `place`, oldest first; none of another epoch.
    pub(crate) fn after(&self, log: LogIndex, place: &Position) -> impl Iterator<Item = &Passing> {
        let recent = self
            .logs
            .get(usize::from(log))
            .filter(|recent| recent.epoch == Some(place.epoch));
        recent.into_iter().flat_map(|recent| {
            let offset = place.offset;
            let first = recent
                .entries
                .partition_point(|entry| entry.position().offset <= offset);
            recent.entries.range(first..)
        })
    }
}
