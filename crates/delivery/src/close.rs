//! Why the server ends a stream.

use std::time::Duration;

/// Why the server ends a stream, as `fanfare.close` and the metrics name it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client read more slowly than events came, and its channel's policy is to close.
    Slow,
    /// The client took nothing for the stall timeout. It cannot be told.
    Stalled,
    /// The token expired.
    Expired,
    /// The node is going away.
    Drain,
    /// The connection reached its greatest age.
    MaxAge,
    /// An operator or a hook ended it.
    Revoked,
    /// The bus cannot be read; nothing was lost, and the client's id resumes elsewhere or later.
    Broker,
    /// The client went away.
    Client,
}

impl CloseReason {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::Slow,
        Self::Stalled,
        Self::Expired,
        Self::Drain,
        Self::MaxAge,
        Self::Revoked,
        Self::Broker,
        Self::Client,
    ];

    /// The reason's name on the wire and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Stalled => "stalled",
            Self::Expired => "expired",
            Self::Drain => "drain",
            Self::MaxAge => "max_age",
            Self::Revoked => "revoked",
            Self::Broker => "broker",
            Self::Client => "client",
        }
    }
}

/// A whole SSE stream that refuses for now: `retry:` and `fanfare.close`, then its end. A
/// browser's `EventSource` comes back by itself after `retry`; any non-200 would end it for good.
pub fn refusal_stream(reason: &str, retry: Duration) -> Vec<u8> {
    crate::control::close(reason, retry)
}
