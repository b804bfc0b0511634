//! The operators' listener: metrics, health, and who is here.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use prometheus::TextEncoder;
use serde_json::json;

use super::json;
use crate::{app::App, problem::Refusal, query::Query};

/// How many rows are answered where the request does not say, and at most.
const ROWS: usize = 100;
const MAX_ROWS: usize = 1000;

/// `GET /metrics`: Prometheus' text format 0.0.4.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    // Its gauge stands as of now, not as of the last probe.
    app.readiness.report();
    let text = TextEncoder::new().encode_to_string(&app.registry.gather());
    let Ok(text) = text else {
        return Refusal::Internal {
            detail: "metrics cannot be encoded",
        }
        .into_response();
    };
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// `GET /healthz`: the event loop turns. Never the broker: its outage is no reason to restart
/// every edge and lose every client.
pub(crate) async fn healthz() -> Response {
    json(StatusCode::OK, "{\"alive\":true}")
}

/// `GET /readyz`: whether the node wants new clients, and why not.
pub(crate) async fn readyz(State(app): State<Arc<App>>) -> Response {
    let report = app.readiness.report();
    let status = if report.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json(status, json!(report).to_string())
}

/// `GET /channels?limit=`: what this node follows, most subscribers first.
pub(crate) async fn channels(State(app): State<Arc<App>>, request: Request) -> Response {
    let rows = Query::parse(request.uri().query(), &["limit"], false)
        .and_then(|query| query.number("limit", 1..=MAX_ROWS));
    let rows = match rows {
        Ok(rows) => rows.unwrap_or(ROWS),
        Err(refusal) => return refusal.into_response(),
    };
    let followed = app.hub.followed(rows).into_iter().map(|followed| {
        json!({ "channel": followed.pattern.as_str(), "subscribers": followed.subscribers })
    });
    let body = json!({ "channels": followed.collect::<Vec<_>>() });
    json(StatusCode::OK, body.to_string())
}

/// `GET /connections?limit=&after=`: the live streams and polls, oldest first.
pub(crate) async fn connections(State(app): State<Arc<App>>, request: Request) -> Response {
    let asked = Query::parse(request.uri().query(), &["limit", "after"], false).and_then(|query| {
        Ok((
            query.number("limit", 1..=MAX_ROWS)?,
            query.number("after", 0..=u64::MAX)?,
        ))
    });
    let (limit, after) = match asked {
        Ok(asked) => asked,
        Err(refusal) => return refusal.into_response(),
    };
    let (page, total) = app
        .connections
        .list(after.unwrap_or(0), limit.unwrap_or(ROWS));
    json(
        StatusCode::OK,
        json!({ "connections": page, "total": total }).to_string(),
    )
}

/// `DELETE /connections/{id}`: ends one.
pub(crate) async fn disconnect(State(app): State<Arc<App>>, request: Request) -> Response {
    let id = request
        .uri()
        .path()
        .rsplit('/')
        .next()
        .and_then(|id| id.parse().ok());
    match id {
        Some(id) if app.connections.close(id).await => StatusCode::NO_CONTENT.into_response(),
        _ => Refusal::NotFound.into_response(),
    }
}
