//! Reading pages of history from a store.

use std::{cmp::Reverse, num::NonZeroUsize, ops::Bound, sync::Arc};

use super::{Chan, Store, merge::Merge};
use crate::{
    Channel, Event, Gap, GapCause, History, HistoryQuery, Live, Offset, Pattern, Position, Since,
    history::{scopes, told},
};

/// Where a page begins, once it is settled what its question's cursor means here.
#[derive(Clone, Debug)]
pub struct Start {
    /// The page holds what lies after this place.
    pub after: Offset,
    /// Whether what retention took away after that place is a gap.
    pub tells: bool,
    /// What was lost before that place, told first.
    gaps: Vec<Gap>,
}

/// The events of a page, oldest first, and whether it was cut.
type Cut = (Vec<Arc<Event>>, bool);

impl Store {
    /// Answers a question, of this store's log, from this store alone.
    pub fn history(&self, query: &HistoryQuery) -> History {
        self.page(query, self.start(query), Vec::new())
    }

    /// Settles where the answer begins.
    pub fn start(&self, query: &HistoryQuery) -> Start {
        let cursor = match &query.since {
            Since::Oldest | Since::Last(_) => {
                return Start {
                    after: Offset::ZERO,
                    tells: false,
                    gaps: Vec::new(),
                };
            }
            Since::Now => {
                return Start {
                    after: self.head,
                    tells: false,
                    gaps: Vec::new(),
                };
            }
            Since::After(cursor) => cursor,
        };
        if self.holds(cursor) {
            return Start {
                after: cursor.offset,
                tells: true,
                gaps: Vec::new(),
            };
        }
        let selected = self.select(&query.channels);
        let firsts = selected.iter().filter_map(|(_, chan)| chan.events.front());
        let oldest = firsts.map(|event| event.position.offset).min();
        let after = oldest.map_or(self.head, Offset::before);
        let gap = |scope| Gap {
            scope,
            cause: GapCause::NewEpoch,
            after: Some(cursor.clone()),
            next: self.place(after),
        };
        Start {
            after,
            tells: true,
            gaps: scopes(&query.channels).into_iter().map(gap).collect(),
        }
    }

    /// Whether `cursor` is a place of this store, up to its head.
    pub fn holds(&self, cursor: &Position) -> bool {
        cursor.log == self.log && cursor.epoch == self.epoch && cursor.offset <= self.head
    }

    /// Whether this store still holds all that it was given of these channels after a place.
    pub fn is_whole(&self, channels: &[Pattern], after: Offset) -> bool {
        self.evicted(channels, after).is_empty()
    }

    /// A page from a settled beginning, with losses beside those that the store knows.
    pub fn page(&self, query: &HistoryQuery, start: Start, losses: Vec<Gap>) -> History {
        let (events, more) = match query.since {
            Since::Now => (Vec::new(), false),
            Since::Last(each) => (self.newest(query, each), false),
            Since::Oldest | Since::After(_) => self.events_after(query, start.after),
        };
        let end = events.last().filter(|_| more);
        let upto = end.map_or(self.head, |event| event.position.offset);
        let mut gaps = start.gaps;
        if start.tells {
            let told = self
                .inline(query, start.after)
                .chain(losses)
                .chain(self.evicted(&query.channels, start.after));
            let part = told.filter_map(|gap| self.part_of_page(gap, start.after, upto));
            gaps.extend(part);
        }
        let mut items: Vec<_> = events.into_iter().map(Live::Event).collect();
        if !gaps.is_empty() {
            items.extend(gaps.into_iter().map(Live::Gap));
            // Stable: a gap that ends where an event stands comes after it, since the gap was cut
            // there and goes on in the next page.
            items.sort_by_key(|item| item.position().offset);
        }
        History {
            items,
            upto: self.place(upto),
            more,
        }
    }

    /// The part of a gap that lies in `(after, upto]`. So each page stands for itself, whether the
    /// next one is ever asked for or not.
    fn part_of_page(&self, mut gap: Gap, after: Offset, upto: Offset) -> Option<Gap> {
        let known = gap.after.as_ref().filter(|place| self.holds(place));
        let begins = known.map_or(after, |place| place.offset.max(after));
        if gap.next.offset <= begins || begins >= upto {
            return None;
        }
        if gap.next.offset > upto {
            gap.next = self.place(upto);
        }
        Some(gap)
    }

    fn inline<'a>(
        &'a self,
        query: &'a HistoryQuery,
        after: Offset,
    ) -> impl Iterator<Item = Gap> + 'a {
        let first = self.gaps.partition_point(|gap| gap.next.offset <= after);
        let touches = |gap: &&Gap| query.channels.iter().any(|p| p.intersects(&gap.scope));
        self.gaps.range(first..).filter(touches).cloned()
    }

    /// What retention took away after a place: a gap per channel, or, where these would be many, a
    /// gap per pattern that was asked for.
    fn evicted(&self, channels: &[Pattern], after: Offset) -> Vec<Gap> {
        if after >= self.gone_upto && after >= self.forgotten.upto() {
            return Vec::new();
        }
        let gap = |scope: Pattern, next: Offset| Gap {
            scope,
            cause: GapCause::Evicted,
            after: Some(self.place(after)),
            next: self.place(next),
        };
        let forgotten = |pattern: &Pattern| {
            // A channel that is known again took over what was forgotten of it.
            let known = self.channels.contains_key(pattern.as_str());
            let upto = if known {
                Offset::ZERO
            } else {
                self.forgotten.of_pattern(pattern)
            };
            (upto > after).then_some(upto)
        };
        let selected = self.select(channels);
        let mut gaps: Vec<_> = selected
            .iter()
            .filter(|(_, chan)| chan.gone > after)
            .map(|(channel, chan)| gap((*channel).into(), chan.gone))
            .collect();
        gaps.extend(
            channels
                .iter()
                .filter_map(|pattern| forgotten(pattern).map(|upto| gap(pattern.clone(), upto))),
        );
        told(gaps, channels)
    }

    fn events_after(&self, query: &HistoryQuery, after: Offset) -> Cut {
        if after >= self.head {
            return (Vec::new(), false);
        }
        if query.channels.iter().any(Pattern::is_wild)
            && let Some(cut) = self.walk(query, after)
        {
            return cut;
        }
        let selected = self.select(&query.channels);
        let news = selected.iter().filter(|(_, chan)| chan.last > after);
        let merged = Merge::new(news.map(|(_, chan)| chan.after(after)), Reverse);
        cut(merged, query)
    }

    /// Reads along the whole log, which costs nothing per channel that a pattern selects: a client
    /// that comes back after a moment is answered from the few events since. `None` where there
    /// are many events since and few of them are asked for.
    fn walk(&self, query: &HistoryQuery, after: Offset) -> Option<Cut> {
        let since = (Bound::Excluded(after), Bound::Unbounded);
        let rules = self.by_rule.iter();
        let events = rules.map(|rule| rule.range(since).map(|(_, aged)| &aged.event));
        let mut walked = Merge::new(events, Reverse);
        let mut steps = query.limit.get().saturating_mul(4).saturating_add(1024);
        let asked = std::iter::from_fn(|| {
            loop {
                steps = steps.checked_sub(1)?;
                let event = walked.next()?;
                if query.channels.iter().any(|p| p.matches(&event.channel)) {
                    return Some(event);
                }
            }
        });
        let cut = cut(asked, query);
        let whole = cut.1 || steps > 0;
        whole.then_some(cut)
    }

    fn newest(&self, query: &HistoryQuery, each: NonZeroUsize) -> Vec<Arc<Event>> {
        let selected = self.select(&query.channels);
        let backwards = selected
            .iter()
            .map(|(_, chan)| chan.events.iter().rev().take(each.get()));
        let (mut events, _) = cut(Merge::new(backwards, |offset| offset), query);
        events.reverse();
        events
    }

    /// The known channels that some pattern selects, each once.
    fn select(&self, patterns: &[Pattern]) -> Vec<(&Channel, &Chan)> {
        let mut selected = Vec::new();
        for pattern in patterns {
            if pattern.is_wild() {
                let known = |channel| self.channels.get_key_value::<Channel>(channel);
                selected.extend(self.names_of(pattern).filter_map(known));
            } else {
                selected.extend(self.channels.get_key_value(pattern.as_str()));
            }
        }
        if patterns.len() > 1 {
            selected.sort_unstable_by_key(|(channel, _)| *channel);
            selected.dedup_by_key(|(channel, _)| *channel);
        }
        selected
    }

    pub(super) fn select_names(&self, pattern: &Pattern) -> Vec<Channel> {
        let selected = self.select(std::slice::from_ref(pattern));
        selected
            .into_iter()
            .map(|(channel, _)| channel.clone())
            .collect()
    }

    fn names_of<'a>(&'a self, pattern: &'a Pattern) -> impl Iterator<Item = &'a Channel> {
        let text = pattern.as_str();
        let beginning = &text[..text.find(['*', '>']).unwrap_or(text.len())];
        self.names
            .range::<str, _>((Bound::Included(beginning), Bound::Unbounded))
            .take_while(move |channel| channel.as_str().starts_with(beginning))
            .filter(|channel| pattern.matches(channel))
    }
}

impl Chan {
    fn after(&self, offset: Offset) -> impl Iterator<Item = &Arc<Event>> {
        let first = self
            .events
            .partition_point(|event| event.position.offset <= offset);
        self.events.range(first..)
    }
}

/// Takes events until the page is full; at least one.
fn cut<'a>(events: impl Iterator<Item = &'a Arc<Event>>, query: &HistoryQuery) -> Cut {
    let mut taken: Vec<Arc<Event>> = Vec::new();
    let mut bytes = 0usize;
    for event in events {
        bytes = bytes.saturating_add(event.data.len());
        let full = taken.len() == query.limit.get() || bytes > query.max_bytes;
        if full && !taken.is_empty() {
            return (taken, true);
        }
        taken.push(event.clone());
    }
    (taken, false)
}
