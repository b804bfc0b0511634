//! Whether somebody records, as far as this node knows.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::error::Failure;

/// Whether somebody records, as far as this node knows.
#[derive(Debug)]
pub(super) struct Health {
    state: Mutex<State>,
    /// How long nobody may record before that is a failure.
    patience: Duration,
    noted: Notify,
}

#[derive(Debug)]
struct State {
    /// When somebody was last known to record, or since when this is asked.
    since: Instant,
    is_known: bool,
    /// What failed last.
    why: Option<Failure>,
}

impl Health {
    pub(super) fn new(patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                since: Instant::now(),
                is_known: false,
                why: None,
            }),
            patience,
            noted: Notify::new(),
        })
    }

    /// Somebody records, or nobody.
    pub(super) fn note(&self, somebody: bool) {
        if !somebody {
            return;
        }
        let mut state = self.state.lock();
        *state = State {
            since: Instant::now(),
            is_known: true,
            why: None,
        };
        drop(state);
        self.noted.notify_waiters();
    }

    /// Something failed on the way.
    pub(super) fn failed(&self, why: Failure) {
        self.state.lock().why = Some(why);
    }

    /// Why nobody records, where that has been so for long.
    pub(super) fn failing(&self) -> Option<Failure> {
        let state = self.state.lock();
        (state.since.elapsed() > self.patience).then(|| state.failure())
    }

    /// Waits until somebody records.
    pub(super) async fn somebody_records(&self) -> Result<(), Failure> {
        let known = async {
            loop {
                let noted = self.noted.notified();
                if self.state.lock().is_known {
                    return;
                }
                noted.await;
            }
        };
        let waited = tokio::time::timeout(self.patience, known).await;
        waited.map_err(|_| self.state.lock().failure())
    }
}

impl State {
    fn failure(&self) -> Failure {
        let nobody = || Failure::Down("nobody records the raw channels".into());
        self.why.clone().unwrap_or_else(nobody)
    }
}
