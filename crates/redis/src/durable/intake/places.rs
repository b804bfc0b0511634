//! How far each channel of a partition was handed on.

use std::collections::HashMap;

use fanfare_core::Channel;

/// The most channels that are remembered, each about 100 bytes. Over it, what came before is no
/// longer told apart by channel.
const MAX_CHANNELS: usize = 1 << 18;
/// The fewest channels at which it is worth a look who is followed no more.
const MIN_SWEEP: usize = 1024;

/// The last place that was handed on of each channel, where one was: what an announcement's
/// predecessor is held against.
///
/// The log's own place will not do: it has moved on with other channels when an announcement is
/// missed in the midst of them.
#[derive(Debug)]
pub(super) struct Places {
    /// Up to here every channel is whole, or told as a gap.
    base: u64,
    last: HashMap<Channel, u64>,
    /// At how many channels those are forgotten that nobody follows any more.
    sweep_at: usize,
    most: usize,
}

impl Default for Places {
    fn default() -> Self {
        Self::bounded(MAX_CHANNELS)
    }
}

impl Places {
    fn bounded(most: usize) -> Self {
        Self {
            base: 0,
            last: HashMap::new(),
            sweep_at: MIN_SWEEP.min(most),
            most,
        }
    }

    /// How many channels it remembers.
    pub(super) fn len(&self) -> usize {
        self.last.len()
    }

    /// How far a channel is whole.
    pub(super) fn of(&self, channel: &Channel) -> u64 {
        let last = self.last.get(channel).copied().unwrap_or_default();
        last.max(self.base)
    }

    /// A channel is whole up to here, which is how far the log was handed on.
    /// `is_followed` tells who is to be remembered.
    pub(super) fn set(
        &mut self,
        channel: &Channel,
        offset: u64,
        is_followed: impl Fn(&Channel) -> bool,
    ) {
        if let Some(last) = self.last.get_mut(channel) {
            *last = offset.max(*last);
            return;
        }
        if self.last.len() >= self.sweep_at {
            self.last.retain(|channel, _| is_followed(channel));
            if self.last.len() >= self.most {
                self.restart(offset);
            }
            self.sweep_at = (self.last.len() * 2).clamp(MIN_SWEEP.min(self.most), self.most);
        }
        self.last.insert(channel.clone(), offset);
    }

    /// Every channel is whole up to here, or told as a gap.
    pub(super) fn cover(&mut self, offset: u64) {
        if offset > self.base {
            self.base = offset;
            self.last.retain(|_, last| *last > offset);
        }
    }

    /// Nothing is known but that every channel begins here.
    pub(super) fn restart(&mut self, base: u64) {
        self.base = base;
        self.last = HashMap::new();
        self.sweep_at = MIN_SWEEP.min(self.most);
    }

    /// A channel is followed no more.
    pub(super) fn forget(&mut self, channel: &Channel) {
        self.last.remove(channel);
        if self.last.len() * 8 < self.last.capacity() {
            self.last.shrink_to(self.last.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(name: usize) -> Channel {
        Channel::parse(&format!("c.{name}")).unwrap()
    }

    #[test]
    fn each_channel_has_a_place_of_its_own() {
        let mut places = Places::default();
        places.restart(10);
        places.set(&channel(1), 12, |_| true);
        assert_eq!((places.of(&channel(1)), places.of(&channel(2))), (12, 10));
        places.cover(11);
        assert_eq!((places.of(&channel(1)), places.of(&channel(2))), (12, 11));
        places.cover(20);
        assert_eq!((places.of(&channel(1)), places.len()), (20, 0));
        places.set(&channel(1), 21, |_| true);
        places.forget(&channel(1));
        assert_eq!((places.of(&channel(1)), places.len()), (20, 0));
    }

    #[test]
    fn what_is_followed_no_more_goes_first_and_there_is_a_bound() {
        let most = 4 * MIN_SWEEP;
        let mut places = Places::bounded(most);
        let is_even = |channel: &Channel| channel.as_str().ends_with(['0', '2', '4', '6', '8']);
        for name in 0..most {
            places.set(&channel(name), name as u64 + 1, is_even);
        }
        // No sweep before half of it was needed has lost a channel that is followed.
        assert_eq!(places.of(&channel(2)), 3);
        assert!(places.len() < most);
        for name in 0..10 * most {
            places.set(&channel(name), name as u64 + 1, |_| true);
            assert!(places.len() <= most);
        }
        assert!(
            places.of(&channel(0)) > 1,
            "no false hole for who was forgotten"
        );
    }
}
