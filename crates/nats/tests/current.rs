//! Core NATS, on a current nats-server: see `scripts/nats-server-current`.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod suite;
mod support;
