//! What each path does.

pub(crate) mod admin;
pub(crate) mod history;
pub(crate) mod page;
pub(crate) mod poll;
pub(crate) mod publish;
pub(crate) mod subscribe;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header, request::Parts};

use crate::{app::App, body, connection::Connection, limit::Permit, problem::Refusal};

/// The connection that a request came on.
fn connection(parts: &Parts) -> Result<Connection, Refusal> {
    let connection = parts.extensions.get::<Connection>().cloned();
    connection.ok_or(Refusal::Internal {
        detail: "a request without its connection",
    })
}

/// A page that may be large, and the slot that is held until the client has read it.
struct Page {
    json: Vec<u8>,
    permit: Option<Permit>,
    connection: Connection,
}

impl Page {
    fn into_response(self, app: &App) -> Response {
        let time = app.config.server.answer_timeout;
        json(
            StatusCode::OK,
            body::held(self.json, self.permit, self.connection, time),
        )
    }
}

/// A JSON answer that no cache keeps.
fn json(status: StatusCode, body: impl Into<axum::body::Body>) -> Response {
    let mut response = (status, body.into()).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
