//! The Redis brokers: durable channels of our own, raw channels of what others publish, raw channels
//! that are recorded for all nodes, and the streams that others add to.
//!
//! Needs RESP3: Redis 6 or newer, or Valkey; for durable channels Redis 6.2.
//!
//! # [`RedisDurable`]
//! **What Redis holds.** Channels live in partitions, each a log with one rising sequence. A script
//! takes the next place, appends to the channel's stream and announces on
//! `{prefix:pN}:live:<channel>`, in one step, so the streams' order is the order of announcement. All
//! keys of a partition share a hash tag.
//!
//! **Order and loss.** A link brings announcements in the log's order, or it is cut. Each names the
//! place of its channel's event before it. A node that sees a hole there, or was cut off, stands
//! still, reads what it missed of all followed channels from the streams, and goes on: nobody sees
//! more than a delay. What retention took meanwhile is a gap.
//!
//! **Epochs.** A log whose count is gone begins again under a new epoch. So does one that went back
//! behind what a node has seen, as after a failover to a replica that lagged: each node hands in the
//! furthest place that it knows, and on which run of the server, and the script compares it with
//! where the log stood when servers took over since.
//!
//! # [`RedisBroker`]
//! The channels that ingest rules make: the bare payload, in both directions, on the name that the
//! publishers use who do not know us.
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
//! # [`RedisRecorded`]
//! Raw channels that one node at a time records into a log of the durable form, so that clients
//! resume on any node: names `{prefix:h0}:…`.
//!
//! **Order.** That in which the server announced the messages.
//!
//! **Loss.** A standby hears what the recorder hears, and goes on at the very message where the
//! recorder stops. Where both were cut off, the log has a hole, which is a gap for everyone.
//!
//! # [`RedisStreams`]
//! The streams that others `XADD` to, with their keys, fields and ids. Needs Redis 7.
//!
//! **Order.** Each stream is a log of its own; the offset is the entry's id.
//!
//! **Loss.** The stream is the truth: a link that is lost is made anew and goes on from the last id.
//! Whatever is read, one script first holds the stream against what was seen of it: what trimming and
//! `XDEL` took after a place is a gap, unless the stream's counts show that it was nothing. A stream
//! that was deleted, set back, or lost its tail is another life, under another epoch.
//!
//! **New streams.** Wildcards are searched for from time to time; who follows a wildcard gets a stream
//! that is found later from its first entry on.
//!
//! Backend of [`fanfare_core::Broker`]; knows no client, no other backend, no SSE byte.

mod command;
mod complaint;
mod config;
mod connection;
mod durable;
mod envelope;
mod error;
mod follow;
mod home;
mod links;
mod overlap;
mod probe;
mod raw;
mod reader;
mod recorded;
mod recorder;
mod stream;

pub use config::{Ingest, IngestFrom, RedisConfig, RedisSentinels, RedisTls, Retain};
pub use durable::RedisDurable;
pub use raw::RedisBroker;
pub use recorded::RedisRecorded;
pub use recorder::RecorderMetrics;
pub use stream::{RedisStreams, StreamMetrics};
