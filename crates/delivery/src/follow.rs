//! What this node follows at the broker: each pattern once, however many subscribers share it.

use std::{collections::HashMap, sync::Arc};

use fanfare_core::{Broker, BrokerError, Inlet, Pattern, Subscription};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::Metrics;

/// The patterns that this node follows.
#[derive(Debug)]
pub(crate) struct Follows {
    broker: Arc<dyn Broker>,
    inlet: Inlet,
    held: Mutex<HashMap<Pattern, Arc<Follow>>>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Follow {
    subscription: OnceCell<Subscription>,
}

/// One subscriber's share in a followed pattern. Dropping the last one unsubscribes.
#[derive(Debug)]
pub(crate) struct Share {
    follows: Arc<Follows>,
    pattern: Pattern,
    follow: Option<Arc<Follow>>,
}

impl Follows {
    pub(crate) fn new(broker: Arc<dyn Broker>, inlet: Inlet, metrics: Metrics) -> Self {
        Self {
            broker,
            inlet,
            held: Mutex::default(),
            metrics,
        }
    }

    /// Follows a pattern. From the return on, law 2 holds for this node's feed.
    /// Those who ask for the same pattern meanwhile wait for the same call.
    pub(crate) async fn follow(self: &Arc<Self>, pattern: &Pattern) -> Result<Share, BrokerError> {
        let follow = {
            let mut held = self.held.lock();
            let follow = held.entry(pattern.clone()).or_default().clone();
            self.metrics
                .channels
                .set(i64::try_from(held.len()).unwrap_or(i64::MAX));
            follow
        };
        // Made before the wait, so that a dropped or failed call leaves nothing behind.
        let share = Share {
            follows: self.clone(),
            pattern: pattern.clone(),
            follow: Some(follow),
        };
        if let Some(follow) = &share.follow {
            let subscribe = || self.broker.subscribe(pattern, &self.inlet);
            follow.subscription.get_or_try_init(subscribe).await?;
        }
        Ok(share)
    }

    /// Every pattern with how many subscribers share it.
    pub(crate) fn list(&self) -> Vec<(Pattern, usize)> {
        let held = self.held.lock();
        held.iter()
            .map(|(pattern, follow)| (pattern.clone(), Arc::strong_count(follow) - 1))
            .collect()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.follows.held.lock();
        drop(self.follow.take());
        let last = held
            .get(&self.pattern)
            .is_some_and(|follow| Arc::strong_count(follow) == 1);
        let unused = if last {
            held.remove(&self.pattern)
        } else {
            None
        };
        if held.len() * 8 < held.capacity() {
            let keep = held.len() * 2;
            held.shrink_to(keep);
        }
        self.follows
            .metrics
            .channels
            .set(i64::try_from(held.len()).unwrap_or(i64::MAX));
        drop(held);
        // Outside of the lock: unsubscribing is the backend's code.
        drop(unused);
    }
}
