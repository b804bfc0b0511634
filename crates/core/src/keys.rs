//! Idempotency keys: known for a while, and never more than so many.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::{Channel, IdempotencyKey, Offset};

/// A channel and a key: keys of two channels have nothing to do with each other.
pub type KeyName = (Channel, IdempotencyKey);

/// The keys of each channel, with the place of the publication that brought them.
///
/// A key is known from its first publication on for as long as the window, however often it comes
/// again: so the order of arrival is the order of expiry, and both bounds take from its front.
#[derive(Debug)]
pub struct Keys {
    known: HashMap<KeyName, Offset>,
    arrivals: VecDeque<(Instant, KeyName)>,
    window: Duration,
    max: usize,
}

impl Keys {
    /// For so long, and so many at most.
    pub fn new(window: Duration, max: usize) -> Self {
        Self {
            known: HashMap::new(),
            arrivals: VecDeque::new(),
            window,
            max,
        }
    }

    /// The place of the publication that brought the key, if it is still known.
    pub fn get(&mut self, name: &KeyName, now: Instant) -> Option<Offset> {
        self.expire(now);
        self.known.get(name).copied()
    }

    /// Notes a key that is not known.
    pub fn insert(&mut self, name: KeyName, offset: Offset, now: Instant) {
        self.known.insert(name.clone(), offset);
        self.arrivals.push_back((now, name));
        while self.arrivals.len() > self.max {
            self.forget_oldest();
        }
    }

    /// Forgets those whose time is over.
    pub fn expire(&mut self, now: Instant) {
        let window = self.window;
        let old = |at: Instant| now.saturating_duration_since(at) >= window;
        while self.arrivals.front().is_some_and(|(at, _)| old(*at)) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, name)) = self.arrivals.pop_front() {
            self.known.remove(&name);
        }
        if self.known.len() * 8 < self.known.capacity() {
            self.known.shrink_to(self.known.len() * 2);
            self.arrivals.shrink_to(self.arrivals.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(key: &str) -> KeyName {
        let key = IdempotencyKey::parse(key).unwrap();
        (Channel::parse("a").unwrap(), key)
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_bounded_by_age_and_count() {
        let window = Duration::from_secs(10);
        let mut keys = Keys::new(window, 2);
        keys.insert(name("a"), Offset(1), Instant::now());
        tokio::time::advance(window / 2).await;
        keys.insert(name("b"), Offset(2), Instant::now());
        assert_eq!(keys.get(&name("a"), Instant::now()), Some(Offset(1)));
        tokio::time::advance(window / 2).await;
        assert_eq!(keys.get(&name("a"), Instant::now()), None);
        assert_eq!(keys.get(&name("b"), Instant::now()), Some(Offset(2)));
        keys.insert(name("c"), Offset(3), Instant::now());
        keys.insert(name("d"), Offset(4), Instant::now());
        assert_eq!(keys.get(&name("b"), Instant::now()), None, "two are kept");
        assert_eq!(keys.get(&name("d"), Instant::now()), Some(Offset(4)));
    }
}
