//! The index log of a rule: see [`fanfare_core::Late`].

use fanfare_core::{
    Epoch, Gap, GapCause, History, HistoryQuery, Live, LogId, Offset, Pattern, Position, Since,
    history::scopes,
};

use super::rules::StreamRule;

/// Where an index log stands. Its epoch is that of all streams' first lives: another one says that
/// streams may have been lost which a cursor does not name.
pub(super) fn place(index: &LogId, base: Epoch) -> Position {
    Position {
        log: index.clone(),
        epoch: base,
        offset: Offset::ZERO,
    }
}

/// An index log holds nothing. Where it is asked from, there it stands, unless everything was lost
/// since: then streams may have been lost that the cursor does not name, and its wildcards are told.
pub(super) fn page(rule: &StreamRule, query: HistoryQuery, base: Epoch) -> History {
    let begin = place(&query.log, base);
    let (upto, lost) = match query.since {
        Since::After(at) if at.epoch == base => (at, None),
        Since::After(at) => (begin, Some(at)),
        _ => (begin, None),
    };
    let mut items = Vec::new();
    if let Some(after) = lost {
        let of_rule = |scope: Pattern| match scope.covers(&rule.image) {
            true => rule.image.clone(),
            false => scope,
        };
        let mut scopes: Vec<_> = scopes(&query.channels).into_iter().map(of_rule).collect();
        scopes.dedup();
        items.extend(scopes.into_iter().map(|scope| {
            Live::Gap(Gap {
                scope,
                cause: GapCause::NewEpoch,
                after: Some(after.clone()),
                next: upto.clone(),
            })
        }));
    }
    History {
        items,
        upto,
        more: false,
    }
}
