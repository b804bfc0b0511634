//! Faults of the bus: every one is told, none is for ever.

mod bus;

use std::time::{Duration, Instant};

use bus::{Door, Follower, PATIENCE, channel, connect, publish, quick, rule};
use fanfare_core::{Broker, BrokerMetrics, ErrorKind, GapCause, Publication};
use fanfare_redis::{RedisBroker, RedisConfig};
use fanfare_testkit::{RedisServer, eventually};

#[tokio::test]
async fn an_outage_heals_without_any_command_of_ours() {
    let Some(mut server) = RedisServer::start().await else {
        return;
    };
    let metrics = BrokerMetrics::unregistered("redis");
    let config = quick(server.url());
    let broker = RedisBroker::connect(config, metrics.clone()).await.unwrap();
    let mut follower = Follower::of(&broker, &["a", "b.*"]).await;
    server.cli(&["PUBLISH", "raw:a", "before"]).await;
    let last = follower.event().await;
    assert_eq!(last.data.as_str(), "before");
    server.kill();
    eventually("the outage shows", PATIENCE, || async {
        (metrics.up.get() == 0).then_some(())
    })
    .await;
    let start = Instant::now();
    let refused = broker
        .subscribe(&"c".parse().unwrap(), &follower.inlet)
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    let publication = Publication::new("x");
    let refused = broker
        .publish(&channel("own"), publication)
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(broker.probe().await.is_err());
    assert!(start.elapsed() < Duration::from_secs(8));
    // Longer than several attempts to reconnect.
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.restart().await;
    let gap = follower.gap(GapCause::Reconnected).await;
    assert_eq!(gap.scope.as_str(), ">");
    assert_eq!(gap.after.as_ref(), Some(&last.position));
    server.cli(&["PUBLISH", "raw:a", "after"]).await;
    server.cli(&["PUBLISH", "raw:b.x", "after"]).await;
    assert_eq!(follower.told().await, ("a".into(), "after".into()));
    assert_eq!(follower.told().await, ("b.x".into(), "after".into()));
    assert_eq!((metrics.up.get(), metrics.reconnects.get()), (1, 1));
    assert_eq!(server.cli(&["PUBSUB", "NUMSUB", "raw:c"]).await, "raw:c\n0");
}

#[tokio::test]
async fn a_killed_connection_is_a_gap() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = connect(quick(server.url())).await;
    let mut follower = Follower::of(&broker, &["a"]).await;
    for round in 0..3 {
        assert_eq!(server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]).await, "1");
        follower.gap(GapCause::Reconnected).await;
        publish(&broker, "a", &round.to_string()).await;
        assert_eq!(follower.told().await.1, round.to_string());
    }
    // The link for commands too: the next publication finds another.
    server.cli(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    eventually("publishing goes on", PATIENCE, || async {
        broker
            .publish(&channel("a"), Publication::new("on"))
            .await
            .ok()
    })
    .await;
    assert_eq!(follower.told().await.1, "on");
}

#[tokio::test]
async fn a_server_that_stands_still_is_noticed_within_5_s() {
    let Some(mut server) = RedisServer::start().await else {
        return;
    };
    let metrics = BrokerMetrics::unregistered("redis");
    // The times are the defaults: they are the promise.
    let config = RedisConfig {
        url: server.url(),
        ingest: quick(server.url()).ingest,
        ..RedisConfig::default()
    };
    let broker = RedisBroker::connect(config, metrics.clone()).await.unwrap();
    let mut follower = Follower::of(&broker, &["a"]).await;
    server.pause();
    let start = Instant::now();
    eventually("it is noticed", Duration::from_secs(5), || async {
        (metrics.up.get() == 0).then_some(())
    })
    .await;
    assert!(
        start.elapsed() > Duration::from_millis(1500),
        "not by a closed socket"
    );
    let calls = Instant::now();
    let publication = Publication::new("x");
    assert!(
        broker
            .publish(&channel("a"), publication)
            .await
            .unwrap_err()
            .is_transient()
    );
    assert!(calls.elapsed() < Duration::from_secs(5));
    server.resume();
    follower.gap(GapCause::Reconnected).await;
    eventually("publishing goes on", PATIENCE, || async {
        broker
            .publish(&channel("a"), Publication::new("on"))
            .await
            .ok()
    })
    .await;
    // The publication that timed out may have been stored, as was said.
    let data = follower.told().await.1;
    assert!(data == "on" || follower.told().await.1 == "on", "{data}");
}

#[tokio::test]
async fn an_output_buffer_kill_is_a_gap() {
    let options = ["--client-output-buffer-limit", "pubsub 1mb 512kb 1"];
    let Some(server) = RedisServer::start_with(&options).await else {
        return;
    };
    let config = RedisConfig {
        max_data_bytes: 64 << 20,
        ..quick(server.url())
    };
    let broker = connect(config).await;
    let mut follower = Follower::of(&broker, &["a"]).await;
    // One message that no buffer of this server holds.
    let huge = vec![b'x'; 16 << 20];
    server
        .resp()
        .await
        .publish_all([("raw:a", huge)])
        .await
        .unwrap();
    follower.gap(GapCause::Reconnected).await;
    server.cli(&["PUBLISH", "raw:a", "after"]).await;
    assert_eq!(follower.told().await.1, "after");
}

#[tokio::test]
async fn a_link_that_only_looks_alive_is_made_anew() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let door = Door::open(server.address()).await;
    // A healthy probe that is late would have the link made anew once more.
    let probe_timeout = Duration::from_secs(2);
    let config = RedisConfig {
        probe_timeout,
        ..quick(door.url())
    };
    let broker = connect(config).await;
    let mut follower = Follower::of(&broker, &["a"]).await;
    broker.probe().await.unwrap();
    // It goes on answering pings.
    door.deafen();
    assert!(broker.probe().await.is_err());
    door.reopen();
    eventually("it is back", PATIENCE, || async {
        broker.probe().await.ok()
    })
    .await;
    follower.gap(GapCause::Reconnected).await;
    publish(&broker, "a", "on").await;
    assert_eq!(follower.told().await.1, "on");
}

#[tokio::test]
async fn a_cut_anywhere_in_the_stream_is_a_gap_and_no_part_of_an_event() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let door = Door::open(server.address()).await;
    let config = quick(door.url());
    let broker = connect(config).await;
    let mut follower = Follower::of(&broker, &["a"]).await;
    let mut stranger = server.resp().await;
    let payload = "0123456789".repeat(20_000);
    for _ in 0..10 {
        let each = vec![("raw:a", payload.as_str()); 20];
        let publishing = stranger.publish_all(each);
        let cutting = async {
            let pause = Duration::from_micros(fastrand::u64(0..5_000));
            tokio::time::sleep(pause).await;
            door.shut();
        };
        let (published, ()) = tokio::join!(publishing, cutting);
        published.unwrap();
        door.reopen();
        loop {
            match follower.next().await {
                fanfare_core::Live::Event(event) => assert_eq!(event.data.as_str(), payload),
                fanfare_core::Live::Gap(gap) => {
                    assert_eq!(gap.cause, GapCause::Reconnected);
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_subscription_that_the_acl_forbids_is_refused_by_itself() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let rules = ["on", ">pw", "~fanfare:*", "&fanfare:*", "&own:*", "+@all"];
    server
        .cli(&[&["ACL", "SETUSER", "edge"][..], &rules[..]].concat())
        .await;
    let config = RedisConfig {
        url: server.url().replace("redis://", "redis://edge:pw@"),
        ingest: vec![rule("raw:*", "raw.{1}"), rule("own:*", "own.{1}")],
        ..quick(server.url())
    };
    let broker = connect(config).await;
    let mut follower = Follower::of(&broker, &[]).await;
    let join = |name: String| {
        let (broker, inlet) = (broker.clone(), follower.inlet.clone());
        async move {
            (
                name.clone(),
                broker.subscribe(&name.parse().unwrap(), &inlet).await,
            )
        }
    };
    let names = (0..40).map(|index| {
        if index % 10 == 7 {
            format!("raw.{index}")
        } else {
            format!("own.{index}")
        }
    });
    let mut kept = Vec::new();
    for (name, answer) in futures_util::future::join_all(names.map(join)).await {
        match answer {
            Ok(subscription) => {
                assert!(name.starts_with("own"), "{name}");
                kept.push(subscription);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
                assert!(name.starts_with("raw"), "{name}: {error}");
                assert!(!error.to_string().contains("pw"), "{error}");
            }
        }
    }
    assert_eq!(kept.len(), 36);
    publish(&broker, "own.39", "x").await;
    assert_eq!(follower.told().await.1, "x");
    let error = broker
        .publish(&channel("raw.1"), Publication::new("x"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
    broker.probe().await.unwrap();
}

#[tokio::test]
async fn connecting_answers_what_is_wrong_and_no_secret() {
    let Some(server) = RedisServer::start_with(&["--requirepass", "s3cret"]).await else {
        return;
    };
    let at = |login: &str| {
        server
            .url()
            .replace("redis://", &format!("redis://{login}"))
    };
    let refused = |url: String| async move {
        let config = RedisConfig {
            connect_timeout: Duration::from_secs(1),
            ..quick(url)
        };
        let error = RedisBroker::connect(config, bus::metrics())
            .await
            .unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(
            !text.contains("s3cret") && !text.contains("wr0ng"),
            "{text}"
        );
        error.kind()
    };
    connect(quick(at(":s3cret@"))).await.probe().await.unwrap();
    assert_eq!(refused(at(":wr0ng@")).await, ErrorKind::Rejected);
    assert_eq!(refused(at("nobody:wr0ng@")).await, ErrorKind::Rejected);
    assert_eq!(refused(at("")).await, ErrorKind::Rejected);
    assert_eq!(
        refused("redis://:wr0ng@no-such-host.invalid:1".into()).await,
        ErrorKind::Unavailable
    );
    let free = fanfare_testkit::port::free();
    assert_eq!(
        refused(format!("redis://:wr0ng@127.0.0.1:{free}")).await,
        ErrorKind::Unavailable
    );
    // A listener that never answers.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://:wr0ng@{}", mute.local_addr().unwrap());
    assert_eq!(refused(url).await, ErrorKind::Unavailable);
    // A user who may not get canaries.
    let mut admin = server.resp().await;
    for command in [
        &["AUTH", "s3cret"][..],
        &[
            "ACL", "SETUSER", "narrow", "on", ">wr0ng", "&other:*", "+@all",
        ],
    ] {
        admin.command(command).await.unwrap();
    }
    assert_eq!(refused(at("narrow:wr0ng@")).await, ErrorKind::Rejected);
}

#[tokio::test]
async fn a_closed_broker_leaves_the_server() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = connect(quick(server.url())).await;
    let mut follower = Follower::of(&broker, &["a"]).await;
    publish(&broker, "a", "last").await;
    assert_eq!(follower.told().await.1, "last");
    broker.close().await;
    assert!(follower.feed.next().await.is_none());
    let error = broker
        .publish(&channel("a"), Publication::new("x"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    let gone = || async { (server.cli(&["PUBSUB", "CHANNELS"]).await.is_empty()).then_some(()) };
    eventually("the server has no subscription of ours", PATIENCE, gone).await;
    // One that is only dropped leaves too.
    let dropped = connect(quick(server.url())).await;
    drop(dropped);
    eventually("the server has no subscription of ours", PATIENCE, gone).await;
}
