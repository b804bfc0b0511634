//! Any bytes in any split: no panic, and the split changes nothing.

#![no_main]

use fanfare_sse::Decoder;
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 64;

fuzz_target!(|input: &[u8]| {
    let Some((size, stream)) = input.split_first() else {
        return;
    };
    let mut whole = Decoder::with_limit(LIMIT);
    whole.push(stream);
    let expected: Vec<_> = whole.by_ref().collect();

    let mut split = Decoder::with_limit(LIMIT);
    let mut items = Vec::new();
    for chunk in stream.chunks(usize::from(*size).max(1)) {
        split.push(chunk);
        items.extend(split.by_ref());
    }
    assert_eq!(items, expected);
    assert_eq!(split.last_event_id(), whole.last_event_id());
});
