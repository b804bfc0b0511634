//! Where a subscriber's frames go.

mod body;
mod items;

use std::{any::Any, fmt, net::TcpStream, sync::Arc};

use bytes::Bytes;
use fanfare_core::Pattern;
use tokio::sync::mpsc;

pub use body::Body;
pub use items::{Items, Page};

use crate::{
    CloseReason,
    follow::Share,
    framing::Framing,
    outbox::{Key, Outbox},
    shard::{Boarding, Message},
};

/// A joined subscriber whose sink is not chosen yet. Dropping it leaves.
#[derive(Debug)]
pub struct Seat {
    hold: Hold,
    closer: Closer,
}

/// What a sink on a task of its own holds for as long as it lives.
pub(crate) struct Hold {
    outbox: Arc<Outbox>,
    /// `None` once another sink has it.
    keep: Option<Keep>,
}

/// What is kept exactly as long as a subscriber is served. The edge's permits go first: a slot is
/// free the moment its client is gone.
pub(crate) struct Keep {
    pub(crate) _guard: Arc<dyn Any + Send + Sync>,
    /// What the node follows for it.
    pub(crate) share: Share,
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

    /// The frames straight to a socket, which belongs to a shard from now on. It is plain, does not
    /// block, and nothing of this response was written to it. `head` is the response's head.
    /// Whatever the client still sends is read and thrown away, up to 64 KiB.
    ///
    /// Cancel safe: the socket of a dropped call is closed.
    pub async fn into_socket(mut self, socket: TcpStream, head: Bytes, framing: Framing) {
        // A shard that is gone has no use for it. Nothing waits after this: whoever left in between
        // would have nobody to tell the shard.
        let Ok(place) = self.closer.shard.reserve().await else {
            return;
        };
        let Some(keep) = self.hold.keep.take() else {
            return;
        };
        let boarding = Boarding {
            key: self.closer.key,
            socket,
            head,
            framing,
            keep,
        };
        place.send(Message::Board(Box::new(boarding)));
    }

    /// The frames as items for a long poll.
    pub fn into_items(self) -> Items {
        Items::new(self.hold)
    }

    /// What it follows: each channel and pattern once, sorted. Those who follow the same share it.
    pub fn channels(&self) -> Arc<[Pattern]> {
        let keep = self.hold.keep.as_ref();
        keep.map(|keep| keep.share.channels()).unwrap_or_default()
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

impl Hold {
    pub(crate) fn new(outbox: Arc<Outbox>, keep: Keep) -> Self {
        let keep = Some(keep);
        Self { outbox, keep }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.keep.take().is_some() {
            self.outbox.leave();
        }
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.keep.fmt(f)
    }
}

impl fmt::Debug for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keep")
            .field("share", &self.share)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Closer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Closer")
    }
}
