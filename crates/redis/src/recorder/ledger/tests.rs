//! What the scripts take and refuse, over a real redis-server.

use std::{num::NonZeroUsize, time::Duration};

use fanfare_core::{Broker, BrokerMetrics, GapCause, HistoryQuery, Live, Since};
use fanfare_testkit::RedisServer;

use super::*;
use crate::durable::RedisDurable;

struct Stand {
    _server: RedisServer,
    log: RedisDurable,
    config: RedisConfig,
}

impl Stand {
    async fn start() -> Option<Self> {
        let server = RedisServer::start().await?;
        let config = RedisConfig {
            url: server.url(),
            command_timeout: Duration::from_secs(20),
            recorder_lease: Duration::from_secs(60),
            ..RedisConfig::default()
        };
        let names = Names::recorded(&config.prefix);
        let metrics = BrokerMetrics::unregistered("redis");
        let log = RedisDurable::open(config.clone(), names, metrics);
        Some(Self {
            log: log.await.unwrap(),
            _server: server,
            config,
        })
    }

    fn ledger(&self) -> Ledger {
        let commands = Commands::new(self.config.client().unwrap(), &self.config);
        Ledger::new(self.log.first_log(), commands, self.config.clone())
    }

    /// All that is in the log.
    async fn told(&self) -> Vec<String> {
        let query = HistoryQuery {
            log: self.log.capabilities().logs.all()[0].clone(),
            channels: vec![">".parse().unwrap()],
            since: Since::Oldest,
            limit: NonZeroUsize::new(1000).unwrap(),
            max_bytes: 1 << 20,
        };
        let page = self.log.history(query).await.unwrap();
        let told = |item: &Live| match item {
            Live::Event(event) => format!("{} {}", event.channel, event.data.as_str()),
            Live::Gap(gap) => gap.cause.as_str().to_owned(),
        };
        page.items.iter().map(told).collect()
    }
}

fn place(count: u64) -> Place {
    Place {
        run: "run".into(),
        rules: 1,
        spot: Spot {
            mark: "m".into(),
            count,
            check: 0,
        },
    }
}

fn write(from: Option<u64>, to: u64, data: &[&'static str]) -> Write<Message> {
    let message = |data: &&'static str| {
        let channel = Channel::parse("a").unwrap();
        Arc::new(Message::new(channel, b"raw:a", (*data).into(), 100))
    };
    Write {
        from: from.map(place),
        to: place(to),
        hole: false,
        messages: data.iter().map(message).collect(),
    }
}

#[tokio::test]
async fn only_the_newest_token_writes_even_at_the_right_place() {
    let Some(stand) = Stand::start().await else {
        return;
    };
    let (one, two) = (stand.ledger(), stand.ledger());
    let old = one.take("one").await.unwrap().unwrap();
    assert_eq!(old.place, None);
    let first = write(None, 1, &["1"]);
    let recorded = one.record(&old.token, "one", &first).await.unwrap();
    assert_eq!(recorded, Recorded::Done);
    assert_eq!(two.take("two").await.unwrap(), None, "there is a recorder");
    two.leave("two").await.unwrap();
    assert_eq!(
        two.take("two").await.unwrap(),
        None,
        "it is another's lease"
    );
    one.leave("one").await.unwrap();
    let new = two.take("two").await.unwrap().unwrap();
    assert_eq!(new.place, Some(place(1)));
    // The one before knows just as much, and was too slow.
    let next = write(Some(1), 2, &["2"]);
    let late = one.record(&old.token, "one", &next).await.unwrap();
    assert_eq!(late, Recorded::Fenced);
    assert_eq!(one.place(&old.token).await.unwrap(), None);
    assert_eq!(
        one.take("one").await.unwrap(),
        None,
        "the lease is the other's"
    );
    assert_eq!(stand.told().await, ["a 1"]);
    let recorded = two.record(&new.token, "two", &next).await.unwrap();
    assert_eq!(recorded, Recorded::Done);
    assert_eq!(stand.told().await, ["a 1", "a 2"]);
}

#[tokio::test]
async fn a_write_counts_once_and_only_where_it_belongs() {
    let Some(stand) = Stand::start().await else {
        return;
    };
    let ledger = stand.ledger();
    let token = ledger.take("me").await.unwrap().unwrap().token;
    let record = async |write: &Write<Message>| ledger.record(&token, "me", write).await.unwrap();
    let first = write(None, 2, &["1", "2"]);
    assert_eq!(record(&first).await, Recorded::Done);
    // Its answer was lost.
    assert_eq!(record(&first).await, Recorded::Done);
    assert_eq!(ledger.place(&token).await.unwrap(), Some(Some(place(2))));
    let beside = write(Some(1), 3, &["no"]);
    assert_eq!(record(&beside).await, Recorded::Moved);
    let next = write(Some(2), 3, &["3"]);
    assert_eq!(record(&next).await, Recorded::Done);
    // One from before that comes late.
    assert_eq!(record(&first).await, Recorded::Moved);
    let hole = Write {
        hole: true,
        ..write(Some(3), 9, &["9"])
    };
    assert_eq!(record(&hole).await, Recorded::Done);
    assert_eq!(record(&hole).await, Recorded::Done);
    let lost = GapCause::Reconnected.as_str();
    assert_eq!(stand.told().await, ["a 1", "a 2", "a 3", lost, "a 9"]);
}

/// The oldest two become one, and nobody is told less.
#[tokio::test]
async fn holes_are_bounded() {
    let Some(stand) = Stand::start().await else {
        return;
    };
    let ledger = stand.ledger();
    let token = ledger.take("me").await.unwrap().unwrap().token;
    let first = write(None, 0, &["begin"]);
    ledger.record(&token, "me", &first).await.unwrap();
    for at in 0..40 {
        let hole = Write {
            hole: true,
            ..write(Some(at), at + 1, &["x"])
        };
        let recorded = ledger.record(&token, "me", &hole).await.unwrap();
        assert_eq!(recorded, Recorded::Done);
    }
    let told = stand.told().await;
    let gaps = told.iter().filter(|told| *told == "reconnected").count();
    assert_eq!((gaps, told.len()), (32, 32 + 41));
    let store = &stand.log.first_log().store;
    let stood = store
        .stand(&stand.log.first_log().intake.seen(), false)
        .await
        .unwrap();
    let first = stood.holes.first().unwrap();
    // 9 holes: the first begins after the event at place 1, the last ends at place 18.
    assert_eq!((first.after, first.next), (1, 18));
}
