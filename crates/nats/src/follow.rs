//! What this node subscribes to on the bus, and which subscription speaks for a subject.
//!
//! The server sends a message once for each subscription that selects it, and core NATS messages
//! have no identity by which copies could be told. The client gives each subscription a queue of
//! its own, so copies do not arrive side by side either.
//!
//! **The owner rule.** A subject has one owner: the oldest subscription that selects it. Copies
//! that another one brings are dropped. So each message arrives once, and in the server's order,
//! since one queue brings all of its subject.
//!
//! **No hand-over.** While the owner lives it stays the owner; a younger subscription cannot know
//! which of its copies the owner has not brought. So a subscription goes only when nobody holds it
//! and no younger one that meets it is left; the youngest goes first. When an owner goes, nobody
//! follows what it owned, and nothing is lost.
//!
//! What that costs:
//! - Narrow subscriptions that were there before a wide one stay until the wide one goes, and the
//!   server sends their messages twice. There are no more of them than were open at that time.
//! - A wide one holds the narrow ones that come after it: they share it and open none of their
//!   own. It stays as long as one of them is followed, and the node receives all that it selects.
//!
//! `fanfare_broker_subscriptions` counts them all.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use async_nats::{Message, Subscriber};
use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{OnceCell, oneshot};

use crate::{
    error::Failure,
    overlap::{Cover, is_wild, meet},
};

/// The subscriptions of a link.
#[derive(Debug)]
pub(crate) struct Table {
    linger: Duration,
    rows: Mutex<Rows>,
}

#[derive(Debug, Default)]
struct Rows {
    /// By age: the lower, the older.
    all: BTreeMap<u64, Row>,
    cover: Cover,
    /// What nobody holds, and when it may go.
    idle: VecDeque<(Instant, u64)>,
    last: u64,
}

#[derive(Debug)]
struct Row {
    topic: Arc<Topic>,
    holds: usize,
    /// How many younger ones meet it.
    younger: usize,
    /// The older ones that it meets.
    older: Vec<u64>,
    until: Option<Instant>,
    /// Whether it stands in `idle`.
    queued: bool,
}

/// A subscription on the bus, there or to be made.
#[derive(Debug)]
pub(crate) struct Topic {
    age: u64,
    pub(crate) subject: Arc<str>,
    /// Set once the server has it.
    pub(crate) opened: OnceCell<()>,
    /// Dropping it ends its [`Tap`].
    tap: Mutex<Option<oneshot::Sender<()>>>,
    /// The older ones that it meets, until it is opened.
    older: Mutex<Vec<Arc<Topic>>>,
    refused: OnceLock<Failure>,
}

/// A hold on a subscription. Dropping it lets go.
#[derive(Debug)]
pub(crate) struct Share {
    table: Arc<Table>,
    pub(crate) topic: Arc<Topic>,
}

impl Table {
    pub(crate) fn new(linger: Duration) -> Self {
        Self {
            linger,
            rows: Mutex::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.lock().all.len()
    }

    /// Takes a hold on a subscription that selects all of `subject`: one that is there, or a new
    /// one.
    pub(crate) fn hold(self: &Arc<Self>, subject: &str) -> Share {
        let mut rows = self.rows.lock();
        let age = match rows.cover.oldest(subject) {
            Some(age) => age,
            None => rows.add(subject),
        };
        // Never vacant: what covers is there.
        let row = rows
            .all
            .entry(age)
            .or_insert_with(|| Row::new(age, subject));
        row.holds += 1;
        Share {
            table: self.clone(),
            topic: row.topic.clone(),
        }
    }

    /// Takes a subscription out that the server refused. Whoever comes next asks anew.
    pub(crate) fn refuse(&self, topic: &Topic, why: Failure) {
        // A second refusal says the same.
        let _ = topic.refused.set(why);
        topic.tap.lock().take();
        let row = self.rows.lock().remove(topic.age, Instant::now());
        drop(row);
    }

    /// The subscription to just this subject.
    pub(crate) fn find(&self, subject: &str) -> Option<Arc<Topic>> {
        let rows = self.rows.lock();
        let row = rows.all.get(&rows.cover.oldest(subject)?)?;
        (*row.topic.subject == *subject).then(|| row.topic.clone())
    }

    /// Drops what may go, `most` at most. Answers how many went.
    pub(crate) fn sweep(&self, now: Instant, most: usize) -> usize {
        let gone = self.rows.lock().sweep(now, most);
        // Dropped outside of the lock: each wakes its reader.
        gone.len()
    }

    fn release(&self, age: u64) {
        let now = Instant::now();
        let mut rows = self.rows.lock();
        let Rows { all, idle, .. } = &mut *rows;
        // What was refused is gone already.
        let Some(row) = all.get_mut(&age) else { return };
        row.holds -= 1;
        if row.holds == 0 {
            let until = now.checked_add(self.linger).unwrap_or(now);
            row.until = Some(until);
            if !row.queued {
                row.queued = true;
                idle.push_back((until, age));
            }
        }
    }
}

impl Rows {
    fn add(&mut self, subject: &str) -> u64 {
        self.last += 1;
        let age = self.last;
        let mut row = Row::new(age, subject);
        // What meets a subject without wildcards covers it, and would have been shared.
        if is_wild(subject) {
            let met = |row: &&mut Row| meet(&row.topic.subject, subject);
            for older in self.all.values_mut().filter(met) {
                older.younger += 1;
                row.older.push(older.topic.age);
                row.topic.older.lock().push(older.topic.clone());
            }
        }
        self.cover.insert(subject, age);
        self.all.insert(age, row);
        age
    }

    fn sweep(&mut self, now: Instant, most: usize) -> Vec<Row> {
        let mut gone = Vec::new();
        while gone.len() < most
            && let Some((due, age)) = self.idle.front().copied()
            && due <= now
        {
            self.idle.pop_front();
            let Some(row) = self.all.get_mut(&age) else {
                continue;
            };
            row.queued = false;
            match row.until {
                _ if row.holds > 0 => {}
                // It was held again meanwhile, and let go of again: the linger counts anew.
                Some(until) if until > now => {
                    row.queued = true;
                    self.idle.push_back((until, age));
                }
                // The last of the younger ones brings it back here.
                _ if row.younger > 0 => {}
                _ => gone.extend(self.remove(age, now)),
            }
        }
        gone
    }

    fn remove(&mut self, age: u64, now: Instant) -> Option<Row> {
        let row = self.all.remove(&age)?;
        self.cover.remove(&row.topic.subject);
        for age in &row.older {
            if let Some(older) = self.all.get_mut(age) {
                older.younger -= 1;
                if older.younger == 0 && older.holds == 0 && !older.queued {
                    older.queued = true;
                    self.idle.push_front((now, *age));
                }
            }
        }
        Some(row)
    }
}

impl Row {
    fn new(age: u64, subject: &str) -> Self {
        Self {
            topic: Arc::new(Topic {
                age,
                subject: subject.into(),
                opened: OnceCell::new(),
                tap: Mutex::default(),
                older: Mutex::default(),
                refused: OnceLock::new(),
            }),
            holds: 0,
            younger: 0,
            older: Vec::new(),
            until: None,
            queued: false,
        }
    }
}

impl Topic {
    pub(crate) fn refused(&self) -> Option<Failure> {
        self.refused.get().cloned()
    }

    /// The older ones that it meets. They must be there before it is asked for: it leaves to them
    /// what they own.
    pub(crate) fn older(&self) -> Vec<Arc<Self>> {
        self.older.lock().clone()
    }

    /// What this one leaves to older ones, which are there. All of them outlive it, so this never
    /// changes.
    pub(crate) fn owned_by_others(&self) -> Cover {
        let mut others = Cover::default();
        for older in self.older.lock().iter() {
            if older.refused().is_none() {
                others.insert(&older.subject, older.age);
            }
        }
        others
    }

    /// Dropping `tap` ends what reads it.
    pub(crate) fn is_read_by(&self, tap: oneshot::Sender<()>) {
        *self.tap.lock() = Some(tap);
        self.older.lock().clear();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.table.release(self.topic.age);
    }
}

/// What a subscription brings, less what older ones own.
#[derive(Debug)]
pub(crate) struct Tap {
    pub(crate) subscriber: Subscriber,
    pub(crate) others: Cover,
    pub(crate) closed: oneshot::Receiver<()>,
}

impl Stream for Tap {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        // First: once its row is gone, another may own what waits here.
        if Pin::new(&mut self.closed).poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        loop {
            match ready!(self.subscriber.poll_next_unpin(cx)) {
                Some(message) if self.others.oldest(&message.subject).is_some() => {}
                message => return Poll::Ready(message),
            }
        }
    }
}

#[cfg(test)]
mod tests;
