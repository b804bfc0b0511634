//! What a subscriber with a full outbox is owed.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use fanfare_core::{Channel, Gap, GapCause, Pattern, Position};
use smallvec::SmallVec;

use super::Millis;
use crate::{frame::Frame, framing::Framing, ring::LogIndex};

/// The most losses that are told one by one; beyond that one gap over all channels is told.
const MAX_LOSSES: usize = 32;

/// What a subscriber with a full outbox is owed.
#[derive(Debug)]
pub(super) struct Backlog {
    /// What waits for room, in order, until it is decided that the subscriber is slow: a burst
    /// overfills the outbox of a fast one too, before its sink had a chance to take anything.
    /// Frames are shared with everybody else who gets them.
    pub(super) waiting: VecDeque<Waiting>,
    /// The bytes of `waiting`.
    pub(super) bytes: usize,
    /// Since when it waits.
    pub(super) since: Millis,
    /// Whether the policies of its channels apply.
    pub(super) slow: bool,
    /// Logs that came into being meanwhile; it gets them from history.
    pub(super) late: SmallVec<[LogIndex; 1]>,
    /// Logs of which something passed that history must place first.
    pub(super) unclear: SmallVec<[LogIndex; 1]>,
    losses: Vec<Gap>,
    /// The newest event of each channel that is conflated.
    latest: BTreeMap<Channel, Conflated>,
    latest_bytes: usize,
}

/// Something that waits for room.
#[derive(Debug)]
pub(super) enum Waiting {
    Frame(Arc<Frame>, Bytes),
    Gap(Arc<Gap>),
}

#[derive(Debug)]
struct Conflated {
    newest: Arc<Frame>,
    /// The stretch of events that it took the place of, if any.
    over: Option<(Position, Position)>,
}

impl Backlog {
    pub(super) fn new(now: Millis) -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            since: now,
            slow: false,
            late: SmallVec::new(),
            unclear: SmallVec::new(),
            losses: Vec::new(),
            latest: BTreeMap::new(),
            latest_bytes: 0,
        }
    }

    pub(super) fn wait(&mut self, waiting: Waiting) {
        self.bytes += waiting.bytes();
        self.waiting.push_back(waiting);
    }

    /// What waits goes to a socket, and it was framed for a body.
    pub(super) fn reframe(&mut self, framing: Framing) {
        for waiting in &mut self.waiting {
            if let Waiting::Frame(_, bytes) = waiting {
                *bytes = framing.of(std::mem::take(bytes));
            }
        }
        self.bytes = self.waiting.iter().map(Waiting::bytes).sum();
    }

    /// Takes what the policies left: what to tell, then what to hand over, in offset order.
    pub(super) fn settle(&mut self) -> (Vec<Gap>, Vec<Arc<Frame>>) {
        let mut gaps = std::mem::take(&mut self.losses);
        let latest = std::mem::take(&mut self.latest);
        let mut kept = Vec::with_capacity(latest.len());
        for (channel, held) in latest {
            if let Some((after, next)) = held.over {
                gaps.push(Gap {
                    scope: channel.into(),
                    cause: GapCause::Conflated,
                    after: Some(after),
                    next,
                });
            }
            kept.push(held.newest);
        }
        kept.sort_by_key(|frame| frame.event.position.offset);
        (gaps, kept)
    }
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

    pub(super) fn drop_event(&mut self, frame: &Frame) {
        let position = &frame.event.position;
        self.lose(Gap {
            scope: (&frame.event.channel).into(),
            cause: GapCause::Slow,
            after: Some(position.at(position.offset.before())),
            next: position.clone(),
        });
    }

    pub(super) fn conflate(&mut self, frame: &Arc<Frame>, bound: usize) {
        let channel = &frame.event.channel;
        if let Some(held) = self.latest.get_mut(channel) {
            let passed = std::mem::replace(&mut held.newest, frame.clone());
            self.latest_bytes =
                (self.latest_bytes + frame.weight()).saturating_sub(passed.weight());
            let passed = &passed.event.position;
            let first = passed.at(passed.offset.before());
            let after = held.over.take().map_or(first, |(after, _)| after);
            held.over = Some((after, passed.clone()));
        } else if self.latest_bytes + frame.weight() > bound && !self.latest.is_empty() {
            // So many channels that even the newest of each is too much.
            self.drop_event(frame);
        } else {
            self.latest_bytes += frame.weight();
            self.latest.insert(
                channel.clone(),
                Conflated {
                    newest: frame.clone(),
                    over: None,
                },
            );
        }
    }
}

impl Waiting {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Frame(_, bytes) => bytes.len(),
            Self::Gap(_) => 160,
        }
    }
}
