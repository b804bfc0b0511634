//! The real binary's commands.

mod client;
mod config;
mod demo;
mod run;
mod serve;
