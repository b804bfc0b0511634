//! What is encoded is decoded, and the decoder agrees with a second one written for clearness.

use std::time::Duration;

use fanfare_sse::{
    Decoder, Event, Item, encode_body, encode_comment, encode_event, encode_id, encode_retry,
};
use proptest::prelude::*;

/// Decodes a stream cut at `cuts`, which wrap around its length.
fn decode(stream: &[u8], cuts: &[usize]) -> Vec<Item> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
    cuts.extend([0, stream.len()]);
    cuts.sort_unstable();
    let mut decoder = Decoder::new();
    let mut items = Vec::new();
    for pair in cuts.windows(2) {
        decoder.push(&stream[pair[0]..pair[1]]);
        // Reading lags behind pushing at some cuts, as in a program with a buffer.
        if pair[0] % 3 != 0 || pair[1] == stream.len() {
            items.extend(decoder.by_ref().map(Result::unwrap));
        }
    }
    items
}

fn lf(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// Text with many line ends, spaces and colons among everything else.
fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => prop::sample::select(vec!["\n", "\r", "\r\n", " ", ":", "\0", "\u{feff}", "\u{2028}", "data:", "id: 1"])
            .prop_map(String::from),
        2 => "\\PC{0,8}",
        1 => any::<String>(),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

/// What an id or a type may hold: anything without CR, LF and NUL.
fn any_name() -> impl Strategy<Value = String> {
    any_text().prop_map(|text| text.replace(['\r', '\n', '\0'], ""))
}

type Source = (Option<String>, Option<String>, String);

fn any_event() -> impl Strategy<Value = Source> {
    (
        prop::option::of(any_name()),
        prop::option::of(any_name()),
        any_text(),
    )
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(
        events in prop::collection::vec(any_event(), 0..6),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let (mut stream, mut apart, mut expected) = (Vec::new(), Vec::new(), Vec::new());
        let mut last_id = String::new();
        for (id, event_type, data) in &events {
            encode_event(&mut stream, id.as_deref(), event_type.as_deref(), data);
            if let Some(id) = id {
                encode_id(&mut apart, id);
                last_id.clone_from(id);
            }
            encode_body(&mut apart, event_type.as_deref(), data);
            let event_type = event_type.clone().filter(|name| !name.is_empty());
            expected.push(Item::Event(Event {
                id: last_id.clone(),
                event_type: event_type.unwrap_or_else(|| "message".into()).into(),
                data: lf(data),
            }));
        }
        prop_assert!(!stream.contains(&b'\r'));
        prop_assert_eq!(&stream, &apart);
        prop_assert_eq!(decode(&stream, &cuts), expected);
    }

    /// Whatever a caller passes as a name or a comment: one event, its data untouched.
    #[test]
    fn nothing_is_injected(
        id in any_text(), event_type in any_text(), comment in any_text(), data in any_text(),
        wait in any::<u32>(),
    ) {
        let mut stream = Vec::new();
        encode_retry(&mut stream, Duration::from_millis(wait.into()));
        encode_comment(&mut stream, &comment);
        encode_event(&mut stream, Some(&id), Some(&event_type), &data);
        let mut items = decode(&stream, &[]);
        let Some(Item::Event(event)) = items.pop() else { panic!("no event") };
        prop_assert_eq!(event.data, lf(&data));
        prop_assert_eq!(event.id, id.replace(['\r', '\n', '\0'], "\u{fffd}"));
        prop_assert_eq!(items.remove(0), Item::Retry(Duration::from_millis(wait.into())));
        let comments: Vec<_> = lf(&comment).split('\n').map(|line| Item::Comment(line.into())).collect();
        prop_assert_eq!(items, comments);
    }

    #[test]
    fn the_decoder_agrees_with_a_plain_one(
        pieces in prop::collection::vec(prop::sample::select(ALPHABET.to_vec()), 0..40),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let stream = pieces.concat();
        prop_assert_eq!(decode(&stream, &cuts), plain(&stream));
    }
}

const ALPHABET: &[&[u8]] = &[
    b"data",
    b"id",
    b"event",
    b"retry",
    b":",
    b": ",
    b" ",
    b"\n",
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"\0",
    b"7",
    b"x",
    "é".as_bytes(),
    b"\xc3",
    b"\xa9",
    b"\xef\xbb\xbf",
    b"\xef\xbb",
    b"\xff",
    b"\xf0\x9f",
    b"data: a\n",
    b"id: b\n",
];

/// The specification word by word: the whole stream decoded first, then character by character.
fn plain(stream: &[u8]) -> Vec<Item> {
    let text = String::from_utf8_lossy(stream);
    let text = lf(text.strip_prefix('\u{feff}').unwrap_or(&text));
    let mut lines: Vec<&str> = text.split('\n').collect();
    lines.pop();

    let mut items = Vec::new();
    let (mut id, mut event_type, mut data) = (String::new(), String::new(), String::new());
    for line in lines {
        if line.is_empty() {
            if !data.is_empty() {
                data.pop();
                let named = if event_type.is_empty() {
                    "message"
                } else {
                    &event_type
                };
                items.push(Item::Event(Event {
                    id: id.clone(),
                    event_type: named.to_owned().into(),
                    data: std::mem::take(&mut data),
                }));
            }
            event_type.clear();
            continue;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "" => items.push(Item::Comment(value.into())),
            "data" => data = data + value + "\n",
            "event" => event_type = value.into(),
            "id" if !value.contains('\0') => id = value.into(),
            "retry" if !value.is_empty() && value.chars().all(|c| c.is_ascii_digit()) => {
                let milliseconds = value.parse().unwrap_or(u64::MAX);
                items.push(Item::Retry(Duration::from_millis(milliseconds)));
            }
            _ => {}
        }
    }
    items
}
