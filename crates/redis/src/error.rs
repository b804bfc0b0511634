//! What can go wrong on a link, and what callers are told.

use std::sync::Arc;

use fanfare_core::{BrokerError, ErrorKind};
use redis::{ErrorKind as RedisKind, RedisError, ServerErrorKind};

/// This backend's name.
pub(crate) const BACKEND: &str = "redis";

/// Which setting is wrong where one end does not trust the other's certificate.
fn distrust(error: &RedisError) -> Option<String> {
    let text = error.to_string();
    let (_, ours) = text.split_once("invalid peer certificate: ").unzip();
    if let Some(why) = ours {
        let why = why.lines().next().unwrap_or_default();
        return Some(format!(
            "the server's certificate is not trusted ({why}); \
             broker.redis.tls.ca_file names the authority, the URL the server"
        ));
    }
    let (_, theirs) = text.split_once("received fatal alert: ").unzip();
    let why = theirs?.lines().next().unwrap_or_default();
    Some(format!(
        "the server broke off TLS ({why}); \
         broker.redis.tls.cert_file and key_file are what it is shown"
    ))
}

/// Why a command was not confirmed.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The broker was closed.
    Closed,
    /// There is no link, or the server is not ready to serve; nothing was done.
    Down(Arc<str>),
    /// Another server serves it, or none for a moment; nothing was done.
    Moving(Arc<str>),
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
            _ => match distrust(error) {
                Some(why) => Self::Refused(why.into()),
                None => Self::Down(why),
            },
        }
    }

    /// Of a command.
    pub(crate) fn of_answer(error: &RedisError) -> Self {
        let why: Arc<str> = error.to_string().into();
        match error.kind() {
            RedisKind::Server(ServerErrorKind::BusyLoading) => Self::Down(why),
            RedisKind::Server(
                ServerErrorKind::Moved
                | ServerErrorKind::Ask
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly,
            ) => Self::Moving(why),
            // Before Redis 7, what a script is refused is a text.
            RedisKind::Server(ServerErrorKind::ResponseError) if why.contains("-READONLY ") => {
                Self::Moving(why)
            }
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
            Self::Down(why) | Self::Moving(why) => (ErrorKind::Unavailable, why),
            Self::Unknown(why) => (ErrorKind::Timeout, why),
            Self::Refused(why) => (ErrorKind::Rejected, why),
        };
        error(kind, format!("{what}: {why}"))
    }
}
