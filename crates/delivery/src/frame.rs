//! Encoded bytes of an event, reference-counted.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use fanfare_core::{Data, Event};
use serde::Serialize;

use crate::{
    Format, cursor,
    framing::{Framed, Framing},
};

/// An event and its encodings. The common one, for subscribers of one log without a filter, is
/// made once by the relay; the others when a subscriber first needs them.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) event: Arc<Event>,
    sse: Framed,
    envelope: OnceLock<Framed>,
    item: OnceLock<Bytes>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    id: &'a str,
    data: &'a str,
}

impl Frame {
    pub(crate) fn encode(event: Arc<Event>) -> Self {
        let sse = Framed::new(&render(&event, Format::Sse, None, None));
        Self {
            event,
            sse,
            envelope: OnceLock::new(),
            item: OnceLock::new(),
        }
    }

    /// The bytes for subscribers of this event's log alone, without a filter.
    pub(crate) fn shared(&self, format: Format, framing: Framing) -> &Bytes {
        let render = || render(&self.event, format, None, None);
        match format {
            Format::Sse => self.sse.get(framing),
            Format::Envelope => self
                .envelope
                .get_or_init(|| Framed::new(&render()))
                .get(framing),
            Format::Items => self.item.get_or_init(render),
        }
    }

    /// What it weighs in a ring.
    pub(crate) fn weight(&self) -> usize {
        self.event.weight() + self.sse.chunked.len()
    }
}

/// Encodes an event. `id` is the subscriber's cursor where it is not just the event's position;
/// `data` is a filter's redaction.
pub(crate) fn render(
    event: &Event,
    format: Format,
    id: Option<&str>,
    data: Option<&Data>,
) -> Bytes {
    let own;
    let id = match id {
        Some(id) => id,
        None => {
            own = cursor::text_of(&event.position);
            &own
        }
    };
    let data = data.unwrap_or(&event.data).as_str();
    let event_type = event
        .event_type
        .as_ref()
        .map(|event_type| event_type.as_str());
    if format == Format::Sse {
        let mut out = Vec::new();
        fanfare_sse::encode_event(&mut out, Some(id), event_type, data);
        return out.into();
    }
    let json = to_json(&Envelope {
        channel: event.channel.as_str(),
        event: event_type,
        id,
        data,
    });
    if format == Format::Items {
        return json.into();
    }
    let mut out = Vec::new();
    // JSON escapes every control character, so this is always one line.
    let json = std::str::from_utf8(&json).unwrap_or_default();
    fanfare_sse::encode_event(&mut out, Some(id), event_type, json);
    out.into()
}

/// An event as JSON, as `/poll` and `/history` show it:
/// `{"channel","event","id","data"}`, without `event` where it has no type.
pub fn event_json(event: &Event) -> Vec<u8> {
    render(event, Format::Items, None, None).into()
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    // Plain structs of strings: serialising them does not fail.
    serde_json::to_vec(value).unwrap_or_default()
}
