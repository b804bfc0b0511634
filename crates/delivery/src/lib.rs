//! The hot room: events in, bytes out.
//!
//! ```text
//! Broker ─ Feed ─► relay: encodes each event once ─► every shard
//!                                                      │  who follows the channel? one look-up
//!                    history pages ─► the seam ────────┤  per subscriber: hand over one `Bytes`
//!                    (catching up)                     ▼
//!                                                   outbox ─► sink: `Body` (hyper) or `Items` (poll)
//! ```
//!
//! It knows no axum, no token and no backend: a subscriber comes with the channels that it may
//! see, a filter and a guard, and leaves when its sink is dropped.
//!
//! Start reading at [`Hub::join`], then `shard`, then `shard/seam`, where the promise is kept.

pub mod close;
pub mod config;
pub mod cursor;
pub mod filter;
pub mod framing;
pub mod hub;
pub mod metrics;
pub mod sink;
pub mod subscriber;

mod control;
mod follow;
mod frame;
mod outbox;
mod relay;
mod ring;
mod shard;

pub use close::CloseReason;
pub use config::{DeliveryConfig, SlowPolicy, SlowRule, WriteDelayRule};
pub use cursor::{Cursor, InvalidCursor};
pub use filter::{Filter, View};
pub use frame::event_json;
pub use framing::Framing;
pub use hub::{Followed, Hub, JoinError};
pub use metrics::Metrics;
pub use sink::{Body, Closer, Items, Page, Seat};
pub use subscriber::{Format, Start, Subscriber};
