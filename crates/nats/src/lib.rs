//! The NATS broker: raw mode over core NATS.
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
//! - **Once.** All subscriptions of a node are members of one queue group that has no other member.
//!   The server collects the members of a group over *all* subjects that match
//!   (`addNodeToResults` in nats-server's `sublist.go`) and hands a message to one of them; where
//!   that one was unsubscribed a moment ago, to the next (`processMsgResults` in `client.go`).
//!   Which one does not matter here: a message is read by its subject.
//! - **None lost in a change.** Every followed pattern has subscriptions of its own and leans on no
//!   other's, so that nothing is ever handed over. `subscribe` returns after a `PING` that follows
//!   the `SUB` was answered. A subscription that is let go of stays for [`NatsConfig::linger`], far
//!   longer than the server takes from matching a message to handing it over; what is under way
//!   when it goes is read all the same, since nothing here asks which subscription brought it.
//! - **In order.** One connection is read by one task, which mints the offset and offers the event
//!   before it reads on. So the order of the log is the order in which the server sent, over all
//!   subscriptions.
//!
//! The `async-nats` client cannot keep the last point: it puts each subscription's messages into a
//! queue of its own, which loses the order between them, and it forgets a subscription before the
//! messages that are under way have come. It also drops what does not fit into such a queue, and
//! reports a refused subscription apart from the call that asked for it. So this crate speaks
//! [the protocol](https://docs.nats.io/reference/reference-protocols/nats-protocol) itself.
//!
//! # Where things are
//!
//! [`backend`] is the [`Broker`]; `connection` the link that is made anew whenever it breaks;
//! `follow` what it subscribes to; `intake` where messages become events; `wire` the bytes.
//!
//! [`Gap`]: fanfare_core::Gap
//! [`Broker`]: fanfare_core::Broker

pub mod backend;
pub mod config;

mod connection;
mod credentials;
mod dial;
mod envelope;
mod error;
mod follow;
mod intake;
mod probe;
mod state;
mod subjects;
mod wire;

pub use backend::NatsBroker;
pub use config::{Credentials, Ingest, IngestFrom, NatsConfig, Retain, Tls};
