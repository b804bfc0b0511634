//! Standard output, for pipes.

use std::io::{self, Write};

/// Writes a line at once. `false`: whoever reads has gone away, which is no failure.
///
/// Blocks while the reader is slow: then the server's bound for slow readers decides.
pub(crate) fn line(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    let written = out
        .write_all(text.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => other.map(|()| true),
    }
}
