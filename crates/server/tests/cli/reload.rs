//! `serve`: SIGHUP.

use std::fs;

use fanfare_testkit::{Fanfare, SseClient, eventually, http};

use crate::run::{SECRET, SOON, run, server};

const OTHER: &str = "swordfish-swordfish-swordfish-swordfish";

/// Sends SIGHUP and waits until the log has one more line with `word`.
async fn reload(server: &mut Fanfare, word: &str) {
    let count = |server: &Fanfare| server.output().matches(word).count();
    let before = count(server);
    server.signal("HUP");
    eventually(word, SOON, async || (count(server) > before).then_some(())).await;
}

async fn token(secret: &str) -> String {
    let arguments = [
        "token",
        "--secret-env",
        "SECRET",
        "--sub",
        "ann",
        "--ttl",
        "1m",
    ];
    let arguments = [&arguments[..], &["--publish", ">", "--subscribe", ">"]].concat();
    let ended = run(&arguments, &[("SECRET", secret)], b"").await;
    assert_eq!(ended.code, 0, "{ended:?}");
    format!("Bearer {}", ended.out.trim())
}

#[tokio::test]
async fn sighup_takes_a_new_secret_origins_and_limits_and_no_stream_ends() {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    fs::write(&secret, SECRET).unwrap();
    let config = format!("[auth.jwt]\nsecret_file = {secret:?}");
    let mut server = server(&config).start().await;
    let (old, new) = (token(SECRET).await, token(OTHER).await);
    let mut stream = SseClient::connect(
        server.address(),
        "/events?channel=a&hello=0",
        &[("Authorization", &old)],
    )
    .await
    .unwrap();
    let url = format!("{}/publish/a", server.base_url());
    let publish = async |token: &str, data: &str| {
        let headers = [("Authorization", token), ("Origin", "https://app.example")];
        let reply = http::request("POST", &url, &headers, data.as_bytes()).await;
        let reply = reply.unwrap();
        let origin = reply.header("access-control-allow-origin");
        (reply.status, origin.map(str::to_owned))
    };
    assert_eq!(publish(&old, "1").await, (201, None));
    assert_eq!(publish(&new, "-").await, (401, None));

    // A secret that was rotated in its own file, as orchestrators do.
    fs::write(&secret, OTHER).unwrap();
    reload(&mut server, "read again: auth (a secret) in effect").await;
    assert_eq!(publish(&new, "2").await, (201, None));
    assert_eq!(publish(&old, "-").await, (401, None));

    let file = server.config_file();
    let text = fs::read_to_string(&file).unwrap();
    let more = "\n[cors]\norigins = [\"https://app.example\"]\n[limits]\nconnections = 1\n";
    fs::write(&file, text + more).unwrap();
    reload(&mut server, "cors.origins, limits.connections in effect").await;
    let origin = Some("https://app.example".to_owned());
    assert_eq!(publish(&new, "3").await, (201, origin.clone()));
    let limit = server.metric("fanfare_edge_connections_limit").await;
    assert_eq!(limit, Some(1.0));
    let headers = [("Authorization", &*new)];
    let events = format!("{}/events?channel=a", server.base_url());
    let refused = http::request("GET", &events, &headers, b"").await.unwrap();
    assert_eq!(refused.status, 429, "{}", refused.text());

    for bad in [
        "[limits]\nconnections = 0",
        "[server]\nlisen = 1",
        "[auth.jwt]\nsecret = \"x\"",
    ] {
        fs::write(&file, bad).unwrap();
        reload(&mut server, "the one before stays").await;
        assert_eq!(publish(&new, "4").await, (201, origin.clone()), "{bad}");
    }
    for data in ["1", "2", "3", "4", "4", "4"] {
        let event = stream.next_event(SOON).await.unwrap().unwrap();
        assert_eq!((&*event.event_type, &*event.data), ("message", data));
    }
    let output = server.output();
    for word in ["limits.connections = 0", "server.lisen", "auth.jwt.secret"] {
        assert!(output.contains(word), "{word}: {output}");
    }
    for secret in [SECRET, OTHER] {
        assert!(!output.contains(secret), "{output}");
    }
    assert!(!output.contains("need a restart"), "{output}");
}

#[tokio::test]
async fn sighup_takes_the_log_level_and_names_what_needs_a_restart() {
    let mut server = server("[log]\nlevel = \"info\"").start().await;
    let file = server.config_file();
    let text = fs::read_to_string(&file).unwrap();
    let changed = text.replace("\"info\"", "\"warn\"")
        + "\n[limits]\nconnections = 77\n[delivery]\nshards = 3\n[heartbeat]\ninterval = \"9s\"\n";
    fs::write(&file, changed).unwrap();
    let waiting = "changes of delivery.shards, heartbeat.interval need a restart";
    reload(&mut server, waiting).await;
    let output = server.output();
    assert!(
        output.contains("limits.connections, log.level in effect"),
        "{output}"
    );
    // It waits, and is named again, until there is a restart or it is taken back.
    reload(&mut server, waiting).await;
    fs::write(&file, &text).unwrap();
    reload(&mut server, "limits.connections, log.level in effect").await;
    reload(&mut server, "nothing that can be taken has changed").await;
    assert_eq!(server.output().matches("need a restart").count(), 2);
    fs::write(&file, text.replace("\"info\"", "\"warn\"")).unwrap();
    reload(&mut server, "read again: log.level in effect").await;
    assert_eq!(server.term(SOON).await.code(), Some(0));
    // The new level hides the lines about the end.
    let output = server.output();
    assert!(!output.contains("draining"), "{output}");
}

#[tokio::test]
async fn an_edge_that_anybody_reaches_is_never_opened_by_sighup() {
    let anonymous = "[auth]\nanonymous = { subscribe = [\"public.>\"] }";
    let mut server = server(&format!("[server]\nlisten = \"0.0.0.0:0\"\n{anonymous}"))
        .start()
        .await;
    let file = server.config_file();
    let text = fs::read_to_string(&file).unwrap();
    let mut config: toml::Table = text.parse().unwrap();
    config.remove("auth");
    // Loopback alone, from the next start on.
    config["server"]["listen"] = "127.0.0.1:0".into();
    fs::write(&file, config.to_string()).unwrap();
    reload(&mut server, "can be reached from other machines").await;
    let history = format!("{}/history/a", server.base_url());
    assert_eq!(http::get(&history).await.unwrap().status, 403);
}
