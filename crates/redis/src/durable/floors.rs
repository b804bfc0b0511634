//! Since when each pattern is followed, in one partition.

use fanfare_core::{Channel, Epoch, Pattern, PatternMap};

/// The patterns that are followed, each with its floor: no event up to there is owed to those who
/// follow it, since it was published before they did.
///
/// Without floors, the first event of a channel that is new to the node would name a predecessor
/// that the node never saw, as if it had missed it.
#[derive(Debug, Default)]
pub(super) struct Floors {
    patterns: PatternMap<Followed>,
}

#[derive(Debug, Default)]
struct Followed {
    holds: usize,
    /// `None` until the server has confirmed the subscription and said where the log stands.
    floor: Option<(Epoch, u64)>,
}

impl Floors {
    /// How many patterns are held.
    pub(super) fn len(&self) -> usize {
        self.patterns.len()
    }

    pub(super) fn hold(&mut self, pattern: &Pattern) {
        self.patterns.entry(pattern, Followed::default).holds += 1;
    }

    pub(super) fn let_go(&mut self, pattern: &Pattern) {
        if let Some(followed) = self.patterns.get_mut(pattern) {
            followed.holds -= 1;
            if followed.holds == 0 {
                self.patterns.remove(pattern);
            }
        }
    }

    /// Whether a pattern that is held selects a channel.
    pub(super) fn selects(&self, channel: &Channel) -> bool {
        self.patterns.has_match(channel)
    }

    /// Whether a pattern that is held has no floor yet.
    pub(super) fn is_open(&mut self, pattern: &Pattern) -> bool {
        let followed = self.patterns.get_mut(pattern);
        followed.is_some_and(|followed| followed.floor.is_none())
    }

    /// Sets the floor of a pattern. The one that was set first stays: who follows a pattern that is
    /// followed already is owed no less.
    pub(super) fn set(&mut self, pattern: &Pattern, epoch: Epoch, offset: u64) {
        if let Some(followed) = self.patterns.get_mut(pattern) {
            followed.floor.get_or_insert((epoch, offset));
        }
    }

    /// The floor of a channel in this epoch: the lowest of the patterns that select it.
    pub(super) fn of(&self, channel: &Channel, epoch: Epoch) -> u64 {
        let mut lowest = u64::MAX;
        self.patterns.each_match(channel, |followed| {
            lowest = lowest.min(followed.floor_in(epoch));
        });
        lowest
    }

    /// The lowest floor of these patterns in this epoch.
    pub(super) fn lowest(&mut self, patterns: &[Pattern], epoch: Epoch) -> u64 {
        let mut floor = |pattern| Some(self.patterns.get_mut(pattern)?.floor_in(epoch));
        let floors = patterns.iter().filter_map(&mut floor);
        floors.min().unwrap_or(u64::MAX)
    }
}

impl Followed {
    /// Everything of an epoch that began since is owed.
    fn floor_in(&self, epoch: Epoch) -> u64 {
        match self.floor {
            None => u64::MAX,
            Some((of, offset)) if of == epoch => offset,
            Some(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_floor_counts_and_only_in_its_epoch() {
        let (now, then) = (Epoch(2), Epoch(1));
        let channel = Channel::parse("a.b").unwrap();
        let patterns: [Pattern; 2] = ["a.b", "a.*"].map(|text| text.parse().unwrap());
        let mut floors = Floors::default();
        patterns.iter().for_each(|pattern| floors.hold(pattern));
        assert!(floors.is_open(&patterns[0]));
        assert_eq!(
            floors.of(&channel, now),
            u64::MAX,
            "nobody is owed anything yet"
        );
        floors.set(&patterns[0], now, 7);
        floors.set(&patterns[0], now, 9);
        assert!(!floors.is_open(&patterns[0]));
        assert_eq!(floors.of(&channel, now), 7);
        assert_eq!(floors.lowest(&patterns, now), 7);
        floors.set(&patterns[1], now, 5);
        assert_eq!(floors.of(&channel, now), 5);
        assert_eq!(floors.lowest(&patterns, now), 5);
        assert_eq!(floors.lowest(&patterns[..1], now), 7);
        assert_eq!(floors.lowest(&[], now), u64::MAX);
        assert_eq!(floors.of(&channel, then), 0);
        floors.let_go(&patterns[1]);
        assert_eq!(floors.of(&channel, now), 7);
        floors.let_go(&patterns[0]);
        assert_eq!(floors.of(&channel, now), u64::MAX);
    }
}
