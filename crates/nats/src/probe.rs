//! The canary: a message to ourselves. Once it is back, the server has worked through everything
//! that was sent before it.
//!
//! The client's own `flush` says only that bytes were written, and `publish` and `subscribe`
//! return when a command stands in the client's queue. The server works through a connection's
//! commands in order, so the way back of one message proves them all; whoever waits shares it.

use std::{mem, sync::Arc};

use async_nats::Subscriber;
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::timeout,
};

use crate::{connection::Link, error::Failure};

/// After how many canaries in a row that did not come back a connection is given up. The client's
/// pings notice a dead one sooner; this is for one that answers pings and nothing else.
const STRIKES: u32 = 2;

/// Who waits for proof.
#[derive(Debug)]
pub(crate) struct Probe {
    /// The subject that this node alone listens on.
    pub(crate) subject: String,
    waiting: Mutex<Waiting>,
    /// Somebody waits.
    pub(crate) asked: Notify,
    /// There is another connection: a canary that is away will not come back.
    pub(crate) renewed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    /// No more of them than commands may be unproved: few enough to look at each.
    waiters: Vec<Waiter>,
    closed: bool,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    wants: Wants,
    stage: Stage,
    answer: oneshot::Sender<Result<(), Failure>>,
}

/// What is waited for.
#[derive(Debug)]
pub(crate) enum Wants {
    /// A publish on a subject, and the connection that was there before it.
    Publish(Arc<str>, u64),
    /// A subscription to a subject.
    Follow(Arc<str>),
    /// The canary itself.
    Canary,
}

/// How far a command is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// It may not stand in the client's queue yet.
    Begun,
    /// The next canary proves it.
    Queued,
    /// The canary that is away proves it.
    Away,
}

/// A place among those who wait. Dropping it gives it up.
#[derive(Debug)]
pub(crate) struct Ticket<'a> {
    probe: &'a Probe,
    number: u64,
    answer: oneshot::Receiver<Result<(), Failure>>,
}

impl Probe {
    pub(crate) fn new(subject: String) -> Self {
        Self {
            subject,
            waiting: Mutex::default(),
            asked: Notify::new(),
            renewed: Notify::new(),
        }
    }

    /// Takes a place, before the command is given to the client: a refusal could come at once.
    pub(crate) fn enter(&self, wants: Wants) -> Ticket<'_> {
        let (answer, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        waiting.last += 1;
        let number = waiting.last;
        if !waiting.closed {
            waiting.waiters.push(Waiter {
                number,
                wants,
                stage: Stage::Begun,
                answer,
            });
        }
        Ticket {
            probe: self,
            number,
            answer: receiver,
        }
    }

    /// Whether anybody waits for a canary.
    pub(crate) fn is_awaited(&self) -> bool {
        let waiting = self.waiting.lock();
        waiting.waiters.iter().any(|w| w.stage != Stage::Begun)
    }

    /// A canary is about to be sent.
    pub(crate) fn sent(&self) {
        for waiter in &mut self.waiting.lock().waiters {
            if waiter.stage == Stage::Queued {
                waiter.stage = Stage::Away;
            }
        }
    }

    /// The canary is back, on the `connection`-th connection.
    pub(crate) fn back(&self, connection: u64) {
        self.answer(
            |waiter| waiter.stage == Stage::Away,
            |wants| match wants {
                // The client drops what it had not written when a connection ends, and the canary
                // may have gone on the next one.
                Wants::Publish(_, before) if *before != connection => Err(Failure::Cut),
                _ => Ok(()),
            },
        );
    }

    /// The connection is gone. The client subscribes again by itself; what was published may be
    /// lost.
    pub(crate) fn cut(&self) {
        let lost = |w: &Waiter| w.stage != Stage::Begun && !matches!(w.wants, Wants::Follow(_));
        self.answer(lost, |_| Err(Failure::Cut));
    }

    pub(crate) fn close(&self) {
        self.waiting.lock().closed = true;
        self.answer(|_| true, |_| Err(Failure::Closed));
    }

    /// Takes what the server says no to. Answers whether somebody was told.
    pub(crate) fn refused(&self, why: &str) -> bool {
        let lower = why.to_ascii_lowercase();
        let about = |text| lower.contains(text);
        let publish = about("violation for publish");
        let follow = about("violation for subscription")
            || about("maximum subscriptions")
            || about("invalid subject");
        if !publish && !follow {
            return false;
        }
        // Subjects of ours hold no backslash. Where the server wrote one, or no name at all, it may
        // be about any of them: better a publish that is called refused than one called done.
        let subject = why.split('"').nth(1).filter(|name| !name.contains('\\'));
        let named = |name: &Arc<str>| subject.is_none_or(|subject| **name == *subject);
        // Without the canary there is no proof of anything.
        let canary = subject == Some(&self.subject);
        let refused: Arc<str> = format!("the server refused it: {why}").into();
        self.answer(
            |waiter| match &waiter.wants {
                Wants::Publish(name, _) => canary || (publish && named(name)),
                Wants::Follow(name) => canary || (follow && named(name)),
                Wants::Canary => canary,
            },
            |_| Err(Failure::Refused(refused.clone())),
        )
    }

    fn answer(
        &self,
        which: impl Fn(&Waiter) -> bool,
        result: impl Fn(&Wants) -> Result<(), Failure>,
    ) -> bool {
        let mut told = Vec::new();
        {
            let waiters = &mut self.waiting.lock().waiters;
            for waiter in mem::take(waiters) {
                if which(&waiter) {
                    told.push(waiter);
                } else {
                    waiters.push(waiter);
                }
            }
        }
        let any = !told.is_empty();
        for waiter in told {
            // Who waited may have given up.
            let _ = waiter.answer.send(result(&waiter.wants));
        }
        any
    }
}

impl Ticket<'_> {
    /// The command stands in the client's queue: waits for its proof.
    pub(crate) async fn proved(mut self) -> Result<(), Failure> {
        for waiter in &mut self.probe.waiting.lock().waiters {
            if waiter.number == self.number {
                waiter.stage = Stage::Queued;
            }
        }
        self.probe.asked.notify_one();
        (&mut self.answer).await.unwrap_or(Err(Failure::Closed))
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut waiting = self.probe.waiting.lock();
        waiting
            .waiters
            .retain(|waiter| waiter.number != self.number);
    }
}

impl Link {
    /// Sends canaries for those who wait, one at a time, until the link is stopped.
    pub(crate) async fn prove(self: Arc<Self>, mut canaries: Subscriber) {
        let (mut number, mut strikes) = (0_u64, 0);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.probe.asked.notified() => {}
            }
            while self.recovery.lock().unproved || self.probe.is_awaited() {
                number += 1;
                let connection = self.connections();
                self.probe.sent();
                let way = self.send_canary(number, &mut canaries);
                let back = tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = self.probe.renewed.notified() => continue,
                    back = timeout(self.config.command_timeout, way) => back.is_ok(),
                };
                if back {
                    strikes = 0;
                    // What the server refused before, the client tells in a task of its own, which
                    // was woken before this one. `home` runs them in this order; where a timer woke
                    // this one first, that task has its turn now.
                    tokio::task::yield_now().await;
                    self.proved(connection);
                } else if self.is_connected() {
                    strikes += 1;
                    if strikes >= STRIKES {
                        strikes = 0;
                        tracing::warn!("messages do not come back from NATS");
                        self.reconnect().await;
                    }
                }
            }
        }
    }

    async fn send_canary(&self, number: u64, canaries: &mut Subscriber) {
        let number = number.to_string();
        let subject = self.probe.subject.clone();
        if self
            .client
            .publish(subject, number.clone().into())
            .await
            .is_err()
        {
            return std::future::pending().await;
        }
        while let Some(message) = canaries.next().await {
            if message.payload == number.as_bytes() {
                return;
            }
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe() -> Probe {
        Probe::new("p".into())
    }

    async fn now<T>(answer: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            answer = answer => Some(answer),
            () = std::future::ready(()) => None,
        }
    }

    #[tokio::test]
    async fn a_canary_proves_what_was_queued_before_it_was_sent() {
        let probe = probe();
        let mut one = Box::pin(probe.enter(Wants::Follow("a".into())).proved());
        let begun = probe.enter(Wants::Publish("b".into(), 1));
        assert!(now(&mut one).await.is_none() && probe.is_awaited());
        probe.sent();
        let mut late = Box::pin(probe.enter(Wants::Publish("b".into(), 1)).proved());
        assert!(now(&mut late).await.is_none());
        probe.back(1);
        assert!(matches!(now(&mut one).await, Some(Ok(()))));
        assert!(now(&mut late).await.is_none());
        drop(late);
        assert!(
            !probe.is_awaited(),
            "one gave up, one has not begun to wait"
        );
        drop(begun);
        assert!(probe.waiting.lock().waiters.is_empty());
    }

    #[tokio::test]
    async fn a_publish_is_proved_by_its_own_connection_alone() {
        let probe = probe();
        let mut publish = Box::pin(probe.enter(Wants::Publish("a".into(), 1)).proved());
        let mut follow = Box::pin(probe.enter(Wants::Follow("a".into())).proved());
        assert!(now(&mut publish).await.is_none() && now(&mut follow).await.is_none());
        probe.sent();
        probe.back(2);
        assert!(matches!(now(&mut publish).await, Some(Err(Failure::Cut))));
        assert!(matches!(now(&mut follow).await, Some(Ok(()))));

        let mut publish = Box::pin(probe.enter(Wants::Publish("a".into(), 2)).proved());
        let mut follow = Box::pin(probe.enter(Wants::Follow("a".into())).proved());
        assert!(now(&mut publish).await.is_none() && now(&mut follow).await.is_none());
        probe.cut();
        assert!(matches!(now(&mut publish).await, Some(Err(Failure::Cut))));
        assert!(now(&mut follow).await.is_none(), "it is subscribed again");
        probe.close();
        assert!(matches!(now(&mut follow).await, Some(Err(Failure::Closed))));
        let after = probe.enter(Wants::Canary).proved().await;
        assert!(matches!(after, Err(Failure::Closed)));
    }

    #[tokio::test]
    async fn a_refusal_reaches_whoever_it_is_about() {
        let probe = probe();
        let follows = |name: &str| Box::pin(probe.enter(Wants::Follow(name.into())).proved());
        let publishes = |name: &str| Box::pin(probe.enter(Wants::Publish(name.into(), 1)).proved());
        let refused = |why: &str| probe.refused(why);
        let (mut good, mut bad, mut published) = (follows("a"), follows("b"), publishes("b"));
        assert!(refused("Permissions Violation for Subscription to \"b\""));
        assert!(matches!(
            now(&mut bad).await,
            Some(Err(Failure::Refused(_)))
        ));
        assert!(now(&mut published).await.is_none());
        assert!(refused("Permissions Violation for Publish to \"b\\u200b\""));
        assert!(matches!(
            now(&mut published).await,
            Some(Err(Failure::Refused(_)))
        ));
        assert!(
            !refused("Permissions Violation for Subscription to \"b\""),
            "nobody waits"
        );
        assert!(!refused("Slow Consumer"));
        assert!(now(&mut good).await.is_none());
        assert!(refused("maximum subscriptions exceeded"));
        assert!(matches!(
            now(&mut good).await,
            Some(Err(Failure::Refused(_)))
        ));
        let mut any = publishes("a");
        assert!(refused("Permissions Violation for Subscription to \"p\""));
        assert!(matches!(
            now(&mut any).await,
            Some(Err(Failure::Refused(_)))
        ));
    }
}
