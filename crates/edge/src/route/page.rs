//! The page at `/` and its assets, embedded: no build step, no request to any other host.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::json;
use crate::{app::App, problem::Refusal};

const SCRIPT: &str = "text/javascript; charset=utf-8";
/// Path, media type, bytes. `web/index.html` lists them too.
const ASSETS: [(&str, &str, &str); 5] = [
    (
        "/",
        "text/html; charset=utf-8",
        include_str!("../../web/index.html"),
    ),
    (
        "/app.css",
        "text/css; charset=utf-8",
        include_str!("../../web/app.css"),
    ),
    ("/app.js", SCRIPT, include_str!("../../web/app.js")),
    ("/stream.js", SCRIPT, include_str!("../../web/stream.js")),
    ("/plot.js", SCRIPT, include_str!("../../web/plot.js")),
];
/// Nothing from elsewhere, nothing inline that runs: events are strangers' text.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The paths of the page.
pub(crate) fn paths() -> impl Iterator<Item = &'static str> {
    ASSETS.iter().map(|(path, ..)| *path)
}

/// `GET` of an asset.
pub(crate) async fn asset(State(app): State<Arc<App>>, request: Request) -> Response {
    let path = request.uri().path();
    let found = ASSETS.iter().find(|(asset, ..)| *asset == path);
    let Some((_, kind, text)) = found.filter(|_| app.config.page.enabled) else {
        return Refusal::NotFound.into_response();
    };
    let mut response = (StatusCode::OK, *text).into_response();
    let headers = response.headers_mut();
    let fixed = HeaderValue::from_static;
    headers.insert(header::CONTENT_TYPE, fixed(kind));
    headers.insert(header::CACHE_CONTROL, fixed("no-cache"));
    headers.insert(header::CONTENT_SECURITY_POLICY, fixed(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, fixed("nosniff"));
    headers.insert(header::REFERRER_POLICY, fixed("no-referrer"));
    response
}

/// `GET /page.json`: what the page shows first.
pub(crate) async fn facts(State(app): State<Arc<App>>) -> Response {
    let page = &app.config.page;
    if !page.enabled {
        return Refusal::NotFound.into_response();
    }
    let channels: Vec<_> = page
        .channels
        .iter()
        .map(|pattern| pattern.as_str())
        .collect();
    let facts = json!({
        "title": page.title,
        "channels": channels,
        "demo": page.demo,
        "node": app.config.server.node,
        "version": env!("CARGO_PKG_VERSION"),
    });
    json(StatusCode::OK, facts.to_string())
}
