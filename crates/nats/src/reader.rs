//! The task that takes up what arrives.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fanfare_core::Pattern;
use futures_util::{FutureExt, StreamExt, stream::SelectAll};
use tokio::time::MissedTickBehavior;

use crate::connection::{Arrivals, Link};

/// How often the table is looked through, and how many subscriptions end at a time.
const TICK: Duration = Duration::from_millis(100);
const SWEEP: usize = 1024;
/// How many messages are taken before anything else is looked at.
const BATCH: usize = 128;

impl Link {
    /// Takes up what arrives until the link is stopped. This is the only task that mints offsets.
    pub(crate) async fn read(
        self: Arc<Self>,
        Arrivals {
            taps: mut new_taps,
            mut losses,
        }: Arrivals,
    ) {
        let mut taps = SelectAll::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut since_idle = 0;
        let mut subscriptions = 0;
        loop {
            // In this order: a loss is told once everything was taken that arrived before it.
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                _ = tick.tick() => self.look(&mut subscriptions),
                Some(tap) = new_taps.recv() => taps.push(tap),
                Some(message) = taps.next() => {
                    self.intake.message(message);
                    let mut taken = 1;
                    while taken < BATCH && let Some(Some(message)) = taps.next().now_or_never() {
                        self.intake.message(message);
                        taken += 1;
                    }
                    since_idle += taken;
                    // Under a load that never pauses it is told all the same.
                    if since_idle > self.config.queue_messages {
                        since_idle = 0;
                        if let Ok(loss) = losses.try_recv() {
                            self.intake.gap(loss, Pattern::all());
                        }
                    }
                }
                Some(loss) = losses.recv() => {
                    since_idle = 0;
                    self.intake.gap(loss, Pattern::all());
                }
            }
        }
    }

    fn look(&self, subscriptions: &mut i64) {
        let now = Instant::now();
        self.table.sweep(now, SWEEP);
        let there = i64::try_from(self.table.len()).unwrap_or(i64::MAX);
        // Another link of this backend counts here, too.
        self.metrics.subscriptions.add(there - *subscriptions);
        *subscriptions = there;
        self.intake.settle(now);
    }
}
