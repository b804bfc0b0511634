//! Healing: reads what the intake missed and hands it on, until there is no hole.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    intake::{Drained, Healed, Intake},
    read::{From, Question},
    store::{Stand, Store, Unread},
};
use crate::{connection::Backoff, error::BACKEND};

/// The most events of a page.
const PAGE: usize = 4096;
/// About how many bytes a page holds.
const PAGE_BYTES: usize = 16 << 20;
/// How often a page is read anew whose losses end beyond the log's stand. Then it is told as one.
const ATTEMPTS: usize = 3;

/// Heals whenever the intake asks for it, until it is cancelled.
pub(super) async fn keep(
    intake: Arc<Intake>,
    store: Arc<Store>,
    longest_wait: Duration,
    cancel: CancellationToken,
) {
    let healing = async {
        loop {
            intake.wake.notified().await;
            let mut backoff = Backoff::new(longest_wait);
            while intake.is_healing() {
                match heal(&intake, &store).await {
                    Ok(()) => {
                        backoff.reset();
                        intake.set_failing(None);
                    }
                    Err(Unread::Moved) => continue,
                    Err(Unread::Failed(failure)) => {
                        tracing::warn!(
                            backend = BACKEND,
                            log = %store.log,
                            ?failure,
                            "what was missed cannot be read"
                        );
                        intake.set_failing(Some(failure));
                        sleep(backoff.next()).await;
                        continue;
                    }
                }
                while intake.drain() == Drained::More {
                    tokio::task::yield_now().await;
                }
            }
            intake.set_failing(None);
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = healing => {}
    }
}

/// Brings the intake to where the log stands.
async fn heal(intake: &Intake, store: &Store) -> Result<(), Unread> {
    let owes = intake.owes();
    for _ in 0..ATTEMPTS {
        let stand = stand(intake, store, owes).await?;
        if catch_up(intake, store, &stand).await? {
            if owes {
                intake.tell_owed(&stand);
            }
            return Ok(());
        }
    }
    let stand = stand(intake, store, true).await?;
    intake.enter(&stand);
    intake.tell_lost(&stand);
    Ok(())
}

/// Where the log stands, which all that this node knows of is held against.
async fn stand(intake: &Intake, store: &Store, mint: bool) -> Result<Stand, Unread> {
    intake.vet();
    for stray in intake.strays() {
        let word = store.stand(&stray, false).await?;
        intake.settle(&stray, &word.run);
    }
    let seen = intake.seen();
    let stand = store.stand(&seen, mint).await?;
    if intake.verified(&seen, stand.seen()) {
        Ok(stand)
    } else {
        Err(Unread::Moved)
    }
}

/// Hands on everything up to a stand. Answers no where it must be taken anew, because retention
/// took away beyond it meanwhile.
async fn catch_up(intake: &Intake, store: &Store, stand: &Stand) -> Result<bool, Unread> {
    loop {
        let after = intake.enter(stand);
        if after >= stand.offset {
            return Ok(true);
        }
        // After the log's stand: whoever begins to follow later is owed only what comes later.
        let channels = intake.followed();
        let question = Question {
            channels: &channels,
            from: From::After(after),
            limit: PAGE,
            max_bytes: PAGE_BYTES,
        };
        match intake.heal(stand, store.read(stand, &question).await?) {
            Healed::More => {}
            Healed::Whole => return Ok(true),
            Healed::Beyond => return Ok(false),
        }
    }
}
