//! What a client wants to follow and from where on: the same for streams and polls.

use std::{collections::HashSet, num::NonZeroUsize};

use fanfare_core::Pattern;
use fanfare_delivery::{Cursor, Start};
use http::HeaderMap;

use crate::{
    problem::{Refusal, shown},
    query::Query,
};

/// The names that the query parameter of the cursor goes by: Fanfare's, and those of polyfills
/// and of Mercure, whose clients may come unchanged.
pub(crate) const CURSOR_NAMES: [&str; 3] = ["last_event_id", "lastEventId", "lastEventID"];
/// The most events of each channel that `last` asks for.
pub(crate) const MAX_LAST: usize = 1000;

/// What a client wants to follow, and from where on.
#[derive(Debug)]
pub(crate) struct Following {
    pub(crate) channels: Vec<Pattern>,
    pub(crate) start: Start,
}

/// The places to start that a request names. The cursor wins: a browser that reconnects sends it
/// along with the URL that it first came with.
#[derive(Debug, Default)]
pub(crate) struct Starts {
    pub(crate) cursor: Option<Cursor>,
    pub(crate) last: Option<usize>,
    pub(crate) oldest: bool,
}

impl Starts {
    pub(crate) fn resolve(self) -> Result<Start, Refusal> {
        match self {
            Self {
                cursor: Some(cursor),
                ..
            } => Ok(Start::After(cursor)),
            Self {
                last: Some(_),
                oldest: true,
                ..
            } => Err(Refusal::invalid(
                "since",
                "is given together with `last`; one is allowed",
            )),
            Self { oldest: true, .. } => Ok(Start::Oldest),
            Self {
                last: Some(last), ..
            } => {
                let last = NonZeroUsize::new(last).filter(|last| last.get() <= MAX_LAST);
                last.map(Start::Last).ok_or_else(|| {
                    Refusal::invalid(
                        "last",
                        format!("is out of range; 1 to {MAX_LAST} is allowed"),
                    )
                })
            }
            Self { .. } => Ok(Start::Now),
        }
    }
}

/// The cursor of the header, which wins, or of the query under one of its names.
pub(crate) fn cursor_of(
    headers: &HeaderMap,
    query: &Query<'_>,
    names: &[&'static str],
) -> Result<Option<Cursor>, Refusal> {
    if let Some(cursor) = cursor_of_header(headers)? {
        return Ok(Some(cursor));
    }
    for name in names {
        if let Some(text) = query.one(name)?
            && let Some(cursor) = parse_cursor(name, text)?
        {
            return Ok(Some(cursor));
        }
    }
    Ok(None)
}

/// The cursor of the `Last-Event-ID` header; an empty one is none.
pub(crate) fn cursor_of_header(headers: &HeaderMap) -> Result<Option<Cursor>, Refusal> {
    const NAME: &str = "Last-Event-ID";
    let mut all = headers.get_all("last-event-id").iter();
    let Some(value) = all.next() else {
        return Ok(None);
    };
    if all.next().is_some() {
        return Err(Refusal::invalid(NAME, "is given more than once"));
    }
    // Bytes that are no UTF-8 become what no cursor has.
    parse_cursor(NAME, &String::from_utf8_lossy(value.as_bytes()))
}

/// A cursor; an empty text is none.
pub(crate) fn parse_cursor(field: &'static str, text: &str) -> Result<Option<Cursor>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    Cursor::parse(text)
        .map(Some)
        .map_err(|source| Refusal::BadCursor { field, source })
}

/// `since=oldest`.
pub(crate) fn is_oldest(since: Option<&str>) -> Result<bool, Refusal> {
    match since {
        None => Ok(false),
        Some("oldest") => Ok(true),
        Some(other) => {
            let told = format!("is {:?}; `oldest` is allowed", shown(other));
            Err(Refusal::invalid("since", told))
        }
    }
}

/// The channels and patterns, each once.
pub(crate) fn channels<'a>(
    field: &'static str,
    texts: impl Iterator<Item = &'a str>,
    most: usize,
) -> Result<Vec<Pattern>, Refusal> {
    let (mut channels, mut seen, mut count) = (Vec::new(), HashSet::new(), 0_usize);
    for text in texts {
        count += 1;
        if count > most {
            let told = format!("is given too often; at most {most} channels are allowed");
            return Err(Refusal::invalid(field, told));
        }
        let pattern = Pattern::parse(text).map_err(|why| Refusal::channel(field, text, why))?;
        if seen.insert(pattern.clone()) {
            channels.push(pattern);
        }
    }
    if channels.is_empty() {
        let told = format!("is missing; 1 to {most} channels or patterns are allowed");
        return Err(Refusal::invalid(field, told));
    }
    Ok(channels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(query: &str, header: Option<&str>) -> Result<Start, Refusal> {
        let mut allowed = vec!["last", "since"];
        allowed.extend(CURSOR_NAMES);
        let query = Query::parse(Some(query), &allowed, false)?;
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert("last-event-id", value.parse().unwrap());
        }
        let starts = Starts {
            cursor: cursor_of(&headers, &query, &CURSOR_NAMES)?,
            last: query.number("last", 1..=MAX_LAST)?,
            oldest: is_oldest(query.one("since")?)?,
        };
        starts.resolve()
    }

    fn after(text: &str) -> Start {
        Start::After(Cursor::parse(text).unwrap())
    }

    #[test]
    fn the_header_wins_then_the_query_then_the_start() {
        assert_eq!(
            start("last_event_id=m.1.2", Some("m.1.3")).unwrap(),
            after("m.1.3")
        );
        assert_eq!(
            start("last_event_id=m.1.2", Some("")).unwrap(),
            after("m.1.2")
        );
        for name in CURSOR_NAMES {
            assert_eq!(
                start(&format!("{name}=m.1.2&last=5"), None).unwrap(),
                after("m.1.2")
            );
            assert_eq!(start(&format!("{name}="), None).unwrap(), Start::Now);
        }
        assert_eq!(
            start("last_event_id=&lastEventId=m.1.2", None).unwrap(),
            after("m.1.2")
        );
        assert_eq!(
            start("last=5", None).unwrap(),
            Start::Last(NonZeroUsize::new(5).unwrap())
        );
        assert_eq!(start("since=oldest", None).unwrap(), Start::Oldest);
        assert_eq!(start("", None).unwrap(), Start::Now);
        for bad in [
            "last=0",
            "last=1001",
            "since=yesterday",
            "last=1&since=oldest",
            "last_event_id=x",
            "last_event_id=m.1.2&last_event_id=m.1.3",
        ] {
            assert_eq!(start(bad, None).unwrap_err().problem().status, 400, "{bad}");
        }
        assert!(
            start("last_event_id=m.1.2", Some("nonsense")).is_err(),
            "a bad header is told"
        );
    }

    #[test]
    fn channels_are_counted_then_deduplicated() {
        let parse = |texts: &[&str]| channels("channel", texts.iter().copied(), 3);
        assert_eq!(parse(&["a", "b.*", "a"]).unwrap().len(), 2);
        for bad in [
            &[][..],
            &["a", "b", "c", "d"],
            &["a b"],
            &[""],
            &["a", "*x"],
        ] {
            assert_eq!(parse(bad).unwrap_err().problem().status, 400, "{bad:?}");
        }
    }
}
