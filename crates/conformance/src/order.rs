//! Law 1: publish stores and announces in one step, and offsets rise in order of announcement.

use std::sync::Arc;

use fanfare_core::{Broker, Data, ErrorKind, EventType, IdempotencyKey, MAX_BATCH, Publication};
use futures_util::future::join_all;

use crate::{Done, Stand, Verdict, Violation, account};

/// Enough that one loss, doubling or exchange in a hundred is in it.
const EVENTS: usize = 300;

fn keyed(data: &str, key: &str) -> Result<Publication, Violation> {
    let key = IdempotencyKey::parse(key).map_err(|why| Violation(why.to_string()))?;
    Ok(Publication {
        key: Some(key),
        ..Publication::new(data)
    })
}

/// Over several channels of a log, what was published later lies later, and is handed on later.
pub async fn offsets_rise_in_order_of_announcement(stand: Stand) -> Verdict {
    let channels = stand.channels(3)?;
    let mut witness = stand.witness().await?;
    let mut answered = Vec::new();
    for index in 0..EVENTS {
        let channel = &channels[index % channels.len()];
        answered.push(stand.publish(channel, index.to_string()).await?);
    }
    witness.until_events(EVENTS).await?;
    let expected: Vec<_> = (0..EVENTS).map(|index| index.to_string()).collect();
    ensure!(
        witness.data() == expected,
        "published 0 to {}, got {:?}",
        EVENTS - 1,
        witness.data()
    );
    let log = stand.log_of(&channels[0])?;
    for (event, published) in witness.events().zip(&answered) {
        let at = &event.position;
        ensure!(at.log == log, "{} came from log {}", event.channel, at.log);
        ensure!(
            !published.duplicate,
            "a publication without a key was a duplicate"
        );
        if let Some(position) = &published.position {
            ensure!(
                position == at,
                "publish answered {position:?}, the event has {at:?}"
            );
        }
    }
    Ok(Done::Kept)
}

/// Data, and the event type where the backend carries one, arrive as they were handed in.
pub async fn what_is_published_arrives_unchanged(stand: Stand) -> Verdict {
    let channel = stand.channel("payload")?;
    let mut witness = stand.witness().await?;
    let large = "0123456789abcdef".repeat(4096);
    let all = [
        "",
        " ",
        "\n",
        "a\r\nb\rc\nd",
        "\"q\" {\"k\":1}",
        "größe 日本 🎉",
        "\0\u{1}",
        "\u{feff}bom",
        "data: x\n\nid: 7",
        &large,
    ];
    for data in all {
        stand.publish(&channel, data).await?;
    }
    let event_type = EventType::parse("größe.x").map_err(|why| Violation(why.to_string()))?;
    let typed = Publication {
        event_type: Some(event_type.clone()),
        ..Publication::new("typed")
    };
    // A bus that does not place publications carries the bare data, and may say so.
    let bare = !stand.capabilities.positions;
    let carried = match stand.broker.publish(&channel, typed).await {
        Err(error) if bare && error.kind() == ErrorKind::Unsupported => false,
        published => published.map(|_| true)?,
    };
    witness
        .until_events(all.len() + usize::from(carried))
        .await?;
    for (got, sent) in witness.events().zip(all) {
        ensure!(
            got.data == Data::from(sent),
            "{sent:?} became {:?}",
            got.data.as_str()
        );
        ensure!(
            got.event_type.is_none(),
            "an event type out of nowhere: {:?}",
            got.event_type
        );
    }
    let typed = witness
        .events()
        .last()
        .and_then(|event| event.event_type.clone());
    ensure!(
        typed.as_ref() == Some(&event_type) || bare,
        "the event type {event_type:?} became {typed:?}"
    );
    Ok(Done::Kept)
}

/// Where an event names the one before it on its channel, it is that one.
pub async fn an_event_names_its_predecessor(stand: Stand) -> Verdict {
    let channels = stand.channels(3)?;
    let mut witness = stand.witness().await?;
    stand.publish_all(&channels, 60, &mut witness).await?;
    let events: Vec<_> = witness.events().collect();
    for (index, event) in events.iter().enumerate() {
        let Some(previous) = event.previous else {
            continue;
        };
        let mut earlier = events[..index].iter().rev();
        let expected = earlier
            .find(|before| before.channel == event.channel)
            .map(|before| before.position.offset);
        if let Some(expected) = expected {
            ensure!(
                previous == expected,
                "{event:?} names {previous:?}; before it on its channel was {expected:?}"
            );
        } else {
            ensure!(
                previous < event.position.offset,
                "{event:?} names itself or a later one"
            );
        }
    }
    Ok(Done::Kept)
}

/// A known idempotency key answers the first place, and nothing is stored or announced.
pub async fn a_known_key_stores_nothing_again(stand: Stand) -> Verdict {
    let channel = stand.channel("keys")?;
    let mut witness = stand.witness().await?;
    if !stand.capabilities.idempotency {
        let refused = stand.broker.publish(&channel, keyed("x", "k")?).await;
        let kind = refused.err().map(|error| error.kind());
        ensure!(
            kind == Some(ErrorKind::Unsupported),
            "a key that is not kept must be refused as unsupported, got {kind:?}"
        );
        stand.publish(&channel, "end").await?;
        witness.until_data("end").await?;
        ensure!(
            witness.data() == ["end"],
            "a refused publication was announced"
        );
        return Ok(Done::Kept);
    }
    let first = stand.broker.publish(&channel, keyed("first", "k")?).await?;
    stand.publish(&channel, "between").await?;
    let (again, third) = tokio::join!(
        stand.broker.publish(&channel, keyed("again", "k")?),
        stand.broker.publish(&channel, keyed("third", "k")?)
    );
    for again in [again?, third?] {
        ensure!(
            again.duplicate,
            "the second publication of a key is no duplicate"
        );
        ensure!(
            again.position == first.position,
            "the duplicate has {:?}, the first {:?}",
            again.position,
            first.position
        );
    }
    ensure!(
        !first.duplicate,
        "the first publication of a key is a duplicate"
    );
    stand.publish(&channel, "end").await?;
    witness.until_data("end").await?;
    let data = witness.data();
    ensure!(data == ["first", "between", "end"], "announced: {data:?}");
    Ok(Done::Kept)
}

/// Publications of one key that race, on all nodes, are one: all are answered its place.
pub async fn racing_publications_of_a_key_are_stored_once(stand: Stand) -> Verdict {
    const ROUNDS: usize = 20;
    if !stand.capabilities.idempotency {
        return Ok(Done::NotApplicable("it keeps no keys"));
    }
    let channel = stand.channel("race")?;
    let mut witness = stand.witness().await?;
    let other = stand.fixture.second_node().await;
    let other = other.as_ref().unwrap_or(&stand.broker);
    for round in 0..ROUNDS {
        let publication = keyed(&round.to_string(), &round.to_string())?;
        let publish = |node: &Arc<dyn Broker>| {
            let (node, channel, publication) = (node.clone(), channel.clone(), publication.clone());
            async move { node.publish(&channel, publication).await }
        };
        let racing = [&stand.broker, other, &stand.broker, other].map(publish);
        let mut places = Vec::new();
        let mut stored = 0;
        for answer in join_all(racing).await {
            let answer = answer.map_err(|error| Violation(format!("round {round}: {error}")))?;
            stored += usize::from(!answer.duplicate);
            places.push(answer.position);
        }
        ensure!(
            stored == 1,
            "round {round}: {stored} publications of a key were stored"
        );
        ensure!(
            places.iter().all(|place| *place == places[0]),
            "round {round}: one key has the places {places:?}"
        );
    }
    witness.until_events(ROUNDS).await?;
    let rounds = (0..ROUNDS).map(|round| round.to_string());
    let data = witness.data();
    ensure!(rounds.eq(data.iter().copied()), "announced: {data:?}");
    Ok(Done::Kept)
}

/// A batch is stored and announced in its order, and each of it stands for itself.
pub async fn a_batch_is_stored_in_its_order(stand: Stand) -> Verdict {
    let channels = stand.channels(3)?;
    let mut witness = stand.witness().await?;
    let capabilities = &stand.capabilities;
    let mut batch = Vec::new();
    for index in 0..MAX_BATCH {
        let data = index.to_string();
        let publication = match capabilities.idempotency && index % 10 == 7 {
            true => keyed(&data, &data)?,
            false => Publication::new(data),
        };
        batch.push((channels[index % channels.len()].clone(), publication));
    }
    // One that is too large, and one whose key is in the batch already.
    const LARGE: usize = 50;
    if let Some(max) = capabilities.max_data_bytes {
        batch[LARGE].1 = Publication::new("x".repeat(max + 1));
    }
    const FIRST: usize = 27;
    const AGAIN: usize = 87;
    if capabilities.idempotency {
        batch[AGAIN] = (batch[FIRST].0.clone(), keyed("again", "27")?);
    }
    let results = stand.broker.publish_all(&batch).await;
    ensure!(
        results.len() == batch.len(),
        "{} results for {} publications",
        results.len(),
        batch.len()
    );
    let mut expected = Vec::new();
    let mut places = Vec::new();
    for (index, (result, (_, publication))) in results.iter().zip(&batch).enumerate() {
        match result {
            Err(error) => {
                let is_large = index == LARGE && capabilities.max_data_bytes.is_some();
                ensure!(
                    is_large && error.kind() == ErrorKind::TooLarge,
                    "publication {index} was refused: {error}"
                );
            }
            Ok(published) if published.duplicate => {
                let first = results[FIRST].as_ref().ok();
                ensure!(
                    index == AGAIN && first.is_some_and(|it| it.position == published.position),
                    "publication {index} is no duplicate of its key's first: {published:?}"
                );
            }
            Ok(published) => {
                expected.push(publication.data.as_str().to_owned());
                places.push(published.position.clone());
            }
        }
    }
    let duplicates = usize::from(capabilities.idempotency);
    let refused = usize::from(capabilities.max_data_bytes.is_some());
    ensure!(
        expected.len() == batch.len() - duplicates - refused,
        "{} of {} were stored",
        expected.len(),
        batch.len()
    );
    witness.until_events(expected.len()).await?;
    let data = witness.data();
    let wrong = expected
        .iter()
        .zip(&data)
        .position(|(sent, got)| sent != got);
    if let Some(at) = wrong {
        let around = at.saturating_sub(2)..(at + 3).min(data.len());
        let (sent, got) = (&expected[around.clone()], &data[around]);
        return Err(Violation(format!("published …{sent:?}…, got …{got:?}…")));
    }
    for (event, place) in witness.events().zip(&places) {
        if let Some(place) = place {
            ensure!(
                *place == event.position,
                "publish answered {place:?}, the event has {:?}",
                event.position
            );
        }
    }
    Ok(Done::Kept)
}

/// The same key on another channel is another publication.
pub async fn a_key_belongs_to_its_channel(stand: Stand) -> Verdict {
    if !stand.capabilities.idempotency {
        return Ok(Done::NotApplicable("it keeps no keys"));
    }
    let channels = stand.names(2)?;
    let mut witness = stand.witness().await?;
    for channel in &channels {
        let published = stand
            .broker
            .publish(channel, keyed(channel.as_str(), "k")?)
            .await?;
        ensure!(
            !published.duplicate,
            "a key of another channel made a duplicate"
        );
    }
    witness.until_events(2).await?;
    Ok(Done::Kept)
}

/// What was refused for its size is neither stored nor announced.
pub async fn what_is_refused_is_neither_stored_nor_announced(stand: Stand) -> Verdict {
    let Some(max) = stand.capabilities.max_data_bytes else {
        return Ok(Done::NotApplicable("it takes data of every size"));
    };
    let channel = stand.channel("size")?;
    let mut witness = stand.witness().await?;
    let refused = stand
        .broker
        .publish(&channel, Publication::new("x".repeat(max + 1)))
        .await;
    let kind = refused.err().map(|error| error.kind());
    ensure!(
        kind == Some(ErrorKind::TooLarge),
        "{} bytes must be refused as too large, got {kind:?}",
        max + 1
    );
    stand.publish(&channel, "end").await?;
    witness.until_data("end").await?;
    account(&channel, &["end".into()], &witness.items)?;
    Ok(Done::Kept)
}
