//! The NATS furniture against the real server.

use std::time::Duration;

use fanfare_testkit::{
    NatsClient, NatsCluster, NatsRelease, NatsServer, eventually, http, nats_pub,
};
use serde_json::{Value, json};

#[tokio::test]
async fn a_stranger_publishes_with_headers_into_a_stream_that_survives_a_kill() {
    let Some(mut nats) = NatsServer::start_jetstream().await else {
        return;
    };
    let api = async |client: &mut NatsClient, call: &str, body: Value| -> Value {
        let reply = client
            .request(&format!("$JS.API.{call}"), body.to_string())
            .await;
        serde_json::from_slice(&reply.unwrap()).unwrap()
    };
    let mut client = nats.client().await;
    let stream = json!({"name": "ORDERS", "subjects": ["orders.>"], "storage": "file"});
    let created = api(&mut client, "STREAM.CREATE.ORDERS", stream).await;
    assert_eq!(created["config"]["name"], "ORDERS", "{created}");

    let payload = b"a\r\n\0\xff";
    nats_pub(
        nats.address(),
        "orders.eu",
        payload,
        &[("Event-Type", "created")],
    )
    .await
    .unwrap();
    let acknowledged = client.request("orders.eu", "").await.unwrap();
    let acknowledged: Value = serde_json::from_slice(&acknowledged).unwrap();
    assert_eq!(acknowledged["seq"], 2);

    nats.kill();
    assert!(NatsClient::connect(nats.address()).await.is_err());
    nats.restart().await;
    let mut client = nats.client().await;
    let stored = api(&mut client, "STREAM.MSG.GET.ORDERS", json!({"seq": 1})).await;
    assert_eq!(stored["message"]["data"], "YQ0KAP8=", "{stored}");
    assert_eq!(
        stored["message"]["hdrs"],
        "TkFUUy8xLjANCkV2ZW50LVR5cGU6IGNyZWF0ZWQNCg0K"
    );
}

#[tokio::test]
async fn core_nats_counts_what_was_published_and_refuses_bad_subjects() {
    let Some(nats) = NatsServer::start().await else {
        return;
    };
    let mut client = nats.client().await;
    for number in 0..1000 {
        client.publish("a.b", number.to_string(), &[]);
    }
    client.flush().await.unwrap();
    let monitor = http::get(&format!("{}/varz", nats.monitor_url()))
        .await
        .unwrap();
    assert_eq!(monitor.json()["in_msgs"], 1000);

    client.publish("a..b", "", &[]);
    let refused = client.flush().await.unwrap_err().to_string();
    assert!(refused.contains("Invalid Publish Subject"), "{refused}");
    assert!(
        client
            .request("nobody", "")
            .await
            .is_ok_and(|reply| reply.is_empty())
    );
}

#[tokio::test]
async fn a_cluster_survives_a_server_and_changes_leaders() {
    for release in NatsRelease::ALL {
        let Some(mut cluster) = NatsCluster::start(release).await else {
            continue;
        };
        let stream = json!({"name": "S", "subjects": ["s"], "num_replicas": 3}).to_string();
        let mut client = cluster.servers()[0].client().await;
        // While servers elect a leader, a request is answered by nobody. The same stream again is the
        // same answer.
        let created = eventually("the stream is made", Duration::from_secs(60), async || {
            let created = client.request("$JS.API.STREAM.CREATE.S", stream.clone());
            let created: Value = serde_json::from_slice(&created.await.ok()?).ok()?;
            created.get("config").is_some().then_some(created)
        })
        .await;
        assert_eq!(created["config"]["num_replicas"], 3, "{created}");
        let first = cluster.leader_of("S").await;
        let second = cluster.step_down("S").await;
        assert_ne!(first, second);
        cluster.server_mut(second).kill();
        let third = eventually("a leader that runs", Duration::from_secs(60), async || {
            let leader = cluster.leader_of("S").await;
            (leader != second).then_some(leader)
        })
        .await;
        let mut client = cluster.servers()[third].client().await;
        // A leader that is new may miss the first one.
        eventually("the stream takes it", Duration::from_secs(60), async || {
            let taken = client.request("s", "x").await.ok()?;
            let taken: Value = serde_json::from_slice(&taken).ok()?;
            (taken["seq"].as_u64()? > 0).then_some(())
        })
        .await;
        cluster.server_mut(second).restart().await;
        cluster.is_whole().await;

        cluster.server_mut(third).lame_duck();
        let gone = async || {
            NatsClient::connect(cluster.servers()[third].address())
                .await
                .err()
        };
        eventually("the lame duck is gone", Duration::from_secs(60), gone).await;
    }
}
