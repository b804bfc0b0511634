//! The task that takes up what arrives.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use async_nats::Message;
use fanfare_core::{GapCause, Pattern};
use futures_util::{FutureExt, StreamExt, stream::SelectAll};
use tokio::time::MissedTickBehavior;

use crate::{
    connection::{Arrivals, Link},
    intake::Loss,
};

/// How often the table is looked through, and how many subscriptions end at a time.
const TICK: Duration = Duration::from_millis(100);
const SWEEP: usize = 1024;
/// How many messages are taken before anything else is looked at.
const BATCH: usize = 128;
/// The most messages, and about the most bytes, that are held between a cut and its gap.
const HELD: usize = 10_000;
const HELD_BYTES: usize = 8 << 20;

/// What came since a cut.
#[derive(Default)]
struct Held {
    messages: Vec<Message>,
    bytes: usize,
    /// There was no room: all of it is lost in the gap.
    is_lost: bool,
}

impl Held {
    fn push(&mut self, message: Message) {
        self.bytes += message.length;
        self.is_lost |= self.bytes > HELD_BYTES || self.messages.len() >= HELD;
        if self.is_lost {
            self.messages = Vec::new();
        } else {
            self.messages.push(message);
        }
    }
}

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
        let mut held = Held::default();
        loop {
            // In this order: a loss is told once everything was taken that arrived before it.
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                _ = tick.tick() => self.look(&mut subscriptions),
                Some(tap) = new_taps.recv() => taps.push(tap),
                Some(message) = taps.next() => {
                    self.take(message, &mut held);
                    let mut taken = 1;
                    while taken < BATCH && let Some(Some(message)) = taps.next().now_or_never() {
                        self.take(message, &mut held);
                        taken += 1;
                    }
                    since_idle += taken;
                    // Under a load that never pauses it is told all the same.
                    if since_idle > self.config.queue_messages {
                        since_idle = 0;
                        if let Ok(loss) = losses.try_recv() {
                            self.tell(loss, &mut held);
                        }
                    }
                }
                Some(loss) = losses.recv() => {
                    since_idle = 0;
                    self.tell(loss, &mut held);
                }
            }
        }
    }

    fn take(&self, message: Message, held: &mut Held) {
        if self.holds.load(Ordering::Acquire) {
            held.push(message);
        } else {
            self.intake.message(message);
        }
    }

    fn tell(&self, loss: Loss, held: &mut Held) {
        let is_cut = loss.cause == GapCause::Reconnected;
        self.intake.gap(loss, Pattern::all());
        if is_cut {
            self.told();
            let held = std::mem::take(held);
            held.messages
                .into_iter()
                .for_each(|message| self.intake.message(message));
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
