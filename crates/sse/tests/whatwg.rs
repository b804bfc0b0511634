//! The decoder against the specification's examples, the parsing cases of the web platform tests,
//! and the cases in which clients of the field stray from it.

use std::time::Duration;

use fanfare_sse::{Decoder, Event, HEARTBEAT, Item, Part, TooLarge};

fn items(stream: impl AsRef<[u8]>) -> Vec<Item> {
    let mut decoder = Decoder::new();
    decoder.push(stream.as_ref());
    let whole: Vec<_> = decoder.map(Result::unwrap).collect();

    let mut decoder = Decoder::new();
    let mut bytewise = Vec::new();
    for byte in stream.as_ref() {
        decoder.push(&[*byte]);
        bytewise.extend(decoder.by_ref().map(Result::unwrap));
    }
    assert_eq!(whole, bytewise, "the split changes what is read");
    whole
}

fn message(data: &str) -> Item {
    event("", "message", data)
}

fn event(id: &str, event_type: &'static str, data: &str) -> Item {
    Item::Event(Event {
        id: id.into(),
        event_type: event_type.into(),
        data: data.into(),
    })
}

fn comment(text: &str) -> Item {
    Item::Comment(text.into())
}

/// HTML section 9.2.6, the examples in their order.
#[test]
fn examples_of_the_specification() {
    assert_eq!(
        items("data: YHOO\ndata: +2\ndata: 10\n\n"),
        [message("YHOO\n+2\n10")]
    );
    let second = "data: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n";
    assert_eq!(
        items(format!(": test stream\n\n{second}")),
        [
            comment("test stream"),
            event("1", "message", "first event"),
            event("", "message", "second event"),
            event("", "message", " third event"),
        ]
    );
    assert_eq!(
        items("data\n\ndata\ndata\n\ndata:"),
        [message(""), message("\n")]
    );
    assert_eq!(
        items("data:test\n\ndata: test\n\n"),
        [message("test"), message("test")]
    );
}

#[test]
fn cases_in_which_clients_stray() {
    let cases: &[(&str, &[u8], &[Item])] = &[
        ("a byte order mark at the start", b"\xef\xbb\xbfdata: a\n\n", &[message("a")]),
        (
            "one of two marks is content",
            b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n",
            &[message("b")],
        ),
        ("a mark later is content", b"data: a\n\n\xef\xbb\xbfdata: b\n\n", &[message("a")]),
        ("half a mark is content", b"\xef\xbbdata: a\n\ndata: b\n\n", &[message("b")]),
        ("line ends of all kinds", b"data: a\rdata: b\r\ndata: c\n\r\n", &[message("a\nb\nc")]),
        ("a stream that ends in a bare CR", b"data: a\r\r", &[message("a")]),
        ("CR LF CR LF", b"data: a\r\n\r\ndata: b\r\n\r\n", &[message("a"), message("b")]),
        ("LF CR is two line ends", b"data: a\n\rdata: b\n\n", &[message("a"), message("b")]),
        (
            "Unicode line ends are content",
            "data: a\u{2028}b\u{2029}c\u{85}d\u{b}e\u{c}f\u{1c}g\n\n".as_bytes(),
            &[message("a\u{2028}b\u{2029}c\u{85}d\u{b}e\u{c}f\u{1c}g")],
        ),
        ("an empty first line of data", b"data\ndata\n\n", &[message("\n")]),
        ("a block without data", b"event: x\n\ndata: a\n\n", &[message("a")]),
        ("a comment and a blank line", b":\n\n:\n\n", &[comment(""), comment("")]),
        ("a comment inside a block", b"data: a\n: x\ndata: b\n\n", &[comment("x"), message("a\nb")]),
        (
            "an id alone moves the cursor",
            b"id: 7\n\ndata: a\n\n",
            &[event("7", "message", "a")],
        ),
        (
            "an id with NUL is not read",
            b"id: 7\nid: 8\0\ndata: a\n\n",
            &[event("7", "message", "a")],
        ),
        (
            "an id stays until the next",
            b"id: 7\ndata: a\n\ndata: b\n\nid\ndata: c\n\n",
            &[
                event("7", "message", "a"),
                event("7", "message", "b"),
                event("", "message", "c"),
            ],
        ),
        ("NUL in data", b"data: \0\n\n", &[message("\0")]),
        ("an unterminated last block", b"data: a\n\ndata: b\n", &[message("a")]),
        ("an unterminated last line", b"data: a\n\ndata: b", &[message("a")]),
        ("one space is taken", b"data:  a \n\n", &[message(" a ")]),
        ("a tab is not", b"data:\ta\n\n", &[message("\ta")]),
        ("names are exact", b"Data: a\ndata : b\n data: c\ndat: d\n\n", &[]),
        ("colons in values", b"data: a:b: c\n\n", &[message("a:b: c")]),
        (
            "the last type counts, an empty one is none",
            b"event: a\nevent: b\ndata: x\n\nevent: a\nevent\ndata: y\n\ndata: z\n\n",
            &[event("", "b", "x"), message("y"), message("z")],
        ),
        ("ill-formed UTF-8", b"data: a\xffb\xe2\x82\ndata: \xf0\x9f\n\n", &[message("a\u{fffd}b\u{fffd}\n\u{fffd}")]),
        (
            "retry takes ASCII digits only",
            "retry: 3000\nretry: 1x\nretry\nretry: -1\nretry: +1\nretry: 1.5\nretry:  1\nretry: ٣\n"
                .as_bytes(),
            &[Item::Retry(Duration::from_secs(3))],
        ),
        (
            "retry larger than a number",
            b"retry: 99999999999999999999999\n",
            &[Item::Retry(Duration::from_millis(u64::MAX))],
        ),
        ("heartbeats", HEARTBEAT, &[comment("")]),
    ];
    for (name, stream, expected) in cases {
        assert_eq!(items(stream), *expected, "{name}");
    }
}

#[test]
fn the_cursor_moves_when_a_block_ends() {
    let mut decoder = Decoder::new();
    decoder.push(b"id: 1\ndata: a\n");
    assert_eq!(decoder.next(), None);
    assert_eq!(decoder.last_event_id(), "");
    decoder.push(b"\nid: 2\n\nid: 3\n");
    assert!(matches!(decoder.next(), Some(Ok(Item::Event(event))) if event.id == "1"));
    assert_eq!(decoder.last_event_id(), "1");
    assert_eq!(decoder.next(), None);
    assert_eq!(decoder.last_event_id(), "2");

    let mut next = Decoder::new().resuming("2");
    next.push(b"data: b\n\n");
    assert_eq!(next.next(), Some(Ok(event("2", "message", "b"))));
    assert_eq!(next.last_event_id(), "2");
}

#[test]
fn sizes_are_bounded_however_the_stream_is_split() {
    let line = |limit| {
        Err(TooLarge {
            part: Part::Line,
            limit,
        })
    };
    let data = |limit| {
        Err(TooLarge {
            part: Part::Event,
            limit,
        })
    };
    type Read<'a> = &'a [Result<Item, TooLarge>];
    let cases: &[(&[u8], Read)] = &[
        (b"data: 4567\n\n", &[Ok(message("4567"))]),
        (b":\ndata: 45678\n\n", &[Ok(comment("")), line(10)]),
        (b"data: a\n\ndata: 456789", &[Ok(message("a")), line(10)]),
        (
            b"data: 123\ndata: 5678\ndata: 0\n\n",
            &[Ok(message("123\n5678\n0"))],
        ),
        (
            b"data: 123\ndata: 5678\ndata: 01\n\ndata: b\n\n",
            &[data(10)],
        ),
        (
            b"data\ndata\ndata\ndata\ndata\ndata\ndata\ndata\ndata\ndata\ndata\ndata\n",
            &[data(10)],
        ),
    ];
    for (stream, expected) in cases {
        for size in 1..=stream.len() {
            let mut decoder = Decoder::with_limit(10);
            let mut read = Vec::new();
            for chunk in stream.chunks(size) {
                decoder.push(chunk);
                read.extend(decoder.by_ref());
            }
            decoder.push(b"\n\ndata: late\n\n");
            if expected.iter().any(Result::is_err) {
                read.extend(decoder);
            }
            assert_eq!(read, *expected, "{:?}", String::from_utf8_lossy(stream));
        }
    }
    assert_eq!(
        line(10).unwrap_err().to_string(),
        "a line has more than 10 bytes"
    );
}
