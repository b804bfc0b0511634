//! A subscriber as its shard sees it: joining, being looked at in time, leaving.

use std::sync::Arc;

use fanfare_core::{BrokerError, Epoch, Gap, LogId, Pattern, Position, Since};
use tokio::sync::oneshot;

use super::{
    Millis, Shard, asked::Asked, backlog::Backlog, catch_up::CatchUp, door::Door, write::Due,
};
use crate::{
    CloseReason, Filter, Format, control,
    outbox::{Key, Outbox},
    ring::LogIndex,
};

/// The longest time for which a subscriber is not looked at.
const LOOK: Millis = 15_000;

/// A subscriber on its way to a shard.
pub(crate) struct Joining {
    pub(crate) id: u32,
    pub(crate) outbox: Arc<Outbox>,
    /// What it follows, by log, and from where on.
    pub(crate) logs: Vec<JoiningLog>,
    pub(crate) channels: Arc<[Pattern]>,
    pub(crate) format: Format,
    pub(crate) hello: bool,
    /// Whether it came with a cursor.
    pub(crate) resumes: bool,
    pub(crate) filter: Option<Arc<dyn Filter>>,
    pub(crate) ends_at: Option<(std::time::Instant, CloseReason)>,
    pub(crate) abort: Arc<dyn Fn() + Send + Sync>,
    pub(crate) seated: Seated,
}

/// Told when the starting place is known, or why it cannot be had.
pub(crate) type Seated = oneshot::Sender<Result<Key, BrokerError>>;

/// What a joining subscriber follows in one log.
#[derive(Debug)]
pub(crate) struct JoiningLog {
    pub(crate) log: LogId,
    pub(crate) channels: Vec<Pattern>,
    pub(crate) since: Since,
    /// A place that the cursor names, but in no log that these channels live in.
    pub(crate) foreign: Option<Position>,
}

/// There is one for each client, however many those are: what can be shared is, what is rare is
/// behind a pointer.
pub(super) struct Member {
    pub(super) id: u32,
    pub(super) door: Door,
    pub(super) asked: Arc<Asked>,
    /// Its class, while it is live.
    pub(super) class: u32,
    pub(super) stage: Stage,
    /// Where history put it ahead of the feed, by log; `None` once the feed has come past.
    pub(super) floors: Option<Arc<Vec<Floor>>>,
    /// The turn in which something for it passed last.
    pub(super) seen: u64,
    /// When something was put into its outbox last.
    pub(super) heard: Millis,
    /// When what it was handed is to be written.
    pub(super) due: Due,
    /// Its starting place is known: it counts as a subscriber.
    pub(super) is_seated: bool,
    /// The delays whose end it waits for, a bit each.
    pub(super) lanes: u8,
    /// After how long in silence it gets a heartbeat.
    beat: u32,
    /// What was seen of its door, while something waits there.
    watch: Option<Box<Watch>>,
    /// When it ends by itself; `Millis::MAX` is never.
    ends_at: Millis,
    /// Why it does.
    ends_by: CloseReason,
}

/// A door in which something waits.
struct Watch {
    /// How often something was taken, and when that was seen last.
    taken: u64,
    taken_at: Millis,
    /// What the gauge of waiting bytes holds of it.
    reported: i64,
}

/// Up to here history has given a live subscriber everything of a log.
#[derive(Clone, PartialEq)]
pub(super) struct Floor {
    pub(super) log: LogIndex,
    pub(super) place: Position,
    /// An epoch that is older than the place's.
    pub(super) older: Option<Epoch>,
}

/// What something that passes is to a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    New,
    /// History has given it already.
    Past,
    /// It is of another epoch than what history gave, and history alone knows which came first.
    Unclear,
}

pub(super) enum Stage {
    /// Being served from history and the ring.
    CatchingUp(Box<CatchUp>),
    /// Handed each event as it passes.
    Live,
    /// Too slow for its outbox.
    Behind(Box<Backlog>),
    /// Told to go; what is queued may still be taken.
    Closing,
}

impl Member {
    pub(super) fn key(&self, slot: usize) -> Key {
        Key {
            slot: slot as u32,
            id: self.id,
        }
    }

    /// Whether what passes at `position` is new to it, as far as history has given it something
    /// of the log already.
    pub(super) fn standing(&mut self, log: LogIndex, position: &Position) -> Standing {
        let Some(floors) = &mut self.floors else {
            return Standing::New;
        };
        let Some(index) = floors.iter().position(|floor| floor.log == log) else {
            return Standing::New;
        };
        let floor = &floors[index];
        match position.is_after(&floor.place) {
            Some(true) => {
                if floors.len() == 1 {
                    self.floors = None;
                } else {
                    Arc::make_mut(floors).swap_remove(index);
                }
                Standing::New
            }
            Some(false) => Standing::Past,
            None if floor.older == Some(position.epoch) => Standing::Past,
            None => Standing::Unclear,
        }
    }

    pub(super) fn is_touched_by(&self, log: LogIndex, gap: &Gap) -> bool {
        let Asked { logs, channels, .. } = &*self.asked;
        logs.contains(&log) && channels.iter().any(|own| own.intersects(&gap.scope))
    }

    /// Where history put it ahead of the feed in a log.
    pub(super) fn floor(&self, log: LogIndex) -> Option<&Floor> {
        let mut floors = self.floors.iter().flat_map(|floors| floors.iter());
        floors.find(|floor| floor.log == log)
    }
}

impl Shard {
    pub(super) fn join(&mut self, joining: Joining) {
        let key = Key {
            slot: self.members.vacant_key() as u32,
            id: joining.id,
        };
        if !joining.outbox.register(key) {
            return;
        }
        let held = joining.logs.iter().map(|log| self.hold_log(&log.log));
        let logs = held.collect();
        let asked = self.asked.enter(Asked {
            logs,
            channels: joining.channels,
            format: joining.format,
            filter: joining.filter,
        });
        let entry = self.members.vacant_entry();
        let started = self.now;
        // An instant that cannot be told in milliseconds from now is further off than any stream.
        let (at, ends_by) = joining.ends_at.unzip();
        let ends_at = at.map_or(Millis::MAX, |at| {
            let left = at.saturating_duration_since(std::time::Instant::now());
            let left = u64::try_from(left.as_millis()).unwrap_or(Millis::MAX);
            started.saturating_add(left)
        });
        entry.insert(Member {
            id: joining.id,
            door: Door::Outbox {
                outbox: joining.outbox,
                abort: joining.abort,
            },
            asked,
            class: u32::MAX,
            stage: Stage::CatchingUp(Box::new(CatchUp::new(
                joining.logs,
                joining.hello,
                joining.resumes,
                Some(joining.seated),
            ))),
            floors: None,
            seen: 0,
            heard: started,
            due: Due::Nothing,
            is_seated: false,
            lanes: 0,
            beat: 0,
            watch: None,
            ends_at,
            ends_by: ends_by.unwrap_or(CloseReason::Expired),
        });
        // Registered before history is asked: from here on nothing of its channels can be missed.
        let asked = self.members[key.slot as usize].asked.clone();
        for channel in &*asked.channels {
            self.interest.entry(channel, Vec::new).push(key.slot);
        }
        self.look_again(key);
        self.advance(key.slot);
        if let Some(drain) = &mut self.drain {
            drain.left.push(key);
        }
    }

    /// A subscriber is looked at: has its time come, is it stalled, does it need a heartbeat?
    pub(super) fn on_due(&mut self, key: Key) {
        let now = self.now;
        let stall = millis(self.config.stall_timeout);
        let stalled = self.watch(key).is_some_and(|idle| idle >= stall);
        if stalled {
            self.cut_off(key.slot);
            return;
        }
        let Some(member) = self.members.get_mut(key.slot as usize) else {
            return;
        };
        if member.id != key.id {
            return;
        }
        let ended = (member.ends_at <= now).then_some(member.ends_by);
        let quiet = now.saturating_sub(member.heard) >= Millis::from(member.beat);
        let idle = member.watch.is_none() && !matches!(member.stage, Stage::Closing);
        if quiet && idle && member.asked.format != Format::Items {
            member.heard = now;
            member.door.beat(&mut self.runs);
            self.metrics.heartbeats.inc();
            self.mark(key.slot);
        }
        if let Some(reason) = ended {
            if let Some(member) = self.member(key) {
                member.ends_at = Millis::MAX;
            }
            self.close(key.slot, reason);
        }
        self.look_again(key);
    }

    /// Looks at what waits for a member. Answers for how long nothing of it was taken; `None`
    /// where nothing waits.
    fn watch(&mut self, key: Key) -> Option<Millis> {
        let now = self.now;
        let member = self.members.get_mut(key.slot as usize)?;
        if member.id != key.id {
            return None;
        }
        let level = member.door.refused();
        if level.bytes == 0 {
            let watch = member.watch.take()?;
            self.metrics.outbox_bytes.sub(watch.reported);
            return None;
        }
        let watch = member.watch.get_or_insert_with(|| {
            Box::new(Watch {
                taken: level.taken,
                taken_at: now,
                reported: 0,
            })
        });
        if watch.taken != level.taken {
            (watch.taken, watch.taken_at) = (level.taken, now);
        }
        let reported = level.bytes as i64;
        let grown = reported - std::mem::replace(&mut watch.reported, reported);
        self.metrics.outbox_bytes.add(grown);
        Some(now - watch.taken_at)
    }

    fn look_again(&mut self, key: Key) {
        let heartbeat = millis(self.config.heartbeat);
        let stall = millis(self.config.stall_timeout);
        let now = self.now;
        let Some(member) = self.member(key) else {
            return;
        };
        if member.beat == 0 || member.heard == now {
            // Up to a tenth earlier, so that streams which began together do not beat together.
            let beat = heartbeat - fastrand::u64(0..=heartbeat / 10);
            member.beat = u32::try_from(beat).unwrap_or(u32::MAX);
        }
        let at = (member.heard + Millis::from(member.beat)).min(now + LOOK);
        let at = at.min(now + (stall / 4).max(100));
        let at = at.min(member.ends_at).max(now + 1);
        self.wheel.add(key, at);
    }

    /// Ends a stream: what is queued may still be taken, then its reason is told.
    pub(super) fn close(&mut self, slot: u32, reason: CloseReason) {
        let retry = self.config.jittered_retry();
        let Some(member) = self.members.get_mut(slot as usize) else {
            return;
        };
        if matches!(member.stage, Stage::Closing) {
            return;
        }
        let words = match member.asked.format {
            Format::Items => format!("{{\"close\":\"{}\"}}", reason.as_str()).into_bytes(),
            _ => control::close(reason.as_str(), retry),
        };
        member.door.force(words.into());
        member.door.end();
        self.metrics.close(reason);
        self.retire(slot);
        self.mark(slot);
    }

    /// Ends the stream of a client that takes nothing: its connection is cut.
    pub(super) fn cut_off(&mut self, slot: u32) {
        let Some(member) = self.members.get_mut(slot as usize) else {
            return;
        };
        match &member.door {
            Door::Outbox { outbox, abort } => {
                outbox.cut();
                let abort = abort.clone();
                if !matches!(member.stage, Stage::Closing) {
                    self.metrics.close(CloseReason::Stalled);
                    self.retire(slot);
                }
                abort();
            }
            Door::Socket(line) => {
                line.reset();
                self.forget(slot, CloseReason::Stalled);
            }
        }
    }

    /// The sink is gone.
    pub(super) fn forget(&mut self, slot: u32, reason: CloseReason) {
        let Some(member) = self.members.get(slot as usize) else {
            return;
        };
        if !matches!(member.stage, Stage::Closing) {
            self.metrics.close(reason);
            self.retire(slot);
        }
        let mut member = self.members.remove(slot as usize);
        if let Door::Socket(line) = &mut member.door {
            line.give_up(&mut self.runs);
        }
        if let Some(watch) = &member.watch {
            self.metrics.outbox_bytes.sub(watch.reported);
        }
        self.asked.leave(member.asked);
        if member.is_seated {
            self.metrics.subscribers.dec();
        }
        if self.members.is_empty() {
            self.members.shrink_to_fit();
        }
    }

    /// Takes a subscriber out of everything but its slot.
    pub(super) fn retire(&mut self, slot: u32) {
        let Some(member) = self.members.get_mut(slot as usize) else {
            return;
        };
        let asked = member.asked.clone();
        if !matches!(
            std::mem::replace(&mut member.stage, Stage::Closing),
            Stage::CatchingUp(_)
        ) {
            self.classes.leave(member.class);
        }
        for channel in &*asked.channels {
            let Some(slots) = self.interest.get_mut(channel) else {
                continue;
            };
            if let Some(index) = slots.iter().position(|held| *held == slot) {
                slots.swap_remove(index);
            }
            if slots.is_empty() {
                self.interest.remove(channel);
            }
        }
        for log in &asked.logs {
            self.release_log(*log);
        }
    }
}

impl Stage {
    /// Whether a slow subscriber gets what passes of a log from history, once it is not slow any
    /// more.
    pub(super) fn catches_up_later(&self, log: LogIndex) -> bool {
        match self {
            Self::Behind(backlog) => backlog.late.contains(&log) || backlog.unclear.contains(&log),
            _ => false,
        }
    }
}

pub(super) fn millis(duration: std::time::Duration) -> Millis {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX / 4)
        .min(u64::MAX / 4)
}

impl std::fmt::Debug for Joining {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Joining")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

// What an idle client costs its shard; `docs/performance.md` tells the sum.
const _: () = assert!(size_of::<Member>() <= 136);
