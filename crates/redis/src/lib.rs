//! The Redis broker, in raw mode: plain pub/sub, as any program uses it.
//!
//! Needs Redis 6 or newer, or Valkey, for RESP3.
//!
//! **What stands on the bus.** A channel that no ingest rule makes is *our own*: it is announced
//! on `{prefix}:live:{channel}` in an envelope. A channel that a rule makes is *raw*: the bare
//! payload, in both directions, on the name that the publishers use who do not know us.
//!
//! **Order.** Pub/sub keeps nothing and counts nothing, so each node has a log of its own, `raw`,
//! with an epoch drawn at start. One reader mints an offset for whatever arrives, in the order of
//! arrival.
//!
//! **Loss.** Every cut of the link to the bus becomes a gap over all channels, once everything is
//! followed again. What cannot be delivered becomes a gap of its channel. Nothing queues between
//! the socket and the node's feed: what Redis sends faster than it is taken waits in Redis, which
//! cuts the link at its `client-output-buffer-limit`.
//!
//! Backend of [`fanfare_core::Broker`]; knows no client, no other backend, no SSE byte.

mod backend;
mod command;
mod complaint;
mod config;
mod connection;
mod durable;
mod envelope;
mod error;
mod follow;
mod ingest;
mod links;
mod overlap;
mod probe;
mod reader;
mod routes;

pub use backend::RedisBroker;
pub use config::{Ingest, IngestFrom, RedisConfig, Retain};
pub use durable::RedisDurable;
