//! Patterns select channels, and an inlet gets an event once.

use fanfare_core::Live;

use crate::{Done, Stand, Verdict};

/// `*` is one segment, `>` the rest, a name itself.
pub async fn wildcards_select_by_segment(stand: Stand) -> Verdict {
    let names = ["a", "a.b", "a.c", "a.b.c", "b", "b.b", "A", "ab", "größe.b"];
    for (text, selected) in [
        ("a", &["a"] as &[&str]),
        ("*", &["a", "b", "A", "ab"]),
        ("a.*", &["a.b", "a.c"]),
        ("*.b", &["a.b", "b.b", "größe.b"]),
        ("a.>", &["a.b", "a.c", "a.b.c"]),
        ("*.>", &["a.b", "a.c", "a.b.c", "b.b", "größe.b"]),
        ("a.*.c", &["a.b.c"]),
        (">", &names),
    ] {
        let stand = stand.aside();
        let mut follower = stand
            .follower(&[stand.pattern(text)?, stand.pattern("end")?])
            .await?;
        for name in names {
            stand.publish(&stand.channel(name)?, name).await?;
        }
        stand.publish(&stand.channel("end")?, "end").await?;
        follower.until_data("end").await?;
        // Channels of several logs have no order among each other.
        follower.until_events(selected.len() + 1).await?;
        let mut got: Vec<_> = follower
            .data()
            .into_iter()
            .filter(|data| *data != "end")
            .collect();
        got.sort_unstable();
        let mut expected = selected.to_vec();
        expected.sort_unstable();
        ensure!(got == expected, "{text} selected {got:?}, not {expected:?}");
    }
    Ok(Done::Kept)
}

/// However many patterns of an inlet select an event, and however often each is held.
pub async fn an_inlet_gets_an_event_once_whatever_selects_it(stand: Stand) -> Verdict {
    let channels = stand.channels(2)?;
    let mut follower = stand.idle_follower(Default::default());
    let overlapping = [
        stand.pattern(">")?,
        stand.pattern("*")?,
        (&channels[0]).into(),
        (&channels[0]).into(),
    ];
    for pattern in &overlapping {
        follower.follow(&*stand.broker, pattern).await?;
    }
    stand.publish_all(&channels, 200, &mut follower).await?;
    follower.let_go(&overlapping[2]);
    follower.let_go(&overlapping[1]);
    let before = follower.items.len();
    stand.publish_all(&channels, 20, &mut follower).await?;
    let fresh = &follower.items[before..];
    ensure!(
        fresh.iter().all(|item| matches!(item, Live::Event(_))),
        "a gap: {fresh:?}"
    );
    Ok(Done::Kept)
}

/// After the last hold was let go of, nothing more comes, once the bus has taken note.
pub async fn letting_go_ends_the_flow(stand: Stand) -> Verdict {
    let channels = stand.names(2)?;
    let (kept, left) = (&channels[0], &channels[1]);
    let mut follower = stand.follower(&[kept.into(), left.into()]).await?;
    stand.publish(left, "before").await?;
    follower.until_data("before").await?;
    follower.let_go(&left.into());
    for round in 0..200 {
        let before = follower.events().count();
        stand.publish(left, format!("left {round}")).await?;
        stand.publish(kept, format!("kept {round}")).await?;
        follower.until_data(&format!("kept {round}")).await?;
        if follower.events().count() == before + 1 {
            return Ok(Done::Kept);
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    violated!("after 200 rounds, events of a channel that is not followed still come")
}

/// Following, letting go and following again, many times; each time it flows at once.
pub async fn following_again_works(stand: Stand) -> Verdict {
    let channel = stand.channel("again")?;
    for round in 0..30 {
        let mut follower = stand.follower(&[(&channel).into()]).await?;
        let data = round.to_string();
        stand.publish(&channel, data.as_str()).await?;
        follower.until_data(&data).await?;
        drop(follower);
    }
    Ok(Done::Kept)
}
