//! Standard output, for pipes.

use std::{
    io::{self, Write},
    os::fd::AsFd,
};

use tokio::io::{Interest, unix::AsyncFd};

/// Ready once whoever reads standard output has gone away, also while there is nothing to write.
/// Never where that cannot be told, as with a file.
pub(crate) async fn closed() {
    let stdout = io::stdout().as_fd().try_clone_to_owned();
    #[expect(
        deprecated,
        reason = "the other form is unsafe; this descriptor is owned by the watch"
    )]
    let watch = stdout.and_then(|fd| AsyncFd::with_interest(fd, Interest::ERROR));
    if let Ok(watch) = watch
        && watch.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

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
