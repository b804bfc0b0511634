//! The canary: a message to ourselves that proves delivery through the server.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Canaries under way.
#[derive(Debug)]
pub(crate) struct Probe {
    /// The subject that this node alone listens on.
    pub(crate) subject: String,
    next: AtomicU64,
    away: Mutex<HashMap<u64, oneshot::Sender<()>>>,
}

/// A canary. Dropping it forgets it.
#[derive(Debug)]
pub(crate) struct Canary<'a> {
    probe: &'a Probe,
    pub(crate) number: u64,
    back: oneshot::Receiver<()>,
}

impl Probe {
    pub(crate) fn new(subject: String) -> Self {
        Self {
            subject,
            next: AtomicU64::new(1),
            away: Mutex::default(),
        }
    }

    pub(crate) fn canary(&self) -> Canary<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (away, back) = oneshot::channel();
        self.away.lock().insert(number, away);
        Canary {
            probe: self,
            number,
            back,
        }
    }

    /// Takes what arrived on the subject.
    pub(crate) fn arrived(&self, payload: &[u8]) {
        let number = std::str::from_utf8(payload)
            .ok()
            .and_then(|text| text.parse().ok());
        if let Some(number) = number
            && let Some(away) = self.away.lock().remove(&number)
        {
            // Who waited may have given up.
            let _ = away.send(());
        }
    }
}

impl Canary<'_> {
    /// Waits until it is back.
    pub(crate) async fn back(&mut self) {
        // The sender is dropped only when it has answered.
        let _ = (&mut self.back).await;
    }
}

impl Drop for Canary<'_> {
    fn drop(&mut self) {
        self.probe.away.lock().remove(&self.number);
    }
}
