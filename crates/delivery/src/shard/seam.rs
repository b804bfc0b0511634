//! THE SEAM: history, then the ring, then live, with nothing missed and nothing twice.
//!
//! 1. The hub has made sure that this node follows the channels (law 2), and the shard has
//!    registered the subscriber. From here on nothing can be missed: what passes goes to the ring.
//! 2. Pages of history go into the outbox, paced by its room, from where the subscriber stands up
//!    to the end of what the broker had when it was asked. That end lies after step 1, so
//!    everything after it passes through the ring. Of several logs, pages are asked for at once and
//!    come in any order; what is handed over waits for all of them.
//! 3. Then what the ring holds after that end. Everything is compared by offset, so what stands in
//!    both history and ring is handed over once. At the ring's end the subscriber is live, in the
//!    same turn in which nothing else could pass.
//! 4. If the ring let go of something in between, back to 2. If history did too, it says so with
//!    a gap.
//!
//! Invariant, checked against a model in `tests`: every event between the starting place and now
//! is handed over once, in order, or withheld by the filter, or covered by a gap that was sent.

use std::sync::Arc;

use fanfare_core::{Event, Gap, History, HistoryQuery, Live, LogId, Pattern};
use smallvec::SmallVec;

use super::{
    Shard, Stage,
    catch_up::{CatchUp, LogCatchUp},
    class::{self, Places},
    member::Floor,
};
use crate::{
    View, control,
    frame::{self, Frame},
    outbox::Key,
    ring::{Cover, LogIndex, Passing},
};

/// How much of the ring is looked at in one go.
const PIECE: usize = 32;

impl Shard {
    pub(super) fn take_page(&mut self, key: Key, log: &LogId, page: History) {
        let Some(member) = self.member(key) else {
            return;
        };
        let Stage::CatchingUp(catch_up) = &mut member.stage else {
            return;
        };
        catch_up.take(log, page);
        self.advance(key.slot);
    }

    /// Goes as far as there is room and material.
    pub(super) fn advance(&mut self, slot: u32) {
        let Some(member) = self.members.get_mut(slot as usize) else {
            return;
        };
        let Stage::CatchingUp(_) = member.stage else {
            return;
        };
        // Out of the member while it is worked on; `finish` or the end of this call decides what
        // the member is then.
        let stage = std::mem::replace(&mut member.stage, Stage::Closing);
        let Stage::CatchingUp(mut catch_up) = stage else {
            return;
        };
        let live = self.go_on(slot, &mut catch_up);
        if live {
            self.go_live(slot, &catch_up);
        } else if let Some(member) = self.members.get_mut(slot as usize) {
            member.stage = Stage::CatchingUp(catch_up);
        }
        self.mark(slot);
    }

    /// Answers whether the subscriber has everything up to now.
    fn go_on(&mut self, slot: u32, catch_up: &mut CatchUp) -> bool {
        loop {
            self.ask(slot, catch_up);
            if catch_up.is_waiting() {
                return false;
            }
            if std::mem::take(&mut catch_up.hello) {
                self.say_hello(slot, catch_up);
            }
            if let Some(seated) = catch_up.seated.take()
                && let Some(member) = self.members.get_mut(slot as usize)
            {
                member.is_seated = true;
                self.metrics.subscribers.inc();
                // A hub that no longer waits has let go of the seat too.
                let _ = seated.send(Ok(member.key(slot as usize)));
            }
            self.count_resume(catch_up);
            if !self.hand_over_pages(slot, catch_up) {
                return false;
            }
            if catch_up.wants() {
                continue;
            }
            if self.ring_is_short(catch_up) {
                continue;
            }
            return self.hand_over_ring(slot, catch_up);
        }
    }

    /// Asks for pages of several logs at once: they do not depend on each other, and each ends after
    /// the subscriber was registered.
    fn ask(&mut self, slot: u32, catch_up: &mut CatchUp) {
        let Some(member) = self.members.get(slot as usize) else {
            return;
        };
        let key = member.key(slot as usize);
        let most = self.config.history_calls_per_client.max(1);
        let limit = std::num::NonZeroUsize::new(self.config.page_events)
            .unwrap_or(std::num::NonZeroUsize::MIN);
        let max_bytes = self.config.page_bytes;
        for page in catch_up.ask(most) {
            let query = HistoryQuery {
                log: page.log,
                channels: page.channels,
                since: page.since,
                limit,
                max_bytes,
            };
            self.fetches.push(key, query);
        }
    }

    fn say_hello(&mut self, slot: u32, catch_up: &CatchUp) {
        let Some(member) = self.members.get_mut(slot as usize) else {
            return;
        };
        member.door.force(control::hello(
            member.asked.format,
            &self.config.node,
            &member.asked.channels,
            catch_up.has_gap(),
            &catch_up.cursor(),
        ));
    }

    fn count_resume(&self, catch_up: &mut CatchUp) {
        if std::mem::take(&mut catch_up.resumes) {
            let gap = catch_up.has_gap();
            let outcome = if gap {
                &self.metrics.resumed_with_gap
            } else {
                &self.metrics.resumed
            };
            outcome.inc();
        }
    }

    /// Hands over what came of history. Answers whether all of it went.
    fn hand_over_pages(&mut self, slot: u32, catch_up: &mut CatchUp) -> bool {
        for index in 0..catch_up.logs.len() {
            let ring_log = self.holds.index(&catch_up.logs[index].log);
            loop {
                if !self.has_room(slot) {
                    return false;
                }
                let log = &mut catch_up.logs[index];
                let Some(item) = log.pending.pop_front() else {
                    break;
                };
                log.place = Some(item.position().clone());
                match item {
                    Live::Event(event) => {
                        let known = self.ring.find(ring_log, &event.position).cloned();
                        self.hand_over(slot, catch_up, &event, known.as_deref());
                    }
                    Live::Gap(gap) => self.hand_over_gap(slot, &gap),
                }
            }
            let log = &mut catch_up.logs[index];
            if let Some(upto) = &log.upto {
                let ahead = log
                    .place
                    .as_ref()
                    .is_none_or(|place| upto.is_after(place) != Some(false));
                if ahead {
                    log.place = Some(upto.clone());
                }
            }
        }
        true
    }

    /// Whether the ring let go of something in between; then history is asked again.
    fn ring_is_short(&self, catch_up: &mut CatchUp) -> bool {
        let mut short = false;
        for log in &mut catch_up.logs {
            let Some(place) = &log.place else { continue };
            let index = self.holds.index(&log.log);
            let cover = index.map_or(Cover::Whole, |index| self.ring.covers(index, place));
            log.more = match cover {
                Cover::Whole => false,
                Cover::Short => true,
                // The log began again, and the ring or the place is of its older life. History
                // knows which: asked from here it tells the gap, or stands by the place's epoch.
                Cover::Foreign(ring) if log.older == Some(ring) => false,
                Cover::Foreign(ring) => {
                    log.asked_about = Some(ring);
                    true
                }
            };
            short |= log.more;
        }
        short
    }

    /// Hands over what the ring holds. Answers whether all of it went.
    fn hand_over_ring(&mut self, slot: u32, catch_up: &mut CatchUp) -> bool {
        for index in 0..catch_up.logs.len() {
            let Some(ring_log) = self.holds.index(&catch_up.logs[index].log) else {
                continue;
            };
            loop {
                let rest = self.ring_piece(ring_log, &catch_up.logs[index]);
                if rest.is_empty() {
                    break;
                }
                for passing in rest {
                    if !self.has_room(slot) {
                        return false;
                    }
                    self.hand_over_passing(slot, catch_up, index, &passing);
                }
            }
        }
        true
    }

    /// Some of what the ring holds after a place: clients that come and go must not each have all
    /// of it copied.
    fn ring_piece(&self, ring_log: LogIndex, log: &LogCatchUp) -> SmallVec<[Passing; PIECE]> {
        let place = log.place.iter();
        let rest = place.flat_map(|place| self.ring.after(ring_log, place));
        rest.take(PIECE).cloned().collect()
    }

    fn hand_over_passing(
        &mut self,
        slot: u32,
        catch_up: &mut CatchUp,
        index: usize,
        passing: &Passing,
    ) {
        let log = &mut catch_up.logs[index];
        log.place = Some(passing.position().clone());
        let selected = |pattern: &Pattern| match passing {
            Passing::Frame(frame) => pattern.matches(&frame.event.channel),
            Passing::Gap(gap) => pattern.intersects(&gap.scope),
        };
        if !log.channels.iter().any(selected) {
            return;
        }
        match passing {
            Passing::Frame(frame) => self.hand_over(slot, catch_up, &frame.event, Some(frame)),
            Passing::Gap(gap) => self.hand_over_gap(slot, gap),
        }
    }

    fn has_room(&mut self, slot: u32) -> bool {
        // Half of the outbox is left for what comes live right after.
        let half = self.config.outbox_bytes / 2;
        let runs = &self.runs;
        self.members.get_mut(slot as usize).is_some_and(|member| {
            member.door.level(runs).bytes <= half || member.door.want(runs, half / 2)
        })
    }

    /// Hands over an event of the past. `frame` is its frame where the ring still has it: whoever
    /// comes back needs the same ones.
    fn hand_over(&mut self, slot: u32, catch_up: &CatchUp, event: &Event, frame: Option<&Frame>) {
        let now = self.now;
        let Some(member) = self.members.get_mut(slot as usize) else {
            return;
        };
        let view = match &member.asked.filter {
            None => Some(View::Whole),
            Some(filter) => class::ask(filter, event, &self.metrics),
        };
        let (format, framing) = (member.asked.format, member.door.framing());
        let id = (catch_up.logs.len() > 1).then(|| catch_up.cursor().to_string());
        let bytes = match (&view, frame) {
            (Some(View::Nothing), _) => {
                self.tally.withheld += 1;
                return;
            }
            (None, _) => {
                self.hand_over_gap(slot, &class::failed(event));
                return;
            }
            (Some(View::Whole), Some(frame)) if id.is_none() => {
                frame.shared(format, framing).clone()
            }
            (Some(View::Whole), _) => framing.of(frame::render(event, format, id.as_deref(), None)),
            (Some(View::Redacted(data)), _) => {
                framing.of(frame::render(event, format, id.as_deref(), Some(data)))
            }
        };
        self.tally.frames += 1;
        self.tally.replayed += 1;
        self.tally.bytes += bytes.len() as u64;
        member.heard = now;
        member.door.force_framed(bytes);
    }

    fn hand_over_gap(&mut self, slot: u32, gap: &Gap) {
        let Some(member) = self.members.get_mut(slot as usize) else {
            return;
        };
        self.metrics.gap(gap.cause);
        member.door.force(control::gap(member.asked.format, gap));
    }

    fn go_live(&mut self, slot: u32, catch_up: &CatchUp) {
        let mut places = Places::new();
        let mut floors = Vec::new();
        for log in &catch_up.logs {
            let Some(index) = self.holds.index(&log.log) else {
                continue;
            };
            let head = self.heads[usize::from(index)].as_ref();
            // History is ahead of the feed: what still comes of that is passed over, and the
            // subscriber's id does not fall back to the feed's place.
            let ahead = log.place.clone().filter(|place| {
                head.is_none_or(|head| match place.is_after(head) {
                    Some(after) => after,
                    None => log.older == Some(head.epoch),
                })
            });
            places.push((index, ahead.clone()));
            if let Some(place) = ahead {
                floors.push(Floor {
                    log: index,
                    place,
                    older: log.older,
                });
            }
        }
        if catch_up.logs.len() == 1 {
            // An event's own position is the id.
            places.clear();
        }
        let floors = self.share_floors(floors);
        let Some(member) = self.members.get_mut(slot as usize) else {
            return;
        };
        let filter = member.asked.filter.as_ref();
        member.class =
            self.classes
                .enter(filter, member.asked.format, member.door.framing(), places);
        member.floors = floors;
        member.stage = Stage::Live;
    }
    /// Those who came after the same event stand on the same floors.
    fn share_floors(&mut self, floors: Vec<Floor>) -> Option<Arc<Vec<Floor>>> {
        let last = self.floors.entry(floors.first()?.log).or_default();
        if let Some(shared) = last.upgrade().filter(|shared| **shared == floors) {
            return Some(shared);
        }
        let floors = Arc::new(floors);
        *last = Arc::downgrade(&floors);
        Some(floors)
    }
}
