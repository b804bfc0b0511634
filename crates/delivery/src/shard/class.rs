//! Subscribers that get the same bytes: one rendering for each event and class.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use fanfare_core::{Event, Gap, GapCause, LogId, Position};
use slab::Slab;

use crate::{
    Cursor, Filter, Format, Metrics, View,
    frame::{self, Frame},
    framing::Framing,
    ring::LogIndex,
};

/// Where a subscriber of several logs stood in each when it became live, for logs that have not
/// moved past that since. Empty for a subscriber of one log: an event's own position is its id.
pub(super) type Places = Vec<(LogIndex, Option<Position>)>;

/// What makes two live subscribers get the same bytes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct ClassKey {
    filter: Option<usize>,
    format: Format,
    framing: Framing,
    places: Places,
}

#[derive(Debug)]
struct Class {
    key: ClassKey,
    filter: Option<Arc<dyn Filter>>,
    members: usize,
    /// What the class got of the last thing that passed: a one-entry cache.
    last: (u64, Rendered),
}

/// The bytes of an event for a class, or why there are none.
#[derive(Clone, Debug)]
pub(super) enum Rendered {
    Bytes(Bytes),
    Withheld,
    Failed,
}

#[derive(Debug)]
pub(super) struct Classes {
    classes: Slab<Class>,
    index: HashMap<ClassKey, u32>,
    /// The last answer of each filter that classes of several formats or logs share.
    views: HashMap<usize, (u64, Option<View>)>,
    metrics: Metrics,
}

impl Classes {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self {
            classes: Slab::new(),
            index: HashMap::new(),
            views: HashMap::new(),
            metrics,
        }
    }

    /// The class of a subscriber that becomes live; [`leave`](Self::leave) gives it back.
    pub(super) fn enter(
        &mut self,
        filter: Option<&Arc<dyn Filter>>,
        format: Format,
        framing: Framing,
        places: Places,
    ) -> u32 {
        let key = ClassKey {
            filter: filter.map(address),
            format,
            framing,
            places,
        };
        self.enter_key(key, filter)
    }

    fn enter_key(&mut self, key: ClassKey, filter: Option<&Arc<dyn Filter>>) -> u32 {
        if let Some(index) = self.index.get(&key) {
            self.classes[*index as usize].members += 1;
            return *index;
        }
        let index = self.classes.insert(Class {
            key: key.clone(),
            filter: filter.cloned(),
            members: 1,
            last: (0, Rendered::Withheld),
        }) as u32;
        self.index.insert(key, index);
        index
    }

    /// Moves a member to the class that differs from its own in the framing alone.
    pub(super) fn reframe(&mut self, index: u32, framing: Framing) -> u32 {
        let Some(class) = self.classes.get(index as usize) else {
            return index;
        };
        let (key, filter) = (class.key.clone(), class.filter.clone());
        let key = ClassKey { framing, ..key };
        let to = self.enter_key(key, filter.as_ref());
        self.leave(index);
        to
    }

    pub(super) fn leave(&mut self, index: u32) {
        let Some(class) = self.classes.get_mut(index as usize) else {
            return;
        };
        class.members -= 1;
        if class.members == 0 {
            let class = self.classes.remove(index as usize);
            self.index.remove(&class.key);
            if let Some(filter) = class.key.filter {
                self.views.remove(&filter);
            }
        }
    }

    /// A log began again, and a member was told: where it began in the older life counts no more.
    pub(super) fn begin_again(&mut self, index: u32, log: LogIndex) -> u32 {
        let Some(class) = self.classes.get(index as usize) else {
            return index;
        };
        let of_log = |(held, place): &(LogIndex, Option<Position>)| *held == log && place.is_some();
        if !class.key.places.iter().any(of_log) {
            return index;
        }
        let (mut key, filter) = (class.key.clone(), class.filter.clone());
        let places = key.places.iter_mut().filter(|(held, _)| *held == log);
        places.for_each(|(_, place)| *place = None);
        let to = self.enter_key(key, filter.as_ref());
        self.leave(index);
        to
    }

    /// What a class gets of an event: rendered for its first member, shared by the others.
    pub(super) fn render(
        &mut self,
        index: u32,
        turn: u64,
        frame: &Frame,
        heads: &[Option<Position>],
        logs: &[LogId],
    ) -> &Rendered {
        let class = &mut self.classes[index as usize];
        if class.last.0 == turn {
            return &class.last.1;
        }
        let view = match &class.filter {
            None => Some(View::Whole),
            Some(filter) => {
                let entry = self.views.entry(address(filter)).or_insert((0, None));
                if entry.0 != turn {
                    *entry = (turn, ask(filter, &frame.event, &self.metrics));
                }
                entry.1.clone()
            }
        };
        let rendered = match view {
            None => Rendered::Failed,
            Some(View::Nothing) => Rendered::Withheld,
            Some(View::Whole) if class.key.places.is_empty() => {
                Rendered::Bytes(frame.shared(class.key.format, class.key.framing).clone())
            }
            Some(view) => {
                let id = (!class.key.places.is_empty())
                    .then(|| cursor(&class.key.places, frame, heads, logs).to_string());
                let data = match &view {
                    View::Redacted(data) => Some(data),
                    _ => None,
                };
                let event = &frame.event;
                let bytes = frame::render(event, class.key.format, id.as_deref(), data);
                Rendered::Bytes(class.key.framing.of(bytes))
            }
        };
        class.last = (turn, rendered);
        &class.last.1
    }
}

/// Where live subscribers of several logs stand with an event: in its log at its place, in each
/// other at the newest that was handed on, or where they began if nothing was since.
fn cursor(places: &Places, frame: &Frame, heads: &[Option<Position>], logs: &[LogId]) -> Cursor {
    let place = |(log, floor): &(LogIndex, Option<Position>)| {
        let head = heads.get(usize::from(*log)).and_then(Option::as_ref);
        debug_assert!(usize::from(*log) < logs.len());
        later(floor.as_ref(), head).cloned()
    };
    let mut cursor: Cursor = places.iter().filter_map(place).collect();
    cursor.set(frame.event.position.clone());
    cursor
}

/// The later of where a subscriber began and where the log's head is. A head of another epoch is
/// the feed's, which is behind: once a newer epoch was handed on, no place of the older is left
/// (see [`Classes::begin_again`]).
fn later<'a>(floor: Option<&'a Position>, head: Option<&'a Position>) -> Option<&'a Position> {
    match (floor, head) {
        (Some(floor), Some(head)) if head.is_after(floor) != Some(true) => Some(floor),
        (floor, head) => head.or(floor),
    }
}

/// Asks a filter; `None` where it panicked. A filter is a stranger's code: its panic costs its
/// class this event, and nobody else anything.
pub(super) fn ask(filter: &Arc<dyn Filter>, event: &Event, metrics: &Metrics) -> Option<View> {
    metrics.filter_evaluations.inc();
    let view = catch_unwind(AssertUnwindSafe(|| filter.view(event)));
    if view.is_err() {
        metrics.filter_failures.inc();
    }
    view.ok()
}

/// The gap that a class is told when its filter failed on an event.
pub(super) fn failed(event: &Event) -> Gap {
    Gap {
        scope: (&event.channel).into(),
        cause: GapCause::Filter,
        after: Some(event.position.at(event.position.offset.before())),
        next: event.position.clone(),
    }
}

/// A filter's identity: the same `Arc` is the same class.
pub(super) fn address(filter: &Arc<dyn Filter>) -> usize {
    Arc::as_ptr(filter).cast::<()>() as usize
}
