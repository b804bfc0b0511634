//! Real servers, real clients: the furniture of the tests that need more than one process.
//!
//! - Servers on free loopback ports, in directories of their own, ended when dropped:
//!   [`RedisServer`], [`RedisSentinel`], [`RedisCluster`], [`NatsServer`], [`HaProxy`],
//!   [`Prometheus`], and the real binary, [`Fanfare`]. What a server printed is shown when the test
//!   that owns it panics. [`Certificates`] for those that speak TLS.
//! - Strangers that speak a wire protocol themselves, so that no test proves a client library
//!   with itself: [`Resp`] (Redis), [`NatsClient`], [`SseClient`], [`http`], and a real browser,
//!   [`Chromium`].
//! - [`TcpProxy`] for what networks do to a link.
//! - [`eventually`] in the place of sleeps that hope.
//!
//! A server whose program is not installed starts as `None`, with a visible `SKIPPED:` line, and
//! fails the test where `CI` is set:
//!
//! ```no_run
//! # use fanfare_testkit::RedisServer;
//! # async fn test() {
//! let Some(mut redis) = RedisServer::start().await else { return };
//! redis.cli(&["PUBLISH", "orders:eu", "hello"]).await;
//! redis.restart().await;
//! # }
//! ```
//!
//! Everything here is for tests: what cannot go on panics, with what the server said.

mod certificates;
mod chromium;
mod client;
mod eventually;
mod fanfare;
mod haproxy;
pub mod http;
mod nats;
mod nats_client;
mod nats_cluster;
mod nats_operator;
pub mod port;
mod process;
mod prometheus;
mod proxy;
mod redis;
mod redis_cluster;
mod redis_sentinel;
mod resp;
mod resp_frames;
mod service;
pub mod tool;

pub use certificates::Certificates;
pub use chromium::Chromium;
pub use client::{SseClient, SseRequest};
pub use eventually::{eventually, try_eventually};
pub use fanfare::{Exited, Fanfare, FanfareBuilder, fanfare_binary};
pub use haproxy::HaProxy;
pub use nats::{NatsRelease, NatsServer, NatsStore};
pub use nats_client::{NatsClient, nats_pub};
pub use nats_cluster::NatsCluster;
pub use nats_operator::NatsOperator;
pub use prometheus::Prometheus;
pub use proxy::TcpProxy;
pub use redis::RedisServer;
pub use redis_cluster::RedisCluster;
pub use redis_sentinel::RedisSentinel;
pub use resp::{Reply, Resp};
