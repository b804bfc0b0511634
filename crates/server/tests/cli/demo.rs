//! `demo`.

use fanfare_testkit::{SseClient, http, port};
use serde_json::Value;

use crate::run::{SOON, run, start};

#[tokio::test]
async fn the_demo_publishes_real_figures_every_second() {
    let listen = format!("127.0.0.1:{}", port::free());
    let mut demo = start(&["demo", "--listen", &listen]);
    let mut said = String::new();
    while !said.contains("Metrics:") {
        said += &(demo.line().await + "\n");
    }
    assert!(
        said.contains(&format!("http://{listen}/")) && said.contains("curl -N"),
        "{said}"
    );
    let path = "/events?channel=system.*&envelope=1&since=oldest";
    let mut client = SseClient::connect(listen.parse().unwrap(), path, &[])
        .await
        .unwrap();
    let mut seen = std::collections::BTreeMap::<String, Vec<Value>>::new();
    while seen.len() < 4 || seen.values().any(|figures| figures.len() < 4) {
        let event = client.next_event(SOON).await.unwrap().unwrap();
        if event.event_type != "message" {
            continue;
        }
        let envelope: Value = serde_json::from_str(&event.data).unwrap();
        let data = serde_json::from_str(envelope["data"].as_str().unwrap()).unwrap();
        seen.entry(envelope["channel"].as_str().unwrap().into())
            .or_default()
            .push(data);
    }
    let number = |value: &Value| value.as_f64().unwrap();
    let at = |channel: &str, n: usize| number(&seen[channel][n]["at"]);
    let apart = at("system.cpu", 3) - at("system.cpu", 0);
    // Three seconds, less what the first one was late, which is under one.
    assert!(apart > 2000.0, "{apart} ms apart");
    // What this machine says itself.
    let cpu = &seen["system.cpu"][1];
    assert_eq!(
        cpu["per_core"].as_array().unwrap().len() as f64,
        number(&cpu["cores"])
    );
    assert!((0.0..=1.0).contains(&number(&cpu["usage"])), "{cpu}");
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total: f64 = meminfo.split_whitespace().nth(1).unwrap().parse().unwrap();
    let memory = &seen["system.memory"][1];
    assert_eq!(number(&memory["total"]), total * 1024.0);
    assert!(number(&memory["used"]) > 0.0);
    assert!(number(&seen["system.load"][1]["tasks"]) > 0.0);
    assert!(seen["system.network"][1]["interfaces"].is_array());
    // The page, and the ordinary way to publish.
    let page = http::get(&format!("http://{listen}/")).await.unwrap();
    assert!(page.status == 200 && page.text().contains("<html"));
    let url = format!("http://{listen}");
    let published = run(&["publish", "system.note", "hi", "--url", &url], &[], b"").await;
    assert_eq!(published.code, 0);
}

#[tokio::test]
async fn others_may_look_on_but_not_publish() {
    let port = port::free();
    let _demo = start(&["demo", "--listen", &format!("0.0.0.0:{port}")]);
    let url = format!("http://127.0.0.1:{port}");
    fanfare_testkit::eventually("the demo serves", SOON, async || http::get(&url).await.ok()).await;
    let denied = run(&["publish", "system.note", "hi", "--url", &url], &[], b"").await;
    assert_eq!(denied.code, 3, "{denied:?}");
    let denied = run(&["subscribe", "other", "--url", &url], &[], b"").await;
    assert_eq!(denied.code, 3, "{denied:?}");
    let read = [
        "subscribe",
        "system.load",
        "--count",
        "1",
        "--timeout",
        "10s",
        "--url",
        &url,
    ];
    let read = run(&read, &[], b"").await;
    assert!(read.code == 0 && read.out.contains("fifteen"), "{read:?}");
}

#[tokio::test]
async fn a_taken_address_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let ended = run(&["demo", "--listen", &listen], &[], b"").await;
    assert!(ended.code == 1 && ended.err.contains(&listen), "{ended:?}");
}
