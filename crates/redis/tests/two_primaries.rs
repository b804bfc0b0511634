//! Two servers that both serve at a time, as an old primary does until it learns of its demotion:
//! what it took meanwhile is lost, and whoever follows is told, wherever they are.

#![allow(clippy::unwrap_used, reason = "a test's helpers")]

mod bus;

use std::{num::NonZeroUsize, time::Duration};

use bus::{Door, Follower, metrics, patient, publish};
use fanfare_core::{Broker, GapCause, HistoryQuery, Live, Position, Since};
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

/// The old primary follows the new one, has all that it has, and loses the rest; then it serves again.
async fn come_back(old: &RedisServer, new: &RedisServer) {
    let port = new.port().to_string();
    old.cli(&["REPLICAOF", "127.0.0.1", &port]).await;
    eventually("the old primary follows", LONG, async || {
        let info = old.cli(&["INFO", "replication"]).await;
        info.contains("master_link_status:up").then_some(())
    })
    .await;
    assert_eq!(new.cli(&["WAIT", "1", "10000"]).await, "1");
    old.cli(&["REPLICAOF", "NO", "ONE"]).await;
}

/// A node goes to another server, and has caught up there.
async fn turn(node: &RedisDurable, door: &Door, to: &RedisServer) {
    door.lead(to.address());
    eventually("it has moved", LONG, async || node.probe().await.ok()).await;
}

/// What a client gets that comes back to a node from a place.
async fn since(node: &RedisDurable, place: Position) -> Vec<Live> {
    let query = HistoryQuery {
        log: place.log.clone(),
        channels: vec!["a".parse().unwrap()],
        since: Since::After(place),
        limit: NonZeroUsize::new(100).unwrap(),
        max_bytes: 1 << 20,
    };
    node.history(query).await.unwrap().items
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

/// A client is at an old primary, and then at a node that had left it without seeing anything of what
/// came since.
#[tokio::test(flavor = "multi_thread")]
async fn no_place_is_given_twice() {
    let Some((old, new)) = primaries().await else {
        return;
    };
    let (stays, moves) = (
        Door::open(old.address()).await,
        Door::open(old.address()).await,
    );
    let (late, early) = (node(&stays).await, node(&moves).await);
    let both = publish(&late, "a", "both have it").await;
    part(&old, &new).await;
    turn(&early, &moves, &new).await;
    let lost = publish(&late, "a", "the old one has it").await;
    let found = publish(&early, "a", "the new one has it").await;
    publish(&early, "a", "and more").await;
    let (lost, found) = (lost.position.unwrap(), found.position.unwrap());
    assert_eq!(lost.epoch, found.epoch, "nobody knows yet that one ended");
    assert!(lost.offset < found.offset);
    let items = since(&early, lost.clone()).await;
    let Some(Live::Gap(gap)) = items.first() else {
        panic!("{items:?}");
    };
    assert_eq!((gap.cause, &gap.after), (GapCause::NewEpoch, &Some(lost)));
    assert_eq!(items.len(), 1 + 3, "and all that is there: {items:?}");
    // What both have is a place at both.
    let items = since(&early, both.position.unwrap()).await;
    assert!(
        matches!(&items[..], [Live::Event(_), Live::Event(_)]),
        "{items:?}"
    );
}

/// The server is the same as before, its log is not.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_old_primary_took_is_told_when_it_comes_back_as_one() {
    let Some((old, new)) = primaries().await else {
        return;
    };
    let (stays, moves) = (
        Door::open(old.address()).await,
        Door::open(old.address()).await,
    );
    let (late, early) = (node(&stays).await, node(&moves).await);
    let mut there = Follower::of(&early, &["a"]).await;
    publish(&late, "a", "both have it").await;
    part(&old, &new).await;
    turn(&early, &moves, &new).await;
    publish(&late, "a", "lost").await;
    for number in 0..10 {
        publish(&early, "a", &number.to_string()).await;
    }
    assert_eq!(until(&mut there, "9").await.1, 0);
    come_back(&old, &new).await;
    turn(&early, &moves, &old).await;
    publish(&early, "a", "the old one again").await;
    assert_eq!(until(&mut there, "the old one again").await.1, 0);
    publish(&late, "a", "the end").await;
    assert_eq!(until(&mut there, "the end").await.1, 1);
}

/// A node that goes back to an old primary begins an epoch there that no other server knows.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_in_an_epoch_of_an_old_primary_is_told() {
    let Some((old, new)) = primaries().await else {
        return;
    };
    let doors = [
        Door::open(old.address()).await,
        Door::open(old.address()).await,
        Door::open(old.address()).await,
    ];
    let (late, back, early) = (
        node(&doors[0]).await,
        node(&doors[1]).await,
        node(&doors[2]).await,
    );
    let mut there = Follower::of(&early, &["a"]).await;
    publish(&late, "a", "both have it").await;
    part(&old, &new).await;
    turn(&early, &doors[2], &new).await;
    turn(&back, &doors[1], &new).await;
    publish(&back, "a", "the new one has it").await;
    assert_eq!(until(&mut there, "the new one has it").await.1, 0);
    turn(&back, &doors[1], &old).await;
    publish(&back, "a", "and the old one").await;
    publish(&late, "a", "lost").await;
    back.close().await;
    turn(&late, &doors[0], &new).await;
    publish(&late, "a", "the end").await;
    assert!(until(&mut there, "the end").await.1 > 0);
}
