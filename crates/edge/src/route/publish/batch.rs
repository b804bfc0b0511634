//! `POST /publish` with JSON: one publication, or an array of them.

use std::sync::Arc;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use fanfare_core::MAX_BATCH;
use http::{StatusCode, request::Parts};
use serde_json::value::RawValue;

use super::{item, not_utf8, publisher::Publisher};
use crate::{app::App, body, problem::Refusal, query::Query, route::json};

/// One publication is answered as such; an array with 200 and the array of results, in its order,
/// which is the log's too.
pub(super) async fn answer(app: &Arc<App>, parts: &Parts, body: Body) -> Result<Response, Refusal> {
    Query::parse(parts.uri.query(), &[], app.auth.takes_query_token())?;
    let publisher = Publisher::new(app, parts)?;
    let limits = &app.config.limits;
    let body = body::read(
        &parts.headers,
        body,
        limits.batch_bytes,
        "the body",
        limits.body_timeout,
    );
    let body = body.await?;
    let text = std::str::from_utf8(&body).map_err(|error| {
        not_utf8(fanfare_core::NotUtf8 {
            at: error.valid_up_to(),
        })
    })?;
    if !text.trim_start().starts_with('[') {
        return Ok(item::publish(&publisher, text).await?.into_response());
    }
    let items: Vec<&RawValue> = serde_json::from_str(text)
        .map_err(|error| Refusal::bad_body(format!("the body is no JSON array: {error}")))?;
    if items.len() > limits.batch_items {
        let allowed = format!("{} publications", limits.batch_items);
        return Err(Refusal::TooLarge {
            what: "the array",
            allowed,
        });
    }
    let mut results = String::from("[");
    for part in items.chunks(MAX_BATCH) {
        let part = part.iter().map(|item| item::parse(item.get())).collect();
        for published in publisher.publish_all(part).await {
            if results.len() > 1 {
                results.push(',');
            }
            results.push_str(&item::result(published));
        }
    }
    results.push(']');
    Ok(json(StatusCode::OK, results))
}
