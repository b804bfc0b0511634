//! Every way to say no, and the one place where it becomes an HTTP answer.

use std::{borrow::Cow, time::Duration};

use axum::response::{IntoResponse, Response};
use fanfare_core::{BrokerError, ErrorKind, InvalidChannel, Pattern};
use fanfare_delivery::{InvalidCursor, JoinError};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::auth::Action;

/// A typed no.
#[derive(Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// A query parameter or body field that this call does not have.
    UnknownParameter {
        /// Its name.
        name: String,
        /// The names that it has.
        allowed: String,
    },
    /// A parameter, header or body field with a value that is not allowed.
    BadParameter {
        /// Its name.
        field: Cow<'static, str>,
        /// What is wrong, and what is allowed.
        detail: String,
    },
    /// A text that is no channel name or pattern.
    BadChannel {
        /// The parameter or field that it stood in.
        field: &'static str,
        /// The text, shortened.
        text: String,
        /// What is wrong with it.
        source: InvalidChannel,
    },
    /// A text that is no cursor.
    BadCursor {
        /// The parameter or header that it stood in.
        field: &'static str,
        /// What is wrong with it.
        source: InvalidCursor,
    },
    /// A body that cannot be read.
    BadBody {
        /// What is wrong.
        detail: String,
    },
    /// A token that is not good.
    BadToken {
        /// Why, without a word of it.
        detail: Cow<'static, str>,
    },
    /// What needs a token, and there is none.
    TokenNeeded {
        /// What was asked.
        action: Action,
        /// On which channels.
        channel: Pattern,
    },
    /// What the token, or its absence, does not allow.
    NotGranted {
        /// What was asked.
        action: Action,
        /// On which channels.
        channel: Pattern,
    },
    /// A page of an origin that is not allowed.
    ForeignOrigin,
    /// A hook said no.
    Denied {
        /// Why, for the client to read.
        detail: String,
    },
    /// Nothing is there.
    NotFound,
    /// Something is there that takes other methods, which the `Allow` header names.
    MethodNotAllowed,
    /// The client does not take what this call answers with.
    NotAcceptable {
        /// The media type of the answer.
        offered: &'static str,
    },
    /// The body did not arrive in time.
    BodyTimeout,
    /// More than is allowed.
    TooLarge {
        /// What is.
        what: &'static str,
        /// The most that is allowed, in words.
        allowed: String,
    },
    /// A body in an encoding that is not taken.
    UnsupportedEncoding,
    /// As many connections, or other things, are there as may be.
    TooManyConnections {
        /// Whose bound was reached.
        scope: &'static str,
        /// Of what.
        what: &'static str,
        /// The bound.
        limit: usize,
        /// When to come back.
        retry_after: Duration,
    },
    /// A hook said not now.
    TooMany {
        /// Why, for the client to read.
        detail: String,
        /// When to come back.
        retry_after: Duration,
    },
    /// As much is under way as may be.
    Busy {
        /// Of what.
        what: &'static str,
        /// When to come back.
        retry_after: Duration,
    },
    /// The node is going away.
    Draining {
        /// When to come back, to another node.
        retry_after: Duration,
    },
    /// The broker failed.
    Broker {
        /// Its error.
        source: BrokerError,
        /// When to come back, where that can help.
        retry_after: Duration,
    },
    /// A hook or filter did not answer.
    HookFailed {
        /// How.
        detail: &'static str,
        /// When to come back.
        retry_after: Duration,
    },
    /// The keys of tokens are not known yet, or were not renewed for too long.
    KeysUnavailable {
        /// When to come back.
        retry_after: Duration,
    },
    /// A mistake of the server.
    Internal {
        /// What, for the log alone.
        detail: &'static str,
    },
}

/// Marks an answer as a refusal, for the count by reason.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused(pub(crate) &'static str);

/// RFC 9457.
#[derive(Serialize, Debug)]
pub(crate) struct Problem<'a> {
    r#type: String,
    title: &'static str,
    pub(crate) status: u16,
    detail: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip)]
    pub(crate) reason: &'static str,
    #[serde(skip)]
    retry_after: Option<Duration>,
}

/// Every reason, for metrics that want all labels from the start.
pub(crate) const REASONS: &[&str] = &[
    "unknown_parameter",
    "bad_parameter",
    "bad_channel",
    "bad_cursor",
    "bad_body",
    "bad_token",
    "token_needed",
    "not_granted",
    "foreign_origin",
    "denied",
    "not_found",
    "method_not_allowed",
    "not_acceptable",
    "body_timeout",
    "too_large",
    "unsupported_encoding",
    "too_many_connections",
    "too_many",
    "busy",
    "draining",
    "broker_unavailable",
    "broker_rejected",
    "unsupported",
    "hook_failed",
    "keys_unavailable",
    "internal",
];

impl Refusal {
    /// 403: a hook's no, with a sentence for the client.
    pub fn denied(detail: impl Into<String>) -> Self {
        Self::Denied {
            detail: detail.into(),
        }
    }

    /// 429: a hook's not now, with a sentence for the client.
    pub fn too_many(detail: impl Into<String>, retry_after: Duration) -> Self {
        Self::TooMany {
            detail: detail.into(),
            retry_after,
        }
    }

    /// 400: a field or parameter with a value that is not allowed.
    pub fn invalid(field: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self::BadParameter {
            field: field.into(),
            detail: detail.into(),
        }
    }

    pub(crate) fn bad_token(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::BadToken {
            detail: detail.into(),
        }
    }

    pub(crate) fn bad_body(detail: impl Into<String>) -> Self {
        Self::BadBody {
            detail: detail.into(),
        }
    }

    pub(crate) fn channel(field: &'static str, text: &str, source: InvalidChannel) -> Self {
        Self::BadChannel {
            field,
            text: shown(text),
            source,
        }
    }

    pub(crate) fn of_join(error: JoinError, retry_after: Duration) -> Self {
        match error {
            JoinError::Broker(source) => Self::Broker {
                source,
                retry_after,
            },
            JoinError::TooManyLogs { .. } => Self::invalid("channel", error.to_string()),
            _ => Self::Draining { retry_after },
        }
    }

    /// Whether the same request may go through later.
    pub fn is_temporary(&self) -> bool {
        matches!(self.problem().status, 429 | 503)
    }

    /// The one match from refusals to answers.
    pub(crate) fn problem(&self) -> Problem<'_> {
        let (status, reason, title, detail): (u16, _, _, Cow<'_, str>) = match self {
            Self::UnknownParameter { name, allowed } => (
                400,
                "unknown_parameter",
                "Unknown parameter",
                format!("{name:?} is no parameter of this call; allowed are {allowed}").into(),
            ),
            Self::BadParameter { field, detail } => (
                400,
                "bad_parameter",
                "Bad parameter",
                format!("`{field}` {detail}").into(),
            ),
            Self::BadChannel { text, source, .. } => (
                400,
                "bad_channel",
                "Bad channel",
                format!("channel {text:?} {source}").into(),
            ),
            Self::BadCursor { field, source } => (
                400,
                "bad_cursor",
                "Bad cursor",
                format!("`{field}` {source}").into(),
            ),
            Self::BadBody { detail } => (400, "bad_body", "Bad body", detail.into()),
            Self::BadToken { detail } => (401, "bad_token", "Bad token", (&**detail).into()),
            Self::TokenNeeded { action, channel } => (
                401,
                "token_needed",
                "Token needed",
                format!("without a token nobody may {action} {:?}", channel.as_str()).into(),
            ),
            Self::NotGranted { action, channel } => (
                403,
                "not_granted",
                "Not granted",
                format!(
                    "no granted pattern covers to {action} {:?}",
                    channel.as_str()
                )
                .into(),
            ),
            Self::ForeignOrigin => (
                403,
                "foreign_origin",
                "Foreign origin",
                "the Origin of the request is neither this server's nor in cors.origins".into(),
            ),
            Self::Denied { detail } => (403, "denied", "Denied", detail.into()),
            Self::NotFound => (
                404,
                "not_found",
                "Not found",
                "there is nothing at this path".into(),
            ),
            Self::MethodNotAllowed => (
                405,
                "method_not_allowed",
                "Method not allowed",
                "this path takes other methods; the Allow header names them".into(),
            ),
            Self::NotAcceptable { offered } => (
                406,
                "not_acceptable",
                "Not acceptable",
                format!("the answer is {offered}, which the Accept header excludes").into(),
            ),
            Self::BodyTimeout => (
                408,
                "body_timeout",
                "Body timeout",
                "the body of the request did not arrive in time".into(),
            ),
            Self::TooLarge { what, allowed } => (
                413,
                "too_large",
                "Too large",
                format!("{what} is too large; at most {allowed} are allowed").into(),
            ),
            Self::UnsupportedEncoding => (
                415,
                "unsupported_encoding",
                "Unsupported encoding",
                "a Content-Encoding is not taken; send the body as it is".into(),
            ),
            Self::TooManyConnections {
                scope, what, limit, ..
            } => (
                429,
                "too_many_connections",
                "Too many connections",
                format!("{scope} has {limit} {what}, which is the most allowed").into(),
            ),
            Self::TooMany { detail, .. } => (429, "too_many", "Too many requests", detail.into()),
            Self::Busy { what, .. } => (
                503,
                "busy",
                "Busy",
                format!("as many {what} are under way as may be").into(),
            ),
            Self::Draining { .. } => (
                503,
                "draining",
                "Draining",
                "this node is going away; come back, to another one".into(),
            ),
            Self::Broker { source, .. } => return self.broker(source),
            Self::HookFailed { detail, .. } => {
                (503, "hook_failed", "Hook failed", (*detail).into())
            }
            Self::KeysUnavailable { .. } => (
                503,
                "keys_unavailable",
                "Keys unavailable",
                "the keys that tokens are checked with are being fetched".into(),
            ),
            Self::Internal { .. } => (
                500,
                "internal",
                "Internal error",
                "the server made a mistake; its log says which".into(),
            ),
        };
        self.complete(status, reason, title, detail)
    }

    fn broker(&self, source: &BrokerError) -> Problem<'_> {
        let (status, reason, title, detail) = match source.kind() {
            ErrorKind::TooLarge => (
                413,
                "too_large",
                "Too large",
                "the event is larger than the bus takes",
            ),
            ErrorKind::Unsupported => (
                501,
                "unsupported",
                "Unsupported",
                "the bus behind this server does not do this",
            ),
            ErrorKind::Timeout => (
                503,
                "broker_unavailable",
                "Bus unavailable",
                "the bus did not answer in time; a publication may or may not have been stored",
            ),
            ErrorKind::Unavailable | ErrorKind::Closed => (
                503,
                "broker_unavailable",
                "Bus unavailable",
                "the bus cannot be reached; nothing was stored",
            ),
            _ => (
                502,
                "broker_rejected",
                "Bus rejected",
                "the bus refused; its operator must look",
            ),
        };
        self.complete(status, reason, title, detail.into())
    }

    fn complete<'a>(
        &'a self,
        status: u16,
        reason: &'static str,
        title: &'static str,
        detail: Cow<'a, str>,
    ) -> Problem<'a> {
        let retry_after = matches!(status, 429 | 503)
            .then(|| self.retry_after())
            .flatten();
        Problem {
            r#type: format!("urn:fanfare:problem:{reason}"),
            title,
            status,
            detail,
            field: self.field(),
            allowed: match self {
                Self::UnknownParameter { allowed, .. } => Some(allowed),
                _ => None,
            },
            retry_after_ms: retry_after.map(millis),
            reason,
            retry_after,
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Self::UnknownParameter { name, .. } => Some(name),
            Self::BadParameter { field, .. } => Some(field),
            Self::BadChannel { field, .. } | Self::BadCursor { field, .. } => Some(field),
            Self::NotAcceptable { .. } => Some("Accept"),
            Self::UnsupportedEncoding => Some("Content-Encoding"),
            _ => None,
        }
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyConnections { retry_after, .. }
            | Self::TooMany { retry_after, .. }
            | Self::Busy { retry_after, .. }
            | Self::Draining { retry_after }
            | Self::Broker { retry_after, .. }
            | Self::HookFailed { retry_after, .. }
            | Self::KeysUnavailable { retry_after } => Some(*retry_after),
            _ => None,
        }
    }

    /// The reason as `fanfare.close` names it, for a stream that refuses for now.
    pub(crate) fn close_reason(&self) -> &'static str {
        match self {
            Self::Draining { .. } => "drain",
            Self::Broker { .. } => "broker",
            Self::TooManyConnections { .. } | Self::TooMany { .. } => "limit",
            _ => "busy",
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match &self {
            Self::Internal { detail } => tracing::error!(detail, "internal error"),
            Self::Broker { source, .. } => {
                let cause = std::error::Error::source(source).map(ToString::to_string);
                tracing::debug!(error = %source, cause, "the broker failed a request");
            }
            _ => {}
        }
        let problem = self.problem();
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
        // A struct of strings and numbers: serialising it does not fail.
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        let fixed = HeaderValue::from_static;
        headers.insert(header::CONTENT_TYPE, fixed("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, fixed("no-store"));
        if let Some(after) = problem.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(after)));
        }
        match &self {
            // RFC 6750, section 3.
            Self::TokenNeeded { .. } => {
                headers.insert(header::WWW_AUTHENTICATE, fixed("Bearer"));
            }
            Self::BadToken { .. } => {
                let challenge = fixed("Bearer error=\"invalid_token\"");
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
            _ => {}
        }
        response.extensions_mut().insert(Refused(problem.reason));
        response
    }
}

/// A stranger's text, short enough for an answer.
pub(crate) fn shown(text: &str) -> String {
    const MOST: usize = 64;
    let mut shown: String = text.chars().take(MOST).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whole seconds, upwards, as `Retry-After` has them.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_announced_to_metrics() {
        let retry_after = Duration::from_millis(1500);
        let broker = |kind| Refusal::Broker {
            source: BrokerError::new(kind, "b", "m"),
            retry_after,
        };
        let all = [
            (Refusal::NotFound, 404),
            (Refusal::denied("no"), 403),
            (Refusal::too_many("slow down", retry_after), 429),
            (Refusal::invalid("last", "is odd"), 400),
            (Refusal::bad_token("expired"), 401),
            (Refusal::Draining { retry_after }, 503),
            (
                Refusal::Busy {
                    what: "publishes",
                    retry_after,
                },
                503,
            ),
            (Refusal::Internal { detail: "x" }, 500),
            (broker(ErrorKind::Unavailable), 503),
            (broker(ErrorKind::Timeout), 503),
            (broker(ErrorKind::Closed), 503),
            (broker(ErrorKind::TooLarge), 413),
            (broker(ErrorKind::Unsupported), 501),
            (broker(ErrorKind::Rejected), 502),
        ];
        for (refusal, status) in all {
            let problem = refusal.problem();
            assert_eq!(problem.status, status, "{refusal:?}");
            assert!(REASONS.contains(&problem.reason), "{refusal:?}");
            assert_eq!(
                problem.retry_after.is_some(),
                refusal.is_temporary(),
                "{refusal:?}"
            );
        }
    }

    #[test]
    fn the_answer_is_a_problem_of_rfc_9457() {
        let retry_after = Duration::from_millis(1500);
        let response = Refusal::too_many("slow down", retry_after).into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(
            response.headers()[header::CONTENT_TYPE],
            "application/problem+json"
        );
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        let problem = serde_json::to_value(Refusal::invalid("last", "is odd").problem()).unwrap();
        assert_eq!(
            problem,
            serde_json::json!({
                "type": "urn:fanfare:problem:bad_parameter", "title": "Bad parameter",
                "status": 400, "detail": "`last` is odd", "field": "last",
            })
        );
    }
}
