//! Two servers that both serve at a time, as an old primary does until it learns of its demotion:
//! what it took meanwhile is lost, and whoever follows is told, wherever they are.

#![allow(clippy::unwrap_used, reason = "a test's helpers")]

mod bus;

use std::time::Duration;

use bus::{Door, Follower, metrics, patient, publish};
use fanfare_core::{Broker, GapCause, Live};
use fanfare_redis::{RedisConfig, RedisDurable};
use fanfare_testkit::{RedisServer, eventually};

const LONG: Duration = Duration::from_secs(60);

async fn node(door: &Door) -> RedisDurable {
    let config = RedisConfig {
        partitions: 1,
        reconnect_delay: Duration::from_millis(200),
        ..patient(door.url())
    };
    RedisDurable::connect(config, metrics()).await.unwrap()
}

/// An old primary and a new one, which has all that was there until now.
async fn primaries() -> Option<(RedisServer, RedisServer)> {
    let (old, new) = (RedisServer::start().await?, RedisServer::start().await?);
    let port = old.port().to_string();
    new.cli(&["REPLICAOF", "127.0.0.1", &port]).await;
    eventually("the replica is linked", LONG, async || {
        let info = new.cli(&["INFO", "replication"]).await;
        info.contains("master_link_status:up").then_some(())
    })
    .await;
    Some((old, new))
}

/// The replica serves for itself, and has all that was acknowledged so far.
async fn part(old: &RedisServer, new: &RedisServer) {
    assert_eq!(old.cli(&["WAIT", "1", "10000"]).await, "1");
    new.cli(&["REPLICAOF", "NO", "ONE"]).await;
}

/// The data of events until one has come, and how many gaps of a new epoch came on the way.
async fn until(follower: &mut Follower, last: &str) -> (Vec<String>, usize) {
    let (mut data, mut gaps) = (Vec::new(), 0);
    while data.last().is_none_or(|data| data != last) {
        match follower.next().await {
            Live::Event(event) => data.push(event.data.as_str().to_owned()),
            Live::Gap(gap) => {
                assert_eq!(gap.cause, GapCause::NewEpoch, "{gap:?}");
                gaps += 1;
            }
        }
    }
    (data, gaps)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_old_primary_took_is_told_to_those_who_had_left_it() {
    let Some((old, new)) = primaries().await else {
        return;
    };
    let (stays, moves) = (
        Door::open(old.address()).await,
        Door::open(old.address()).await,
    );
    let (late, early) = (node(&stays).await, node(&moves).await);
    let mut here = Follower::of(&late, &["a"]).await;
    let mut there = Follower::of(&early, &["a"]).await;
    publish(&late, "a", "both have it").await;
    part(&old, &new).await;
    publish(&late, "a", "the old one has it").await;
    for follower in [&mut here, &mut there] {
        assert_eq!(until(follower, "the old one has it").await.1, 0);
    }
    moves.lead(new.address());
    eventually("it has moved", LONG, async || early.probe().await.ok()).await;
    publish(&early, "a", "the new one has it").await;
    let told = until(&mut there, "the new one has it").await;
    assert_eq!(told, (vec!["the new one has it".to_owned()], 1));
    // Acknowledged, and seen by nobody who has moved.
    publish(&late, "a", "lost").await;
    assert_eq!(until(&mut here, "lost").await.1, 0);
    stays.lead(new.address());
    eventually("it has moved", LONG, async || late.probe().await.ok()).await;
    publish(&late, "a", "the end").await;
    let (data, gaps) = until(&mut there, "the end").await;
    assert_eq!((data, gaps), (vec!["the end".to_owned()], 1), "there");
    let (_, gaps) = until(&mut here, "the end").await;
    assert!(gaps > 0, "here");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_saw_no_more_of_an_old_primary_tells_nobody_anything() {
    let Some((old, new)) = primaries().await else {
        return;
    };
    let (stays, moves) = (
        Door::open(old.address()).await,
        Door::open(old.address()).await,
    );
    let (late, early) = (node(&stays).await, node(&moves).await);
    let mut here = Follower::of(&late, &["a"]).await;
    let mut there = Follower::of(&early, &["a"]).await;
    publish(&late, "a", "both have it").await;
    part(&old, &new).await;
    publish(&late, "a", "the old one has it").await;
    for follower in [&mut here, &mut there] {
        assert_eq!(until(follower, "the old one has it").await.1, 0);
    }
    for (door, node) in [(&moves, &early), (&stays, &late)] {
        door.lead(new.address());
        eventually("it has moved", LONG, async || node.probe().await.ok()).await;
        publish(node, "a", "the new one has it").await;
    }
    publish(&late, "a", "the end").await;
    for follower in [&mut here, &mut there] {
        assert_eq!(until(follower, "the end").await.1, 1);
    }
}
