//! A bus that is cut off and comes back.

use std::time::Duration;

use fanfare_core::{Live, Publication, Published, Since, feed::FeedBounds};
use tokio::time::Instant;

use crate::{Done, Stand, Verdict, Violation, account};

const CANNOT_CUT: Verdict = Ok(Done::NotApplicable("its fixture cannot cut the bus off"));
/// No call may take longer, whatever the bus does.
const CALL_BOUND: Duration = Duration::from_secs(45);
const POLL: Duration = Duration::from_millis(50);

/// A probe goes through while the bus is there, again and again.
pub async fn a_probe_goes_through(stand: Stand) -> Verdict {
    for _ in 0..3 {
        stand.broker.probe().await?;
    }
    Ok(Done::Kept)
}

/// A probe fails while the bus is cut off, and goes through again afterwards.
pub async fn a_probe_tells_a_cut(stand: Stand) -> Verdict {
    stand.broker.probe().await?;
    if !stand.fixture.interrupt().await {
        return CANNOT_CUT;
    }
    let deadline = Instant::now() + CALL_BOUND;
    while stand.broker.probe().await.is_ok() {
        ensure!(
            Instant::now() < deadline,
            "probes go through although the bus is cut off"
        );
        tokio::time::sleep(POLL).await;
    }
    stand.fixture.restore().await;
    let deadline = Instant::now() + CALL_BOUND;
    while let Err(error) = stand.broker.probe().await {
        ensure!(
            Instant::now() < deadline,
            "after the cut, probes still fail: {error}"
        );
        tokio::time::sleep(POLL).await;
    }
    Ok(Done::Kept)
}

/// What another node published during a cut is delivered afterwards, or stands in a gap.
pub async fn a_cut_is_healed_or_told(stand: Stand) -> Verdict {
    let channels = stand.names(2)?;
    let second = stand.fixture.second_node().await;
    let mut witness = stand.witness().await?;
    let mut by_name = stand.follower(&[(&channels[0]).into()]).await?;
    let mut sent: [Vec<String>; 2] = Default::default();
    for cut in 0..3 {
        for index in 0..10 {
            let data = format!("{cut} before {index}");
            stand.publish(&channels[index % 2], data.as_str()).await?;
            sent[index % 2].push(data);
        }
        if !stand.fixture.interrupt().await {
            return CANNOT_CUT;
        }
        if let Some(second) = &second {
            for index in 0..10 {
                let data = format!("{cut} while {index}");
                second
                    .publish(&channels[index % 2], Publication::new(data.as_str()))
                    .await?;
                sent[index % 2].push(data);
            }
        }
        stand.fixture.restore().await;
        // The link is whole again once a publication arrives that was made after it.
        for (channel, sent) in channels.iter().zip(&mut sent) {
            let data = format!("{cut} after {channel}");
            publish_until_taken(&stand, channel, &data).await?;
            sent.push(data.clone());
            witness.until_data(&data).await?;
        }
        by_name
            .until_data(&format!("{cut} after {}", channels[0]))
            .await?;
    }
    for (channel, sent) in channels.iter().zip(&sent) {
        account(channel, sent, &witness.items).map_err(|why| why.of("the witness"))?;
    }
    account(&channels[0], &sent[0], &by_name.items).map_err(|why| why.of("by name"))?;
    if !stand.capabilities.history {
        return Ok(Done::Kept);
    }
    // Who was away since the first event is told the same. What came before it, the witness saw.
    let patterns: Vec<_> = channels.iter().map(Into::into).collect();
    for (channel, sent) in channels.iter().zip(&sent) {
        let log = stand.log_of(channel)?;
        let is_first = |item: &Live| matches!(item, Live::Event(it) if it.position.log == log);
        let Some(first) = witness.items.iter().position(is_first) else {
            violated!("of log {log}, nothing came");
        };
        let mut items = witness.items[..=first].to_vec();
        let since = Since::After(items[first].position().clone());
        items.extend(stand.pages(&log, &patterns, since, 4).await?.items);
        account(channel, sent, &items).map_err(|why| why.of("history"))?;
    }
    Ok(Done::Kept)
}

/// Publishes until the broker takes it and it comes back: right after a cut, an attempt may be
/// refused. What times out may have been stored, so each attempt that is not refused counts.
async fn publish_until_taken(
    stand: &Stand,
    channel: &fanfare_core::Channel,
    data: &str,
) -> Result<Published, Violation> {
    let deadline = Instant::now() + CALL_BOUND;
    loop {
        match stand.broker.publish(channel, Publication::new(data)).await {
            Ok(published) => return Ok(published),
            Err(error) if Instant::now() > deadline => {
                violated!("after the cut, publishing still fails: {error}")
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// No call hangs while the bus is cut off, and all work afterwards.
pub async fn calls_end_while_cut_off(stand: Stand) -> Verdict {
    let channel = stand.channel("bounded")?;
    let mut witness = stand.witness().await?;
    stand.publish(&channel, "before").await?;
    witness.until_data("before").await?;
    if !stand.fixture.interrupt().await {
        return CANNOT_CUT;
    }
    let log = stand.log_of(&channel)?;
    let patterns = [(&channel).into()];
    let mut other = stand.idle_follower(FeedBounds::default());
    let pattern = stand.pattern("other")?;
    let calls = async {
        let since = Since::Oldest;
        let (published, history, subscribed, _) = tokio::join!(
            stand.broker.publish(&channel, Publication::new("while")),
            stand.page(&log, &patterns, since, 10, 1000),
            other.follow(&*stand.broker, &pattern),
            stand.broker.probe()
        );
        let _ = (history, subscribed);
        published.is_ok()
    };
    let taken = tokio::time::timeout(CALL_BOUND, calls).await;
    stand.fixture.restore().await;
    let Ok(taken) = taken else {
        violated!("while the bus was cut off, a call took longer than {CALL_BOUND:?}");
    };
    publish_until_taken(&stand, &channel, "after").await?;
    witness.until_data("after").await?;
    let gap = witness
        .items
        .iter()
        .any(|item| matches!(item, Live::Gap(_)));
    let delivered = witness.data().contains(&"while");
    ensure!(
        !taken || delivered || gap,
        "a publication that was taken during the cut is lost in silence"
    );
    Ok(Done::Kept)
}
