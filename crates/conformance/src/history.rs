//! Law 4: history after a place answers everything after it, in order, or names the gap.

use fanfare_core::{Channel, Live, Pattern, Since};

use crate::{Done, Follower, Stand, Verdict, Violation};

const NO_HISTORY: Verdict = Ok(Done::NotApplicable("it keeps no history"));
const WIDE: usize = 1 << 20;

async fn filled(
    stand: &Stand,
    channels: usize,
    events: usize,
) -> Result<(Vec<Channel>, Follower), Violation> {
    let channels = stand.channels(channels)?;
    let mut witness = stand.witness().await?;
    stand.publish_all(&channels, events, &mut witness).await?;
    Ok((channels, witness))
}

fn names(channels: &[Channel]) -> Vec<Pattern> {
    channels.iter().map(Pattern::from).collect()
}

/// Pages answer what the witness saw after a place, on these channels, and no gap.
async fn answers(
    stand: &Stand,
    witness: &Follower,
    patterns: &[Pattern],
    place: usize,
    limit: usize,
) -> Result<usize, Violation> {
    let events: Vec<_> = witness.events().collect();
    let after = events[place].position.clone();
    let log = after.log.clone();
    let pages = stand
        .pages(&log, patterns, Since::After(after), limit)
        .await?;
    let expected: Vec<_> = events[place + 1..]
        .iter()
        .filter(|event| patterns.iter().any(|p| p.matches(&event.channel)))
        .map(|event| Live::Event((*event).clone()))
        .collect();
    ensure!(
        pages.items == expected,
        "after event {place} of {:?}, expected {} events, got {:?}",
        patterns,
        expected.len(),
        pages.items
    );
    Ok(pages.pages)
}

/// From every place on, on one channel, several, and a pattern.
pub async fn everything_after_a_place_is_answered(stand: Stand) -> Verdict {
    if !stand.capabilities.history {
        return NO_HISTORY;
    }
    let (channels, witness) = filled(&stand, 3, 40).await?;
    for place in 0..40 {
        answers(&stand, &witness, &names(&channels[..1]), place, 100).await?;
        if channels.len() > 1 {
            answers(&stand, &witness, &names(&channels[1..]), place, 100).await?;
        }
        answers(&stand, &witness, &[stand.pattern("*")?], place, 100).await?;
    }
    Ok(Done::Kept)
}

/// Wherever pages are cut, each event is answered once.
pub async fn pages_join_without_a_seam(stand: Stand) -> Verdict {
    if !stand.capabilities.history {
        return NO_HISTORY;
    }
    let (channels, witness) = filled(&stand, 4, 120).await?;
    for limit in [1, 2, 7, 50] {
        for patterns in [names(&channels), vec![stand.pattern(">")?]] {
            let pages = answers(&stand, &witness, &patterns, 3, limit).await?;
            let most = 116_usize.div_ceil(limit) + 1;
            ensure!(pages <= most, "{pages} pages of {limit} for 116 events");
        }
    }
    Ok(Done::Kept)
}

/// A page holds about `max_bytes`, and one event however large it is.
pub async fn a_page_is_bounded_in_bytes_but_holds_one_event(stand: Stand) -> Verdict {
    if !stand.capabilities.history {
        return NO_HISTORY;
    }
    let channel = stand.channel("bytes")?;
    let mut witness = stand.witness().await?;
    for index in 0..4 {
        stand
            .publish(&channel, format!("{index}{}", "x".repeat(10_000)))
            .await?;
    }
    witness.until_events(4).await?;
    let log = stand.log_of(&channel)?;
    let patterns = [Pattern::from(&channel)];
    let page = stand.page(&log, &patterns, Since::Oldest, 10, 1).await?;
    ensure!(
        (page.items.len(), page.more) == (1, true),
        "a page of 1 byte holds {} events, more = {}",
        page.items.len(),
        page.more
    );
    let page = stand
        .page(&log, &patterns, Since::After(page.upto), 10, 25_000)
        .await?;
    ensure!(
        (1..=3).contains(&page.items.len()),
        "a page of 25,000 bytes holds {} events of 10,000",
        page.items.len()
    );
    ensure!(
        page.more || page.items.len() == 3,
        "a cut page says there is no more"
    );
    Ok(Done::Kept)
}

/// `Last(n)` answers the newest n of each channel, in order, in one page.
pub async fn last_answers_the_newest_of_each_channel(stand: Stand) -> Verdict {
    if !stand.capabilities.history {
        return NO_HISTORY;
    }
    let (channels, witness) = filled(&stand, 3, 30).await?;
    let all: Vec<_> = witness.data();
    for (each, limit) in [(1usize, 100), (4, 100), (50, 100), (4, 5)] {
        for patterns in [names(&channels), vec![stand.pattern("*")?]] {
            let since = Since::Last(each.try_into().unwrap_or(std::num::NonZeroUsize::MIN));
            let log = stand.log_of(&channels[0])?;
            let page = stand.page(&log, &patterns, since, limit, WIDE).await?;
            let got: Vec<_> = page.items.iter().filter_map(data).collect();
            // Round robin: the newest n of each of three channels are the newest 3 n.
            let newest = channels.len() * each;
            let expected = &all[30 - newest.min(limit).min(30)..];
            ensure!(
                got == expected,
                "the last {each}, at most {limit}: {got:?}, not {expected:?}"
            );
            ensure!(!page.more, "the last {each} say there is more");
        }
    }
    Ok(Done::Kept)
}

fn data(item: &Live) -> Option<&str> {
    match item {
        Live::Event(event) => Some(event.data.as_str()),
        Live::Gap(_) => None,
    }
}

/// `Oldest` answers all that is retained; `Now` only the place, which then is a cursor.
pub async fn oldest_answers_all_and_now_only_the_place(stand: Stand) -> Verdict {
    let channels = stand.channels(2)?;
    let patterns = names(&channels);
    let mut witness = stand.witness().await?;
    stand.publish_all(&channels, 20, &mut witness).await?;
    let log = stand.log_of(&channels[0])?;
    let now = stand.page(&log, &patterns, Since::Now, 5, WIDE).await?;
    ensure!(
        now.items.is_empty() && !now.more,
        "Now answers {:?}",
        now.items
    );
    let newest = witness.events().last().map(|event| event.position.clone());
    ensure!(
        newest.is_some_and(|newest| newest.is_after(&now.upto) == Some(false)),
        "Now answers {:?}, before what was handed on",
        now.upto
    );
    let after = stand
        .pages(&log, &patterns, Since::After(now.upto), 5)
        .await?;
    ensure!(
        after.items.is_empty(),
        "after now there is {:?}",
        after.items
    );
    if stand.capabilities.history {
        let all = stand.pages(&log, &patterns, Since::Oldest, 6).await?;
        ensure!(all.data() == witness.data(), "the oldest: {:?}", all.data());
        let nothing = [stand.pattern("nothing")?];
        let none = stand.pages(&log, &nothing, Since::Oldest, 6).await?;
        ensure!(
            none.items.is_empty(),
            "a channel without events has {:?}",
            none.items
        );
    }
    Ok(Done::Kept)
}

/// Names and patterns that overlap.
pub async fn an_event_is_answered_once_whatever_selects_it(stand: Stand) -> Verdict {
    if !stand.capabilities.history {
        return NO_HISTORY;
    }
    let (channels, witness) = filled(&stand, 2, 20).await?;
    let mut patterns = names(&channels);
    patterns.extend([
        stand.pattern("*")?,
        stand.pattern(">")?,
        patterns[0].clone(),
    ]);
    answers(&stand, &witness, &patterns, 0, 7).await?;
    Ok(Done::Kept)
}

/// A client that follows hundreds of channels by one pattern resumes from one place.
pub async fn many_channels_resume_by_one_pattern(stand: Stand) -> Verdict {
    if !stand.capabilities.history {
        return NO_HISTORY;
    }
    let (channels, witness) = filled(&stand, 300, 900).await?;
    for (place, limit) in [(0, 256), (450, 64), (890, 256)] {
        answers(&stand, &witness, &[stand.pattern("*")?], place, limit).await?;
    }
    answers(
        &stand,
        &witness,
        &names(&channels[..channels.len().min(128)]),
        450,
        100,
    )
    .await?;
    Ok(Done::Kept)
}

/// A bus that keeps nothing says so: a place before the newest is answered by a gap.
pub async fn without_history_an_older_place_is_a_gap(stand: Stand) -> Verdict {
    if stand.capabilities.history {
        return Ok(Done::NotApplicable("it keeps history"));
    }
    let (channels, witness) = filled(&stand, 1, 3).await?;
    let events: Vec<_> = witness.events().collect();
    let since = Since::After(events[0].position.clone());
    let pages = stand
        .pages(&events[0].position.log, &names(&channels), since, 10)
        .await?;
    for event in &events[1..] {
        ensure!(
            pages.tells(&channels[0], &event.position),
            "{:?} is lost in silence: {:?}",
            event.position,
            pages.items
        );
    }
    let since = Since::After(events[2].position.clone());
    let none = stand
        .pages(&events[0].position.log, &names(&channels), since, 10)
        .await?;
    ensure!(
        none.items.is_empty(),
        "after the newest place: {:?}",
        none.items
    );
    Ok(Done::Kept)
}
