//! Two brokers over NATS: [`NatsDurable`] for durable channels, over JetStream ([`jetstream`]), and
//! [`NatsBroker`] for raw ones, over core NATS, which the rest of this page is about.
//!
//! What any program publishes on mapped subjects reaches this node's inlets, payload untouched;
//! what is published here is announced on the bus for every other node. Core NATS keeps nothing:
//! offsets are minted on arrival, in this node's own log, and a cut is a [`Gap`].
//!
//! # Why every message arrives exactly once, and in order
//!
//! A node follows `a.b` and `a.*` at the same time, and starts and ends following either while
//! messages flow. Core NATS messages have no identity, so a message that came over two
//! subscriptions could not be told from two equal messages.
//!
//! - **Once.** Each subject has one owner, the oldest subscription that selects it; what others
//!   bring of it is dropped. The owner stays the owner as long as anybody follows what it selects.
//!   `follow` says how, and what it costs.
//! - **In order.** One subscription's messages keep the server's order, and one task mints the
//!   offset and offers the event before it takes the next. So the events of one subject have their
//!   publisher's order. The order between subjects is that of arrival at this task.
//! - **None lost at the start.** `subscribe` returns after a message to ourselves, sent after the
//!   `SUB`, has come back.
//! - **None lost in silence.** A cut of the link is a gap over everything, told once everything is
//!   subscribed to again; so is a message for which there was no room.
//!
//! The connection is the business of the [`async_nats`] client: servers, log-in, TLS, pings,
//! reconnecting, subscribing again. It runs on a thread of its own. What operators should know:
//! - It takes a message with a subject or headers that are not UTF-8, or with malformed headers,
//!   for a broken connection, and makes another: whoever may publish such a thing where this node
//!   listens can cut its link. Each time is a gap.
//! - It reads whatever the server sends, into a queue per subscription that is bounded in messages
//!   ([`NatsConfig::queue_messages`]), not in bytes.
//! - A subscription takes about 6 KiB of memory.
//! - It asks for the names that a cluster gives to its servers in their certificates: often
//!   addresses. [`NatsConfig::discover`] leaves those servers out.
//!
//! # Where things are
//!
//! [`backend`] is the [`Broker`]; `connection` the link and how it comes back; `login` how it is
//! made, and `key_file` who we are; `command` what callers want of it; `probe` the proof that a command was carried out;
//! `follow` what is subscribed to; `reader` the task that takes up what arrives; `intake` where a
//! message becomes an event.
//!
//! [`Gap`]: fanfare_core::Gap
//! [`Broker`]: fanfare_core::Broker

pub mod backend;
pub mod config;
pub mod jetstream;

mod command;
mod connection;
mod envelope;
mod error;
mod follow;
mod intake;
mod key_file;
mod login;
mod overlap;
mod probe;
mod reader;
mod subjects;

pub use backend::NatsBroker;
pub use config::{Credentials, Ingest, IngestFrom, NatsConfig, Retain, Tls};
pub use jetstream::{DurableConfig, NatsDurable};
