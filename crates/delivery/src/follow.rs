//! What this node follows at the broker: each pattern once, however many subscribers share it, and
//! each list of patterns once, however many ask for it.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use fanfare_core::{Broker, BrokerError, Inlet, Pattern, Subscription};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::{Metrics, hub::Census};

/// The patterns that this node follows, and who shares them.
#[derive(Debug)]
pub(crate) struct Follows {
    broker: Arc<dyn Broker>,
    inlet: Inlet,
    held: Mutex<Held>,
    pub(crate) census: Census,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Held {
    patterns: HashMap<Pattern, Arc<Follow>>,
    /// Those of which all patterns are followed.
    lists: HashMap<Arc<[Pattern]>, Weak<List>>,
}

#[derive(Debug, Default)]
struct Follow {
    subscription: OnceCell<Subscription>,
}

/// The patterns of subscribers that ask for the same. The last share that goes unsubscribes.
#[derive(Debug)]
struct List {
    follows: Arc<Follows>,
    patterns: Arc<[Pattern]>,
    /// Of each pattern, in order; of the first few while the others are waited for.
    held: Vec<Arc<Follow>>,
    subscribers: AtomicUsize,
}

/// One subscriber's share in what is followed, and its place in the census.
/// By default one in nothing, which is not counted.
#[derive(Debug, Default)]
pub(crate) struct Share {
    list: Option<Arc<List>>,
}

impl Follows {
    pub(crate) fn new(broker: Arc<dyn Broker>, inlet: Inlet, metrics: Metrics) -> Self {
        Self {
            broker,
            inlet,
            held: Mutex::default(),
            census: Census::default(),
            metrics,
        }
    }

    /// Follows patterns, sorted and each once. From the return on, law 2 holds for this node's
    /// feed. Those who ask for the same pattern meanwhile wait for the same call.
    pub(crate) async fn follow(
        self: &Arc<Self>,
        patterns: Vec<Pattern>,
    ) -> Result<Share, BrokerError> {
        let known = self.held.lock().list(&patterns);
        if let Some(list) = known {
            return Ok(Share::new(list));
        }
        // A dropped or failed call leaves nothing behind: the list lets go of what it has.
        let mut list = List {
            follows: self.clone(),
            held: Vec::with_capacity(patterns.len()),
            patterns: patterns.into(),
            subscribers: AtomicUsize::new(0),
        };
        for pattern in &*list.patterns.clone() {
            let follow = list.hold(pattern);
            let subscribe = || self.broker.subscribe(pattern, &self.inlet);
            follow.subscription.get_or_try_init(subscribe).await?;
        }
        let list = Arc::new(list);
        let mut held = self.held.lock();
        let shared = match held.list(&list.patterns) {
            // Somebody was faster.
            Some(faster) => faster,
            None => {
                let weak = Arc::downgrade(&list);
                held.lists.insert(list.patterns.clone(), weak);
                list.clone()
            }
        };
        // A list goes outside of the lock.
        drop(held);
        Ok(Share::new(shared))
    }

    /// Every pattern with how many subscribers share it.
    pub(crate) fn list(&self) -> Vec<(Pattern, usize)> {
        let held = self.held.lock();
        let lists: Vec<_> = held.lists.values().filter_map(Weak::upgrade).collect();
        // One for each list, and for whoever joins and has none yet.
        let holds = |(pattern, follow): (&Pattern, &Arc<Follow>)| {
            (pattern.clone(), Arc::strong_count(follow) - 1)
        };
        let mut all: HashMap<Pattern, usize> = held.patterns.iter().map(holds).collect();
        drop(held);
        for list in &lists {
            let others = list.subscribers.load(Ordering::Relaxed).saturating_sub(1);
            for pattern in &*list.patterns {
                all.entry(pattern.clone())
                    .and_modify(|count| *count += others);
            }
        }
        all.into_iter().collect()
    }

    fn count(&self, held: &Held) {
        let count = i64::try_from(held.patterns.len()).unwrap_or(i64::MAX);
        self.metrics.channels.set(count);
    }
}

impl Held {
    fn list(&self, patterns: &[Pattern]) -> Option<Arc<List>> {
        self.lists.get(patterns).and_then(Weak::upgrade)
    }
}

impl List {
    fn hold(&mut self, pattern: &Pattern) -> Arc<Follow> {
        let mut held = self.follows.held.lock();
        let follow = held.patterns.entry(pattern.clone()).or_default().clone();
        self.follows.count(&held);
        drop(held);
        self.held.push(follow.clone());
        follow
    }
}

impl Drop for List {
    fn drop(&mut self) {
        let mut unused = Vec::new();
        let mut held = self.follows.held.lock();
        let is_gone = |list: &Weak<Self>| list.strong_count() == 0;
        if held.lists.get(&self.patterns).is_some_and(is_gone) {
            held.lists.remove(&self.patterns);
        }
        for (pattern, follow) in self.patterns.iter().zip(self.held.drain(..)) {
            drop(follow);
            let is_unused = |follow: &Arc<Follow>| Arc::strong_count(follow) == 1;
            if held.patterns.get(pattern).is_some_and(is_unused) {
                unused.extend(held.patterns.remove(pattern));
            }
        }
        shrink(&mut held.lists);
        shrink(&mut held.patterns);
        self.follows.count(&held);
        drop(held);
        // Outside of the lock: unsubscribing is the backend's code.
        drop(unused);
    }
}

/// A wave of clients leaves no table of its size behind.
fn shrink<K: Eq + Hash, V>(table: &mut HashMap<K, V>) {
    if table.len() * 8 < table.capacity() {
        let keep = table.len() * 2;
        table.shrink_to(keep);
    }
}

impl Share {
    fn new(list: Arc<List>) -> Self {
        list.subscribers.fetch_add(1, Ordering::Relaxed);
        list.follows.census.enter();
        Self { list: Some(list) }
    }

    /// What it is a share in.
    pub(crate) fn channels(&self) -> Arc<[Pattern]> {
        let list = self.list.as_ref();
        list.map(|list| list.patterns.clone()).unwrap_or_default()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(list) = self.list.take() else {
            return;
        };
        list.subscribers.fetch_sub(1, Ordering::Relaxed);
        let follows = list.follows.clone();
        drop(list);
        // Last: who waits until nobody is left finds nothing followed.
        follows.census.leave();
    }
}
