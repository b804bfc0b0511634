//! `/poll`: the stream for those who cannot hold one.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use fanfare_delivery::{Format, Page, Subscriber};
use http::request::Parts;
use serde::Deserialize;
use tokio::time;

use super::connection;
use crate::{
    accept,
    app::App,
    following::{self, MAX_LAST, Starts},
    problem::Refusal,
    query::Query,
    registry::Kind,
};

const PARAMETERS: [&str; 6] = ["channel", "cursor", "timeout", "limit", "last", "since"];
/// How long a poll waits that does not say.
const TIMEOUT: Duration = Duration::from_secs(25);
/// How many events a poll answers that does not say, and the most that it may ask for.
const EVENTS: usize = 256;
const MAX_EVENTS: usize = 1000;
/// About the most bytes of events in an answer; the rest is for the next poll.
const MAX_BYTES: usize = 8 << 20;

/// `GET /poll`.
pub(crate) async fn poll(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    match page(&app, &parts).await {
        Ok(page) => page.into_response(&app),
        Err(refusal) => refusal.into_response(),
    }
}

async fn page(app: &App, parts: &Parts) -> Result<super::Page, Refusal> {
    accept::require(&parts.headers, "application/json")?;
    let query = Query::parse(parts.uri.query(), &PARAMETERS, app.auth.takes_query_token())?;
    let limits = &app.config.limits;
    let longest = limits.poll_timeout.as_secs_f64();
    let timeout = query.number("timeout", 0.0..=longest)?;
    let timeout = timeout.map_or(TIMEOUT.min(limits.poll_timeout), Duration::from_secs_f64);
    let most = query.number("limit", 1..=MAX_EVENTS)?.unwrap_or(EVENTS);
    let starts = Starts {
        cursor: following::cursor_of(&parts.headers, &query, &["cursor"])?,
        last: query.number("last", 1..=MAX_LAST)?,
        oldest: following::is_oldest(query.one("since")?)?,
    };
    let asked = following::channels(
        "channel",
        query.all("channel"),
        limits.channels_per_connection,
    )?;
    let start = starts.resolve()?;
    let connection = connection(parts)?;
    let identity = app.identify_reader(parts, &asked)?;
    let permit = app.slot(&app.limiter, parts, &connection, &identity)?;
    let watched = connection.watched();
    let reader = app.reader(parts, &connection, identity, asked).await?;
    let channels = reader.channels.as_slice().into();
    let live = app
        .connections
        .enter(Kind::Poll, permit, &reader.identity, channels);
    let abort = connection.clone();
    let subscriber = Subscriber {
        channels: reader.channels,
        start,
        format: Format::Items,
        // Its cursor is the answer's when nothing else comes.
        hello: true,
        filter: reader.filter,
        ends_at: None,
        guard: live.clone(),
        abort: Arc::new(move || abort.abort()),
    };
    let until = time::Instant::now() + timeout;
    let seat = app.join(subscriber).await?;
    live.opened(&seat);
    let left = until.saturating_duration_since(time::Instant::now());
    let mut page = seat.into_items().collect(left, most, MAX_BYTES).await;
    cut(&mut page, most)?;
    drop(watched);
    Ok(super::Page {
        json: page.into_json(),
        permit: live.release(),
        connection,
    })
}

/// Delivery takes what is queued by the piece, which may hold more events than were asked for:
/// the rest is for the next poll.
fn cut(page: &mut Page, most: usize) -> Result<(), Refusal> {
    #[derive(Deserialize)]
    struct Place<'a> {
        id: &'a str,
    }
    if page.events.len() > most {
        page.events.truncate(most);
        let last = page
            .events
            .last()
            .and_then(|last| serde_json::from_slice::<Place<'_>>(last).ok());
        let last = last.ok_or(Refusal::Internal {
            detail: "an event without an id",
        })?;
        page.cursor = Some(last.id.to_owned());
    }
    Ok(())
}

trait IntoJson {
    fn into_json(self) -> Vec<u8>;
}

impl IntoJson for Page {
    /// The parts are JSON already.
    fn into_json(self) -> Vec<u8> {
        let size = |list: &[Bytes]| list.iter().map(|item| item.len() + 1).sum::<usize>();
        let mut out = Vec::with_capacity(size(&self.events) + size(&self.gaps) + 128);
        out.extend_from_slice(b"{\"events\":[");
        join(&mut out, &self.events);
        out.extend_from_slice(b"],\"gaps\":[");
        join(&mut out, &self.gaps);
        out.extend_from_slice(b"],\"cursor\":");
        match self.cursor {
            // A cursor is letters, digits and `-_.~`: no character that JSON escapes.
            Some(cursor) => out.extend_from_slice(format!("\"{cursor}\"").as_bytes()),
            None => out.extend_from_slice(b"null"),
        }
        if let Some(closed) = self.closed {
            out.extend_from_slice(format!(",\"closed\":\"{}\"", closed.as_str()).as_bytes());
        }
        out.push(b'}');
        out
    }
}

pub(super) fn join(out: &mut Vec<u8>, items: &[Bytes]) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(item);
    }
}
