//! The requests that a floor server takes: a stream, a publish, a batch of them.

use std::{borrow::Cow, io};

use memchr::memmem;
use serde::Deserialize;

pub(super) enum Request {
    /// `GET /events?channel=…`
    Subscribe { channel: String },
    /// `POST /publish/{channel}`
    Publish { channel: String, data: String },
    /// `POST /publish` with NDJSON.
    Batch(Vec<(String, String)>),
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    data: Cow<'a, str>,
}

/// The first request, once it is whole, and its length.
pub(super) fn parse(bytes: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = text(&bytes[..end])?;
    let mut words = head.split([' ', '\r']);
    let (method, target) = (words.next(), words.next().unwrap_or_default());
    if method == Some("GET") {
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let channel = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("channel="));
        let channel = channel.ok_or(io::ErrorKind::InvalidData)?.to_owned();
        return Ok(Some((Request::Subscribe { channel }, end + 4)));
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let named = name.eq_ignore_ascii_case("content-length");
        named.then(|| value.trim().parse::<usize>().ok()).flatten()
    });
    let whole = end + 4 + length.ok_or(io::ErrorKind::InvalidData)?;
    let Some(body) = bytes.get(end + 4..whole) else {
        return Ok(None);
    };
    let body = text(body)?;
    let request = match target.strip_prefix("/publish/") {
        Some(channel) => Request::Publish {
            channel: channel.to_owned(),
            data: body.to_owned(),
        },
        None => Request::Batch(
            body.lines()
                .map(|line| {
                    let item: Item<'_> = serde_json::from_str(line)?;
                    Ok((item.channel.into_owned(), item.data.into_owned()))
                })
                .collect::<io::Result<_>>()?,
        ),
    };
    Ok(Some((request, whole)))
}

fn text(bytes: &[u8]) -> io::Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_taken_when_they_are_whole() {
        let text = "POST /publish/a.b HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi";
        let next = "GET /events?hello=0&channel=c.1 HTTP/1.1\r\nHost: x\r\n\r\n";
        let both = format!("{text}{next}");
        for size in 0..text.len() {
            assert!(parse(&both.as_bytes()[..size]).unwrap().is_none());
        }
        let Some((Request::Publish { channel, data }, size)) = parse(both.as_bytes()).unwrap()
        else {
            panic!("no publish")
        };
        assert_eq!(
            (channel.as_str(), data.as_str(), size),
            ("a.b", "hi", text.len())
        );
        let Some((Request::Subscribe { channel }, _)) = parse(&both.as_bytes()[size..]).unwrap()
        else {
            panic!("no subscribe")
        };
        assert_eq!(channel, "c.1");
    }

    #[test]
    fn a_batch_is_a_line_each() {
        let body = "{\"channel\":\"a\",\"data\":\"1\"}\n{\"channel\":\"b\",\"data\":\"x\\ty\"}\n";
        let text = format!(
            "POST /publish HTTP/1.1\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let Some((Request::Batch(items), _)) = parse(text.as_bytes()).unwrap() else {
            panic!("no batch")
        };
        assert_eq!(items[1], ("b".to_owned(), "x\ty".to_owned()));
        assert_eq!(items.len(), 2);
    }
}
