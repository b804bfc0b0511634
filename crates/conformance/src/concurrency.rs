//! Many publishers, many followers, several nodes.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    pin::pin,
};

use fanfare_core::{Channel, Live, LogId, Pattern, Since, feed::FeedBounds};
use futures_util::FutureExt;

use crate::{Done, Follower, Stand, Verdict, Violation, account, seam::broke};

const PUBLISHERS: usize = 8;
const EACH: usize = 60;

/// Each publisher publishes on a channel of its own and on a shared one.
async fn publish_at_once(stand: &Stand) -> Result<Vec<Channel>, Violation> {
    let channels = stand.names(PUBLISHERS + 1)?;
    let shared = channels[PUBLISHERS].clone();
    let tasks: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let (stand, own, shared) = (stand.clone(), channels[publisher].clone(), shared.clone());
            tokio::spawn(async move {
                for index in 0..EACH {
                    stand.publish(&own, index.to_string()).await?;
                    stand
                        .publish(&shared, format!("{publisher} {index}"))
                        .await?;
                }
                Ok::<_, Violation>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(broke)??;
    }
    Ok(channels)
}

fn check_publishers(channels: &[Channel], follower: &Follower) -> Result<(), Violation> {
    let own: Vec<_> = (0..EACH).map(|index| index.to_string()).collect();
    let (shared, owned) = (&channels[PUBLISHERS], &channels[..PUBLISHERS]);
    for channel in owned {
        ensure!(
            account(channel, &own, &follower.items)? == 0,
            "{channel} has a gap"
        );
    }
    let mut next: HashMap<&str, usize> = HashMap::new();
    for event in follower.events().filter(|event| event.channel == *shared) {
        let (publisher, index) = event.data.as_str().split_once(' ').unwrap_or_default();
        let next = next.entry(publisher).or_default();
        ensure!(
            index == next.to_string(),
            "publisher {publisher}: {index}, not {next}"
        );
        *next += 1;
    }
    ensure!(
        next.len() == PUBLISHERS && next.values().all(|count| *count == EACH),
        "of each publisher came {next:?}, not {EACH}"
    );
    Ok(())
}

/// What came, log by log: there is no order across them.
fn by_log(items: &[Live]) -> BTreeMap<LogId, Vec<&Live>> {
    let mut logs: BTreeMap<LogId, Vec<&Live>> = BTreeMap::new();
    for item in items {
        let log = item.position().log.clone();
        logs.entry(log).or_default().push(item);
    }
    logs
}

/// What several publish at once arrives once, each publisher's in its order; history says the same.
pub async fn many_publishers_make_one_order(stand: Stand) -> Verdict {
    let mut witness = stand.witness().await?;
    let channels = publish_at_once(&stand).await?;
    witness.until_events(2 * PUBLISHERS * EACH).await?;
    check_publishers(&channels, &witness)?;
    if stand.capabilities.history {
        let patterns: Vec<_> = channels.iter().map(Pattern::from).collect();
        for (log, items) in by_log(&witness.items) {
            let pages = stand.pages(&log, &patterns, Since::Oldest, 100).await?;
            ensure!(
                pages.items.iter().eq(items),
                "history and the live feed differ"
            );
        }
    }
    Ok(Done::Kept)
}

/// Two inlets of a node see the same events in the same order at the same places.
pub async fn two_inlets_see_one_order(stand: Stand) -> Verdict {
    let mut one = stand.witness().await?;
    let mut other = stand.follower(&[stand.pattern("*")?]).await?;
    publish_at_once(&stand).await?;
    one.until_events(2 * PUBLISHERS * EACH).await?;
    other.until_events(2 * PUBLISHERS * EACH).await?;
    ensure!(
        by_log(&one.items) == by_log(&other.items),
        "two inlets of a node differ"
    );
    Ok(Done::Kept)
}

/// What is published on one node arrives on the other; where places are shared, at the same ones.
pub async fn nodes_share_channels(stand: Stand) -> Verdict {
    let Some(second) = stand.fixture.second_node().await else {
        return Ok(Done::NotApplicable("its fixture has one node"));
    };
    let mut here = stand.witness().await?;
    let mut there = stand.idle_follower(FeedBounds::default());
    there.follow(&*second, &stand.pattern(">")?).await?;
    let channels = stand.names(2)?;
    let elsewhere = stand.on(second);
    for index in 0..100 {
        let from = if index % 2 == 0 { &stand } else { &elsewhere };
        from.publish(&channels[index % 2], index.to_string())
            .await?;
    }
    here.until_events(100).await?;
    there.until_events(100).await?;
    for (place, channel) in channels.iter().enumerate() {
        let sent: Vec<_> = (place..100).step_by(2).map(|n| n.to_string()).collect();
        for follower in [&here, &there] {
            ensure!(
                account(channel, &sent, &follower.items)? == 0,
                "{channel} has a gap"
            );
        }
    }
    if stand.capabilities.shared {
        ensure!(
            by_log(&here.items) == by_log(&there.items),
            "two nodes that share places differ"
        );
    }
    Ok(Done::Kept)
}

/// Followers that come and go while events flow change nothing for one that stays.
pub async fn coming_and_going_disturbs_nobody(stand: Stand) -> Verdict {
    let mut witness = stand.witness().await?;
    let restless = tokio::spawn({
        let stand = stand.clone();
        async move {
            loop {
                for text in ["*", ">", "c0", "c1.>"] {
                    let follower = stand.follower(&[stand.pattern(text)?]).await?;
                    tokio::task::yield_now().await;
                    drop(follower);
                }
                // Otherwise it is dropped mid-way, which must leave nothing behind.
                let pattern = stand.pattern("c2")?;
                poll_once(stand.follower(&[pattern])).await;
            }
            #[expect(unreachable_code, reason = "names the type of the endless task")]
            Ok::<_, Violation>(())
        }
    });
    let channels = publish_at_once(&stand).await;
    let still_restless = !restless.is_finished();
    restless.abort();
    let channels = channels?;
    if !still_restless {
        restless.await.map_err(broke)??;
    }
    witness.until_events(2 * PUBLISHERS * EACH).await?;
    check_publishers(&channels, &witness)?;
    ensure!(
        witness
            .items
            .iter()
            .all(|item| matches!(item, Live::Event(_))),
        "a gap for one who stayed"
    );
    Ok(Done::Kept)
}

/// Runs a call up to its first wait and drops it there.
async fn poll_once(call: impl Future) {
    let mut call = pin!(call);
    let _ = (&mut call).now_or_never();
}

/// Calls that are dropped at their first wait leave the broker whole.
pub async fn dropped_calls_leave_the_broker_usable(stand: Stand) -> Verdict {
    let channels = stand.channels(1)?;
    let mut witness = stand.witness().await?;
    let other = stand.channel("dropped")?;
    for round in 0..20 {
        poll_once(stand.publish(&other, format!("dropped {round}"))).await;
        poll_once(stand.follower(&[(&other).into()])).await;
        let log = stand.log_of(&other)?;
        poll_once(stand.page(&log, &[(&other).into()], Since::Oldest, 10, 10)).await;
        poll_once(stand.broker.probe()).await;
    }
    for index in 0..20 {
        stand.publish(&channels[0], index.to_string()).await?;
    }
    witness.until_data("19").await?;
    let sent: Vec<_> = (0..20).map(|index| index.to_string()).collect();
    ensure!(account(&channels[0], &sent, &witness.items)? == 0, "a gap");
    Ok(Done::Kept)
}
