//! Losses are told: gaps by cause.

use fanfare_core::{
    Channel, Epoch, Event, GapCause, Live, Offset, Pattern, Since, feed::FeedBounds,
};

use crate::{Done, Pages, Stand, Verdict, Violation, account, in_order, stand::covered};

/// The pages tell of a loss for the channel that begins before `first` lost event.
fn tells(pages: &Pages, channel: &Channel, lost: &Event) -> Result<(), Violation> {
    ensure!(
        pages.tells(channel, &lost.position),
        "{channel}: {:?} is lost in silence: {:?}",
        lost.position,
        pages.items
    );
    Ok(())
}

fn newest(items: &[Live]) -> Result<&std::sync::Arc<Event>, Violation> {
    let events = items.iter().rev().find_map(|item| match item {
        Live::Event(event) => Some(event),
        Live::Gap(_) => None,
    });
    events.ok_or_else(|| Violation("no event came".into()))
}

/// A place of another epoch begins with a gap, and what is retained follows.
pub async fn another_epoch_is_a_gap(stand: Stand) -> Verdict {
    let channels = stand.channels(2)?;
    let mut witness = stand.witness().await?;
    stand.publish_all(&channels, 10, &mut witness).await?;
    let mut foreign = newest(&witness.items)?.position.clone();
    foreign.epoch = Epoch(foreign.epoch.0 ^ 0x5eed);
    let log = foreign.log.clone();
    for offset in [0, foreign.offset.0 / 2, foreign.offset.0] {
        let cursor = foreign.at(Offset(offset));
        new_epoch(
            &stand,
            &channels,
            &Since::After(cursor),
            &witness.items,
            &log,
        )
        .await?;
    }
    Ok(Done::Kept)
}

/// So does a place that the log has not reached.
pub async fn a_place_beyond_the_head_is_a_gap(stand: Stand) -> Verdict {
    let channels = stand.channels(2)?;
    let mut witness = stand.witness().await?;
    stand.publish_all(&channels, 10, &mut witness).await?;
    let head = newest(&witness.items)?.position.clone();
    for further in [1 << 40, u128::MAX - head.offset.0] {
        let cursor = head.at(Offset(head.offset.0 + further));
        new_epoch(
            &stand,
            &channels,
            &Since::After(cursor),
            &witness.items,
            &head.log,
        )
        .await?;
    }
    Ok(Done::Kept)
}

async fn new_epoch(
    stand: &Stand,
    channels: &[Channel],
    since: &Since,
    published: &[Live],
    log: &fanfare_core::LogId,
) -> Result<(), Violation> {
    let patterns: Vec<_> = channels.iter().map(Pattern::from).collect();
    let pages = stand.pages(log, &patterns, since.clone(), 4).await?;
    for channel in channels {
        let told = |item: &Live| {
            matches!(item, Live::Gap(gap)
                if gap.cause == GapCause::NewEpoch && gap.scope.matches(channel))
        };
        let first = pages.items.iter().position(told);
        let event = |item: &Live| matches!(item, Live::Event(e) if e.channel == *channel);
        let first_event = pages.items.iter().position(event);
        ensure!(
            first.is_some() && (first_event.is_none() || first < first_event),
            "{channel}: {since:?} is not answered by a gap first: {:?}",
            pages.items
        );
    }
    if stand.capabilities.history {
        let published = published
            .iter()
            .filter(|item| matches!(item, Live::Event(_)));
        for event in published {
            ensure!(
                pages.items.contains(event),
                "after the gap, the retained {event:?} does not follow: {:?}",
                pages.items
            );
        }
    }
    Ok(())
}

/// Deleting history under a cursor is told, and only to whom it concerns.
pub async fn deleted_history_is_a_gap(stand: Stand) -> Verdict {
    let channels = stand.channels(3)?;
    let patterns: Vec<_> = channels.iter().map(Pattern::from).collect();
    let mut witness = stand.witness().await?;
    stand.publish_all(&channels, 30, &mut witness).await?;
    if !stand.fixture.evict(&patterns[0]).await {
        return Ok(Done::NotApplicable("its fixture cannot evict"));
    }
    let events: Vec<_> = witness.events().cloned().collect();
    let cursor = events[2].position.clone();
    let log = cursor.log.clone();
    for limit in [3, 100] {
        let since = Since::After(cursor.clone());
        let pages = stand.pages(&log, &patterns, since.clone(), limit).await?;
        for event in &events[3..] {
            if event.channel == channels[0] {
                tells(&pages, &channels[0], event)?;
            } else {
                ensure!(
                    pages.items.contains(&Live::Event(event.clone())),
                    "{event:?} was not deleted and is not answered"
                );
            }
        }
        if channels.len() == 1 {
            continue;
        }
        let others = stand.pages(&log, &patterns[1..], since, limit).await?;
        ensure!(
            others.items.len() == 18,
            "a gap on other channels: {:?}",
            others.items
        );
    }
    // All pages of a pattern, and the channel goes on after the deletion.
    stand.publish(&channels[0], "after").await?;
    witness.until_data("after").await?;
    let all = [stand.pattern("*")?];
    let pages = stand.pages(&log, &all, Since::After(cursor), 5).await?;
    ensure!(
        pages.data().contains(&"after"),
        "the event after the deletion is not answered"
    );
    for event in events[3..]
        .iter()
        .filter(|event| event.channel == channels[0])
    {
        tells(&pages, &channels[0], event)?;
    }
    let newest = newest(&witness.items)?.position.clone();
    let none = stand.pages(&log, &all, Since::After(newest), 5).await?;
    ensure!(
        none.items.is_empty(),
        "nothing is lost after the newest: {:?}",
        none.items
    );
    Ok(Done::Kept)
}

/// A bus that lost everything and began again is told to followers and to cursors.
pub async fn a_log_that_began_again_is_a_gap(stand: Stand) -> Verdict {
    let channels = stand.channels(2)?;
    let patterns: Vec<_> = channels.iter().map(Pattern::from).collect();
    let mut witness = stand.witness().await?;
    stand.publish_all(&channels, 10, &mut witness).await?;
    let old: Vec<_> = witness.events().cloned().collect();
    if !stand.fixture.lose().await {
        return Ok(Done::NotApplicable("its fixture cannot lose its events"));
    }
    stand.publish(&channels[0], "again").await?;
    witness.until_data("again").await?;
    in_order(&witness.items)?;
    let cursor = old[4].position.clone();
    let pages = stand
        .pages(&cursor.log.clone(), &patterns, Since::After(cursor), 5)
        .await?;
    for event in &old[5..] {
        let held = pages.items.contains(&Live::Event(event.clone()));
        ensure!(
            held || covered(&pages.items, &event.channel, &event.position),
            "{event:?} is lost in silence: {:?}",
            pages.items
        );
    }
    Ok(Done::Kept)
}

/// A reader that stands still while more comes than its inlet holds.
pub async fn a_slow_reader_is_told_what_it_missed(stand: Stand) -> Verdict {
    let channels = stand.channels(2)?;
    let mut witness = stand.witness().await?;
    let bounds = FeedBounds {
        items: 8,
        bytes: 1 << 20,
    };
    let mut slow = stand.idle_follower(bounds);
    slow.follow(&*stand.broker, &stand.pattern("*")?).await?;
    stand.publish_all(&channels, 40, &mut witness).await?;
    let each = channels.len();
    let mut sent: Vec<Vec<String>> = (0..each)
        .map(|place| (place..40).step_by(each).map(|n| n.to_string()).collect())
        .collect();
    let whole = |items: &[Live], sent: &[Vec<String>]| {
        let mut each = channels.iter().zip(sent);
        each.try_for_each(|(channel, sent)| account(channel, sent, items).map(drop))
    };
    slow.until("all that was published, or a gap", |items| {
        whole(items, &sent).is_ok()
    })
    .await?;
    stand.publish(&channels[0], "end").await?;
    slow.until_data("end").await?;
    sent[0].push("end".into());
    whole(&slow.items, &sent)?;
    Ok(Done::Kept)
}

/// A client that went away, so that nobody follows its channel, and comes back with its cursor.
pub async fn what_passed_unfollowed_is_answered_or_a_gap(stand: Stand) -> Verdict {
    let channel = stand.channel("unfollowed")?;
    let patterns = [Pattern::from(&channel)];
    let log = stand.log_of(&channel)?;
    let mut away: Option<(fanfare_core::Position, String)> = None;
    for round in 0..20 {
        let mut client = stand.follower(&patterns).await?;
        let answered = match &away {
            Some((cursor, _)) => {
                let since = Since::After(cursor.clone());
                Some(stand.pages(&log, &patterns, since, 3).await?)
            }
            None => None,
        };
        let seen = format!("seen {round}");
        stand.publish(&channel, seen.as_str()).await?;
        client.until_data(&seen).await?;
        if let (Some(pages), Some((_, missed))) = (answered, away) {
            let fresh = |item: &&Live| item.position().is_after(&pages.upto) != Some(false);
            let live = client.items.iter().filter(fresh).cloned();
            let all: Vec<_> = pages.items.iter().cloned().chain(live).collect();
            account(&channel, &[missed, seen], &all)?;
        }
        let cursor = newest(&client.items)?.position.clone();
        drop(client);
        let data = format!("away {round}");
        stand.publish(&channel, data.as_str()).await?;
        away = Some((cursor, data));
    }
    Ok(Done::Kept)
}

/// Law 3: a place that one node answered means the same on another, or is answered by a gap.
pub async fn a_place_of_another_node_means_the_same_or_a_gap(stand: Stand) -> Verdict {
    let Some(second) = stand.fixture.second_node().await else {
        return Ok(Done::NotApplicable("its fixture has one node"));
    };
    let channels = stand.channels(2)?;
    let patterns: Vec<_> = channels.iter().map(Pattern::from).collect();
    let mut witness = stand.witness().await?;
    let mut elsewhere = stand.idle_follower(FeedBounds::default());
    elsewhere.follow(&*second, &stand.pattern(">")?).await?;
    stand.publish_all(&channels, 20, &mut witness).await?;
    elsewhere.until_events(20).await?;
    let there = stand.on(second);
    let events: Vec<_> = witness.events().cloned().collect();
    for (place, event) in events.iter().enumerate() {
        let since = Since::After(event.position.clone());
        let pages = there
            .pages(&event.position.log, &patterns, since, 7)
            .await?;
        if stand.capabilities.shared && stand.capabilities.history {
            let expected: Vec<_> = events[place + 1..]
                .iter()
                .cloned()
                .map(Live::Event)
                .collect();
            ensure!(
                pages.items == expected,
                "after event {place} of another node: {:?}",
                pages.items
            );
        } else {
            for channel in &channels {
                let told = |i: &Live| matches!(i, Live::Gap(gap) if gap.scope.matches(channel));
                ensure!(
                    pages.items.iter().any(told),
                    "a place that means nothing here is not answered by a gap: {:?}",
                    pages.items
                );
            }
        }
    }
    Ok(Done::Kept)
}
