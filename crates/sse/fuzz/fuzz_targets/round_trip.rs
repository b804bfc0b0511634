//! Any data, type and id: one event comes out, its data equal but for line ends.

#![no_main]

use fanfare_sse::{Decoder, Item, encode_event};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (String, String, String)| {
    let (id, event_type, data) = input;
    let mut stream = Vec::new();
    encode_event(&mut stream, Some(&id), Some(&event_type), &data);

    let mut decoder = Decoder::new();
    decoder.push(&stream);
    let Some(Ok(Item::Event(event))) = decoder.next() else {
        panic!("no event");
    };
    assert_eq!(decoder.next(), None);
    assert_eq!(event.data, data.replace("\r\n", "\n").replace('\r', "\n"));
    let one_line = |name: &str| name.replace(['\r', '\n', '\0'], "\u{fffd}");
    assert_eq!(event.id, one_line(&id));
    if !event_type.is_empty() {
        assert_eq!(event.event_type, one_line(&event_type));
    }
});
