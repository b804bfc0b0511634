use std::{sync::Arc, time::Duration};

use fanfare_core::{
    Broker, Event, Feed, Inlet, Live, Pattern, Subscription, feed, feed::FeedBounds,
};
use tokio::time::Instant;

use crate::{Violation, in_order};

/// One inlet with its feed, the patterns that it follows, and all that came.
#[derive(Debug)]
pub struct Follower {
    /// All that was read so far.
    pub items: Vec<Live>,
    inlet: Inlet,
    feed: Feed,
    holds: Vec<(Pattern, Subscription)>,
    patience: Duration,
}

impl Follower {
    /// A follower of nothing yet.
    pub fn new(bounds: FeedBounds, patience: Duration) -> Self {
        let (inlet, feed) = feed(bounds);
        Self {
            items: Vec::new(),
            inlet,
            feed,
            holds: Vec::new(),
            patience,
        }
    }

    /// Follows a pattern.
    ///
    /// # Errors
    /// Where the broker refuses.
    pub async fn follow(
        &mut self,
        broker: &dyn Broker,
        pattern: &Pattern,
    ) -> Result<(), Violation> {
        let hold = broker.subscribe(pattern, &self.inlet).await?;
        self.holds.push((pattern.clone(), hold));
        Ok(())
    }

    /// Lets go of one hold on a pattern.
    pub fn let_go(&mut self, pattern: &Pattern) {
        if let Some(index) = self.holds.iter().position(|(held, _)| held == pattern) {
            drop(self.holds.remove(index));
        }
    }

    /// Reads until `enough` says so of all that came.
    ///
    /// # Errors
    /// Where that does not happen in time, or items are out of order.
    pub async fn until(
        &mut self,
        what: &str,
        mut enough: impl FnMut(&[Live]) -> bool,
    ) -> Result<(), Violation> {
        let deadline = Instant::now() + self.patience;
        let seen = self.items.len();
        while !enough(&self.items) {
            let next = self.feed.next_many(&mut self.items, 256);
            match tokio::time::timeout_at(deadline, next).await {
                Ok(0) => violated!("the feed ended before {what}"),
                Ok(_) => {}
                Err(_) => violated!(
                    "{what} did not come within {:?}; {} events and {} gaps came",
                    self.patience,
                    self.events().count(),
                    self.items.len() - self.events().count()
                ),
            }
        }
        in_order(&self.items[seen.saturating_sub(1)..])
    }

    /// Reads until so many events came since the beginning.
    ///
    /// # Errors
    /// As [`until`](Self::until).
    pub async fn until_events(&mut self, count: usize) -> Result<(), Violation> {
        let events = |items: &[Live]| items.iter().filter(|i| matches!(i, Live::Event(_))).count();
        self.until(&format!("event {count}"), |items| events(items) >= count)
            .await
    }

    /// Reads until an event with this data came.
    ///
    /// # Errors
    /// As [`until`](Self::until).
    pub async fn until_data(&mut self, data: &str) -> Result<(), Violation> {
        let mut seen = 0;
        self.until(&format!("{data:?}"), |items| {
            let fresh = &items[seen..];
            seen = items.len();
            let is = |item: &Live| matches!(item, Live::Event(e) if e.data.as_str() == data);
            fresh.iter().any(is)
        })
        .await
    }

    /// Reads to the end of the feed.
    ///
    /// # Errors
    /// Where it does not end in time.
    pub async fn until_end(&mut self) -> Result<(), Violation> {
        let deadline = Instant::now() + self.patience;
        loop {
            let next = self.feed.next_many(&mut self.items, 256);
            match tokio::time::timeout_at(deadline, next).await {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(_) => violated!("the feed did not end within {:?}", self.patience),
            }
        }
    }

    /// The events that came.
    pub fn events(&self) -> impl Iterator<Item = &Arc<Event>> {
        self.items.iter().filter_map(|item| match item {
            Live::Event(event) => Some(event),
            Live::Gap(_) => None,
        })
    }

    /// The data of the events that came.
    pub fn data(&self) -> Vec<&str> {
        self.events().map(|event| event.data.as_str()).collect()
    }
}
