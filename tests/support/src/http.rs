//! HTTP/1.1 of a few lines: one request, one response, on one connection.

use std::{fmt::Write as _, io, time::Duration};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const MAX_HEAD_BYTES: usize = 64 << 10;
/// A line inside a chunked body.
const MAX_LINE_BYTES: usize = 8 << 10;
const READ_BYTES: usize = 4 << 10;
/// How long [`request`] waits for the whole response.
const REPLY_WITHIN: Duration = Duration::from_secs(60);

/// The head of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// Names in lower case and values, in the order they came.
    pub headers: Vec<(String, String)>,
}

/// A whole response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Names in lower case and values, in the order they came.
    pub headers: Vec<(String, String)>,
    /// The body, whole.
    pub body: Vec<u8>,
}

/// Sends one request to `http://host:port/path?query` and reads the whole response.
///
/// # Errors
/// Those of the socket; `InvalidInput` for another kind of URL; `InvalidData` for a response that
/// is not HTTP/1.1; `UnexpectedEof` for one that is cut off; `TimedOut` after a minute.
pub async fn request(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Reply> {
    let (authority, path) = split(url)?;
    let exchange = async {
        let stream = TcpStream::connect(authority).await?;
        let request = encode_request(method, authority, path, headers, body);
        let mut exchange = Exchange::open(stream, method, &request).await?;
        let mut body = Vec::new();
        while exchange.read(&mut body).await? {}
        let Head { status, headers } = exchange.head;
        Ok(Reply {
            status,
            headers,
            body,
        })
    };
    match tokio::time::timeout(REPLY_WITHIN, exchange).await {
        Ok(reply) => reply,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// [`request`] with `GET` and no headers.
///
/// # Errors
/// As [`request`].
pub async fn get(url: &str) -> io::Result<Reply> {
    request("GET", url, &[], b"").await
}

impl Head {
    /// The first value of a header, named in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }
}

impl Reply {
    /// The first value of a header, named in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none, with the body.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = headers
        .iter()
        .find(|(own, _)| own.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str())
}

fn split(url: &str) -> io::Result<(&str, &str)> {
    let wrong = || {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("no http:// URL: {url}"),
        )
    };
    let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
    Ok(match rest.find(['/', '?']) {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    })
}

/// Headers go out as they are, so that a test can send bad ones.
pub(crate) fn encode_request(
    method: &str,
    host: &str,
    path: &str,
    headers: &[(impl AsRef<str>, impl AsRef<str>)],
    body: &[u8],
) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    let names = |name: &str| {
        headers
            .iter()
            .any(|(own, _)| own.as_ref().eq_ignore_ascii_case(name))
    };
    if !names("host") {
        // Writing to a String does not fail.
        let _ = write!(head, "Host: {host}\r\n");
    }
    let framed = names("content-length") || names("transfer-encoding");
    if !framed && (!body.is_empty() || matches!(method, "POST" | "PUT")) {
        let _ = write!(head, "Content-Length: {}\r\n", body.len());
    }
    for (name, value) in headers {
        let _ = write!(head, "{}: {}\r\n", name.as_ref(), value.as_ref());
    }
    head.push_str("\r\n");
    let mut request = head.into_bytes();
    request.extend_from_slice(body);
    request
}

/// A response being read.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) stream: TcpStream,
    pub(crate) head: Head,
    unread: BytesMut,
    body: Body,
}

/// How a body ends, and where in it we are.
#[derive(Debug, PartialEq, Eq)]
enum Body {
    Length(u64),
    UntilClose,
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailer,
    Done,
}

impl Exchange {
    pub(crate) async fn open(
        mut stream: TcpStream,
        method: &str,
        request: &[u8],
    ) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.write_all(request).await?;
        let mut unread = BytesMut::new();
        let head = loop {
            if let Some(head) = take_head(&mut unread)? {
                break head;
            }
            if unread.len() > MAX_HEAD_BYTES {
                return Err(invalid("a head that is too long"));
            }
            if fill(&mut stream, &mut unread).await? == 0 {
                return Err(cut_off());
            }
        };
        let body = Body::of(method, &head)?;
        Ok(Self {
            stream,
            head,
            unread,
            body,
        })
    }

    /// Adds body bytes to `out`; false where the body ended. Loses nothing if cancelled.
    pub(crate) async fn read(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            let before = out.len();
            self.body.decode(&mut self.unread, out)?;
            if out.len() > before {
                return Ok(true);
            }
            if self.body == Body::Done {
                return Ok(false);
            }
            if fill(&mut self.stream, &mut self.unread).await? == 0 {
                if self.body != Body::UntilClose {
                    return Err(cut_off());
                }
                self.body = Body::Done;
            }
        }
    }
}

impl Body {
    fn of(method: &str, head: &Head) -> io::Result<Self> {
        if method == "HEAD" || matches!(head.status, 204 | 304) {
            return Ok(Self::Done);
        }
        if let Some(coding) = head.header("transfer-encoding") {
            return match coding {
                "chunked" => Ok(Self::ChunkSize),
                _ => Err(invalid(coding)),
            };
        }
        match head.header("content-length") {
            Some("0") => Ok(Self::Done),
            Some(length) => length
                .parse()
                .map(Self::Length)
                .map_err(|_| invalid(length)),
            None => Ok(Self::UntilClose),
        }
    }

    fn decode(&mut self, input: &mut BytesMut, out: &mut Vec<u8>) -> io::Result<()> {
        loop {
            match self {
                Self::Done => return Ok(()),
                Self::UntilClose => {
                    out.extend_from_slice(input);
                    input.clear();
                    return Ok(());
                }
                Self::Length(left) => {
                    move_bytes(input, out, left);
                    if *left > 0 {
                        return Ok(());
                    }
                    *self = Self::Done;
                }
                Self::Chunk(left) => {
                    move_bytes(input, out, left);
                    if *left > 0 {
                        return Ok(());
                    }
                    *self = Self::ChunkEnd;
                }
                Self::ChunkSize | Self::ChunkEnd | Self::Trailer => {
                    let Some(line) = take_line(input)? else {
                        return Ok(());
                    };
                    *self = self.after_line(&line)?;
                }
            }
        }
    }

    fn after_line(&self, line: &str) -> io::Result<Self> {
        match self {
            Self::ChunkSize => {
                let size = line.split(';').next().unwrap_or_default().trim();
                match u64::from_str_radix(size, 16).map_err(|_| invalid(line))? {
                    0 => Ok(Self::Trailer),
                    size => Ok(Self::Chunk(size)),
                }
            }
            Self::ChunkEnd if line.is_empty() => Ok(Self::ChunkSize),
            Self::Trailer if line.is_empty() => Ok(Self::Done),
            Self::Trailer => Ok(Self::Trailer),
            _ => Err(invalid(line)),
        }
    }
}

fn move_bytes(input: &mut BytesMut, out: &mut Vec<u8>, left: &mut u64) {
    let length = usize::try_from(*left)
        .unwrap_or(usize::MAX)
        .min(input.len());
    out.extend_from_slice(&input[..length]);
    input.advance(length);
    *left -= length as u64;
}

fn take_line(input: &mut BytesMut) -> io::Result<Option<String>> {
    match input.windows(2).position(|pair| pair == b"\r\n") {
        Some(end) => {
            let line = String::from_utf8_lossy(&input.split_to(end)).into_owned();
            input.advance(2);
            Ok(Some(line))
        }
        None if input.len() > MAX_LINE_BYTES => Err(invalid("a line that is too long")),
        None => Ok(None),
    }
}

fn take_head(input: &mut BytesMut) -> io::Result<Option<Head>> {
    const END: &[u8] = b"\r\n\r\n";
    let Some(end) = input.windows(END.len()).position(|bytes| bytes == END) else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&input.split_to(end)).into_owned();
    input.advance(END.len());
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1)?.parse().ok())
        .ok_or_else(|| invalid(first))?;
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(':').ok_or_else(|| invalid(line))?;
        Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
    });
    Ok(Some(Head {
        status,
        headers: headers.collect::<io::Result<_>>()?,
    }))
}

async fn fill(stream: &mut TcpStream, unread: &mut BytesMut) -> io::Result<usize> {
    // Room only once there is something to read: thousands of idle connections hold none.
    stream.readable().await?;
    unread.reserve(READ_BYTES);
    stream.read_buf(unread).await
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP/1.1: {what}"))
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the response is cut off")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_read_in_any_split() {
        let stream = b"4;x=y\r\nWiki\r\nA\r\n\r\n34567890\r\n0\r\nTrailer: x\r\n\r\nrest";
        for size in 1..stream.len() {
            let (mut body, mut input, mut out) = (Body::ChunkSize, BytesMut::new(), Vec::new());
            for chunk in stream.chunks(size) {
                input.extend_from_slice(chunk);
                body.decode(&mut input, &mut out).unwrap();
            }
            assert_eq!(out, b"Wiki\r\n34567890");
            assert_eq!(body, Body::Done);
            assert_eq!(input, b"rest"[..]);
        }
    }

    #[test]
    fn bad_framing_is_an_error() {
        for bad in [&b"x\r\n"[..], b"1\r\nab\r\n", b"-1\r\n"] {
            let mut input = BytesMut::from(bad);
            assert!(Body::ChunkSize.decode(&mut input, &mut Vec::new()).is_err());
        }
        assert!(take_head(&mut BytesMut::from(&b"SSH-2.0\r\n\r\n"[..])).is_err());
    }

    #[test]
    fn urls_are_split() {
        assert_eq!(split("http://h:1/a?b").unwrap(), ("h:1", "/a?b"));
        assert_eq!(split("http://h:1").unwrap(), ("h:1", "/"));
        assert!(split("https://h:1/").is_err());
    }
}
