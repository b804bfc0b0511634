//! What the bus has been asked for: a table between holds on patterns and subscriptions on the
//! link.
//!
//! Holders come and go at any time, link or no link; the supervisor of the link takes what is to
//! be done in batches. A subscription that nobody holds stays for a while, so that a page that
//! reloads costs the bus nothing.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use fanfare_core::Source;
use parking_lot::Mutex;
use prometheus::IntGauge;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use crate::error::Failure;

/// How long a subscription that the server refused waits for the next attempt, while someone still
/// holds it.
const RETRY_REFUSED: Duration = Duration::from_secs(5);

/// What the bus has been asked for.
pub(crate) struct Follow {
    table: Mutex<Table>,
    linger: Duration,
    max_lingering: usize,
    gauge: IntGauge,
    /// Wakes the supervisor.
    pub(crate) work: Notify,
}

/// Shared: it stands in several sets.
pub(crate) type Topic = Arc<Source>;

#[derive(Default)]
struct Table {
    topics: HashMap<Topic, State>,
    /// Those in [`Stage::Wanted`].
    wanted: HashSet<Topic>,
    /// When something is due that no holder asks for: an idle one ends, a refused one is tried.
    due: BTreeSet<(Instant, Topic)>,
    /// How many that were followed before a cut are not yet followed again.
    lost: usize,
    /// Why there is no link.
    down: Option<Failure>,
    closed: bool,
    /// How many of the topics the gauge, which several brokers share, counts.
    counted: i64,
}

struct State {
    holds: usize,
    stage: Stage,
    due: Option<Instant>,
    missed: Missed,
    waiting: Vec<oneshot::Sender<Result<(), Failure>>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// To be asked for.
    Wanted,
    /// Asked for.
    Asked,
    /// Confirmed.
    Active,
    /// Its end was asked for.
    Leaving,
    /// The server said no; it is tried again while it is held.
    Refused,
}

/// What holders of a topic may have missed that no gap has told them of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Missed {
    Nothing,
    /// What came between a cut and now. Counted in [`Table::lost`].
    SinceCut,
    /// The same, and the gap for the cut has been told without waiting for this one.
    SinceRefused,
}

/// A hold on a topic. Dropping it lets go.
#[must_use = "dropping it lets go"]
pub(crate) struct TopicHold {
    follow: Arc<Follow>,
    topic: Topic,
}

/// Resolves when the topic is confirmed or refused.
pub(crate) type Confirmation = oneshot::Receiver<Result<(), Failure>>;

impl Follow {
    pub(crate) fn new(linger: Duration, max_lingering: usize, gauge: IntGauge) -> Arc<Self> {
        let table = Table {
            down: Some(Failure::Down("there is no link yet".into())),
            ..Table::default()
        };
        Arc::new(Self {
            table: Mutex::new(table),
            linger,
            max_lingering,
            gauge,
            work: Notify::new(),
        })
    }

    /// Holds a topic. The confirmation is absent where the server has confirmed it.
    pub(crate) fn hold(self: &Arc<Self>, source: Source) -> (TopicHold, Option<Confirmation>) {
        let topic = Arc::new(source);
        let mut table = self.table.lock();
        let table = &mut *table;
        let state = table.topics.entry(topic.clone()).or_insert_with(|| {
            table.wanted.insert(topic.clone());
            State {
                holds: 0,
                stage: Stage::Wanted,
                due: None,
                missed: Missed::Nothing,
                waiting: Vec::new(),
            }
        });
        state.holds += 1;
        if state.stage == Stage::Refused {
            state.stage = Stage::Wanted;
            table.wanted.insert(topic.clone());
        }
        if let Some(due) = state.due.take() {
            table.due.remove(&(due, topic.clone()));
        }
        let confirmed = state.stage == Stage::Active || table.closed;
        let confirmation = (!confirmed).then(|| {
            // In an outage every attempt leaves one behind that nobody listens to any more.
            if state.waiting.len().is_power_of_two() {
                state.waiting.retain(|waiting| !waiting.is_closed());
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.push(sender);
            receiver
        });
        self.changed(table);
        let hold = TopicHold {
            follow: self.clone(),
            topic,
        };
        (hold, confirmation)
    }

    fn let_go(&self, topic: &Topic) {
        let mut table = self.table.lock();
        let table = &mut *table;
        let Some(state) = table.topics.get_mut(topic) else {
            return;
        };
        state.holds -= 1;
        if state.holds > 0 {
            return;
        }
        match state.stage {
            Stage::Wanted | Stage::Refused => table.forget(topic),
            Stage::Active => table.set_due(topic, self.linger),
            // What was asked for is on its way; the answer finds nobody holding it.
            Stage::Asked | Stage::Leaving => {}
        }
        self.changed(table);
    }

    /// Tells whoever must know that the table is another.
    fn changed(&self, table: &mut Table) {
        let count = i64::try_from(table.topics.len()).unwrap_or(i64::MAX);
        self.gauge.add(count - table.counted);
        table.counted = count;
        self.work.notify_one();
    }

    /// Takes topics to ask for.
    pub(crate) fn take_wanted(&self, limit: usize) -> Vec<Topic> {
        let mut table = self.table.lock();
        let table = &mut *table;
        let batch: Vec<_> = table.wanted.iter().take(limit).cloned().collect();
        for topic in &batch {
            table.wanted.remove(topic);
            if let Some(state) = table.topics.get_mut(topic) {
                state.stage = Stage::Asked;
            }
        }
        if table.wanted.len() * 8 < table.wanted.capacity() {
            table.wanted.shrink_to(table.wanted.len() * 2);
        }
        batch
    }

    /// The server confirmed a topic. Answers whether its holders missed something that no gap has
    /// told them of.
    pub(crate) fn confirmed(&self, topic: &Topic) -> bool {
        let mut table = self.table.lock();
        let table = &mut *table;
        let Some(state) = table.topics.get_mut(topic) else {
            return false;
        };
        state.stage = Stage::Active;
        for waiting in state.waiting.drain(..) {
            // A subscriber that has given up does not want to know.
            let _ = waiting.send(Ok(()));
        }
        let idle = state.holds == 0;
        let missed = std::mem::replace(&mut state.missed, Missed::Nothing);
        if missed == Missed::SinceCut {
            table.lost -= 1;
        }
        if idle {
            table.set_due(topic, self.linger);
        }
        missed == Missed::SinceRefused
    }

    /// The server refused a topic.
    pub(crate) fn refused(&self, topic: &Topic, failure: &Failure) {
        let mut table = self.table.lock();
        let table = &mut *table;
        let Some(state) = table.topics.get_mut(topic) else {
            return;
        };
        state.stage = Stage::Refused;
        for waiting in state.waiting.drain(..) {
            let _ = waiting.send(Err(failure.clone()));
        }
        if state.missed == Missed::SinceCut {
            state.missed = Missed::SinceRefused;
            table.lost -= 1;
        }
        if state.holds == 0 {
            table.forget(topic);
        } else {
            table.set_due(topic, RETRY_REFUSED);
        }
        self.changed(table);
    }

    /// Takes topics whose end is due, and puts refused ones back among the wanted.
    pub(crate) fn take_due(&self, now: Instant, limit: usize) -> Vec<Topic> {
        let mut table = self.table.lock();
        let table = &mut *table;
        let mut leaving = Vec::new();
        while leaving.len() < limit {
            let crowded = table.due.len() > self.max_lingering;
            let Some((due, topic)) = table.due.pop_first() else {
                break;
            };
            if due > now && !crowded {
                table.due.insert((due, topic));
                break;
            }
            let Some(state) = table.topics.get_mut(&topic) else {
                continue;
            };
            state.due = None;
            if state.stage == Stage::Refused {
                state.stage = Stage::Wanted;
                table.wanted.insert(topic);
            } else {
                state.stage = Stage::Leaving;
                leaving.push(topic);
            }
        }
        leaving
    }

    /// The server confirmed the end of a topic.
    pub(crate) fn left(&self, topic: &Topic) {
        let mut table = self.table.lock();
        let table = &mut *table;
        match table.topics.get_mut(topic) {
            None => {}
            Some(state) if state.holds == 0 => table.forget(topic),
            Some(state) => {
                state.stage = Stage::Wanted;
                table.wanted.insert(topic.clone());
            }
        }
        self.changed(table);
    }

    /// When something is due next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.table.lock().due.first().map(|(due, _)| *due)
    }

    /// Whether everything that was followed before the cut is followed again.
    pub(crate) fn is_whole(&self) -> bool {
        self.table.lock().lost == 0
    }

    /// The link is gone: whatever is held is to be asked for again.
    pub(crate) fn cut(&self, why: Failure) {
        let mut table = self.table.lock();
        let table = &mut *table;
        table.down = Some(why);
        table.due.clear();
        table.topics.retain(|_, state| state.holds > 0);
        table.wanted = table.topics.keys().cloned().collect();
        table.lost = 0;
        for state in table.topics.values_mut() {
            if state.stage == Stage::Active {
                state.missed = Missed::SinceCut;
            }
            table.lost += usize::from(state.missed == Missed::SinceCut);
            state.stage = Stage::Wanted;
            state.due = None;
        }
        self.changed(table);
    }

    /// There is a link, or why there is none.
    pub(crate) fn set_down(&self, why: Option<Failure>) {
        self.table.lock().down = why;
    }

    /// Why there is no link; `None` where there is one.
    pub(crate) fn down(&self) -> Option<Failure> {
        self.table.lock().down.clone()
    }

    /// Ends every wait, now and for later holds.
    pub(crate) fn close(&self) {
        let mut table = self.table.lock();
        table.closed = true;
        table.down = Some(Failure::Closed);
        table
            .topics
            .values_mut()
            .for_each(|state| state.waiting.clear());
    }
}

impl Table {
    fn forget(&mut self, topic: &Topic) {
        let Some(state) = self.topics.remove(topic) else {
            return;
        };
        self.wanted.remove(topic);
        if let Some(due) = state.due {
            self.due.remove(&(due, topic.clone()));
        }
        self.lost -= usize::from(state.missed == Missed::SinceCut);
        // A storm of short-lived channels must not leave its table behind.
        if self.topics.len() * 8 < self.topics.capacity() {
            self.topics.shrink_to(self.topics.len() * 2);
        }
    }

    fn set_due(&mut self, topic: &Topic, after: Duration) {
        let Some(state) = self.topics.get_mut(topic) else {
            return;
        };
        let due = Instant::now() + after;
        if let Some(old) = state.due.replace(due) {
            self.due.remove(&(old, topic.clone()));
        }
        self.due.insert((due, topic.clone()));
    }
}

impl Drop for TopicHold {
    fn drop(&mut self) {
        self.follow.let_go(&self.topic);
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.gauge.sub(self.table.get_mut().counted);
    }
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table.lock();
        f.debug_struct("Follow")
            .field("topics", &table.topics.len())
            .field("wanted", &table.wanted.len())
            .field("due", &table.due.len())
            .finish()
    }
}

#[cfg(test)]
mod tests;
