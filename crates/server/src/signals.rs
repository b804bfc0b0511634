//! Signals: SIGTERM and SIGINT drain, a second one ends at once, SIGHUP reloads.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that the server listens to.
#[derive(Debug)]
pub(crate) struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To end. Holds the exit code for ending at once: 128 and the signal's number, as shells
    /// write it.
    End(u8),
    /// To read the configuration again.
    Reload,
}

impl Signals {
    /// Begins to listen. From here on the signals do not end the process by themselves.
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal. Dropping the future loses none.
    pub(crate) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.term.recv() => Asked::End(128 + 15),
            _ = self.int.recv() => Asked::End(128 + 2),
            _ = self.hup.recv() => Asked::Reload,
        }
    }

    /// The next signal that asks for the end.
    pub(crate) async fn end(&mut self) {
        while self.next().await == Asked::Reload {}
    }
}
