//! The Redis furniture against the real server.

use std::time::Duration;

use fanfare_testkit::{RedisServer, Reply, Resp, eventually};

const SOON: Duration = Duration::from_secs(10);

fn bulk(bytes: &[u8]) -> Reply {
    Reply::Bulk(bytes.to_vec())
}

#[tokio::test]
async fn a_stranger_publishes_any_bytes_in_one_pipeline() {
    let Some(redis) = RedisServer::start().await else {
        return;
    };
    let mut subscriber = redis.resp().await;
    let subscribed = subscriber
        .command(&["SUBSCRIBE", "orders:eu"])
        .await
        .unwrap();
    assert!(matches!(subscribed, Reply::Array(_)));

    let large = vec![b'x'; 1 << 20];
    let payloads: Vec<&[u8]> = vec![b"", b"a\r\nb", b"\0\xff", "é".as_bytes(), &large];
    let all: Vec<_> = (0..400)
        .map(|n| payloads[n % 4])
        .chain([payloads[4]])
        .collect();
    let publish = async {
        let mut publisher = redis.resp().await;
        let publications = all.iter().map(|payload| ("orders:eu", payload));
        publisher.publish_all(publications).await.unwrap()
    };
    let read = async {
        for payload in &all {
            let message = subscriber.next().await.unwrap();
            let expected = [bulk(b"message"), bulk(b"orders:eu"), bulk(payload)];
            assert_eq!(message, Reply::Array(expected.to_vec()));
        }
    };
    let (receivers, ()) = tokio::join!(publish, read);
    assert_eq!(receivers, vec![1; all.len()]);
}

#[tokio::test]
async fn it_dies_and_comes_back_on_its_port_with_what_it_was_told_to_keep() {
    let options = ["--appendonly", "yes", "--appendfsync", "always"];
    let Some(mut redis) = RedisServer::start_with(&options).await else {
        return;
    };
    assert_eq!(redis.cli(&["SET", "k", "v"]).await, "OK");
    let (url, id) = (redis.url(), redis.id());
    redis.kill();
    assert!(Resp::connect(redis.address()).await.is_err());
    redis.restart().await;
    assert_eq!(
        (redis.url(), redis.cli(&["GET", "k"]).await),
        (url, "v".into())
    );
    assert_ne!(redis.id(), id);
    assert!(redis.output().contains("Ready to accept connections"));
}

#[tokio::test]
async fn paused_it_holds_connections_and_does_not_answer() {
    let Some(mut redis) = RedisServer::start().await else {
        return;
    };
    let mut client = redis.resp().await;
    redis.pause();
    let silent = tokio::time::timeout(Duration::from_millis(200), client.command(&["PING"])).await;
    assert!(silent.is_err());
    redis.resume();
    let reply = eventually("an answer after resume", SOON, async || {
        client.next().await.ok()
    })
    .await;
    assert_eq!(reply, Reply::Status("PONG".into()));
}

#[tokio::test]
async fn a_server_that_does_not_start_says_why() {
    if fanfare_testkit::tool::require("redis-server", "redis-server").is_none() {
        return;
    }
    let start = tokio::spawn(RedisServer::start_with(&["--no-such-option", "1"]));
    let panic = start.await.unwrap_err().into_panic();
    let message = panic.downcast_ref::<String>().unwrap();
    assert!(message.contains("no-such-option"), "{message}");
}
