//! `serve`: signals, logs, tokens.

use std::time::{Duration, Instant};

use fanfare_testkit::{RedisServer, SseClient, eventually};

use crate::run::{SECRET, SOON, run, server};

#[tokio::test]
async fn sigterm_drains_and_ends_with_code_0() {
    let mut server = server("[server]\ndrain_window = \"300ms\"").start().await;
    let mut client = SseClient::connect(server.address(), "/events?channel=a", &[])
        .await
        .unwrap();
    assert_eq!(
        client.next_event(SOON).await.unwrap().unwrap().event_type,
        "fanfare.hello"
    );
    let status = server.term(SOON).await;
    assert_eq!(status.code(), Some(0), "{}", server.output());
    let told = client.next_event(SOON).await.unwrap().unwrap();
    assert_eq!(told.event_type, "fanfare.close");
    assert!(told.data.contains("\"drain\""), "{}", told.data);
    assert_eq!(client.next_event(SOON).await.unwrap(), None);
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let mut server = server("[server]\ndrain_delay = \"1m\"").start().await;
    server.signal("TERM");
    eventually("the drain begins", SOON, async || {
        server.output().contains("draining").then_some(())
    })
    .await;
    let start = Instant::now();
    server.signal("INT");
    let status = server.wait(SOON).await.expect("it ends");
    assert_eq!(status.code(), Some(130), "{}", server.output());
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn the_start_waits_for_its_bus() {
    let Some(mut redis) = RedisServer::start().await else {
        return;
    };
    let config = format!(
        "[broker]\nkind = \"redis\"\n[broker.redis]\nurl = \"{}\"",
        redis.url()
    );
    redis.kill();
    // In its place is somebody who hangs up.
    let witness = tokio::net::TcpListener::bind(redis.address())
        .await
        .unwrap();
    let later = async {
        drop(witness.accept().await.unwrap());
        drop(witness);
        redis.restart().await;
    };
    let builder = server(&config);
    let (server, ()) = tokio::join!(builder.start(), later);
    assert!(
        server.output().contains("does not answer yet"),
        "{}",
        server.output()
    );
}

#[tokio::test]
async fn json_logs_name_what_runs_and_no_secret() {
    let mut server = server("[log]\nformat = \"json\"")
        .env("FANFARE_AUTH__JWT__SECRET", SECRET)
        .env("FANFARE_SERVER__NODE", "edge-7")
        .env("FANFARE_LOG__LEVEL", "trace")
        .start()
        .await;
    let address = server.address().to_string();
    server.term(SOON).await;
    let output = server.output();
    assert!(!output.contains("hunter2"), "{output}");
    let lines: Vec<serde_json::Value> = output
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    let has = |key: &str, text: &str| {
        lines
            .iter()
            .any(|line| line[key].as_str().is_some_and(|value| value.contains(text)))
    };
    for (key, text) in [
        ("broker", "memory"),
        ("auth", "tokens"),
        ("node", "edge-7"),
        ("public", &*address),
    ] {
        assert!(has(key, text), "{key} {text}: {output}");
    }
}

#[tokio::test]
async fn a_taken_address_is_named_with_exit_code_1() {
    let first = server("").start().await;
    let address = first.address().to_string();
    let refused = server("")
        .env("FANFARE_SERVER__LISTEN", &address)
        .refuses()
        .await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.output.contains("server.listen") && refused.output.contains(&address));
}

#[tokio::test]
async fn a_token_opens_what_it_names_and_no_more() {
    let server = server("")
        .env("FANFARE_AUTH__JWT__SECRET", SECRET)
        .start()
        .await;
    let url = server.base_url();
    let token = |extra: &'static [&'static str]| async move {
        let arguments = [
            &["token", "--secret-env", "SECRET", "--sub", "ann"][..],
            extra,
        ]
        .concat();
        let ended = run(&arguments, &[("SECRET", SECRET)], b"").await;
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.out.trim().to_owned()
    };
    let good = token(&["--publish", "a.*", "--subscribe", "a.>", "--ttl", "1m"]).await;
    let publish = ["publish", "a.b", "x", "--url", &url];
    let none = run(&publish, &[], b"").await;
    assert_eq!(none.code, 3, "{none:?}");
    assert!(
        none.err.contains("401") && none.err.contains("FANFARE_TOKEN"),
        "{none:?}"
    );
    let some = run(&publish, &[("FANFARE_TOKEN", &good)], b"").await;
    assert_eq!(some.code, 0, "{some:?}");
    let other = run(
        &["publish", "b", "x", "--url", &url],
        &[("FANFARE_TOKEN", &good)],
        b"",
    )
    .await;
    assert!(other.code == 3 && other.err.contains("403"), "{other:?}");
    let read = [
        "subscribe",
        "a.>",
        "--since",
        "oldest",
        "--count",
        "1",
        "--url",
        &url,
    ];
    let read = run(&read, &[("FANFARE_TOKEN", &good)], b"").await;
    assert_eq!((read.code, &*read.out), (0, "a.b\tx\n"), "{read:?}");
    let denied = run(
        &["subscribe", "b", "--url", &url],
        &[("FANFARE_TOKEN", &good)],
        b"",
    )
    .await;
    assert_eq!(denied.code, 3, "{denied:?}");
}
