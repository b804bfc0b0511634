//! One core's part of the fan-out: a state machine without clock or task, that waits for nothing.
//!
//! It is told what happened ([`Message`], a page of history, a bell, a socket's readiness, a tick)
//! and answers with bytes in outboxes and sockets and with [`Fetch`]es that it wants made. `run` drives it in production, a
//! seeded scheduler in `tests/seam.rs`; both see the same code.

mod asked;
mod backlog;
mod boarding;
mod catch_up;
mod class;
mod delay;
mod door;
mod fetches;
mod late;
mod line;
mod logs;
mod member;
mod poller;
mod run;
mod runs;
mod seam;
mod slow;
#[cfg(test)]
mod tests;
mod wheel;
mod write;

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use fanfare_core::{BrokerError, Gap, History, LogId, LogMap, PatternMap, Position};
use rustc_hash::FxHashMap;
use slab::Slab;

pub(crate) use boarding::Boarding;
pub(crate) use member::{Joining, JoiningLog};
pub(crate) use poller::Poller;
pub(crate) use run::run;

use crate::{
    CloseReason, DeliveryConfig, Metrics, control,
    frame::Frame,
    outbox::Key,
    ring::{LogIndex, Passing, Ring},
};
use asked::AllAsked;
use class::{Classes, Rendered};
use door::Door;
pub(crate) use fetches::Fetch;
use fetches::Fetches;
use member::{Floor, Member, Stage, Standing};
use runs::Runs;
use wheel::Wheel;
use write::Dirty;

/// Milliseconds since the shard began.
pub(crate) type Millis = u64;

/// What a shard is told through its inbox.
#[derive(Debug)]
pub(crate) enum Message {
    /// Events and gaps, in the order of the feed.
    Batch(Arc<[Passing]>),
    /// A subscriber.
    Join(Box<Joining>),
    /// A subscriber's socket.
    Board(Box<Boarding>),
    /// End one stream.
    Close { key: Key, reason: CloseReason },
    /// End all streams, spread over the window.
    Drain(Duration),
    /// End every socket at once.
    Cut,
    /// The broker was closed.
    FeedEnded,
}

pub(crate) struct Shard {
    config: Arc<DeliveryConfig>,
    metrics: Metrics,
    members: Slab<Member>,
    /// Which slots follow what.
    interest: PatternMap<Vec<u32>>,
    map: LogMap,
    /// The logs that somebody here has, by index; the others are vacant.
    logs: Vec<LogId>,
    /// The newest place of each log that every live subscriber of it was handed.
    heads: Vec<Option<Position>>,
    holds: logs::Holds,
    classes: Classes,
    ring: Ring,
    wheel: Wheel,
    fetches: Fetches,
    asked: AllAsked,
    /// What subscribers of a log stood ahead of last, for those who come next.
    floors: FxHashMap<LogIndex, Weak<Vec<Floor>>>,
    /// Whose outbox overfilled, and since when, in the order of time.
    overfull: VecDeque<(Millis, Key)>,
    runs: Runs,
    dirty: Dirty,
    delays: delay::Delays,
    /// Slots whose sockets are not watched yet.
    arrivals: Vec<u32>,
    /// Numbers what passes, so that a subscriber whose patterns overlap gets it once.
    turn: u64,
    now: Millis,
    drain: Option<Drain>,
    tally: Tally,
}

#[derive(Debug)]
struct Drain {
    began: Millis,
    window: Millis,
    /// How many streams there were when it began.
    all: usize,
    left: Vec<Key>,
}

/// Counts of one turn, added to the shared metrics when it ends: one atomic a turn, not one a
/// delivery.
#[derive(Debug, Default)]
struct Tally {
    frames: u64,
    bytes: u64,
    withheld: u64,
    replayed: u64,
}

impl Shard {
    pub(crate) fn new(config: Arc<DeliveryConfig>, metrics: Metrics, map: LogMap) -> Self {
        Self {
            ring: Ring::new(config.ring_bytes),
            delays: delay::Delays::new(&config),
            config,
            classes: Classes::new(metrics.clone()),
            metrics,
            members: Slab::new(),
            interest: PatternMap::new(),
            map,
            logs: Vec::new(),
            heads: Vec::new(),
            holds: logs::Holds::default(),
            wheel: Wheel::default(),
            fetches: Fetches::default(),
            asked: AllAsked::default(),
            floors: FxHashMap::default(),
            overfull: VecDeque::new(),
            runs: Runs::default(),
            dirty: Dirty::default(),
            arrivals: Vec::new(),
            turn: 0,
            now: 0,
            drain: None,
            tally: Tally::default(),
        }
    }

    /// Tells the time. Everything that happens until the next call happens now.
    pub(crate) fn set_now(&mut self, now: Millis) {
        self.now = self.now.max(now);
    }

    /// The history calls that subscribers wait for, oldest first.
    pub(crate) fn next_fetch(&mut self) -> Option<Fetch> {
        loop {
            let mut fetch = self.fetches.pop()?;
            fetch.keys.retain(|key| {
                let member = self.member(*key);
                member.is_some_and(|member| matches!(member.stage, Stage::CatchingUp(_)))
            });
            if !fetch.keys.is_empty() {
                return Some(fetch);
            }
        }
    }

    pub(crate) fn on_batch(&mut self, batch: &[Passing]) {
        let ring_before = self.ring.bytes();
        for passing in batch {
            self.turn += 1;
            let log = &passing.position().log;
            match (self.holds.index(log), passing) {
                (Some(log), Passing::Frame(frame)) => self.on_frame(log, frame),
                (Some(log), Passing::Gap(gap)) => self.on_gap(log, gap),
                (None, _) => self.on_new_log(log, passing),
            }
        }
        let grown = self.ring.bytes() as i64 - ring_before as i64;
        self.metrics.ring_bytes.add(grown);
        self.measure(batch);
    }

    /// One look at the clock a batch, one observation an event.
    fn measure(&self, batch: &[Passing]) {
        let now = SystemTime::now();
        for passing in batch {
            if let Passing::Frame(frame) = passing {
                // A publisher's clock that is ahead of ours is no latency.
                let age = now
                    .duration_since(frame.event.published_at)
                    .unwrap_or_default();
                self.metrics.latency.observe(age.as_secs_f64());
            }
        }
    }

    fn on_frame(&mut self, log: LogIndex, frame: &Arc<Frame>) {
        let event = &frame.event;
        self.heads[usize::from(log)] = Some(event.position.clone());
        let Self {
            interest,
            members,
            classes,
            metrics,
            heads,
            logs,
            holds,
            config,
            tally,
            runs,
            dirty,
            delays,
            turn,
            now,
            ..
        } = self;
        let is_late = holds.is_late(log);
        let delay = delays.of(&event.channel);
        let (mut new_to, mut unclear) = (Vec::new(), Vec::new());
        runs.next_piece();
        let mut overfull: Vec<(u32, Bytes)> = Vec::new();
        let mut followed = false;
        interest.each_match(&event.channel, |slots| {
            followed = true;
            for slot in slots {
                let Some(member) = members.get_mut(*slot as usize) else {
                    continue;
                };
                if std::mem::replace(&mut member.seen, *turn) == *turn {
                    continue;
                }
                if is_late && !member.asked.logs.contains(&log) {
                    new_to.push(*slot);
                    continue;
                }
                // The ring has it for those who are catching up.
                if matches!(member.stage, Stage::CatchingUp(_) | Stage::Closing)
                    || member.stage.catches_up_later(log)
                {
                    continue;
                }
                if member.floors.is_some() {
                    match member.standing(log, &event.position) {
                        Standing::New => {}
                        Standing::Past => continue,
                        Standing::Unclear => {
                            unclear.push(*slot);
                            continue;
                        }
                    }
                }
                match classes.render(member.class, *turn, frame, heads, logs) {
                    Rendered::Bytes(bytes) => {
                        let class = member.class;
                        let live = matches!(member.stage, Stage::Live);
                        if live && member.door.push(runs, class, bytes, config.outbox_bytes) {
                            member.heard = *now;
                            tally.frames += 1;
                            tally.bytes += bytes.len() as u64;
                            match delay {
                                Some(lane) => delays.hold(lane, member, *slot, *now),
                                None => dirty.add(member, *slot, slots.len()),
                            }
                        } else {
                            overfull.push((*slot, bytes.clone()));
                        }
                    }
                    Rendered::Withheld => tally.withheld += 1,
                    Rendered::Failed => {
                        let gap = class::failed(event);
                        metrics.gap(gap.cause);
                        member.door.force(control::gap(member.asked.format, &gap));
                        dirty.add(member, *slot, slots.len());
                    }
                }
            }
        });
        if followed {
            self.ring.push(log, Passing::Frame(frame.clone()));
        }
        for (slot, bytes) in overfull {
            self.on_overfull(slot, frame, bytes);
        }
        for slot in new_to {
            self.take_up(slot, &event.position.log);
        }
        for slot in unclear {
            self.clear_up(slot, log);
        }
    }

    /// Something of a log passed that history must place first.
    fn clear_up(&mut self, slot: u32, log: LogIndex) {
        match self
            .members
            .get_mut(slot as usize)
            .map(|member| &mut member.stage)
        {
            Some(Stage::Behind(backlog)) => backlog.unclear.push(log),
            Some(Stage::Live) => self.catch_up_again(slot, &[]),
            _ => {}
        }
    }

    fn on_gap(&mut self, log: LogIndex, gap: &Arc<Gap>) {
        // A gap of a new epoch is where that epoch begins for this node.
        self.heads[usize::from(log)] = Some(gap.next.clone());
        self.ring.push(log, Passing::Gap(gap.clone()));
        let is_late = self.holds.is_late(log);
        let (mut behind, mut new_to, mut unclear) = (Vec::new(), Vec::new(), Vec::new());
        for (slot, member) in &mut self.members {
            if is_late && !member.asked.logs.contains(&log) {
                if member
                    .asked
                    .channels
                    .iter()
                    .any(|own| own.intersects(&gap.scope))
                {
                    new_to.push(slot as u32);
                }
                continue;
            }
            let waits = matches!(member.stage, Stage::CatchingUp(_) | Stage::Closing);
            if waits || !member.is_touched_by(log, gap) || member.stage.catches_up_later(log) {
                continue;
            }
            match member.standing(log, &gap.next) {
                Standing::New => {}
                Standing::Past => continue,
                Standing::Unclear => {
                    unclear.push(slot as u32);
                    continue;
                }
            }
            if gap
                .after
                .as_ref()
                .is_none_or(|after| after.epoch != gap.next.epoch)
            {
                member.class = self.classes.begin_again(member.class, log);
            }
            match &mut member.stage {
                Stage::Live => {
                    member.door.force(control::gap(member.asked.format, gap));
                    self.metrics.gap(gap.cause);
                    self.dirty.add(member, slot as u32, 1);
                }
                Stage::Behind(_) => behind.push(slot as u32),
                Stage::CatchingUp(_) | Stage::Closing => {}
            }
        }
        for slot in behind {
            self.lose(slot, gap);
        }
        for slot in new_to {
            self.take_up(slot, &gap.next.log);
        }
        for slot in unclear {
            self.clear_up(slot, log);
        }
    }

    /// A page of history came, or could not be had.
    pub(crate) fn on_page(&mut self, key: Key, log: &LogId, page: Result<History, BrokerError>) {
        if self.member(key).is_none() {
            return;
        }
        match page {
            Ok(page) => self.take_page(key, log, page),
            Err(error) => self.on_no_page(key, error),
        }
    }

    fn on_no_page(&mut self, key: Key, error: BrokerError) {
        let Some(member) = self.member(key) else {
            return;
        };
        // Another page failed before, and it was told to go.
        let Stage::CatchingUp(catch_up) = &mut member.stage else {
            return;
        };
        if let Some(seated) = catch_up.unseated() {
            // The stream has not begun: the edge can still answer with a status.
            self.retire(key.slot);
            let _ = seated.send(Err(error));
            return;
        }
        tracing::warn!(%error, "history cannot be read; the client is told to come back");
        self.close(key.slot, CloseReason::Broker);
    }

    /// A sink moved on, or went away.
    pub(crate) fn on_bell(&mut self, key: Key) {
        let Some(member) = self.member(key) else {
            return;
        };
        let Door::Outbox { outbox, .. } = &member.door else {
            // Of the time before its socket came.
            return;
        };
        if outbox.answer() {
            self.forget(key.slot, CloseReason::Client);
            return;
        }
        self.on_room(key.slot);
    }

    /// There may be room again for what a member waits to hand over.
    fn on_room(&mut self, slot: u32) {
        match self.members.get(slot as usize).map(|member| &member.stage) {
            Some(Stage::CatchingUp(_)) => self.advance(slot),
            Some(Stage::Behind(_)) => self.recover(slot),
            Some(Stage::Live | Stage::Closing) | None => {}
        }
    }

    /// Time passed: heartbeats, expiries, stalls, and the drain.
    pub(crate) fn on_tick(&mut self) {
        while let Some(key) = self.wheel.next_due(self.now) {
            self.on_due(key);
        }
        self.judge_overfull();
        self.drain_some();
    }

    pub(crate) fn on_message(&mut self, message: Message) {
        match message {
            Message::Batch(batch) => self.on_batch(&batch),
            Message::Join(joining) => self.join(*joining),
            Message::Board(boarding) => self.board(*boarding),
            Message::Cut => self.cut_all(),
            Message::Close { key, reason } => {
                if self.member(key).is_some() {
                    self.close(key.slot, reason);
                }
            }
            Message::Drain(window) => {
                let keys = self.members.iter().map(|(slot, member)| member.key(slot));
                let left: Vec<Key> = keys.collect();
                self.drain = Some(Drain {
                    began: self.now,
                    window: member::millis(window),
                    all: left.len(),
                    left,
                });
            }
            Message::FeedEnded => {
                let all: Vec<usize> = self.members.iter().map(|(slot, _)| slot).collect();
                all.into_iter()
                    .for_each(|slot| self.close(slot as u32, CloseReason::Broker));
            }
        }
    }

    /// Closes an even share of those who are left to drain.
    fn drain_some(&mut self) {
        let Some(drain) = &mut self.drain else {
            return;
        };
        let over = drain.window.saturating_sub(self.now - drain.began);
        // As many may be left as there is of the window.
        let keep = drain.all as u128 * u128::from(over) / u128::from(drain.window.max(1));
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        let from = keep.min(drain.left.len());
        for key in drain.left.split_off(from) {
            if self.member(key).is_some() {
                self.close(key.slot, CloseReason::Drain);
            }
        }
    }

    fn member(&mut self, key: Key) -> Option<&mut Member> {
        self.members
            .get_mut(key.slot as usize)
            .filter(|member| member.id == key.id)
    }
}
