//! Lines of standard input, handed on as soon as they are there.

use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt},
    sync::mpsc,
};

/// The longest line, in bytes. Servers take less by default.
pub(crate) const LONGEST_LINE: usize = 16 << 20;
/// The most lines that go out in one request.
const LINES_AT_ONCE: usize = 256;
/// About the most bytes that go out in one request.
const BYTES_AT_ONCE: usize = 128 << 10;

/// A line and its number.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) number: u64,
    pub(crate) text: Result<String, BadLine>,
}

/// Why a line is no data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadLine {
    /// Its bytes are no text.
    #[error("is not UTF-8")]
    NotUtf8,
    /// It is longer than [`LONGEST_LINE`].
    #[error("is longer than 16 MiB")]
    TooLong,
}

/// What of the input waits: a few lines, read while a request is under way.
#[derive(Debug)]
pub(crate) struct Lines {
    queue: mpsc::Receiver<std::io::Result<Line>>,
}

impl Lines {
    /// Begins to read.
    pub(crate) fn of(input: impl AsyncBufRead + Unpin + Send + 'static) -> Self {
        let (sender, queue) = mpsc::channel(LINES_AT_ONCE);
        tokio::spawn(read(input, sender));
        Self { queue }
    }

    /// Waits for a line, then takes those that are there already: one line at a time while they
    /// come slowly, many in one request while they come fast. Empty: the input ended.
    pub(crate) async fn next(&mut self) -> std::io::Result<Vec<Line>> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut next = self.queue.recv().await;
        while let Some(line) = next {
            let line = line?;
            bytes += line.text.as_ref().map_or(0, String::len);
            batch.push(line);
            if batch.len() >= LINES_AT_ONCE || bytes >= BYTES_AT_ONCE {
                break;
            }
            next = self.queue.try_recv().ok();
        }
        Ok(batch)
    }
}

async fn read(mut input: impl AsyncBufRead + Unpin, sender: mpsc::Sender<std::io::Result<Line>>) {
    for number in 1.. {
        let mut bytes = Vec::new();
        let read = (&mut input)
            .take(LONGEST_LINE as u64 + 2)
            .read_until(b'\n', &mut bytes)
            .await;
        let line = match read {
            Ok(0) => return,
            Ok(_) => Ok(Line {
                number,
                text: text(bytes),
            }),
            Err(error) => Err(error),
        };
        // After a line that is too long there is no telling where the next one begins.
        let last = !matches!(&line, Ok(line) if line.text != Err(BadLine::TooLong));
        if sender.send(line).await.is_err() || last {
            return;
        }
    }
}

fn text(mut bytes: Vec<u8>) -> Result<String, BadLine> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    if bytes.len() > LONGEST_LINE {
        return Err(BadLine::TooLong);
    }
    String::from_utf8(bytes).map_err(|_| BadLine::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_numbered_and_bad_ones_named() {
        let mut lines = Lines::of(&b"a\r\n\nb\xff\nlast"[..]);
        let mut all = Vec::new();
        loop {
            let batch = lines.next().await.unwrap();
            if batch.is_empty() {
                break;
            }
            all.extend(batch.into_iter().map(|line| (line.number, line.text)));
        }
        let text = |text: &str| Ok(text.to_owned());
        assert_eq!(
            all,
            [
                (1, text("a")),
                (2, text("")),
                (3, Err(BadLine::NotUtf8)),
                (4, text("last"))
            ]
        );
    }

    #[tokio::test]
    async fn a_line_is_handed_on_before_the_next_one_comes() {
        let (mut writer, reader) = tokio::io::duplex(64);
        let mut lines = Lines::of(tokio::io::BufReader::new(reader));
        for text in ["one", "two"] {
            tokio::io::AsyncWriteExt::write_all(&mut writer, format!("{text}\n").as_bytes())
                .await
                .unwrap();
            let batch = lines.next().await.unwrap();
            assert_eq!(batch.len(), 1);
            assert_eq!(batch[0].text.as_deref(), Ok(text));
        }
    }

    #[tokio::test]
    async fn a_line_without_end_is_bounded() {
        let mut lines = Lines::of(tokio::io::BufReader::new(tokio::io::repeat(b'x')));
        assert_eq!(lines.next().await.unwrap()[0].text, Err(BadLine::TooLong));
        assert!(lines.next().await.unwrap().is_empty());
    }
}
