//! The real binary's commands.
#![allow(clippy::unwrap_used, reason = "a test")]

mod client;
mod config;
mod demo;
mod reload;
mod run;
mod serve;
mod tls;
