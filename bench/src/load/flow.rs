//! A flow under way: when to publish next, and what has not reached everybody.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::plan::{Flow, Pace};
use crate::histogram::Histogram;

/// The most ids that are remembered for clients that come back.
const MOST_IDS: usize = 1024;

pub(super) struct Running {
    pub(super) plan: Flow,
    pub(super) channels: Vec<Channel>,
    pub(super) latency: Histogram,
    /// Since the measurement began.
    pub(super) deliveries: u64,
    /// Events that have not reached everybody.
    outstanding: usize,
    turn: usize,
    next_at: Option<Instant>,
    /// Numbers and ids that the first client of the first channel saw last.
    pub(super) ids: VecDeque<(u64, String)>,
}

#[derive(Default)]
pub(super) struct Channel {
    pub(super) published: u64,
    /// What has not reached everybody, the oldest first; the number of the first.
    pending: VecDeque<Pending>,
    base: u64,
}

struct Pending {
    scheduled: Instant,
    left: usize,
}

/// An event that is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Due {
    pub(super) channel: usize,
    pub(super) number: u64,
}

impl Running {
    pub(super) fn new(plan: Flow) -> Self {
        Self {
            channels: (0..plan.channels).map(|_| Channel::default()).collect(),
            plan,
            latency: Histogram::default(),
            deliveries: 0,
            outstanding: 0,
            turn: 0,
            next_at: None,
            ids: VecDeque::new(),
        }
    }

    /// What is to be published now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Due> {
        let mut due = Vec::new();
        match self.plan.pace {
            Pace::Idle => {}
            Pace::Window { size, refill_at } => {
                if self.outstanding <= refill_at {
                    for _ in self.outstanding..size {
                        due.push(self.next(now));
                    }
                }
            }
            Pace::PerSecond(rate) => {
                let mut at = self.next_at.unwrap_or(now);
                while at <= now {
                    due.push(self.next(at));
                    at += Duration::from_secs_f64(1.0 / rate);
                }
                self.next_at = Some(at);
            }
        }
        due
    }

    fn next(&mut self, scheduled: Instant) -> Due {
        let index = self.turn % self.channels.len();
        self.turn += 1;
        let left = self.plan.subscribers;
        let channel = &mut self.channels[index];
        let number = channel.published;
        channel.published += 1;
        if left > 0 {
            channel.pending.push_back(Pending { scheduled, left });
            self.outstanding += 1;
        } else {
            channel.base += 1;
        }
        Due {
            channel: index,
            number,
        }
    }

    /// An event came to one more client, for the first time.
    pub(super) fn came(&mut self, channel: usize, number: u64, now: Instant) {
        self.deliveries += 1;
        let channel = &mut self.channels[channel];
        let at = number.checked_sub(channel.base).map(|at| at as usize);
        let Some(pending) = at.and_then(|at| channel.pending.get_mut(at)) else {
            return;
        };
        let latency = now.saturating_duration_since(pending.scheduled);
        self.latency.record(latency.as_nanos() as u64);
        pending.left = pending.left.saturating_sub(1);
        if pending.left == 0 {
            self.outstanding -= 1;
            while channel.pending.front().is_some_and(|first| first.left == 0) {
                channel.pending.pop_front();
                channel.base += 1;
            }
        }
    }

    /// Remembers the id of an event.
    pub(super) fn remember(&mut self, number: u64, id: &str) {
        if self.ids.len() == MOST_IDS {
            self.ids.pop_front();
        }
        self.ids.push_back((number, id.to_owned()));
    }

    /// Whether everything has reached everybody.
    pub(super) fn is_done(&self) -> bool {
        self.outstanding == 0
    }

    /// A measurement begins.
    pub(super) fn begin(&mut self) {
        self.deliveries = 0;
        self.latency = Histogram::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(channels: usize, subscribers: usize, pace: Pace) -> Running {
        Running::new(Flow {
            name: "c".into(),
            channels,
            subscribers,
            bytes: 100,
            pace,
            batch: false,
        })
    }

    #[test]
    fn a_window_waits_for_the_last_client() {
        let now = Instant::now();
        let pace = Pace::Window {
            size: 2,
            refill_at: 0,
        };
        let mut flow = running(1, 2, pace);
        assert_eq!(flow.due(now).len(), 2);
        for (number, left) in [(0, 2), (1, 2), (1, 1)] {
            assert!(flow.due(now).is_empty(), "{left} are left");
            flow.came(0, number, now);
        }
        assert!(flow.due(now).is_empty());
        flow.came(0, 0, now);
        assert!(flow.is_done());
        let numbers: Vec<u64> = flow.due(now).iter().map(|due| due.number).collect();
        assert_eq!(numbers, [2, 3]);
        assert_eq!(flow.deliveries, 4);
    }

    #[test]
    fn a_window_is_refilled_from_where_it_says() {
        let now = Instant::now();
        let pace = Pace::Window {
            size: 4,
            refill_at: 2,
        };
        let mut flow = running(4, 1, pace);
        let first: Vec<usize> = flow.due(now).iter().map(|due| due.channel).collect();
        assert_eq!(first, [0, 1, 2, 3]);
        flow.came(3, 0, now);
        assert!(flow.due(now).is_empty());
        flow.came(0, 0, now);
        assert_eq!(flow.due(now).len(), 2);
    }

    #[test]
    fn latency_counts_from_the_schedule_though_the_generator_is_late() {
        let start = Instant::now();
        let mut flow = running(1, 1, Pace::PerSecond(10.0));
        assert_eq!(flow.due(start).len(), 1);
        flow.came(0, 0, start);
        let late = start + Duration::from_millis(350);
        assert_eq!(flow.due(late).len(), 3);
        flow.came(0, 1, late);
        let found = flow.latency.max();
        assert_eq!(found, Duration::from_millis(250).as_nanos() as u64);
    }
}
