//! The end.

use std::time::Duration;

use fanfare_core::{BrokerError, ErrorKind, Publication, Since};

use crate::{Done, Stand, Verdict, Violation};

const CLOSE_BOUND: Duration = Duration::from_secs(30);

fn refused<T>(call: &str, answer: Result<T, BrokerError>) -> Result<(), Violation> {
    let kind = answer.err().map(|error| error.kind());
    ensure!(
        kind == Some(ErrorKind::Closed),
        "after close, {call} answers {kind:?}"
    );
    Ok(())
}

async fn close(stand: &Stand) -> Result<(), Violation> {
    let closing = tokio::time::timeout(CLOSE_BOUND, stand.broker.close()).await;
    ensure!(closing.is_ok(), "close took longer than {CLOSE_BOUND:?}");
    Ok(())
}

/// Feeds end after what they hold, later calls are refused as closed, closing again is nothing.
pub async fn closing_ends_feeds_and_refuses_calls(stand: Stand) -> Verdict {
    let channel = stand.channel("close")?;
    let pattern = (&channel).into();
    let mut follower = stand.follower(std::slice::from_ref(&pattern)).await?;
    let mut idle = stand.witness().await?;
    stand.publish(&channel, "last").await?;
    follower.until_data("last").await?;
    close(&stand).await?;
    follower.until_end().await?;
    idle.until_end().await?;
    close(&stand).await?;

    let broker = &stand.broker;
    refused(
        "publish",
        broker.publish(&channel, Publication::new("x")).await,
    )?;
    refused("probe", broker.probe().await)?;
    let mut late = stand.idle_follower(Default::default());
    if late.follow(&**broker, &pattern).await.is_ok() {
        violated!("after close, subscribe goes through");
    }
    let log = stand.log_of(&channel)?;
    if stand.page(&log, &[pattern], Since::Now, 1, 1).await.is_ok() {
        violated!("after close, history goes through");
    }
    Ok(Done::Kept)
}

/// Closing while others publish and follow ends all of them.
pub async fn closing_under_load_ends(stand: Stand) -> Verdict {
    let channel = stand.channel("load")?;
    let mut follower = stand.witness().await?;
    let publishers: Vec<_> = (0..4)
        .map(|_| {
            let (broker, channel) = (stand.broker.clone(), channel.clone());
            tokio::spawn(async move {
                // Bounded, for a broker that does not refuse after close.
                for index in 0..100_000 {
                    let publication = Publication::new(index.to_string());
                    if let Err(error) = broker.publish(&channel, publication).await {
                        return Some(error.kind());
                    }
                    tokio::task::yield_now().await;
                }
                None
            })
        })
        .collect();
    follower.until_events(20).await?;
    close(&stand).await?;
    follower.until_end().await?;
    for publisher in publishers {
        let ended = tokio::time::timeout(CLOSE_BOUND, publisher).await;
        let Ok(Ok(Some(_))) = ended else {
            violated!("a publisher goes on after close: {ended:?}");
        };
    }
    Ok(Done::Kept)
}
