//! Recording what raw publishers publish, one node at a time, for all nodes.
//!
//! Pub/sub keeps nothing. So one node, the recorder, writes what it hears into a log of
//! [`durable`](crate::durable)'s form, which all nodes follow and read; another, the standby, hears
//! the same and holds what is not known to be recorded yet. When the recorder's lease runs out, the
//! standby becomes the recorder and goes on at the very message:
//!
//! - All listeners of a server hear one order. The recorder publishes marks into it, and each write
//!   says up to which message after which mark the log goes then ([`pen`]). The successor publishes
//!   a mark of its own, waits for it, and so has heard all that was recorded; it looks the place up
//!   in what it heard ([`tape`]) and writes what comes after.
//! - A write is refused unless it carries the newest token and the place that the log knows
//!   (`record.lua`). So a recorder that was paused, or a write that was on its way for long, changes
//!   nothing, and an attempt whose answer was lost is made again without harm.
//! - Where the place is not found, for the link was cut, the server is another or the rules are, the
//!   log gets a hole: a place of its own that every follower is told as a gap.
//!
//! No clock of a node is looked at, but to see how long something takes.

mod duty;
mod health;
mod ledger;
mod listener;
mod message;
mod metrics;
mod pen;
mod tape;

use std::{fmt, sync::Arc};

use fanfare_core::BrokerMetrics;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::metrics::RecorderMetrics;
use self::{duty::Duty, health::Health, ledger::Ledger, listener::Hearing, metrics::Role};
use crate::{
    command::Commands, config::RedisConfig, durable::Log, error::Failure, raw::routes::Routes,
};

/// This node's part in recording. Dropping it ends it.
pub(crate) struct Recorder {
    health: Arc<Health>,
    cancel: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
    longest_close: std::time::Duration,
}

impl Recorder {
    /// Begins, on a log whose followers this node has.
    pub(crate) fn start(
        config: &RedisConfig,
        commands: Commands,
        log: Log,
        routes: Arc<Routes>,
        broker_metrics: BrokerMetrics,
        metrics: RecorderMetrics,
    ) -> Self {
        // A recorder that died, one that could not begin, and a slow answer.
        let health = Health::new(config.recorder_lease * 3 + config.command_timeout);
        let hearing = Hearing {
            config: config.clone(),
            routes,
            marks: Ledger::marks(&log.store.names),
            metrics: metrics.clone(),
            broker_metrics,
        };
        let ledger = Arc::new(Ledger::new(log, commands, config.clone()));
        let duty = Duty {
            ledger,
            hearing,
            health: health.clone(),
            me: Arc::default(),
        };
        let cancel = CancellationToken::new();
        let cancelled = cancel.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = cancelled.cancelled() => {}
                () = duty.serve() => {}
            }
            metrics.set_role(Role::Off);
            let me = duty.me.lock().clone();
            if let Err(failure) = duty.ledger.leave(&me).await {
                // It runs out by itself.
                tracing::debug!(
                    backend = crate::error::BACKEND,
                    ?failure,
                    "a lease was not let go"
                );
            }
            duty.ledger.close().await;
        });
        Self {
            health,
            cancel,
            task: Mutex::new(Some(task)),
            longest_close: config.command_timeout,
        }
    }

    /// Waits until somebody records.
    pub(crate) async fn somebody_records(&self) -> Result<(), Failure> {
        self.health.somebody_records().await
    }

    /// Why nobody records, where that has been so for long.
    pub(crate) fn failing(&self) -> Option<Failure> {
        self.health.failing()
    }

    /// Lets go, so that the standby goes on at once.
    pub(crate) async fn close(&self) {
        self.cancel.cancel();
        let task = self.task.lock().take();
        if let Some(task) = task {
            let _ = tokio::time::timeout(self.longest_close, task).await;
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}
