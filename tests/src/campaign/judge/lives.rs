//! The lives of a log, and what was lost with them.
//!
//! A bus that loses its newest events begins another life of the log, which names all that is left
//! anew. Two servers that both serve for a while may each have one, and even give the same places of
//! one life to different events.

use std::collections::HashMap;

use super::super::transcript::{GapSeen, Place};

/// A channel's index, and the number of an event of it.
pub(super) type Number = (usize, usize);
type Life = (String, String);

/// Under which ids each event was seen, by publishers and by clients.
#[derive(Debug, Default)]
pub(super) struct Lives {
    ids: HashMap<Number, Vec<String>>,
    owners: HashMap<String, Number>,
    /// Of each life, the lowest place that two events have.
    forks: HashMap<Life, u128>,
}

/// Up to which place a client was in each life.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends(HashMap<Life, u128>);

impl Lives {
    /// An event has this id. One of several logs names no life.
    pub(super) fn learn(&mut self, event: Number, id: &str) {
        let Some(place) = Place::only(id) else {
            return;
        };
        let ids = self.ids.entry(event).or_default();
        if ids.iter().any(|known| known == id) {
            return;
        }
        ids.push(id.to_owned());
        let owner = *self.owners.entry(id.to_owned()).or_insert(event);
        if owner != event {
            let lowest = self.forks.entry(life(&place)).or_insert(place.offset);
            *lowest = place.offset.min(*lowest);
        }
    }

    /// Whether the gap tells its client that the event is lost: in the life that the gap begins it
    /// does not come after the gap, and in none that the client was in did it stand where the client
    /// had been when the gap came, and where the gap says that nothing was lost.
    pub(super) fn is_lost_by(&self, gap: &GapSeen, event: Number, ends: &Ends) -> bool {
        let (Some(next), Some(ids)) = (Place::only(&gap.next), self.ids.get(&event)) else {
            return false;
        };
        let after = gap.after.as_deref().and_then(Place::only);
        let mut places = ids.iter().filter_map(|id| Place::only(id));
        gap.begins_anew()
            && after.is_none_or(|after| after.log == next.log)
            && places.all(|place| {
                let end = match after {
                    // The gap's own word on this life.
                    Some(after) if life(&after) == life(&place) => Some(after.offset),
                    // It says that it knows of nothing that is whole.
                    None => None,
                    Some(_) => ends.0.get(&life(&place)).copied(),
                };
                let is_passed = end.is_some_and(|end| {
                    let fork = self.forks.get(&life(&place));
                    place.offset <= end && fork.is_none_or(|fork| place.offset < *fork)
                });
                let is_beyond = place.epoch == next.epoch && place.offset > next.offset;
                place.log == next.log && !is_passed && !is_beyond
            })
    }
}

impl Ends {
    /// The client is here.
    pub(super) fn note(&mut self, id: &str) {
        if let Some(place) = Place::only(id) {
            let end = self.0.entry(life(&place)).or_insert(place.offset);
            *end = place.offset.max(*end);
        }
    }
}

fn life(place: &Place<'_>) -> Life {
    (place.log.to_owned(), place.epoch.to_owned())
}
