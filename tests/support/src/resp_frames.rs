//! Where one frame of Redis' protocol ends and the next begins.

/// Takes a stream of frames in pieces and hands it on in whole frames, without those that are lost.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    rest: Vec<u8>,
}

impl Frames {
    /// The frames that are whole now, but for the first `lose` messages of subscriptions. Answers
    /// how many of these were lost.
    pub(crate) fn take(&mut self, bytes: &[u8], lose: u64) -> (Vec<u8>, u64) {
        self.rest.extend_from_slice(bytes);
        let (mut out, mut lost, mut at) = (Vec::with_capacity(self.rest.len()), 0, 0);
        while let Some(length) = length(&self.rest[at..]) {
            let frame = &self.rest[at..at + length];
            if lost < lose && is_message(frame) {
                lost += 1;
            } else {
                out.extend_from_slice(frame);
            }
            at += length;
        }
        self.rest.drain(..at);
        (out, lost)
    }
}

/// Whether it is what a subscription brings, not the answer to a command.
fn is_message(frame: &[u8]) -> bool {
    let kinds: [&[u8]; 3] = [
        b"$7\r\nmessage\r\n",
        b"$8\r\npmessage\r\n",
        b"$8\r\nsmessage\r\n",
    ];
    let body = frame.iter().position(|byte| *byte == b'\n');
    frame.first() == Some(&b'>')
        && body.is_some_and(|end| kinds.iter().any(|kind| frame[end + 1..].starts_with(kind)))
}

/// The length of the first frame; `None` where it is not whole.
fn length(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let number = || {
        let text = std::str::from_utf8(bytes.get(1..line - 2)?).ok()?;
        text.parse::<i64>().ok()
    };
    let several = |count: i64| {
        let mut end = line;
        for _ in 0..count {
            end += length(bytes.get(end..)?)?;
        }
        Some(end)
    };
    match bytes[0] {
        b'$' | b'=' | b'!' => match usize::try_from(number()?) {
            Ok(data) => Some(line + data + 2).filter(|end| *end <= bytes.len()),
            // No value.
            Err(_) => Some(line),
        },
        b'*' | b'~' | b'>' => several(number()?),
        b'%' | b'|' => several(number()? * 2),
        _ => Some(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PONG: &str = "+PONG\r\n";
    const MESSAGE: &str = ">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$8\r\none\r\ntwo\r\n";
    const HELLO: &str = "%2\r\n$5\r\nproto\r\n:3\r\n$7\r\nmodules\r\n*2\r\n$-1\r\n_\r\n";

    #[test]
    fn frames_are_handed_on_whole_however_they_come() {
        let stream = [HELLO, MESSAGE, PONG].concat();
        for size in 1..stream.len() {
            let mut frames = Frames::default();
            let mut out = Vec::new();
            for piece in stream.as_bytes().chunks(size) {
                let (whole, lost) = frames.take(piece, 0);
                assert_eq!(lost, 0);
                out.extend(whole);
            }
            assert_eq!(out, stream.as_bytes(), "{size}");
        }
    }

    #[test]
    fn messages_are_lost_and_answers_are_not() {
        let message =
            |kind: &str| format!(">3\r\n${}\r\n{kind}\r\n$1\r\na\r\n$1\r\nb\r\n", kind.len());
        let stream = [PONG, &message("message"), &message("subscribe"), HELLO].concat()
            + &message("smessage")
            + &message("pmessage");
        let (out, lost) = Frames::default().take(stream.as_bytes(), 2);
        assert_eq!(lost, 2);
        let kept = [PONG, &message("subscribe"), HELLO, &message("pmessage")].concat();
        assert_eq!(String::from_utf8(out).unwrap(), kept);
    }
}
