//! One HTTP client and what it may see.

use std::{any::Any, fmt, num::NonZeroUsize, sync::Arc, time::Instant};

use fanfare_core::Pattern;

use crate::{Cursor, Filter};

/// One client, as the edge hands it to the hub after it has decided everything about it.
pub struct Subscriber {
    /// The channels and patterns it follows; each covered by its grant. At least one.
    pub channels: Vec<Pattern>,
    /// From where on.
    pub start: Start,
    /// What its frames look like.
    pub format: Format,
    /// Whether `fanfare.hello` opens the stream.
    pub hello: bool,
    /// What it may see; `None` is everything. The same `Arc` is the same class.
    pub filter: Option<Arc<dyn Filter>>,
    /// When the stream is ended, and why: a token's expiry, the greatest age of a connection.
    pub ends_at: Option<(Instant, crate::CloseReason)>,
    /// What must live exactly as long as the stream, such as its connection permit: dropped with
    /// the sink, after the socket is closed where that is a shard's.
    pub guard: Arc<dyn Any + Send + Sync>,
    /// Cuts the client's connection. Called when the client has taken nothing for
    /// `stall_timeout`: a body that ends is then never read.
    pub abort: Arc<dyn Fn() + Send + Sync>,
}

/// From where on a subscriber is served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Start {
    /// What comes from now on.
    Now,
    /// What came after a cursor. A log that the cursor does not name starts now.
    After(Cursor),
    /// All that is retained.
    Oldest,
    /// The newest so many of each channel.
    Last(NonZeroUsize),
}

/// What a subscriber's frames look like.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Format {
    /// An SSE event whose data is the publication's.
    Sse,
    /// An SSE event whose data is JSON `{"channel","event","id","data"}`.
    Envelope,
    /// Bare JSON objects, for [`Items`](crate::Items): the long poll.
    Items,
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber")
            .field("channels", &self.channels)
            .field("start", &self.start)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}
