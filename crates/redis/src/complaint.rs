//! Log lines about messages that cannot be delivered: publishers must not fill the log.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::BACKEND;

/// How often at most a log line is written.
const EVERY: Duration = Duration::from_secs(5);
/// How much of a name a log line shows, in characters.
const SHOWN_CHARS: usize = 100;

/// One log line in a while, however many complaints there are.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    unsaid: u64,
}

impl Complaints {
    /// Complains of a message that came on this name.
    pub(crate) fn of(&self, name: &[u8], why: &str) {
        let count = {
            let mut state = self.state.lock();
            state.unsaid += 1;
            let now = Instant::now();
            if state.last.is_some_and(|last| now - last < EVERY) {
                return;
            }
            state.last = Some(now);
            std::mem::take(&mut state.unsaid)
        };
        let text = String::from_utf8_lossy(name);
        let shown: String = text.chars().take(SHOWN_CHARS).collect();
        tracing::warn!(backend = BACKEND, name = ?shown, why, count, "undeliverable messages");
    }
}
