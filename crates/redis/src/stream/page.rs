//! A page of history of a stream, as law 4 wants it told: see [`fanfare_core::history`].

use fanfare_core::{Gap, GapCause, History, HistoryQuery, Live, Offset, Pattern, Position, Since};

use super::{
    entry::Fields,
    followed,
    look::{Bounds, Known, Looks, Part, Seen},
    rules::Place,
};
use crate::{command::Commands, error::Failure};

/// What a page is made of.
#[derive(Debug)]
pub(super) struct Pages<'p> {
    pub(super) stream: &'p Place,
    pub(super) fields: &'p Fields,
    pub(super) looks: &'p Looks,
    pub(super) reads: &'p Commands,
    pub(super) max_data_bytes: usize,
}

impl Pages<'_> {
    /// Answers a question of one stream.
    pub(super) async fn answer(
        &self,
        query: &HistoryQuery,
        known: Option<Known>,
    ) -> Result<History, Failure> {
        let bounds = Bounds {
            entries: query.limit.get(),
            bytes: query.max_bytes,
        };
        let look = |part| async move {
            let (looks, key) = (self.looks, &self.stream.key);
            let known = known.as_ref();
            looks
                .ask(self.reads, key, self.fields, known, part, bounds)
                .await
        };
        let is_asked = |pattern: &Pattern| pattern.matches(&self.stream.channel);
        if !query.channels.iter().any(is_asked) {
            let seen = look(Part::Nothing).await?;
            return Ok(self.place_only(&seen));
        }
        match &query.since {
            Since::Now => {
                let seen = look(Part::Nothing).await?;
                Ok(self.place_only(&seen))
            }
            Since::Oldest => {
                let seen = look(Part::After(Offset::ZERO)).await?;
                let mut page = self.page(&seen, Offset::ZERO);
                // What retention took is no gap for who asks for what there is.
                page.items.retain(|item| !is_gap(item, GapCause::Evicted));
                Ok(page)
            }
            Since::Last(each) => {
                let entries = each.get().min(bounds.entries);
                let (looks, key) = (self.looks, &self.stream.key);
                let bounds = Bounds { entries, ..bounds };
                let mut seen = looks
                    .ask(self.reads, key, self.fields, None, Part::Newest, bounds)
                    .await?;
                seen.more = false;
                let mut page = self.page(&seen, Offset::ZERO);
                page.items.retain(|item| matches!(item, Live::Event(_)));
                Ok(page)
            }
            Since::After(cursor) => {
                let seen = look(Part::After(cursor.offset)).await?;
                if self.holds(&seen, cursor) {
                    return Ok(self.page(&seen, cursor.offset));
                }
                let (looks, key) = (self.looks, &self.stream.key);
                let part = Part::After(Offset::ZERO);
                let seen = looks
                    .ask(self.reads, key, self.fields, None, part, bounds)
                    .await?;
                Ok(self.began_again(&seen, cursor))
            }
        }
    }

    /// Whether a cursor is a place of this life of the stream.
    ///
    /// Between the oldest entry and the last one given, a place that was handed out is an entry, or
    /// just before one, unless entries were deleted. One that is neither is of entries that are no
    /// more: the server lost its tail, or ids were given twice.
    fn holds(&self, seen: &Seen, cursor: &Position) -> bool {
        let (at, facts) = (cursor.offset, &seen.facts);
        let is_ours = cursor.log == self.stream.log && cursor.epoch == seen.epoch;
        let is_between = facts.first.is_some_and(|first| first <= at) && at < facts.last;
        let is_lost = is_between && at > facts.deleted && !seen.found;
        is_ours && at <= facts.last && !is_lost
    }

    fn position(&self, seen: &Seen, offset: Offset) -> Position {
        Position {
            log: self.stream.log.clone(),
            epoch: seen.epoch,
            offset,
        }
    }

    fn place_only(&self, seen: &Seen) -> History {
        History {
            items: Vec::new(),
            upto: self.position(seen, seen.facts.last),
            more: false,
        }
    }

    fn page(&self, seen: &Seen, from: Offset) -> History {
        // Before the first entry there were none.
        let ordinal = (from == Offset::ZERO).then_some(0);
        let most = self.max_data_bytes;
        let items = followed::items(self.stream, self.fields, seen, from, ordinal, most);
        History {
            items: items.live,
            upto: self.position(seen, items.upto),
            more: seen.more,
        }
    }

    /// The place is of another life: told, and everything from the oldest entry on.
    fn began_again(&self, seen: &Seen, cursor: &Position) -> History {
        let begin = seen.facts.oldest();
        let mut page = self.page(seen, begin);
        let gap = Gap {
            scope: Pattern::from(&self.stream.channel),
            cause: GapCause::NewEpoch,
            after: Some(cursor.clone()),
            next: self.position(seen, begin),
        };
        page.items.insert(0, Live::Gap(gap));
        page
    }
}

fn is_gap(item: &Live, cause: GapCause) -> bool {
    matches!(item, Live::Gap(gap) if gap.cause == cause)
}
