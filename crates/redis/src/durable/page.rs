//! A page of history as law 4 wants it told: see [`fanfare_core::history`].

use fanfare_core::{
    Gap, GapCause, History, HistoryQuery, Live, LogId, Offset, Pattern, Position, Since,
    history::{scopes, told},
};

use super::{
    entry::place,
    read::{From, Loss, Page, Question},
    store::{Hole, Stand, Store, Unread},
};

/// Answers a question from a log that stands here.
pub(super) async fn answer(
    store: &Store,
    stand: &Stand,
    query: &HistoryQuery,
) -> Result<History, Unread> {
    let ask = |from| {
        let question = Question {
            channels: &query.channels,
            from,
            limit: query.limit.get(),
            max_bytes: query.max_bytes,
        };
        async move { store.read(stand, &question).await }
    };
    let told = Told {
        log: &store.log,
        stand,
        asked: &query.channels,
    };
    match &query.since {
        Since::Now => Ok(told.history(Page::nothing(stand), Vec::new())),
        Since::Oldest => {
            let mut page = ask(From::After(0)).await?;
            // What retention took is no gap for who asks for what there is, nor is what is missing
            // before that.
            let oldest = page
                .events
                .first()
                .map(|event| before(event.position.offset));
            let begin = oldest.unwrap_or(stand.offset);
            page.losses.retain(|loss| match loss.cause {
                GapCause::Evicted => false,
                GapCause::Reconnected => loss.next > begin,
                _ => true,
            });
            Ok(told.history(page, Vec::new()))
        }
        Since::Last(each) => {
            let page = ask(From::Last(each.get())).await?;
            Ok(told.history(page, Vec::new()))
        }
        Since::After(cursor) => match stand.holds(&store.log, cursor) {
            Some(after) => Ok(told.history(ask(From::After(after)).await?, Vec::new())),
            None => {
                let mut page = ask(From::After(0)).await?;
                let oldest = page.events.first().map(|event| event.position.offset);
                let begin = oldest.map_or(stand.offset, before);
                page.losses = since(page.losses, begin);
                let scopes = scopes(&query.channels).into_iter();
                let gap = |scope| Gap {
                    scope,
                    cause: GapCause::NewEpoch,
                    after: told.whole(cursor),
                    next: told.place(begin),
                };
                Ok(told.history(page, scopes.map(gap).collect()))
            }
        },
    }
}

fn before(offset: Offset) -> u64 {
    u64::try_from(offset.before().0).unwrap_or(u64::MAX)
}

/// What of these losses lies after a place.
fn since(losses: Vec<Loss>, begin: u64) -> Vec<Loss> {
    let after = losses.into_iter().filter(|loss| loss.next > begin);
    let cut = after.map(|loss| Loss {
        after: loss.after.max(begin),
        ..loss
    });
    cut.collect()
}

impl Stand {
    /// The offset of a cursor that is a place of this log, up to where it stands. What another
    /// server gave, after it was given up, is not.
    fn holds(&self, log: &LogId, cursor: &Position) -> Option<u64> {
        let offset = u64::try_from(cursor.offset.0).ok()?;
        let is_apart = |hole: &Hole| hole.after < offset && offset < hole.next;
        let is_ours =
            cursor.log == *log && cursor.epoch == self.epoch && !self.apart.iter().any(is_apart);
        (is_ours && offset <= self.offset).then_some(offset)
    }
}

impl Page {
    fn nothing(stand: &Stand) -> Self {
        Self {
            events: Vec::new(),
            losses: Vec::new(),
            upto: stand.offset,
            more: false,
        }
    }
}

/// How a page is told.
struct Told<'t> {
    log: &'t LogId,
    stand: &'t Stand,
    asked: &'t [Pattern],
}

impl Told<'_> {
    fn place(&self, offset: u64) -> Position {
        place(self.log, self.stand.epoch, offset)
    }

    /// The last place of a client that stood here before anything was lost; `None` where that is not
    /// known.
    fn whole(&self, cursor: &Position) -> Option<Position> {
        match u64::try_from(cursor.offset.0) {
            Ok(offset) if cursor.log == *self.log => {
                let whole = self.stand.whole(cursor.epoch, offset);
                whole.map(|(epoch, offset)| place(self.log, epoch, offset))
            }
            _ => Some(cursor.clone()),
        }
    }

    /// A page that begins with these gaps.
    fn history(&self, page: Page, mut gaps: Vec<Gap>) -> History {
        let causes = [
            GapCause::Evicted,
            GapCause::Undeliverable,
            GapCause::Reconnected,
        ];
        for cause in causes {
            let of_cause = page.losses.iter().filter(|loss| loss.cause == cause);
            let lost = of_cause.map(|loss| self.gap(loss)).collect();
            gaps.extend(self.within(told(lost, self.asked), page.upto));
        }
        let mut items: Vec<_> = page.events.into_iter().map(Live::Event).collect();
        items.extend(gaps.into_iter().map(Live::Gap));
        // Stable: a gap that ends where an event stands comes after it, since it was cut there and
        // goes on in the next page.
        items.sort_by_key(|item| item.position().offset);
        History {
            items,
            upto: self.place(page.upto),
            more: page.more,
        }
    }

    fn gap(&self, loss: &Loss) -> Gap {
        Gap {
            scope: loss.scope.clone(),
            cause: loss.cause,
            after: Some(self.place(loss.after)),
            next: self.place(loss.next),
        }
    }

    /// The part of each gap that this page tells; the next one tells the rest.
    fn within(&self, gaps: Vec<Gap>, upto: u64) -> impl Iterator<Item = Gap> {
        let end = self.place(upto);
        gaps.into_iter().filter_map(move |mut gap| {
            let begins = gap
                .after
                .as_ref()
                .map_or(Offset::ZERO, |after| after.offset);
            if begins >= end.offset {
                return None;
            }
            if gap.next.offset > end.offset {
                gap.next = end.clone();
            }
            Some(gap)
        })
    }
}
