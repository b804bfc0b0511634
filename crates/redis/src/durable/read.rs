//! Reading events of many streams as one: merged by their places, cut at a page's bounds.

use std::{collections::BTreeMap, sync::Arc};

use fanfare_core::{Channel, Event, GapCause, Pattern};

use super::{
    entry::{self, Entry, Range},
    store::{Part, Stand, Store, Unread},
};

/// The most streams in one round trip.
const STREAMS: usize = 128;
/// About how many entries the first round of a page asks for, over all streams.
const FIRST: usize = 64;
/// About how many bytes a further round asks for, over all streams.
const ROUND_BYTES: usize = 8 << 20;

/// A question.
#[derive(Debug)]
pub(crate) struct Question<'q> {
    pub(crate) channels: &'q [Pattern],
    pub(crate) from: From,
    pub(crate) limit: usize,
    pub(crate) max_bytes: usize,
}

/// Which events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum From {
    /// Those after a place, oldest first.
    After(u64),
    /// The newest so many of each channel.
    Last(usize),
}

/// An answer, up to a log's stand.
#[derive(Debug)]
pub(crate) struct Page {
    /// Events, oldest first.
    pub(crate) events: Vec<Arc<Event>>,
    /// What was asked for and is not there. They may end beyond `upto`.
    pub(crate) losses: Vec<Loss>,
    /// How far the answer goes.
    pub(crate) upto: u64,
    /// Whether a limit cut it.
    pub(crate) more: bool,
}

/// Events that are not there: after a place, up to and including another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Loss {
    pub(crate) scope: Pattern,
    pub(crate) cause: GapCause,
    pub(crate) after: u64,
    pub(crate) next: u64,
}

/// A channel's stream, read in parts.
struct Walk {
    channel: Channel,
    /// The channel's last place, when it was selected.
    last: u64,
    /// Forwards: everything up to it was read. Backwards: everything after it.
    at: u64,
    /// Backwards: how many more.
    left: usize,
}

/// The events of a page so far.
struct Kept {
    backwards: bool,
    events: BTreeMap<u64, Arc<Event>>,
    bytes: usize,
    limit: usize,
    max_bytes: usize,
    is_cut: bool,
}

/// How much has been read, and so how much to ask for next.
struct Pace {
    entries: usize,
    bytes: usize,
    count: usize,
    most: usize,
}

impl Store {
    /// Answers a question up to where the log stood.
    pub(crate) async fn read(&self, stand: &Stand, asked: &Question<'_>) -> Result<Page, Unread> {
        let (after, each) = match asked.from {
            From::After(after) => (after, None),
            From::Last(each) => (0, Some(each)),
        };
        let selected = self.select(asked.channels, after).await?;
        let mut losses = Vec::new();
        if stand.forgotten > after && each.is_none() {
            let wild = asked.channels.iter().filter(|pattern| pattern.is_wild());
            losses.extend(wild.chain(&selected.unlisted).map(|scope| Loss {
                scope: scope.clone(),
                cause: GapCause::Evicted,
                after,
                next: stand.forgotten,
            }));
        }
        if each.is_none() {
            let missed = stand.holes.iter().filter(|hole| hole.next > after);
            losses.extend(missed.map(|hole| Loss {
                scope: Pattern::all(),
                cause: GapCause::Reconnected,
                after: hole.after.max(after),
                next: hole.next,
            }));
        }
        let walk = |(channel, last)| Walk {
            channel,
            last,
            at: each.map_or(after, |_| stand.offset),
            left: each.unwrap_or(usize::MAX),
        };
        let mut walks: Vec<_> = selected.listed.into_iter().map(walk).collect();
        let mut kept = Kept {
            backwards: each.is_some(),
            events: BTreeMap::new(),
            bytes: 0,
            limit: asked.limit,
            max_bytes: asked.max_bytes,
            is_cut: false,
        };
        let mut pace = Pace::new(walks.len(), asked.limit);
        while !walks.is_empty() {
            let mut unfinished = Vec::new();
            for mut streams in chunks(walks, STREAMS) {
                let parts = streams
                    .iter()
                    .map(|walk| (&walk.channel, pace.part(walk, &kept)));
                let ranges = self.ranges(parts).await?;
                for (walk, range) in streams.iter_mut().zip(ranges) {
                    let asked = pace.asked(walk);
                    let got = range.len();
                    pace.entries += got;
                    self.take(walk, range, stand, &mut kept, &mut losses, &mut pace);
                    walk.finish(got < asked, stand, &kept, &mut losses);
                }
                unfinished.extend(streams.into_iter().filter(|walk| walk.left > 0));
            }
            walks = unfinished;
            pace.next(walks.len());
        }
        // The log may have begun again while it was read.
        if self.epoch().await? != Some(stand.epoch) {
            return Err(Unread::Moved);
        }
        Ok(kept.into_page(stand, losses))
    }

    fn take(
        &self,
        walk: &mut Walk,
        range: Range,
        stand: &Stand,
        kept: &mut Kept,
        losses: &mut Vec<Loss>,
        pace: &mut Pace,
    ) {
        for (id, fields) in range {
            let Some(entry) = Entry::stored(&id, fields, self.max_data_bytes) else {
                continue;
            };
            let lost = |cause, after, next| Loss {
                scope: Pattern::from(&walk.channel),
                cause,
                after,
                next,
            };
            let (offset, previous) = (entry.offset, entry.previous);
            if kept.backwards {
                walk.at = offset.saturating_sub(1);
                walk.left = walk.left.saturating_sub(1);
            } else {
                if previous.offset > walk.at {
                    losses.push(lost(GapCause::Evicted, walk.at, previous.offset));
                }
                if offset > stand.offset {
                    // Published since. What came before it was looked at.
                    walk.at = stand.offset;
                    return;
                }
                walk.at = offset;
            }
            match entry.content {
                Ok(envelope) => {
                    pace.bytes += envelope.data.len();
                    let position = entry::place(&self.log, stand.epoch, offset);
                    let channel = walk.channel.clone();
                    kept.add(offset, entry::event(channel, position, previous, envelope));
                }
                Err(_) if kept.backwards => {}
                Err(_) => losses.push(lost(
                    GapCause::Undeliverable,
                    offset.saturating_sub(1),
                    offset,
                )),
            }
        }
    }
}

impl Walk {
    /// Notes that the stream has no more after what was read, or that no more of it is needed, by
    /// setting `left` to zero.
    fn finish(&mut self, is_end: bool, stand: &Stand, kept: &Kept, losses: &mut Vec<Loss>) {
        if kept.backwards {
            if is_end || kept.is_beyond(self.at) {
                self.left = 0;
            }
            return;
        }
        if self.at >= stand.offset || !is_end && kept.is_beyond(self.at) {
            self.left = 0;
        } else if is_end {
            self.left = 0;
            if self.at < self.last {
                // The list names an event that the stream no longer holds.
                losses.push(Loss {
                    scope: Pattern::from(&self.channel),
                    cause: GapCause::Evicted,
                    after: self.at,
                    next: self.last,
                });
            }
        }
    }
}

impl Kept {
    /// Keys rise from what the page holds first.
    fn key(&self, offset: u64) -> u64 {
        if self.backwards {
            u64::MAX - offset
        } else {
            offset
        }
    }

    fn add(&mut self, offset: u64, event: Arc<Event>) {
        self.bytes += event.data.len();
        self.events.insert(self.key(offset), event);
        let full = |kept: &Self| {
            let events = kept.events.len();
            events > kept.limit || kept.bytes > kept.max_bytes && events > 1
        };
        while full(self) {
            let Some((_, beyond)) = self.events.pop_last() else {
                break;
            };
            self.bytes -= beyond.data.len();
            self.is_cut = true;
        }
    }

    /// Whether the page is full and ends at or before a place, so that what follows it is not
    /// needed.
    fn is_beyond(&self, offset: u64) -> bool {
        let end = self.events.last_key_value().map(|(key, _)| *key);
        self.is_cut && end.is_some_and(|end| self.key(offset) >= end)
    }

    fn into_page(self, stand: &Stand, losses: Vec<Loss>) -> Page {
        let last = self.events.last_key_value().map(|(key, _)| *key);
        let more = self.is_cut && !self.backwards;
        let mut events: Vec<_> = self.events.into_values().collect();
        if self.backwards {
            events.reverse();
        }
        Page {
            events,
            losses,
            upto: last.filter(|_| more).unwrap_or(stand.offset),
            more,
        }
    }
}

impl Pace {
    fn new(streams: usize, limit: usize) -> Self {
        let most = limit.saturating_add(1);
        Self {
            entries: 0,
            bytes: 0,
            count: (FIRST / streams.max(1)).clamp(1, most),
            most,
        }
    }

    fn asked(&self, walk: &Walk) -> usize {
        self.count.min(walk.left)
    }

    fn part(&self, walk: &Walk, kept: &Kept) -> Part {
        if kept.backwards {
            Part::UpTo(walk.at, self.asked(walk))
        } else {
            Part::After(walk.at, self.asked(walk))
        }
    }

    /// Asks for more the next time, as far as that is bounded in bytes.
    fn next(&mut self, streams: usize) {
        let mean = self.bytes / self.entries.max(1) + 1;
        let fits = ROUND_BYTES / mean / streams.clamp(1, STREAMS);
        self.count = (self.count * 4).min(fits).clamp(1, self.most);
    }
}

fn chunks<T>(mut all: Vec<T>, size: usize) -> impl Iterator<Item = Vec<T>> {
    std::iter::from_fn(move || {
        if all.is_empty() {
            return None;
        }
        let rest = all.split_off(all.len().min(size));
        Some(std::mem::replace(&mut all, rest))
    })
}
