//! Where history ends and the live feed begins, nothing is lost and nothing comes twice.

use std::time::Duration;

use fanfare_core::{Channel, Live, Pattern, Position, Since};

use crate::{Done, Stand, Verdict, Violation, account, in_order};

const EVENTS: usize = 600;
const JOINERS: usize = 16;

/// Clients join at any moment of a stream and each of them sees all of it, once and in order.
pub async fn joining_under_load_misses_nothing(stand: Stand) -> Verdict {
    if !stand.capabilities.history {
        return Ok(Done::NotApplicable("it keeps no history"));
    }
    let channels = stand.channels(3)?;
    let mut witness = stand.witness().await?;
    stand.publish(&channels[0], "begin").await?;
    witness.until_data("begin").await?;
    let begin = witness.events().next().map(|event| event.position.clone());
    let begin = begin.ok_or_else(|| Violation("the first event is gone".into()))?;

    let publisher = tokio::spawn(publish_paced(stand.clone(), channels.clone()));
    let joiners: Vec<_> = (0..JOINERS)
        .map(|index| {
            let joining = join(stand.clone(), channels.clone(), begin.clone(), index);
            tokio::spawn(joining)
        })
        .collect();
    publisher.await.map_err(broke)??;
    for joiner in joiners {
        joiner.await.map_err(broke)??;
    }
    Ok(Done::Kept)
}

pub(crate) fn broke(error: tokio::task::JoinError) -> Violation {
    Violation(format!("a task broke off: {error}"))
}

async fn publish_paced(stand: Stand, channels: Vec<Channel>) -> Result<(), Violation> {
    for index in 0..EVENTS {
        stand
            .publish(&channels[index % channels.len()], index.to_string())
            .await?;
        if index % 20 == 0 {
            // Lets joiners in between; nothing depends on how many.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    for channel in &channels {
        stand.publish(channel, format!("end {channel}")).await?;
    }
    Ok(())
}

async fn join(
    stand: Stand,
    channels: Vec<Channel>,
    begin: Position,
    index: usize,
) -> Result<(), Violation> {
    tokio::time::sleep(Duration::from_millis(index as u64 * 4)).await;
    let by_name = index.is_multiple_of(2);
    let chosen = if by_name {
        &channels[..=index % channels.len()]
    } else {
        &channels[..]
    };
    let patterns: Vec<_> = if by_name {
        chosen.iter().map(Pattern::from).collect()
    } else {
        vec![stand.pattern("*")?]
    };
    let mut follower = stand.follower(&patterns).await?;
    let pages = stand
        .pages(
            &begin.log,
            &patterns,
            Since::After(begin.clone()),
            1 + 13 * index,
        )
        .await?;
    for channel in chosen {
        follower.until_data(&format!("end {channel}")).await?;
    }
    let fresh = |item: &Live| item.position().is_after(&pages.upto) != Some(false);
    let mut all = pages.items;
    all.extend(follower.items.iter().filter(|item| fresh(item)).cloned());
    in_order(&all)?;
    for channel in chosen {
        let place = channels
            .iter()
            .position(|c| c == channel)
            .unwrap_or_default();
        let all_of_it = (place..EVENTS).step_by(channels.len());
        let mut sent: Vec<_> = all_of_it.map(|n| n.to_string()).collect();
        sent.push(format!("end {channel}"));
        let missing = account(channel, &sent, &all)?;
        ensure!(
            missing == 0,
            "{missing} events of {channel} became a gap without need"
        );
    }
    Ok(())
}

/// What `publish` answers is a cursor: everything after it is answered, nothing before.
pub async fn the_place_that_publish_answers_is_a_cursor(stand: Stand) -> Verdict {
    if !stand.capabilities.history || !stand.capabilities.positions {
        return Ok(Done::NotApplicable(
            "publish answers no place, or nothing is kept",
        ));
    }
    let channel = stand.channel("cursor")?;
    let patterns = [Pattern::from(&channel)];
    let mut witness = stand.witness().await?;
    let mut places = Vec::new();
    for index in 0..10 {
        places.extend(stand.publish(&channel, index.to_string()).await?.position);
    }
    witness.until_events(10).await?;
    for (index, place) in places.into_iter().enumerate() {
        let log = place.log.clone();
        let pages = stand
            .pages(&log, &patterns, Since::After(place), 100)
            .await?;
        let expected: Vec<_> = (index + 1..10).map(|n| n.to_string()).collect();
        ensure!(
            pages.data() == expected,
            "after {index}: {:?}",
            pages.data()
        );
        ensure!(
            pages.items.len() == expected.len(),
            "a gap without need: {:?}",
            pages.items
        );
    }
    Ok(Done::Kept)
}

/// An inlet that was there before history was asked gets all that the answer does not hold.
pub async fn what_follows_the_answer_comes_live(stand: Stand) -> Verdict {
    let channel = stand.channel("live")?;
    let patterns = [Pattern::from(&channel)];
    let log = stand.log_of(&channel)?;
    let _witness = stand.witness().await?;
    for round in 0..50 {
        let mut follower = stand.follower(&patterns).await?;
        let data = format!("round {round}");
        let (published, now) = tokio::join!(
            stand.publish(&channel, data.as_str()),
            stand.page(&log, &patterns, Since::Now, 1, 1)
        );
        published?;
        let now = now?.upto;
        follower.until_data(&data).await?;
        let event = follower.events().find(|event| event.data.as_str() == data);
        let Some(event) = event.filter(|event| event.position.is_after(&now) != Some(true)) else {
            continue;
        };
        // It lies before the place that was answered: then history had it already.
        if stand.capabilities.history {
            let before = Since::After(event.position.at(event.position.offset.before()));
            let pages = stand.pages(&log, &patterns, before, 10).await?;
            let held = pages.items.contains(&Live::Event(event.clone()));
            ensure!(held, "{event:?} lies before {now:?} and is not in history");
        }
    }
    Ok(Done::Kept)
}
