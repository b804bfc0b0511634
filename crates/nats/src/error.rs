//! What can go wrong on the link, and what callers are told.

use std::sync::Arc;

use fanfare_core::{BrokerError, ErrorKind};

/// This backend's name.
pub(crate) const BACKEND: &str = "nats";

/// Why a command was not confirmed.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The broker was closed.
    Closed,
    /// There is no link; nothing was sent.
    Down,
    /// The link broke after the command may have been sent.
    Cut,
    /// The server said no.
    Refused(Arc<str>),
}

pub(crate) fn error(kind: ErrorKind, message: impl Into<String>) -> BrokerError {
    BrokerError::new(kind, BACKEND, message)
}

impl Failure {
    /// The error that a caller gets who wanted `what`.
    pub(crate) fn of(self, what: &str) -> BrokerError {
        match self {
            Self::Closed => error(ErrorKind::Closed, format!("{what}: the broker was closed")),
            Self::Down => error(
                ErrorKind::Unavailable,
                format!("{what}: no link to a server"),
            ),
            Self::Cut => error(
                ErrorKind::Timeout,
                format!("{what}: the link broke before the server confirmed"),
            ),
            Self::Refused(why) => error(ErrorKind::Rejected, format!("{what}: {why}")),
        }
    }
}
