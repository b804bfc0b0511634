//! A stream that this node follows: how far it was handed on, and handing on what comes.

use std::sync::Arc;

use fanfare_core::{
    BrokerMetrics, Epoch, Event, Gap, GapCause, Interest, Live, Offset, Pattern, Position,
    Undeliverable,
};
use parking_lot::Mutex;

use super::{
    entry::{self, Fields},
    id,
    look::{Known, Seen},
    rules::Place,
};
use crate::complaint::Complaints;

/// A stream that this node follows.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(super) place: Place,
    pub(super) fields: Fields,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How far it was handed on; `None` until it is known where that begins.
    at: Option<At>,
    /// Whether it cannot be read now: another type of key, a key that we may not read.
    is_refused: bool,
}

#[derive(Debug)]
struct At {
    known: Known,
    /// How many entries there ever were up to there, where that is known.
    ordinal: Option<u64>,
}

/// Where what comes goes to.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(super) interest: Interest,
    pub(super) metrics: BrokerMetrics,
    pub(super) max_data_bytes: usize,
    pub(super) complaints: Complaints,
}

impl Followed {
    pub(super) fn new(place: Place, fields: Fields) -> Self {
        Self {
            place,
            fields,
            state: Mutex::default(),
        }
    }

    /// Begins where the stream was seen to stand, unless it has begun.
    pub(super) fn begin_after(&self, seen: &Seen) {
        self.state.lock().at.get_or_insert_with(|| At {
            known: Known {
                epoch: seen.epoch,
                offset: seen.facts.last,
                mark: seen.mark.clone(),
            },
            ordinal: Some(seen.facts.added),
        });
    }

    /// Begins before the first entry, unless it has begun: all of it is owed.
    pub(super) fn begin_before(&self, base: Epoch) {
        self.state.lock().at.get_or_insert_with(|| At {
            known: Known::nothing(base),
            ordinal: Some(0),
        });
    }

    /// How far it was handed on.
    pub(super) fn known(&self) -> Option<Known> {
        let state = self.state.lock();
        state.at.as_ref().map(|at| at.known.clone())
    }

    pub(super) fn is_refused(&self) -> bool {
        self.state.lock().is_refused
    }

    /// Notes whether it can be read. Answers whether that is news.
    pub(super) fn set_refused(&self, is_refused: bool) -> bool {
        std::mem::replace(&mut self.state.lock().is_refused, is_refused) != is_refused
    }

    /// Hands on what was seen after the place that is known. Answers whether there is more to read.
    ///
    /// One task looks and hands on for all followers of the stream, so order needs no further care.
    pub(super) fn take(&self, asked: &Known, seen: Seen, outlet: &Outlet) -> bool {
        let mut state = self.state.lock();
        let Some(at) = &mut state.at else {
            return false;
        };
        if at.known != *asked {
            return true;
        }
        let place = |offset| self.position(seen.epoch, offset);
        if seen.epoch != at.known.epoch {
            // Another life of the stream: what the old one had after the place is lost, and so is what
            // the new one lost before its oldest entry. All that is there is owed.
            let oldest = seen.facts.oldest();
            let after = self.position(at.known.epoch, at.known.offset);
            outlet.gap(Gap {
                scope: Pattern::from(&self.place.channel),
                cause: GapCause::NewEpoch,
                after: Some(after),
                next: place(oldest),
            });
            *at = At {
                known: Known {
                    offset: oldest,
                    ..Known::nothing(seen.epoch)
                },
                ordinal: Some(seen.facts.gone()),
            };
            return true;
        }
        let from = at.known.offset;
        let most = outlet.max_data_bytes;
        let items = items(&self.place, &self.fields, &seen, from, at.ordinal, most);
        for (offset, reason) in &items.undeliverable {
            outlet.metrics.undeliverable(*reason);
            let why = format!("entry {}: {reason:?}", id::id(*offset));
            outlet.complaints.of(self.place.key.as_bytes(), &why);
        }
        let (mut events, mut lost) = (items.undeliverable.len() as u64, false);
        for item in items.live {
            match item {
                Live::Event(event) => {
                    events += 1;
                    if let Some(lag) = entry::lag(event.position.offset) {
                        outlet.metrics.lag_seconds.observe(lag.as_secs_f64());
                    }
                    outlet.metrics.events.inc();
                    outlet.interest.offer(&event);
                }
                Live::Gap(gap) => {
                    lost |= gap.cause != GapCause::Undeliverable;
                    outlet.gap(gap);
                }
            }
        }
        at.ordinal = match at.ordinal {
            _ if !seen.more => Some(seen.facts.added),
            Some(ordinal) if !lost => Some(ordinal + events),
            _ => None,
        };
        at.known.offset = items.upto;
        at.known.mark = seen.mark;
        seen.more
    }

    fn position(&self, epoch: Epoch, offset: Offset) -> Position {
        Position {
            log: self.place.log.clone(),
            epoch,
            offset,
        }
    }
}

/// A part of a stream as events and gaps.
#[derive(Debug)]
pub(super) struct Items {
    /// In order; a gap stands where it ends.
    pub(super) live: Vec<Live>,
    /// How far the part goes.
    pub(super) upto: Offset,
    /// Entries that cannot be events.
    pub(super) undeliverable: Vec<(Offset, Undeliverable)>,
}

/// What was seen of a stream after a place.
pub(super) fn items(
    stream: &Place,
    fields: &Fields,
    seen: &Seen,
    from: Offset,
    ordinal: Option<u64>,
    max_data_bytes: usize,
) -> Items {
    let place = |offset| Position {
        log: stream.log.clone(),
        epoch: seen.epoch,
        offset,
    };
    let gap = |cause, after, next| {
        Live::Gap(Gap {
            scope: Pattern::from(&stream.channel),
            cause,
            after: Some(place(after)),
            next: place(next),
        })
    };
    let end = seen.entries.iter().map(|(offset, _)| *offset).max();
    let upto = match end {
        Some(end) if seen.more => end,
        _ => seen.facts.last.max(from),
    };
    let mut undeliverable = Vec::new();
    let mut live: Vec<Live> = Vec::with_capacity(seen.entries.len());
    for (offset, raw) in &seen.entries {
        live.push(match fields.read(raw.clone(), max_data_bytes) {
            Ok(content) => {
                let event: Event = entry::event(&stream.channel, place(*offset), content);
                Live::Event(Arc::new(event))
            }
            Err(reason) => {
                undeliverable.push((*offset, reason));
                gap(GapCause::Undeliverable, offset.before(), *offset)
            }
        });
    }
    for loss in seen.facts.losses(from, ordinal) {
        // What ends beyond this part is told up to its end, and the rest by the next one.
        let next = loss.next.min(upto);
        if loss.after < next {
            live.push(gap(GapCause::Evicted, loss.after, next));
        }
    }
    // Stable: a gap that was cut where an event stands comes after it.
    live.sort_by_key(|item| item.position().offset);
    Items {
        live,
        upto,
        undeliverable,
    }
}

impl Outlet {
    pub(super) fn gap(&self, gap: Gap) {
        self.metrics.gap(gap.cause);
        self.interest.offer_gap(&gap);
    }
}
