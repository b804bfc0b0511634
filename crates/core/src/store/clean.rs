//! What takes away from a store: age, bounds, requests, and forgetting.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::RangeInclusive,
    time::Duration,
};

use tokio::time::Instant;

use super::{CHANNEL_WEIGHT, Store};
use crate::{Channel, Evicted, Offset, Pattern};

impl Store {
    /// Takes away what is too old, and forgets channels that retain nothing and for which `keep`
    /// answers no. Does at most `budget` of each. Answers whether more is left to do.
    pub fn sweep(
        &mut self,
        now: Instant,
        budget: usize,
        mut keep: impl FnMut(&Channel) -> bool,
    ) -> bool {
        let expired_all = self.expire(now, budget);
        let mut forgot = false;
        let looks = budget.min(self.empty.len());
        for _ in 0..looks {
            let Some(channel) = self.empty.pop_front() else {
                break;
            };
            let Some(chan) = self.channels.get_mut(&channel) else {
                continue;
            };
            if !chan.events.is_empty() {
                chan.listed = false;
            } else if keep(&channel) {
                self.empty.push_back(channel);
            } else {
                self.forget(&channel);
                forgot = true;
            }
        }
        !expired_all || forgot && !self.empty.is_empty()
    }

    fn expire(&mut self, now: Instant, budget: usize) -> bool {
        let mut left = budget;
        for rule in 0..self.by_rule.len() {
            let max_age = self.config.retention.rules()[rule].max_age;
            while let Some(channel) = self.expired(rule, now, max_age) {
                if left == 0 {
                    return false;
                }
                left -= 1;
                self.take_oldest(&channel, Evicted::Age);
            }
        }
        true
    }

    fn expired(&self, rule: usize, now: Instant, max_age: Duration) -> Option<Channel> {
        let (_, oldest) = self.by_rule[rule].first_key_value()?;
        (now.saturating_duration_since(oldest.at) >= max_age).then(|| oldest.event.channel.clone())
    }

    /// Takes away every retained event of the channels of `pattern`, and answers how many. A
    /// cursor before them is answered by a gap from then on.
    pub fn purge(&mut self, pattern: &Pattern) -> usize {
        let before = self.holding.events;
        for channel in self.select_names(pattern) {
            while self.take_oldest(&channel, Evicted::Purged) {}
        }
        before - self.holding.events
    }

    pub(super) fn forget_oldest_empty(&mut self) -> bool {
        while let Some(channel) = self.empty.pop_front() {
            match self.channels.get_mut(&channel) {
                Some(chan) if chan.events.is_empty() => {
                    self.forget(&channel);
                    return true;
                }
                Some(chan) => chan.listed = false,
                None => {}
            }
        }
        false
    }

    fn forget(&mut self, channel: &Channel) {
        let Some(chan) = self.channels.remove(channel) else {
            return;
        };
        self.names.remove(channel);
        if self.names.is_empty() {
            self.names = BTreeSet::new();
        }
        self.forgotten.note(channel, chan.last);
        // A storm of short-lived channels must not leave its table behind. The sum of all
        // shrinking is a constant part of the sum of all forgetting.
        if self.channels.len() * 8 < self.channels.capacity() {
            self.channels.shrink_to(self.channels.len() * 2);
        }
        if self.empty.len() * 8 < self.empty.capacity() {
            self.empty.shrink_to(self.empty.len() * 2);
        }
    }

    pub(super) fn bound_channel(&mut self, channel: &Channel) {
        loop {
            let Some(chan) = self.channels.get(channel) else {
                return;
            };
            let rule = &self.config.retention.rules()[chan.rule];
            let reason = if chan.events.len() > rule.max_count {
                Evicted::Count
            } else if chan.bytes > rule.max_bytes {
                Evicted::Bytes
            } else if rule.max_age.is_zero() && !chan.events.is_empty() {
                Evicted::Age
            } else {
                return;
            };
            self.take_oldest(channel, reason);
        }
    }

    pub(super) fn bound_total(&mut self) {
        while self.holding.bytes > self.config.max_total_bytes
            && self.take_oldest_of_all(Evicted::Bytes)
        {}
    }

    pub(super) fn take_oldest_of_all(&mut self, reason: Evicted) -> bool {
        let firsts = self.by_rule.iter().filter_map(BTreeMap::first_key_value);
        let Some((_, oldest)) = firsts.min_by_key(|(offset, _)| **offset) else {
            return false;
        };
        let channel = oldest.event.channel.clone();
        self.take_oldest(&channel, reason)
    }

    /// Takes every event before this place away, as it was taken from what this store mirrors.
    pub fn purge_before(&mut self, offset: Offset) {
        loop {
            let firsts = self.by_rule.iter().filter_map(BTreeMap::first_key_value);
            let oldest = firsts.map(|(oldest, _)| *oldest).min();
            if oldest.is_none_or(|oldest| oldest >= offset)
                || !self.take_oldest_of_all(Evicted::Purged)
            {
                return;
            }
        }
    }

    /// Takes the events in a range of places away, as they were taken from what this store mirrors.
    pub fn purge_range(&mut self, range: RangeInclusive<Offset>) {
        let rules = self.by_rule.iter();
        let events = rules.flat_map(|rule| rule.range(range.clone()));
        let gone: Vec<_> = events.map(|(_, aged)| aged.event.clone()).collect();
        for event in gone {
            let offset = event.position.offset;
            let events = self.channels.get(&event.channel).map(|chan| &chan.events);
            let index = events.map(|e| e.partition_point(|held| held.position.offset < offset));
            self.take_at(&event.channel, index.unwrap_or(0), Evicted::Purged);
        }
    }

    /// Takes the channel's oldest event away. Answers whether there was one.
    fn take_oldest(&mut self, channel: &Channel, reason: Evicted) -> bool {
        self.take_at(channel, 0, reason)
    }

    fn take_at(&mut self, channel: &Channel, index: usize, reason: Evicted) -> bool {
        let Some(chan) = self.channels.get_mut(channel) else {
            return false;
        };
        let Some(event) = chan.events.remove(index) else {
            return false;
        };
        let (offset, weight) = (event.position.offset, event.weight());
        chan.gone = chan.gone.max(offset);
        chan.bytes -= weight;
        let mut freed = weight;
        if chan.events.is_empty() {
            chan.events = VecDeque::new();
            freed += CHANNEL_WEIGHT;
            self.holding.channels -= 1;
            self.metrics.retained_channels.dec();
            if !chan.listed {
                chan.listed = true;
                self.empty.push_back(channel.clone());
            }
        } else if chan.events.len() * 8 < chan.events.capacity() {
            chan.events.shrink_to(chan.events.len() * 2);
        }
        let order = &mut self.by_rule[chan.rule];
        order.remove(&offset);
        if order.is_empty() {
            // An emptied map keeps a node, the youngest of all, which would pin the heap below it.
            *order = BTreeMap::new();
        }
        self.gone_upto = self.gone_upto.max(offset);
        self.holding.events -= 1;
        self.holding.bytes -= freed;
        self.metrics.retained_events.dec();
        self.metrics.retained_bytes.sub(freed as i64);
        self.metrics.evicted(reason, 1);
        true
    }
}
