//! Server-sent events as bytes: an encoder that every client of the field understands, and an
//! incremental decoder.
//!
//! Source: WHATWG HTML, section 9.2 "Server-sent events"
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>). Where clients stray from
//! it, the encoder writes only what all of them read the same way.
//!
//! No sockets, no runtime, no other crate of Fanfare: bytes in, bytes out.

mod decode;
mod encode;
mod lines;

pub use decode::{Decoder, Event, Item};
pub use encode::{HEARTBEAT, encode_body, encode_comment, encode_event, encode_id, encode_retry};
pub use lines::{DEFAULT_LIMIT, Part, TooLarge};
