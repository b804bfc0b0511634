//! `/publish`: publications in.

mod batch;
mod item;
mod ndjson;
mod publisher;

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use fanfare_core::{Data, EventType, IdempotencyKey, Publication};
use http::{HeaderMap, header, request::Parts};

use super::history::channel_of;
use crate::{app::App, body, problem::Refusal, query::Query};
use publisher::{Publisher, Receipt};

const PREFIX: &str = "/publish/";

/// `POST /publish/{channel}`: the body is the data, bytes as they are.
pub(crate) async fn one(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let published = publish_body(&app, &parts, body).await;
    published.map_or_else(IntoResponse::into_response, Receipt::into_response)
}

/// `POST /publish`: JSON, an array of it, or a line each.
pub(crate) async fn many(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let answered = if is_ndjson(&parts.headers) {
        ndjson::answer(&app, &parts, body)
    } else {
        batch::answer(&app, &parts, body).await
    };
    answered.unwrap_or_else(IntoResponse::into_response)
}

async fn publish_body(app: &Arc<App>, parts: &Parts, body: Body) -> Result<Receipt, Refusal> {
    let query = Query::parse(parts.uri.query(), &["event"], app.auth.takes_query_token())?;
    let channel = channel_of(parts, PREFIX)?;
    let event_type = query.one("event")?.filter(|text| !text.is_empty());
    let key = key_of(&parts.headers)?;
    let event_type = event_type
        .map(|text| parse_event_type("event", text))
        .transpose()?;
    let publisher = Publisher::new(app, parts)?;
    publisher.authorize(&channel)?;
    let limits = &app.config.limits;
    let data = body::read(
        &parts.headers,
        body,
        limits.event_bytes,
        "the event",
        limits.body_timeout,
    );
    let data = Data::copied(&data.await?).map_err(|error| publisher.rejected(not_utf8(error)))?;
    let publication = Publication {
        event_type,
        data,
        key,
        ..Publication::default()
    };
    publisher.publish(channel, publication).await
}

fn is_ndjson(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let kind = kind
        .and_then(|kind| kind.split(';').next())
        .unwrap_or_default()
        .trim();
    let names = [
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonlines",
    ];
    names.iter().any(|name| kind.eq_ignore_ascii_case(name))
}

fn key_of(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Refusal> {
    const NAME: &str = "Idempotency-Key";
    let mut all = headers.get_all("idempotency-key").iter();
    let Some(value) = all.next() else {
        return Ok(None);
    };
    if all.next().is_some() {
        return Err(Refusal::invalid(NAME, "is given more than once"));
    }
    let text = String::from_utf8_lossy(value.as_bytes());
    IdempotencyKey::parse(&text)
        .map(Some)
        .map_err(|error| Refusal::invalid(NAME, format!("is not good: {error}")))
}

fn parse_event_type(field: &'static str, text: &str) -> Result<EventType, Refusal> {
    EventType::parse(text).map_err(|error| Refusal::invalid(field, format!("is not good: {error}")))
}

fn not_utf8(error: fanfare_core::NotUtf8) -> Refusal {
    Refusal::bad_body(format!("{error}; an SSE stream can carry nothing else"))
}
