//! Waiting for a fact.

use std::{
    panic::Location,
    time::{Duration, Instant},
};

/// Between two polls.
pub(crate) const PAUSE: Duration = Duration::from_millis(10);

/// Polls until `poll` yields something, and answers it.
///
/// # Panics
/// After `within`, with `what` and the caller's place: `what` says what should have become true.
#[track_caller]
pub fn eventually<T>(
    what: &str,
    within: Duration,
    poll: impl AsyncFnMut() -> Option<T>,
) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        match try_eventually(within, poll).await {
            Some(fact) => fact,
            None => panic!("{caller}: not within {within:?}: {what}"),
        }
    }
}

/// Polls until `poll` yields something; `None` after `within`. Polls at least once, and each time
/// to its end.
pub async fn try_eventually<T>(
    within: Duration,
    mut poll: impl AsyncFnMut() -> Option<T>,
) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(fact) = poll().await {
            return Some(fact);
        }
        if start.elapsed() >= within {
            return None;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
