//! What a retention wrapper follows on the inner broker, and since when.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::RetainedConfig;
use crate::{Channel, Interest, Offset, Pattern, PatternMap, Position, Subscription};

/// The patterns that are followed, held or lingering.
#[derive(Debug, Default)]
pub(super) struct Follows {
    followed: PatternMap<Followed>,
    /// Those with wildcards, which may cover others, with their [`Followed::since`].
    wild: BTreeMap<Pattern, Vec<Position>>,
    /// Those that nobody holds, by the time at which they were let go of.
    lingering: BTreeMap<Idle, Pattern>,
    count: u64,
}

/// The count makes each one different.
type Idle = (Instant, u64);

#[derive(Debug)]
struct Followed {
    subscription: Subscription,
    /// For each log: nothing after this place passed unseen.
    since: Vec<Position>,
    idle: Option<Idle>,
}

impl Follows {
    /// Whether the pattern is followed; it lingers no more.
    pub(super) fn revive(&mut self, pattern: &Pattern) -> bool {
        let Some(followed) = self.followed.get_mut(pattern) else {
            return false;
        };
        if let Some(idle) = followed.idle.take() {
            self.lingering.remove(&idle);
        }
        true
    }

    /// Notes a pattern that is followed from now on. If somebody else was quicker, theirs stays:
    /// it began earlier.
    pub(super) fn insert(
        &mut self,
        pattern: &Pattern,
        subscription: Subscription,
        since: Vec<Position>,
    ) {
        if self.revive(pattern) {
            return;
        }
        if pattern.is_wild() {
            self.wild.insert(pattern.clone(), since.clone());
        }
        self.followed.entry(pattern, || Followed {
            subscription,
            since,
            idle: None,
        });
    }

    /// Notes that nobody holds the pattern. Answers what is to be left.
    pub(super) fn linger(
        &mut self,
        pattern: &Pattern,
        config: &RetainedConfig,
    ) -> Vec<Subscription> {
        let Some(followed) = self.followed.get_mut(pattern) else {
            return Vec::new();
        };
        if followed.idle.is_none() {
            self.count += 1;
            let idle = (Instant::now(), self.count);
            followed.idle = Some(idle);
            self.lingering.insert(idle, pattern.clone());
        }
        let max = if config.linger.is_zero() {
            0
        } else {
            config.max_lingering
        };
        let mut left = Vec::new();
        while self.lingering.len() > max {
            let Some((_, first)) = self.lingering.pop_first() else {
                break;
            };
            left.extend(self.remove(&first));
        }
        left
    }

    /// Takes out what has lingered long enough. Answers what is to be left.
    pub(super) fn expire(
        &mut self,
        config: &RetainedConfig,
        interest: &Interest,
    ) -> Vec<Subscription> {
        let now = Instant::now();
        let mut left = Vec::new();
        while let Some(first) = self.lingering.first_entry() {
            if now.saturating_duration_since(first.key().0) < config.linger {
                break;
            }
            let pattern = first.remove();
            if interest.follows_pattern(&pattern) {
                // Somebody took hold of it this moment and is about to find it here.
                if let Some(followed) = self.followed.get_mut(&pattern) {
                    followed.idle = None;
                }
            } else {
                left.extend(self.remove(&pattern));
            }
        }
        left
    }

    fn remove(&mut self, pattern: &Pattern) -> Option<Subscription> {
        self.wild.remove(pattern);
        let followed = self.followed.remove(pattern)?;
        Some(followed.subscription)
    }

    /// Takes everything out.
    pub(super) fn clear(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Whether the channel is followed.
    pub(super) fn covers(&self, channel: &Channel) -> bool {
        self.followed.has_match(channel)
    }

    /// The place in the log of `head` after which nothing of the pattern passed unseen; `None`
    /// where no one pattern that is followed covers it.
    pub(super) fn since(&self, pattern: &Pattern, head: &Position) -> Option<Offset> {
        if let Some(channel) = pattern.as_channel() {
            return self.channel_since(&channel, head);
        }
        let wider = self.wild.iter().filter(|(wild, _)| wild.covers(pattern));
        wider.filter_map(|(_, since)| begins(since, head)).min()
    }

    /// As [`since`](Self::since), for a channel.
    pub(super) fn channel_since(&self, channel: &Channel, head: &Position) -> Option<Offset> {
        let mut earliest: Option<Offset> = None;
        self.followed.each_match(channel, |followed| {
            let since = begins(&followed.since, head);
            earliest = earliest.into_iter().chain(since).min();
        });
        earliest
    }
}

fn begins(since: &[Position], head: &Position) -> Option<Offset> {
    let since = since.iter().find(|since| since.log == head.log)?;
    // Of an older epoch: it was followed before this one began.
    let older = since.epoch != head.epoch;
    Some(if older { Offset::ZERO } else { since.offset })
}
