use std::{fmt, num::NonZeroUsize, sync::Arc};

use fanfare_core::{
    Broker, Capabilities, Channel, GapCause, History, HistoryQuery, Live, LogId, Pattern, Position,
    Publication, Published, Since, feed::FeedBounds,
};

use crate::{Fixture, Follower, Violation, in_order};

/// What a law stands on: a backend, and channel names of its own.
#[derive(Clone)]
pub struct Stand {
    /// The fixture.
    pub fixture: Arc<dyn Fixture>,
    /// Its first node.
    pub broker: Arc<dyn Broker>,
    /// The first node's capabilities.
    pub capabilities: Capabilities,
    space: String,
}

/// What all pages of an answer hold together.
#[derive(Debug)]
pub struct Pages {
    /// The items of all pages.
    pub items: Vec<Live>,
    /// Where the last one ended.
    pub upto: Position,
    /// How many there were.
    pub pages: usize,
}

impl Stand {
    /// A stand on a fixture, with a namespace of its own.
    pub async fn new(fixture: Arc<dyn Fixture>) -> Self {
        let broker = fixture.broker().await;
        let capabilities = broker.capabilities();
        let space = fixture.namespace();
        Self {
            fixture,
            broker,
            capabilities,
            space,
        }
    }

    /// The same backend with other channel names.
    #[must_use]
    pub fn aside(&self) -> Self {
        Self {
            space: self.fixture.namespace(),
            ..self.clone()
        }
    }

    /// The same channel names on another node.
    #[must_use]
    pub fn on(&self, node: Arc<dyn Broker>) -> Self {
        Self {
            broker: node,
            ..self.clone()
        }
    }

    /// A channel of this law.
    ///
    /// # Errors
    /// Where the name is none.
    pub fn channel(&self, name: impl fmt::Display) -> Result<Channel, Violation> {
        let text = format!("{}.{name}", self.space);
        Channel::parse(&text).map_err(|why| Violation(format!("{text:?} {why}")))
    }

    /// A pattern of this law.
    ///
    /// # Errors
    /// Where the text is none.
    pub fn pattern(&self, text: impl fmt::Display) -> Result<Pattern, Violation> {
        let text = format!("{}.{text}", self.space);
        Pattern::parse(&text).map_err(|why| Violation(format!("{text:?} {why}")))
    }

    /// So many channels that live in one log; on a backend of which each channel is a log of its
    /// own, one channel.
    ///
    /// # Errors
    /// Where there are none to be found.
    pub fn channels(&self, count: usize) -> Result<Vec<Channel>, Violation> {
        let log = self.log_of(&self.channel("c0")?)?;
        let mut found = Vec::new();
        for index in 0..count * 1000 {
            let channel = self.channel(format_args!("c{index}"))?;
            if self.log_of(&channel)? == log {
                found.push(channel);
            }
            if found.len() == count {
                return Ok(found);
            }
        }
        ensure!(
            found.len() == 1,
            "no {count} channels live in log {log}, but {}",
            found.len()
        );
        Ok(found)
    }

    /// So many channels, of one log where the backend's logs hold several.
    ///
    /// # Errors
    /// As [`channels`](Self::channels).
    pub fn names(&self, count: usize) -> Result<Vec<Channel>, Violation> {
        let together = self.channels(count)?;
        if together.len() == count {
            return Ok(together);
        }
        let names = (0..count).map(|index| self.channel(format_args!("c{index}")));
        names.collect()
    }

    /// The log of a channel.
    ///
    /// # Errors
    /// Where the backend does not name exactly one, of those that it lists.
    pub fn log_of(&self, channel: &Channel) -> Result<LogId, Violation> {
        let logs = &self.capabilities.logs;
        let named = logs.of(&channel.into());
        ensure!(
            named.len() == 1,
            "{channel} has the logs {named:?}, not one"
        );
        let known = logs.has(&named[0]);
        ensure!(known, "{} is not among the logs {logs:?}", named[0]);
        Ok(named[0].clone())
    }

    /// A follower on the first node.
    ///
    /// # Errors
    /// Where the broker refuses.
    pub async fn follower(&self, patterns: &[Pattern]) -> Result<Follower, Violation> {
        let mut follower = self.idle_follower(FeedBounds::default());
        for pattern in patterns {
            follower.follow(&*self.broker, pattern).await?;
        }
        Ok(follower)
    }

    /// A follower of all channels of this law, on the first node.
    ///
    /// # Errors
    /// Where the broker refuses.
    pub async fn witness(&self) -> Result<Follower, Violation> {
        self.follower(&[self.pattern(">")?]).await
    }

    /// A follower of nothing yet.
    pub fn idle_follower(&self, bounds: FeedBounds) -> Follower {
        Follower::new(bounds, self.fixture.patience())
    }

    /// Publishes on the first node.
    ///
    /// # Errors
    /// Where the broker refuses.
    pub async fn publish(
        &self,
        channel: &Channel,
        data: impl Into<String>,
    ) -> Result<Published, Violation> {
        let publication = Publication::new(data.into());
        let published = self.broker.publish(channel, publication).await?;
        let positions = self.capabilities.positions;
        ensure!(
            published.position.is_some() || !positions,
            "publish answered no position, against its capabilities"
        );
        Ok(published)
    }

    /// Publishes `0`, `1`, … round robin on these channels, and waits until the witness, a follower
    /// of all of them, has all of it.
    ///
    /// # Errors
    /// Where it does not arrive, each once and in order.
    pub async fn publish_all(
        &self,
        channels: &[Channel],
        count: usize,
        witness: &mut Follower,
    ) -> Result<(), Violation> {
        let before = witness.events().count();
        for index in 0..count {
            let channel = &channels[index % channels.len()];
            self.publish(channel, index.to_string()).await?;
        }
        witness.until_events(before + count).await?;
        let expected: Vec<_> = (0..count).map(|index| index.to_string()).collect();
        let data = witness.data();
        ensure!(
            data[before..] == expected,
            "published 0 to {}, got {:?}",
            count - 1,
            &data[before..]
        );
        Ok(())
    }

    /// One page of history of the first channel's log.
    ///
    /// # Errors
    /// Where the broker refuses, or the page breaks a rule that holds for every page.
    pub async fn page(
        &self,
        log: &LogId,
        patterns: &[Pattern],
        since: Since,
        limit: usize,
        max_bytes: usize,
    ) -> Result<History, Violation> {
        let query = HistoryQuery {
            log: log.clone(),
            channels: patterns.to_vec(),
            since: since.clone(),
            limit: NonZeroUsize::new(limit).unwrap_or(NonZeroUsize::MIN),
            max_bytes,
        };
        let page = self.broker.history(query).await?;
        in_order_with_ties(&page.items)?;
        let events = page.items.iter().filter(|i| matches!(i, Live::Event(_)));
        ensure!(
            events.count() <= limit,
            "a page of more than {limit} events"
        );
        ensure!(page.upto.log == *log, "upto is of log {}", page.upto.log);
        let new_epoch = |i: &Live| matches!(i, Live::Gap(gap) if gap.cause == GapCause::NewEpoch);
        let began_again = page.items.iter().any(new_epoch);
        for item in &page.items {
            let at = item.position();
            ensure!(
                at.is_after(&page.upto) == Some(false),
                "{item:?} lies beyond upto {:?}",
                page.upto
            );
            if let Live::Event(event) = item {
                ensure!(
                    patterns
                        .iter()
                        .any(|pattern| pattern.matches(&event.channel)),
                    "{} was not asked for",
                    event.channel
                );
                let Since::After(cursor) = &since else {
                    continue;
                };
                ensure!(
                    began_again || event.position.is_after(cursor) != Some(false),
                    "{event:?} is not after the cursor {cursor:?}"
                );
            }
        }
        Ok(page)
    }

    /// All pages from a place on.
    ///
    /// # Errors
    /// As [`page`](Self::page), and where the pages do not come to an end.
    pub async fn pages(
        &self,
        log: &LogId,
        patterns: &[Pattern],
        since: Since,
        limit: usize,
    ) -> Result<Pages, Violation> {
        let mut page = self.page(log, patterns, since, limit, 1 << 20).await?;
        let mut all = Pages {
            items: page.items,
            upto: page.upto,
            pages: 1,
        };
        while page.more {
            let since = Since::After(all.upto.clone());
            page = self.page(log, patterns, since, limit, 1 << 20).await?;
            ensure!(
                page.upto.is_after(&all.upto) != Some(false),
                "a further page ends at {:?}, where the one before ended",
                page.upto
            );
            all.items.append(&mut page.items);
            all.upto = page.upto;
            all.pages += 1;
            ensure!(all.pages < 100_000, "pages do not come to an end");
        }
        Ok(all)
    }
}

impl fmt::Debug for Stand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stand({} {})", self.capabilities.backend, self.space)
    }
}

impl Pages {
    /// The data of the events.
    pub fn data(&self) -> Vec<&str> {
        let events = self.items.iter().filter_map(|item| match item {
            Live::Event(event) => Some(event.data.as_str()),
            Live::Gap(_) => None,
        });
        events.collect()
    }

    /// Whether a gap covers an event of this channel at this place.
    pub fn tells(&self, channel: &Channel, at: &Position) -> bool {
        covered(&self.items, channel, at)
    }
}

/// Whether a gap among these covers an event of this channel at this place.
pub(crate) fn covered(items: &[Live], channel: &Channel, at: &Position) -> bool {
    items.iter().any(|item| match item {
        Live::Event(_) => false,
        Live::Gap(gap) => {
            let begins = gap.after.as_ref();
            let began = begins.is_none_or(|after| at.is_after(after) != Some(false));
            // A gap into another epoch ends all that was in the one before.
            let ends = at.is_after(&gap.next) != Some(true);
            gap.scope.matches(channel) && began && ends
        }
    })
}

/// Several gaps may end at one place, and an event may stand there.
fn in_order_with_ties(items: &[Live]) -> Result<(), Violation> {
    in_order(items.iter().filter(|item| matches!(item, Live::Event(_))))?;
    let sorted = items.is_sorted_by(|a, b| {
        b.position().is_after(a.position()) == Some(true) || a.position() == b.position()
    });
    ensure!(sorted, "the items of a page are not in order: {items:?}");
    Ok(())
}
