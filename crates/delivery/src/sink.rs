//! Where a subscriber's frames go.

mod body;
mod items;

use std::{any::Any, fmt, sync::Arc};

use tokio::sync::mpsc;

pub use body::Body;
pub use items::{Items, Page};

use crate::{
    CloseReason,
    follow::Share,
    outbox::{Key, Outbox},
    shard::Message,
};

/// A joined subscriber whose sink is not chosen yet. Dropping it leaves.
#[derive(Debug)]
pub struct Seat {
    hold: Hold,
    closer: Closer,
}

/// What a sink holds for as long as it lives.
pub(crate) struct Hold {
    pub(crate) outbox: Arc<Outbox>,
    /// The patterns that the node follows for it.
    pub(crate) shares: Vec<Share>,
    /// The edge's permit.
    pub(crate) guard: Option<Box<dyn Any + Send + Sync>>,
    pub(crate) _count: crate::hub::Counted,
}

/// Ends one stream from outside: an operator, a hook, a revocation.
#[derive(Clone)]
pub struct Closer {
    key: Key,
    shard: mpsc::Sender<Message>,
}

impl Seat {
    pub(crate) fn new(hold: Hold, key: Key, shard: mpsc::Sender<Message>) -> Self {
        Self {
            hold,
            closer: Closer { key, shard },
        }
    }

    /// The frames as an HTTP body: TLS, HTTP/2, or any doubt.
    pub fn into_body(self) -> Body {
        Body::new(self.hold)
    }

    /// The frames as items for a long poll.
    pub fn into_items(self) -> Items {
        Items::new(self.hold)
    }

    /// A handle that ends the stream.
    pub fn closer(&self) -> Closer {
        self.closer.clone()
    }
}

impl Closer {
    /// Ends the stream with `fanfare.close` after what is queued. Does nothing the second time.
    /// Cancel safe until the shard takes the message.
    pub async fn close(&self, reason: CloseReason) {
        // A shard that is gone has closed its streams.
        let message = Message::Close {
            key: self.key,
            reason,
        };
        let _ = self.shard.send(message).await;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // The permit first: a slot is free the moment its client is gone.
        self.guard = None;
        self.outbox.leave();
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold")
            .field("shares", &self.shares)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Closer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Closer")
    }
}
