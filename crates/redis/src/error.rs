//! What can go wrong on a link, and what callers are told.

use std::sync::Arc;

use fanfare_core::{BrokerError, ErrorKind};
use redis::{ErrorKind as RedisKind, RedisError, ServerErrorKind};

/// This backend's name.
pub(crate) const BACKEND: &str = "redis";

/// Why a command was not confirmed.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The broker was closed.
    Closed,
    /// There is no link, or the server is not ready to serve; nothing was done.
    Down(Arc<str>),
    /// The link broke, or time ran out, after the command may have been sent.
    Unknown(Arc<str>),
    /// The server said no.
    Refused(Arc<str>),
}

pub(crate) fn error(kind: ErrorKind, message: impl Into<String>) -> BrokerError {
    BrokerError::new(kind, BACKEND, message)
}

impl Failure {
    /// Of making a link: nothing was sent on it.
    pub(crate) fn of_connecting(error: &RedisError) -> Self {
        let why: Arc<str> = match error.kind() {
            // The crate's message does not name the command, and users know no RESP3.
            RedisKind::RESP3NotSupported => {
                "the server does not speak RESP3; Redis 6 or newer is needed".into()
            }
            _ => error.to_string().into(),
        };
        match error.kind() {
            RedisKind::AuthenticationFailed
            | RedisKind::InvalidClientConfig
            | RedisKind::RESP3NotSupported => Self::Refused(why),
            RedisKind::Server(_) | RedisKind::Extension => Self::of_answer(error),
            _ => Self::Down(why),
        }
    }

    /// Of a command.
    pub(crate) fn of_answer(error: &RedisError) -> Self {
        let why: Arc<str> = error.to_string().into();
        match error.kind() {
            RedisKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly,
            ) => Self::Down(why),
            RedisKind::Extension
                if matches!(
                    error.code(),
                    Some("OOM" | "NOREPLICAS" | "BUSY" | "MISCONF")
                ) =>
            {
                Self::Down(why)
            }
            RedisKind::Server(_)
            | RedisKind::Extension
            | RedisKind::AuthenticationFailed
            | RedisKind::UnexpectedReturnType => Self::Refused(why),
            _ => Self::Unknown(why),
        }
    }

    /// Time ran out.
    pub(crate) fn late() -> Self {
        Self::Unknown("the server did not answer in time".into())
    }

    /// The error that a caller gets who wanted `what`.
    pub(crate) fn into_error(self, what: &str) -> BrokerError {
        let (kind, why) = match self {
            Self::Closed => (ErrorKind::Closed, "the broker was closed".into()),
            Self::Down(why) => (ErrorKind::Unavailable, why),
            Self::Unknown(why) => (ErrorKind::Timeout, why),
            Self::Refused(why) => (ErrorKind::Rejected, why),
        };
        error(kind, format!("{what}: {why}"))
    }
}
