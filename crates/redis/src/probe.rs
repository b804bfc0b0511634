//! Canaries: messages to ourselves that prove delivery through the bus.

use std::{collections::HashMap, fmt, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The canaries under way, and the pub/sub name that they come back on.
pub(crate) struct Probes {
    name: String,
    waiting: Arc<Mutex<Waiting>>,
}

type Waiting = HashMap<u64, oneshot::Sender<()>>;

/// A canary under way. Dropping it forgets it.
pub(crate) struct Canary {
    nonce: u64,
    back: oneshot::Receiver<()>,
    waiting: Arc<Mutex<Waiting>>,
}

impl Probes {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            waiting: Arc::default(),
        }
    }

    /// The pub/sub name that canaries come back on.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A new canary, to be published as [`Canary::payload`].
    pub(crate) fn canary(&self) -> Canary {
        let (sender, back) = oneshot::channel();
        let nonce = fastrand::u64(..);
        self.waiting.lock().insert(nonce, sender);
        Canary {
            nonce,
            back,
            waiting: self.waiting.clone(),
        }
    }

    /// A message came back.
    pub(crate) fn back(&self, payload: &[u8]) {
        let nonce = std::str::from_utf8(payload)
            .ok()
            .and_then(|text| text.parse().ok());
        let waiting = nonce.and_then(|nonce: u64| self.waiting.lock().remove(&nonce));
        if let Some(waiting) = waiting {
            // A probe that has given up does not want to know.
            let _ = waiting.send(());
        }
    }
}

impl Canary {
    pub(crate) fn payload(&self) -> String {
        self.nonce.to_string()
    }

    /// Waits until it came back.
    pub(crate) async fn returned(&mut self) {
        // The sender leaves the table only to send.
        let _ = (&mut self.back).await;
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.nonce);
    }
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Probes({}, {} under way)",
            self.name,
            self.waiting.lock().len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_canary_is_told_by_its_own_return_and_leaves_nothing() {
        let probes = Probes::new("p".into());
        let (mut one, two) = (probes.canary(), probes.canary());
        probes.back(b"rubbish");
        assert_eq!(probes.waiting.lock().len(), 2);
        probes.back(one.payload().as_bytes());
        one.returned().await;
        drop(two);
        assert!(probes.waiting.lock().is_empty());
    }
}
