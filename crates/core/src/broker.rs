//! The trait that edge nodes share channels through, and its laws.

use std::fmt;

use async_trait::async_trait;

use crate::{
    BrokerError, Capabilities, Channel, History, HistoryQuery, Inlet, Pattern, Position,
    Publication,
};

/// The most publications of a batch: so many are stored and announced in one step, in which the bus
/// serves nobody else.
pub const MAX_BATCH: usize = 512;

/// A publish/subscribe system that edge nodes share.
///
/// Laws; each is a named test in `fanfare-conformance`:
///
/// 1. **Publish stores and announces in one step.** Offsets rise in order of announcement, over
///    all channels of a log. A publication that was refused is neither stored nor announced. A
///    batch is stored in its order.
/// 2. **An event published after `subscribe` returned is delivered, or covered by a
///    [`Gap`](crate::Gap).** It reaches an inlet once, however many of that inlet's subscriptions
///    select it, and events of one log reach one inlet in offset order over all its subscriptions.
/// 3. **A position returned by any node means the same place on every node,** or history answers
///    a gap.
/// 4. **History after a position returns everything after it** in the channels asked for, in
///    offset order, or names the gap.
///
/// So nothing is lost silently: not on reconnect, eviction, restart or overflow.
///
/// Every call ends in bounded time. Dropping a call's future leaves the broker usable; a dropped
/// `publish` may or may not have stored its publication, and a dropped `subscribe` leaves nothing
/// behind.
///
/// Seven methods; an eighth needs a law and a conformance test first. Presence and the like are
/// second traits. Behaviour is added by wrapping a broker in another, and the wrapper passes the
/// same suite.
#[async_trait]
pub trait Broker: fmt::Debug + Send + Sync + 'static {
    /// Stores and announces a publication (law 1).
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) where the bus may have stored it;
    /// with every other kind it was not stored.
    async fn publish(
        &self,
        channel: &Channel,
        publication: Publication,
    ) -> Result<Published, BrokerError>;

    /// Stores and announces publications, those of one log in their order (law 1). Each stands for
    /// itself: what is refused keeps no other from being stored. Answers a result for each, in their
    /// order. Callers hand over at most [`MAX_BATCH`].
    ///
    /// A backend with a round trip to its bus takes them all in one; else they are published one
    /// after the other. Where the bus fails, the rest is not tried.
    ///
    /// # Errors
    /// Of each, as those of [`publish`](Self::publish).
    async fn publish_all(
        &self,
        batch: &[(Channel, Publication)],
    ) -> Vec<Result<Published, BrokerError>> {
        let mut results: Vec<Result<Published, BrokerError>> = Vec::with_capacity(batch.len());
        for (channel, publication) in batch {
            let failed = results.last().and_then(|result| result.as_ref().err());
            let result = match failed.filter(|error| error.is_transient()) {
                Some(error) => Err(error.not_tried()),
                None => self.publish(channel, publication.clone()).await,
            };
            results.push(result);
        }
        results
    }

    /// Makes the events of `pattern` flow into `inlet`, from the return of this call on (law 2).
    /// Dropping the answer unsubscribes.
    ///
    /// # Errors
    /// Where the bus does not confirm the subscription in time.
    async fn subscribe(
        &self,
        pattern: &Pattern,
        inlet: &Inlet,
    ) -> Result<Subscription, BrokerError>;

    /// Reads a page of retained events of one log (laws 3 and 4).
    ///
    /// # Errors
    /// Where the store cannot be read. A loss is not an error but a gap in the answer.
    async fn history(&self, query: HistoryQuery) -> Result<History, BrokerError>;

    /// Proves delivery through the bus, not merely an open socket.
    ///
    /// # Errors
    /// Where a canary did not come back in time.
    async fn probe(&self) -> Result<(), BrokerError>;

    /// Ends every subscription and lets go of the bus. Later calls answer
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed); every inlet is closed.
    async fn close(&self);

    /// Facts about the backend. They do not change while it lives, but for logs that come into being.
    fn capabilities(&self) -> Capabilities;
}

/// What `publish` answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Published {
    /// The event's place; `None` on a raw bus, where each node places events on arrival.
    pub position: Option<Position>,
    /// Whether the idempotency key was known, so that nothing was stored and `position` is the
    /// first publication's.
    pub duplicate: bool,
}

/// This node's hold on a pattern. Dropping it unsubscribes.
#[must_use = "dropping it unsubscribes"]
pub struct Subscription {
    _release: Box<dyn Send + Sync>,
}

impl Subscription {
    /// A subscription that ends when `hold` is dropped.
    pub fn new(hold: impl Send + Sync + 'static) -> Self {
        Self {
            _release: Box::new(hold),
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription")
    }
}
