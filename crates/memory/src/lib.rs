//! The in-memory broker: the default, for one node alone.
//!
//! [`MemoryBroker`] has one log over all channels, in this process. A restart is a new epoch:
//! cursors of the process before are answered by a gap.

mod broker;
mod config;

pub use broker::MemoryBroker;
pub use config::MemoryConfig;
