//! Connection limits, and slots that are free the moment their client is gone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{process::Command, time::Duration};

use fanfare_testkit::{Fanfare, SseClient, SseRequest, eventually, tool};

const CONFIG: &str = r#"
    [broker]
    kind = "memory"
    [limits]
    connections_per_client = 6
    refusal = "status"
"#;
const PATIENCE: Duration = Duration::from_secs(20);

async fn connect(node: &Fanfare) -> SseClient {
    SseRequest::get(node.address(), "/events?channel=a")
        .connect()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seventh_is_refused_and_a_slot_is_free_when_one_is_gone() {
    let node = Fanfare::start(CONFIG).await;
    let mut six = Vec::new();
    for _ in 0..6 {
        six.push(connect(&node).await);
        assert_eq!(six.last().unwrap().status(), 200);
    }
    for way in ["closed", "reset"] {
        let mut seventh = connect(&node).await;
        assert_eq!(seventh.status(), 429);
        assert!(seventh.head().header("Retry-After").is_some());
        let problem = seventh.body(PATIENCE).await.unwrap();
        let problem: serde_json::Value = serde_json::from_slice(&problem).unwrap();
        assert_eq!(problem["status"], 429);
        let mut one = six.remove(0);
        match way {
            "closed" => one.close(),
            _ => one.reset().unwrap(),
        }
        let again = eventually("the slot is free", Duration::from_secs(2), || async {
            let client = connect(&node).await;
            (client.status() == 200).then_some(client)
        });
        six.push(again.await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_is_told_to_come_back_rather_than_refused_for_good() {
    let config = CONFIG.replace("refusal = \"status\"", "connections = 1");
    let node = Fanfare::start(&config).await;
    let _one = connect(&node).await;
    let browser =
        SseRequest::get(node.address(), "/events?channel=a").header("Sec-Fetch-Mode", "cors");
    let mut refused = browser.connect().await.unwrap();
    assert_eq!(refused.status(), 200);
    let event = refused.next_event(PATIENCE).await.unwrap().unwrap();
    assert_eq!(&*event.event_type, "fanfare.close");
    assert!(event.data.contains("\"retry_ms\":"), "{}", event.data);
    assert!(refused.retry().is_some());
    assert!(refused.next_event(PATIENCE).await.unwrap().is_none());
    assert_eq!(connect(&node).await.status(), 429);
}

fn run(command: &str) {
    let mut words = command.split(' ');
    let status = Command::new(words.next().unwrap())
        .args(words)
        .status()
        .unwrap();
    assert!(status.success(), "{command}");
}

/// A network namespace with one address, deleted when dropped.
struct Namespace(String);

impl Namespace {
    fn new(name: &str) -> Option<Self> {
        tool::require("ip", "iproute2")?;
        let made = Command::new("ip")
            .args(["netns", "add", name])
            .output()
            .ok()?;
        if !made.status.success() {
            eprintln!("SKIPPED: needs the right to make network namespaces (root)");
            return None;
        }
        Some(Self(name.into()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its end of the veth pair goes with it, and so the other end.
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// The cable is pulled: no FIN, no RST. The node notices by what it cannot deliver.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_gives_its_slot_back() {
    let name = format!("fanfare-{}", std::process::id());
    let Some(namespace) = Namespace::new(&name) else {
        return;
    };
    let (here, there) = (
        format!("ffh{}", std::process::id()),
        format!("fft{}", std::process::id()),
    );
    // A block that documentation examples use, so that no route of this machine is shadowed.
    run(&format!(
        "ip link add {here} type veth peer name {there} netns {}",
        namespace.0
    ));
    run(&format!("ip addr add 192.0.2.1/30 dev {here}"));
    run(&format!("ip link set {here} up"));
    run(&format!(
        "ip -n {} addr add 192.0.2.2/30 dev {there}",
        namespace.0
    ));
    run(&format!("ip -n {} link set {there} up", namespace.0));

    let config = format!(
        "{}\n[server]\nlisten = \"192.0.2.1:{}\"\n[auth]\nanonymous = {{ subscribe = [\">\"], publish = [] }}\n[heartbeat]\ninterval = \"1s\"\n[delivery]\nstall_timeout = \"3s\"\n",
        CONFIG,
        fanfare_testkit::port::free()
    );
    let node = Fanfare::start(&config).await;
    let mut clients: Vec<_> = (0..6)
        .map(|_| {
            Command::new("ip")
                .args(["netns", "exec", &namespace.0, "curl", "-sN"])
                .arg(format!("http://{}/events?channel=a", node.address()))
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    eventually("six are there", PATIENCE, || async {
        (node.metric("fanfare_delivery_subscribers").await? as u64 == 6).then_some(())
    })
    .await;
    run(&format!("ip link set {here} down"));
    eventually("all slots are free", Duration::from_secs(60), || async {
        (node.metric("fanfare_edge_connections").await? as u64 == 0).then_some(())
    })
    .await;
    for client in &mut clients {
        client.kill().unwrap();
        client.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_nothing_starts_without_auth() {
    let config = "[server]\nlisten = \"0.0.0.0:0\"\n[broker]\nkind = \"memory\"\n";
    let exited = Fanfare::builder(config).refuses().await;
    assert!(!exited.status.success());
    assert!(exited.output.contains("auth"), "{}", exited.output);
}
