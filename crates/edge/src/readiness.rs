//! Whether the node wants new clients: its broker answers, it can check their tokens, and it is not
//! going away.

use std::{sync::Arc, time::Duration};

use fanfare_core::Broker;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::{self, Instant};

use crate::{config::ProbeConfig, metrics::Metrics};

/// Whether the node wants new clients. A clone is the same one.
#[derive(Clone, Debug)]
pub(crate) struct Readiness {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    probe: ProbeConfig,
    metrics: Metrics,
}

#[derive(Debug)]
struct State {
    broker: Probed,
    /// Why tokens cannot be checked.
    keys: Option<String>,
    draining: bool,
}

#[derive(Debug)]
enum Probed {
    Never,
    Good(Instant),
    Bad(String),
}

/// What `/readyz` answers.
#[derive(Serialize, Debug)]
pub(crate) struct Report {
    pub(crate) ready: bool,
    pub(crate) reasons: Vec<Reason>,
}

/// What stands in the way.
#[derive(Serialize, Debug)]
pub(crate) struct Reason {
    check: &'static str,
    detail: String,
}

impl Readiness {
    pub(crate) fn new(probe: ProbeConfig, metrics: Metrics) -> Self {
        let state = State {
            broker: Probed::Never,
            keys: None,
            draining: false,
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                probe,
                metrics,
            }),
        }
    }

    /// Probes the broker for ever.
    pub(crate) async fn watch(self, broker: Arc<dyn Broker>) {
        let ProbeConfig { interval, timeout } = self.shared.probe;
        loop {
            let probed = match time::timeout(timeout, broker.probe()).await {
                Ok(Ok(())) => Probed::Good(Instant::now()),
                Ok(Err(error)) => Probed::Bad(error.to_string()),
                Err(_) => Probed::Bad(format!("the probe took more than {timeout:?}")),
            };
            self.set(probed);
            time::sleep(interval).await;
        }
    }

    fn set(&self, probed: Probed) {
        let mut state = self.shared.state.lock();
        match (&state.broker, &probed) {
            (Probed::Good(_), Probed::Bad(why)) => {
                tracing::warn!(why, "not ready: the broker does not answer");
            }
            (Probed::Bad(_) | Probed::Never, Probed::Good(_)) => {
                tracing::info!("the broker answers");
            }
            (Probed::Never, Probed::Bad(why)) => {
                tracing::warn!(why, "not ready yet: the broker does not answer");
            }
            _ => {}
        }
        state.broker = probed;
        drop(state);
        self.report();
    }

    /// Why tokens cannot be checked; `None`: they can.
    pub(crate) fn set_keys(&self, why_not: Option<String>) {
        self.shared.state.lock().keys = why_not;
        self.report();
    }

    /// From now on the node is going away.
    pub(crate) fn drain(&self) {
        self.shared.state.lock().draining = true;
        self.shared.metrics.draining.set(1);
        self.report();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.shared.state.lock().draining
    }

    pub(crate) fn report(&self) -> Report {
        let mut reasons = Vec::new();
        let state = self.shared.state.lock();
        if state.draining {
            reasons.push(Reason {
                check: "drain",
                detail: "the node is going away".into(),
            });
        }
        let broker = match &state.broker {
            Probed::Never => Some("the broker has not been probed yet".to_owned()),
            Probed::Bad(why) => Some(why.clone()),
            Probed::Good(at) => {
                // A watch that hangs says nothing, so its last word does not count for ever.
                let old = at.elapsed();
                (old > self.patience()).then(|| format!("the last good probe was {old:?} ago"))
            }
        };
        reasons.extend(state.keys.clone().map(|detail| Reason {
            check: "keys",
            detail,
        }));
        drop(state);
        reasons.extend(broker.map(|detail| Reason {
            check: "broker",
            detail,
        }));
        let ready = reasons.is_empty();
        self.shared.metrics.ready.set(i64::from(ready));
        Report { ready, reasons }
    }

    fn patience(&self) -> Duration {
        self.shared.probe.interval + 2 * self.shared.probe.timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readiness() -> Readiness {
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        Readiness::new(ProbeConfig::default(), metrics)
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_red_until_probed_when_bad_when_old_and_when_draining() {
        let readiness = readiness();
        assert!(!readiness.report().ready);
        readiness.set(Probed::Good(Instant::now()));
        assert!(readiness.report().ready);
        assert_eq!(readiness.shared.metrics.ready.get(), 1);
        time::advance(Duration::from_secs(7)).await;
        let report = readiness.report();
        assert!(
            !report.ready && report.reasons[0].detail.contains("ago"),
            "{report:?}"
        );
        readiness.set(Probed::Good(Instant::now()));
        readiness.set(Probed::Bad("redis: no answer".into()));
        assert!(readiness.report().reasons[0].detail.contains("no answer"));
        readiness.set(Probed::Good(Instant::now()));
        readiness.set_keys(Some("none came".into()));
        assert_eq!(readiness.report().reasons[0].check, "keys");
        readiness.set_keys(None);
        assert!(readiness.report().ready);
        readiness.drain();
        assert_eq!(readiness.report().reasons[0].check, "drain");
        assert_eq!(readiness.shared.metrics.ready.get(), 0);
    }
}
