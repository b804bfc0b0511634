//! Sentinel, Cluster and TLS furniture against real servers.

use std::time::Duration;

use fanfare_testkit::{Certificates, RedisCluster, RedisSentinel, RedisServer, eventually, port};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn sentinels_take_another_primary_on_demand_and_when_it_dies() {
    let Some(mut redis) = RedisSentinel::start(1).await else {
        return;
    };
    assert_eq!(redis.primary().await, Some(0));
    redis.servers()[0].cli(&["SET", "k", "v"]).await;
    assert_eq!(redis.failover().await, 1);
    assert_eq!(redis.servers()[1].cli(&["GET", "k"]).await, "v");
    eventually("the old primary follows", SOON, async || {
        let info = redis.servers()[0].cli(&["INFO", "replication"]).await;
        info.contains("master_link_status:up").then_some(())
    })
    .await;
    assert_eq!(redis.kill_primary().await, (1, 0));
    redis.server_mut(1).restart().await;
    assert_eq!(redis.urls().len(), 3);
}

#[tokio::test]
async fn a_cluster_moves_slots_and_fails_over() {
    let Some(mut cluster) = RedisCluster::start(1).await else {
        return;
    };
    let key = "{tag}:k";
    let first = cluster.primary_of(key).await;
    cluster.nodes()[first].cli(&["SET", key, "v"]).await;
    let (from, to) = cluster.migrate(key).await;
    assert_eq!(from, first);
    assert_eq!(cluster.nodes()[to].cli(&["GET", key]).await, "v");
    assert_eq!(cluster.primary_of(key).await, to);
    let replica = cluster.failover(to, &[]).await;
    assert_eq!(cluster.primary_of(key).await, replica);
    cluster.is_whole().await;
    cluster.node_mut(replica).kill();
    cluster.takes_over(to).await;
    assert_eq!(cluster.primary_of(key).await, to);
}

#[tokio::test]
async fn a_server_speaks_tls() {
    let certificates = Certificates::make();
    let port = port::free();
    let Some(redis) = RedisServer::start_with(&certificates.redis_options(port, true)).await else {
        return;
    };
    let (certificate, key) = certificates.client();
    let ping = |files: bool| {
        let mut command = tokio::process::Command::new("redis-cli");
        command.args(["-e", "-p", &port.to_string(), "--tls", "--cacert"]);
        command.arg(certificates.ca());
        if files {
            command
                .arg("--cert")
                .arg(&certificate)
                .arg("--key")
                .arg(&key);
        }
        command.arg("PING").output()
    };
    let answer = ping(true).await.unwrap();
    assert_eq!(
        String::from_utf8_lossy(&answer.stdout).trim(),
        "PONG",
        "{answer:?}"
    );
    assert!(!ping(false).await.unwrap().status.success());
    assert_eq!(redis.cli(&["PING"]).await, "PONG");
}
