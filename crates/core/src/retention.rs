//! How much of a channel is kept.

use std::{sync::Arc, time::Duration};

use crate::{Channel, Pattern};

/// What a channel may retain. Of three bounds the one that is reached first counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RetentionRule {
    /// The channels that the rule is for; each of them has these bounds for itself.
    pub channels: Pattern,
    /// The most events. Zero keeps nothing.
    pub max_count: usize,
    /// The most bytes, by [`Event::weight`](crate::Event::weight). Zero keeps nothing.
    pub max_bytes: usize,
    /// How long an event is kept. Zero keeps nothing.
    pub max_age: Duration,
}

impl RetentionRule {
    /// The default bounds for the channels of a pattern: 1000 events, 16 MiB, one hour.
    pub fn of(channels: Pattern) -> Self {
        Self {
            channels,
            max_count: 1000,
            max_bytes: 16 << 20,
            max_age: Duration::from_secs(60 * 60),
        }
    }
}

/// Ordered rules, of which the first that selects a channel counts.
///
/// Invariant: the last rule selects every channel.
/// A clone is a reference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Retention {
    rules: Arc<[RetentionRule]>,
}

impl Retention {
    /// These rules in this order, then [`RetentionRule::of`] all channels.
    pub fn new(rules: impl IntoIterator<Item = RetentionRule>) -> Self {
        let last = RetentionRule::of(Pattern::all());
        Self {
            rules: rules.into_iter().chain([last]).collect(),
        }
    }

    /// The rules in order; the last one is for every channel.
    pub fn rules(&self) -> &[RetentionRule] {
        &self.rules
    }

    /// Where the rule for `channel` stands in [`rules`](Self::rules).
    pub fn index_of(&self, channel: &Channel) -> usize {
        let selects = |rule: &RetentionRule| rule.channels.matches(channel);
        let last = self.rules.len() - 1;
        self.rules.iter().position(selects).unwrap_or(last)
    }

    /// The rule for `channel`.
    pub fn rule_of(&self, channel: &Channel) -> &RetentionRule {
        &self.rules[self.index_of(channel)]
    }
}

impl Default for Retention {
    /// The default bounds for every channel.
    fn default() -> Self {
        Self::new([])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_selects_a_channel_counts() {
        let rule = |channels: &str, max_count| RetentionRule {
            max_count,
            ..RetentionRule::of(Pattern::parse(channels).unwrap())
        };
        let retention = Retention::new([rule("a.b", 1), rule("a.>", 2), rule("a.c", 3)]);
        for (channel, count) in [("a.b", 1), ("a.c", 2), ("a.b.c", 2), ("x", 1000)] {
            let channel = Channel::parse(channel).unwrap();
            assert_eq!(retention.rule_of(&channel).max_count, count, "{channel}");
        }
    }
}
