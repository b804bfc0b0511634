//! `/history/{channel}`: retained events as JSON.

use std::{
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use fanfare_core::{
    Channel, Event, Gap, GapCause, History, HistoryQuery, Live, Pattern, Position, Since,
};
use fanfare_delivery::{Cursor, Filter, View, event_json};
use http::request::Parts;
use serde_json::json;

use super::{Page, connection, poll::join};
use crate::{
    accept,
    app::App,
    following::parse_cursor,
    problem::Refusal,
    query::{Query, decode},
};

const PREFIX: &str = "/history/";
const PARAMETERS: [&str; 2] = ["limit", "since"];
const EVENTS: usize = 100;
const MAX_EVENTS: usize = 1000;
/// About the most bytes of data in an answer.
const PAGE_BYTES: usize = 2 << 20;

/// `GET /history/{channel}`.
pub(crate) async fn history(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    match page(&app, &parts).await {
        Ok(page) => page.into_response(&app),
        Err(refusal) => refusal.into_response(),
    }
}

async fn page(app: &App, parts: &Parts) -> Result<Page, Refusal> {
    accept::require(&parts.headers, "application/json")?;
    let query = Query::parse(parts.uri.query(), &PARAMETERS, app.auth.takes_query_token())?;
    let channel = channel_of(parts, PREFIX)?;
    let pattern = Pattern::from(&channel);
    let identity = app.identify_reader(parts, std::slice::from_ref(&pattern))?;
    let log = app
        .broker
        .capabilities()
        .logs
        .of(&pattern)
        .into_iter()
        .next();
    let log = log.ok_or(Refusal::Internal {
        detail: "a channel without a log",
    })?;
    let limit = query
        .number("limit", 1..=MAX_EVENTS)?
        .and_then(NonZeroUsize::new);
    let since = match query.one("since")? {
        None | Some("oldest") => Since::Oldest,
        Some(text) => match parse_cursor("since", text)? {
            None => Since::Oldest,
            Some(cursor) => {
                let place = cursor.get(&log).cloned();
                let foreign = || Refusal::invalid("since", "is not a place of this channel's log");
                Since::After(place.ok_or_else(foreign)?)
            }
        },
    };
    let connection = connection(parts)?;
    let permit = app.slot(&app.histories, parts, &connection, &identity)?;
    let reader = app
        .reader(parts, &connection, identity, vec![pattern])
        .await?;
    let asked = HistoryQuery {
        log,
        channels: reader.channels,
        since,
        limit: limit.unwrap_or(NonZeroUsize::MIN.saturating_add(EVENTS - 1)),
        max_bytes: PAGE_BYTES,
    };
    let history = app
        .in_time("reading history", app.broker.history(asked))
        .await?;
    let history = history.map_err(|error| app.broker_failed(error))?;
    let json = into_json(&channel, &history, reader.filter.as_deref());
    Ok(Page {
        json,
        permit: Some(permit),
        connection,
    })
}

/// The channel that the path names after `prefix`.
pub(super) fn channel_of(parts: &Parts, prefix: &str) -> Result<Channel, Refusal> {
    let text = parts.uri.path().strip_prefix(prefix).unwrap_or_default();
    let text = decode(text, false).map_err(|why| Refusal::invalid("channel", why))?;
    Channel::parse(&text).map_err(|why| Refusal::channel("channel", &text, why))
}

fn into_json(channel: &Channel, history: &History, filter: Option<&dyn Filter>) -> Vec<u8> {
    let (mut events, mut loss) = (Vec::new(), None);
    for item in &history.items {
        match item {
            Live::Gap(gap) => widen(&mut loss, gap.clone()),
            Live::Event(event) => match view(event, filter) {
                Some(View::Whole) => events.push(Bytes::from(event_json(event))),
                Some(View::Redacted(data)) => {
                    let redacted = Event {
                        data,
                        ..Event::clone(event)
                    };
                    events.push(event_json(&redacted).into());
                }
                Some(View::Nothing) => {}
                None => widen(&mut loss, failed(event)),
            },
        }
    }
    let mut out =
        Vec::with_capacity(events.iter().map(|event| event.len() + 1).sum::<usize>() + 256);
    out.extend_from_slice(
        format!("{{\"channel\":{},\"events\":[", json!(channel.as_str())).as_bytes(),
    );
    join(&mut out, &events);
    let gap = loss.map(|gap| {
        json!({
            "channel": gap.scope.as_str(),
            "cause": gap.cause.as_str(),
            "after": gap.after.as_ref().map(text),
            "next": text(&gap.next),
        })
    });
    let (gap, next, more) = (json!(gap), json!(text(&history.upto)), history.more);
    out.extend_from_slice(format!("],\"gap\":{gap},\"next\":{next},\"more\":{more}}}").as_bytes());
    out
}

/// What may be seen of an event; `None` where the filter panicked.
fn view(event: &Event, filter: Option<&dyn Filter>) -> Option<View> {
    let Some(filter) = filter else {
        return Some(View::Whole);
    };
    catch_unwind(AssertUnwindSafe(|| filter.view(event))).ok()
}

fn failed(event: &Event) -> Gap {
    Gap {
        scope: (&event.channel).into(),
        cause: GapCause::Filter,
        after: Some(event.position.at(event.position.offset.before())),
        next: event.position.clone(),
    }
}

/// One gap that covers all of the page's: the answer names one.
fn widen(loss: &mut Option<Gap>, gap: Gap) {
    match loss {
        None => *loss = Some(gap),
        Some(first) => first.next = gap.next,
    }
}

fn text(place: &Position) -> String {
    Cursor::from(place.clone()).to_string()
}
