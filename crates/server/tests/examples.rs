//! The examples, as they stand: their configuration, their publishers, their page.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use fanfare_testkit::{
    Chromium, Fanfare, NatsServer, RedisServer, SseClient, eventually, http, port, tool,
};
use serde_json::{Value, json};
use tokio::process::Command;

const BINARY: &str = env!("CARGO_BIN_EXE_fanfare");
const SOON: Duration = Duration::from_secs(20);

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples")
        .join(name)
}

async fn succeeds(command: &mut Command) -> bool {
    let done = tokio::time::timeout(Duration::from_secs(120), command.output()).await;
    done.is_ok_and(|done| done.is_ok_and(|output| output.status.success()))
}

/// A Python that has what an example requires: the machine's own, else one of a virtual
/// environment beside the build. `None`, with a visible line, where neither can be had.
async fn python(example_name: &str, module: &str) -> Option<PathBuf> {
    let python = tool::require("python3", "python3")?;
    let import = format!("import {module}");
    if succeeds(Command::new(&python).args(["-c", &import])).await {
        return Some(python);
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("venv-{module}"));
    let own = folder.join("bin/python");
    if !succeeds(Command::new(&own).args(["-c", &import])).await {
        let made = succeeds(Command::new(&python).args(["-m", "venv"]).arg(&folder)).await
            && succeeds(
                Command::new(&own)
                    .args([
                        "-m",
                        "pip",
                        "install",
                        "-q",
                        "--disable-pip-version-check",
                        "-r",
                    ])
                    .arg(example(example_name).join("requirements.txt")),
            )
            .await;
        if !made {
            let sentence = format!(
                "needs Python's `{module}`: pip install -r examples/{example_name}/requirements.txt"
            );
            assert!(std::env::var_os("CI").is_none(), "{sentence}");
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("SKIPPED: {sentence}\n").as_bytes(),
            );
            return None;
        }
    }
    Some(own)
}

/// Starts Fanfare on the example's configuration with the bus at `url`, follows its orders, runs
/// its publisher, and checks what arrives; then publishes through Fanfare.
async fn orders_arrive(name: &str, python: &Path, kind: &str, url: &str, event_type: &str) {
    let config = std::fs::read_to_string(example(name).join("fanfare.toml")).unwrap();
    let variable = format!("FANFARE_BROKER__{kind}__URL");
    let server = Fanfare::builder(&config)
        .binary(BINARY)
        .env(variable, url)
        .start()
        .await;
    let path = "/events?channel=orders.*&envelope=1&hello=0";
    let mut client = SseClient::connect(server.address(), path, &[])
        .await
        .unwrap();
    // Followed on the bus before anything is published: it keeps nothing.
    eventually("the channels are followed", SOON, async || {
        let name = format!(
            "fanfare_broker_subscriptions{{backend=\"{}\"}}",
            kind.to_lowercase()
        );
        server
            .metric(&name)
            .await
            .filter(|patterns| *patterns >= 1.0)
    })
    .await;
    let published = Command::new(python)
        .arg(example(name).join("publisher.py"))
        .arg("4")
        .env(format!("{kind}_URL"), url)
        .env("PAUSE", "0")
        .kill_on_drop(true)
        .output();
    let published = tokio::time::timeout(SOON, published)
        .await
        .unwrap()
        .unwrap();
    assert!(
        published.status.success(),
        "{}",
        String::from_utf8_lossy(&published.stderr)
    );
    for number in 1..=4 {
        let event = client.next_event(SOON).await.unwrap().unwrap();
        assert_eq!(event.event_type, event_type);
        let envelope: Value = serde_json::from_str(&event.data).unwrap();
        let region = if number % 2 == 0 { "eu" } else { "us" };
        assert_eq!(envelope["channel"], format!("orders.{region}"));
        let order: Value = serde_json::from_str(envelope["data"].as_str().unwrap()).unwrap();
        assert_eq!(
            order,
            json!({"order": number, "state": "paid", "note": "first line\nsecond line"})
        );
    }
    let reply = http::request(
        "POST",
        &format!("{}/publish/orders.eu", server.base_url()),
        &[],
        b"99",
    )
    .await
    .unwrap();
    assert_eq!(reply.status, 201, "{}", reply.text());
    let event = client.next_event(SOON).await.unwrap().unwrap();
    assert!(event.data.contains("\"99\""), "{}", event.data);
}

#[tokio::test]
async fn an_unmodified_publisher_on_redis() {
    let Some(redis) = RedisServer::start().await else {
        return;
    };
    let Some(python) = python("existing-redis", "redis").await else {
        return;
    };
    orders_arrive("existing-redis", &python, "REDIS", &redis.url(), "message").await;
}

/// Streams have no order among each other, and are found some time after they came into being.
#[tokio::test]
async fn an_unmodified_publisher_of_redis_streams() {
    let Some(redis) = RedisServer::start().await else {
        return;
    };
    let name = "existing-redis-streams";
    let Some(python) = python(name, "redis").await else {
        return;
    };
    let config = std::fs::read_to_string(example(name).join("fanfare.toml")).unwrap();
    let server = Fanfare::builder(&config)
        .binary(BINARY)
        .env("FANFARE_BROKER__REDIS__URL", redis.url())
        .start()
        .await;
    let path = "/events?channel=orders.*&envelope=1&hello=0";
    let mut client = SseClient::connect(server.address(), path, &[])
        .await
        .unwrap();
    let published = Command::new(python)
        .arg(example(name).join("publisher.py"))
        .arg("4")
        .env("REDIS_URL", redis.url())
        .env("PAUSE", "0")
        .kill_on_drop(true)
        .output();
    let published = tokio::time::timeout(SOON, published).await;
    let published = published.unwrap().unwrap();
    let errors = String::from_utf8_lossy(&published.stderr);
    assert!(published.status.success(), "{errors}");
    let mut came: Vec<(String, Value)> = Vec::new();
    let url = format!("{}/publish/orders.eu?event=paid", server.base_url());
    let reply = http::request("POST", &url, &[], b"99").await.unwrap();
    assert_eq!(reply.status, 201, "{}", reply.text());
    for _ in 0..5 {
        let event = client.next_event(SOON).await.unwrap().unwrap();
        assert_eq!(event.event_type, "paid");
        let envelope: Value = serde_json::from_str(&event.data).unwrap();
        let data = serde_json::from_str(envelope["data"].as_str().unwrap()).unwrap();
        came.push((envelope["channel"].as_str().unwrap().to_owned(), data));
    }
    let of = |channel: &str| {
        let own = came.iter().filter(|(name, _)| name == channel);
        own.map(|(_, data)| data.clone()).collect::<Vec<_>>()
    };
    let order = |number| json!({"order": number, "note": "first line\nsecond line"});
    assert_eq!(of("orders.us"), [order(1), order(3)]);
    assert_eq!(of("orders.eu"), [order(2), order(4), json!(99)]);
}

#[tokio::test]
async fn an_unmodified_publisher_on_nats() {
    let Some(nats) = NatsServer::start().await else {
        return;
    };
    let Some(python) = python("existing-nats", "nats").await else {
        return;
    };
    orders_arrive("existing-nats", &python, "NATS", &nats.url(), "paid").await;
}

#[tokio::test]
async fn the_quickstart_page_shows_what_is_published() {
    let Some(mut browser) = Chromium::start().await else {
        return;
    };
    let Some(python) = tool::require("python3", "python3") else {
        return;
    };
    let pages = port::free();
    let origin = format!("http://127.0.0.1:{pages}");
    let server = Fanfare::builder("")
        .binary(BINARY)
        .env("FANFARE_CORS__ORIGINS", &origin)
        .start()
        .await;
    let folder = tempfile::tempdir().unwrap();
    let page = std::fs::read_to_string(example("quickstart").join("index.html")).unwrap();
    assert!(page.lines().count() < 30, "a page of about twenty lines");
    let page = page.replace("http://127.0.0.1:8080", &server.base_url());
    std::fs::write(folder.path().join("index.html"), page).unwrap();
    let _web = Command::new(python)
        .args([
            "-m",
            "http.server",
            &pages.to_string(),
            "--bind",
            "127.0.0.1",
        ])
        .current_dir(folder.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    eventually("the page is served", SOON, async || {
        http::get(&origin).await.ok()
    })
    .await;
    browser.open(&origin).await;
    let publish = format!("{}/publish/greetings", server.base_url());
    http::request("POST", &publish, &[], "Hello, <page>".as_bytes())
        .await
        .unwrap();
    eventually("the page shows the event", SOON, async || {
        let text = browser.eval("document.body.innerText").await.to_string();
        (text.contains("Hello, <page>") && text.contains("live")).then_some(())
    })
    .await;
    assert!(browser.errors().is_empty(), "{:?}", browser.errors());
}
