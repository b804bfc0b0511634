//! What is tested on each release of nats-server.

mod cluster;
mod conformance;
mod faults;
mod login;
mod raw;
mod switching;
