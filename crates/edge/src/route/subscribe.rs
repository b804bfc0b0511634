//! `/events`: the stream.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use axum::{
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use fanfare_delivery::{CloseReason, Format, Subscriber, close::refusal_stream};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, Version, header, request::Parts};
use serde::Deserialize;

use super::connection;
use crate::{
    accept,
    app::App,
    auth::Identity,
    body,
    config::RefusalMode,
    connection::Joined,
    following::{self, CURSOR_NAMES, Following, MAX_LAST, Starts},
    problem::{Refusal, Refused},
    query::Query,
    registry::Kind,
};

const STREAM: &str = "text/event-stream";
const PARAMETERS: [&str; 8] = [
    "channel",
    CURSOR_NAMES[0],
    CURSOR_NAMES[1],
    CURSOR_NAMES[2],
    "last",
    "since",
    "envelope",
    "hello",
];

/// What is asked for.
struct Asked {
    following: Following,
    envelope: bool,
    hello: bool,
}

/// The body of `POST /events`: the same as the query, for lists too long for a URL.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskedJson {
    channels: Vec<String>,
    #[serde(default)]
    last_event_id: Option<String>,
    #[serde(default)]
    last: Option<usize>,
    #[serde(default)]
    since: Option<String>,
    #[serde(default)]
    envelope: bool,
    #[serde(default)]
    hello: Option<bool>,
}

/// `GET`, `HEAD` and `POST /events`.
pub(crate) async fn events(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    match stream(&app, &parts, body).await {
        Ok(response) => response,
        Err(refusal) => refused(&app, &parts, refusal),
    }
}

async fn stream(app: &App, parts: &Parts, body: Body) -> Result<Response, Refusal> {
    accept::require(&parts.headers, STREAM)?;
    let asked = if parts.method == Method::POST {
        // Before its body is read: a stranger's bytes are not worth the wait.
        app.auth.identify(parts)?;
        Asked::of_body(app, parts, body).await?
    } else {
        Asked::of_query(app, parts)?
    };
    let connection = connection(parts)?;
    let identity = app.identify_reader(parts, &asked.following.channels)?;
    if parts.method == Method::HEAD {
        // The length stays as unknown as that of the stream.
        return Ok(opened(parts.version, endless()));
    }
    let permit = app.slot(&app.limiter, parts, &connection, &identity)?;
    let _watched = connection.watched();
    let reader = app
        .reader(parts, &connection, identity, asked.following.channels)
        .await?;
    let channels = reader.channels.as_slice().into();
    let live = app
        .connections
        .enter(Kind::Stream, permit, &reader.identity, channels);
    let abort = connection.clone();
    let subscriber = Subscriber {
        channels: reader.channels,
        start: asked.following.start,
        format: if asked.envelope {
            Format::Envelope
        } else {
            Format::Sse
        },
        hello: asked.hello,
        filter: reader.filter,
        ends_at: ends_at(app, &reader.identity),
        guard: live.clone(),
        abort: Arc::new(move || abort.abort()),
    };
    let seat = app.join(subscriber).await?;
    live.opened(&seat);
    // Its bytes come from wherever its door is.
    let mut response = opened(parts.version, endless());
    let takes_sockets = app.hub.takes_sockets();
    let metrics = app.metrics.clone();
    Joined::put(&mut response, seat, live, takes_sockets, metrics);
    Ok(response)
}

/// A body of unknown length that never comes.
fn endless() -> Body {
    Body::from_stream(stream::pending::<Result<Bytes, std::convert::Infallible>>())
}

impl Asked {
    fn of_query(app: &App, parts: &Parts) -> Result<Self, Refusal> {
        let query = Query::parse(parts.uri.query(), &PARAMETERS, app.auth.takes_query_token())?;
        let most = app.config.limits.channels_per_connection;
        let starts = Starts {
            cursor: following::cursor_of(&parts.headers, &query, &CURSOR_NAMES)?,
            last: query.number("last", 1..=MAX_LAST)?,
            oldest: following::is_oldest(query.one("since")?)?,
        };
        let channels = following::channels("channel", query.all("channel"), most)?;
        Ok(Self {
            following: Following {
                channels,
                start: starts.resolve()?,
            },
            envelope: query.flag("envelope")?.unwrap_or(false),
            hello: query.flag("hello")?.unwrap_or(true),
        })
    }

    async fn of_body(app: &App, parts: &Parts, body: Body) -> Result<Self, Refusal> {
        Query::parse(parts.uri.query(), &[], app.auth.takes_query_token())?;
        let limits = &app.config.limits;
        let what = "the list of channels";
        let body = body::read(
            &parts.headers,
            body,
            limits.subscribe_bytes,
            what,
            limits.body_timeout,
        );
        let asked: AskedJson = serde_json::from_slice(&body.await?).map_err(|error| {
            Refusal::bad_body(format!("the body is not as it should be: {error}"))
        })?;
        let of_body = asked.last_event_id.as_deref();
        let cursor = match following::cursor_of_header(&parts.headers)? {
            Some(cursor) => Some(cursor),
            None => of_body.map_or(Ok(None), |text| {
                following::parse_cursor("last_event_id", text)
            })?,
        };
        let starts = Starts {
            cursor,
            last: asked.last,
            oldest: following::is_oldest(asked.since.as_deref())?,
        };
        let texts = asked.channels.iter().map(String::as_str);
        let channels = following::channels("channels", texts, limits.channels_per_connection)?;
        Ok(Self {
            following: Following {
                channels,
                start: starts.resolve()?,
            },
            envelope: asked.envelope,
            hello: asked.hello.unwrap_or(true),
        })
    }
}

/// The head of a stream.
fn opened(version: Version, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    let fixed = HeaderValue::from_static;
    headers.insert(header::CONTENT_TYPE, fixed(STREAM));
    // `no-transform` keeps intermediaries from compressing, and so from buffering.
    headers.insert(
        header::CACHE_CONTROL,
        fixed("no-cache, no-store, no-transform"),
    );
    headers.insert("x-accel-buffering", fixed("no"));
    if version == Version::HTTP_11 {
        headers.insert(header::CONNECTION, fixed("keep-alive"));
    }
    response
}

/// When and why the stream ends by itself.
fn ends_at(app: &App, identity: &Identity) -> Option<(Instant, CloseReason)> {
    let now = Instant::now();
    let expiry = identity.expires_at().and_then(|at| {
        let left = at.duration_since(SystemTime::now()).unwrap_or_default();
        Some((now.checked_add(left)?, CloseReason::Expired))
    });
    let age = app.config.server.max_age.and_then(|age| {
        // Streams that began together do not end together.
        let jittered = age.mul_f64(1.0 - fastrand::f64() / 10.0);
        Some((now.checked_add(jittered)?, CloseReason::MaxAge))
    });
    expiry.into_iter().chain(age).min_by_key(|(at, _)| *at)
}

/// A refusal as this client can make use of it: a browser's `EventSource` gives up for good on
/// any status but 200.
fn refused(app: &App, parts: &Parts, refusal: Refusal) -> Response {
    let as_stream = match app.config.limits.refusal {
        RefusalMode::Status => false,
        RefusalMode::RetryStream => true,
        RefusalMode::Auto => is_event_source(&parts.headers),
    };
    let Some(retry) = refusal
        .retry_after()
        .filter(|_| as_stream && refusal.is_temporary())
    else {
        return refusal.into_response();
    };
    // Those who are refused together do not come back together.
    let retry = retry + retry.mul_f64(fastrand::f64() / 2.0);
    let body = refusal_stream(refusal.close_reason(), retry);
    let mut response = opened(parts.version, Body::from(body));
    // RFC 9113, section 8.2.2: no such field in HTTP/2.
    if parts.version < Version::HTTP_2 {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
        .extensions_mut()
        .insert(Refused(refusal.problem().reason));
    response
}

fn is_event_source(headers: &HeaderMap) -> bool {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    headers.contains_key("sec-fetch-mode") && accept.is_some_and(|accept| accept.contains(STREAM))
}
