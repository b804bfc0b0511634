//! Where a member's frames go: an outbox that a body or a poll empties, or a socket.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use super::{line::Line, runs::Runs};
use crate::{
    framing::Framing,
    outbox::{Level, Outbox},
};

/// Where a member's frames go. What is decided about them does not depend on it.
pub(super) enum Door {
    Outbox {
        outbox: Arc<Outbox>,
        abort: Arc<dyn Fn() + Send + Sync>,
    },
    Socket(Line),
}

impl Door {
    pub(super) fn framing(&self) -> Framing {
        match self {
            Self::Outbox { .. } => Framing::Plain,
            Self::Socket(line) => line.framing,
        }
    }

    /// Takes an event in the bytes of its class, unless it does not fit.
    pub(super) fn push(
        &mut self,
        runs: &mut Runs,
        class: u32,
        piece: &Bytes,
        bound: usize,
    ) -> bool {
        match self {
            Self::Outbox { outbox, .. } => outbox.push(piece, bound),
            Self::Socket(line) => line.push(runs, class, piece, bound),
        }
    }

    /// Takes a frame of its own, whatever the bound: control frames are small and few, and history
    /// is paced by [`want`](Self::want).
    pub(super) fn force(&mut self, bytes: Bytes) {
        match self {
            Self::Outbox { outbox, .. } => outbox.force(bytes),
            Self::Socket(line) => line.force(bytes),
        }
    }

    /// Takes the bytes of its class, whatever the bound.
    pub(super) fn force_framed(&mut self, piece: Bytes) {
        match self {
            Self::Outbox { outbox, .. } => outbox.force(piece),
            Self::Socket(line) => line.force_framed(piece),
        }
    }

    /// Takes a heartbeat.
    pub(super) fn beat(&mut self, runs: &mut Runs) {
        match self {
            Self::Outbox { outbox, .. } => outbox.force(Framing::Plain.heartbeat()),
            Self::Socket(line) => line.beat(runs),
        }
    }

    /// Ends the stream after what waits.
    pub(super) fn end(&mut self) {
        match self {
            Self::Outbox { outbox, .. } => outbox.end(),
            Self::Socket(line) => line.end(),
        }
    }

    pub(super) fn level(&self, runs: &Runs) -> Level {
        match self {
            Self::Outbox { outbox, .. } => outbox.level(),
            Self::Socket(line) => line.level(runs),
        }
    }

    /// What waits for the client, and not for the shard.
    pub(super) fn refused(&self) -> Level {
        match self {
            Self::Outbox { outbox, .. } => outbox.level(),
            Self::Socket(line) => line.refused(),
        }
    }

    /// Whether at most `bytes` wait. If not, the shard hears when that may be so.
    pub(super) fn want(&mut self, runs: &Runs, bytes: usize) -> bool {
        match self {
            Self::Outbox { outbox, .. } => outbox.want(bytes),
            Self::Socket(line) => line.want(runs, bytes),
        }
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outbox { .. } => f.write_str("Outbox"),
            Self::Socket(line) => line.fmt(f),
        }
    }
}
