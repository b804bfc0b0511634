//! Log lines about messages that cannot be delivered: publishers must not fill the log.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How often at most a log line is written.
const EVERY: Duration = Duration::from_secs(10);

/// One log line in a while, however many complaints there are.
#[derive(Debug, Default)]
pub(super) struct Complaints(Mutex<(Option<Instant>, u64)>);

impl Complaints {
    /// Complains of a message on this subject.
    pub(super) fn of(&self, subject: &str, why: &str) {
        let mut state = self.0.lock();
        if state.0.is_some_and(|last| last.elapsed() < EVERY) {
            state.1 += 1;
            return;
        }
        state.0 = Some(Instant::now());
        let unsaid = std::mem::take(&mut state.1);
        drop(state);
        tracing::warn!(
            ?subject,
            why,
            unsaid,
            "a message of a stream cannot be delivered"
        );
    }
}
