//! The vocabulary of Fanfare and [`trait Broker`](Broker).
//!
//! A [`Publication`] is what a publisher hands in.
//! A broker gives it a place in a log and it becomes an [`Event`].
//! A [`Position`] names a place: `(log, epoch, offset)`.
//! What reaches a node live, in its [`Feed`], is a [`Live`]: an event, or a [`Gap`], a known loss.
//! [`History`] is the retained events, read in pages.
//!
//! This crate opens no socket and knows no client, no token and no SSE byte.
//! Read [`broker`] first: it states the laws.

pub mod batch;
pub mod broker;
pub mod capabilities;
pub mod channel;
pub mod error;
pub mod event;
pub mod feed;
pub mod gap;
pub mod history;
pub mod interest;
pub mod keys;
pub mod mapping;
pub mod metrics;
pub mod pattern_map;
pub mod position;
pub mod publication;
pub mod retained;
pub mod retention;
pub mod routed;
pub mod store;

pub use broker::{Broker, MAX_BATCH, Published, Subscription};
pub use capabilities::{Capabilities, Late, LogMap};
pub use channel::{Channel, InvalidChannel, Pattern};
pub use error::{BrokerError, ErrorKind};
pub use event::{Event, Live};
pub use feed::{Feed, Inlet, feed};
pub use gap::{Gap, GapCause};
pub use history::{History, HistoryQuery, Since};
pub use interest::Interest;
pub use keys::Keys;
pub use mapping::{Dialect, InvalidMapping, Mapping, Source};
pub use metrics::{BrokerMetrics, Evicted, LinkUp, Undeliverable};
pub use pattern_map::PatternMap;
pub use position::{Epoch, InvalidLogId, LogId, Offset, Position};
pub use publication::{
    Data, EventType, IdempotencyKey, InvalidEventType, InvalidKey, NotUtf8, Publication, Tags,
};
pub use retained::{Retained, RetainedConfig};
pub use retention::{Retention, RetentionRule};
pub use routed::{Claim, Routed};
pub use store::{Store, StoreConfig};
