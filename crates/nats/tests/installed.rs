//! Core NATS, on the nats-server that is installed.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod suite;
mod support;
