//! Going away: gently, and in bounded time.

use std::future::Future;

use tokio::time;

use crate::{app::App, edge::Tokens};

/// What a run ended with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Drained {
    /// The streams and polls that were served when the drain began.
    pub subscribers: usize,
    /// The connections that were cut because they did not end in time.
    pub cut: usize,
}

/// Waits for `shutdown`, then drains. The operators' listener goes last, so that the drain can be
/// watched.
pub(crate) async fn run(
    app: &App,
    shutdown: impl Future<Output = ()>,
    outside: &Tokens,
    inside: &Tokens,
) -> Drained {
    shutdown.await;
    let server = &app.config.server;
    let subscribers = app.hub.subscribers();
    app.readiness.drain();
    tracing::info!(subscribers, window = ?server.drain_window, "draining");
    time::sleep(server.drain_delay).await;
    outside.stop.cancel();
    app.hub.drain(server.drain_window).await;
    outside.closing.cancel();
    let cut = finish(outside, server.drain_grace, || app.hub.cut()).await;
    inside.stop.cancel();
    inside.closing.cancel();
    finish(inside, time::Duration::from_secs(1), || ()).await;
    tracing::info!(cut, "drained");
    Drained { subscribers, cut }
}

/// Waits for every connection to end, then cuts what is left, also where `cut` reaches it. Answers
/// how many that were.
async fn finish(tokens: &Tokens, grace: time::Duration, cut: impl FnOnce()) -> usize {
    tokens.tasks.close();
    if time::timeout(grace, tokens.tasks.wait()).await.is_ok() {
        return 0;
    }
    let left = tokens.tasks.len();
    tokens.cut.cancel();
    cut();
    tokens.tasks.wait().await;
    left
}
