//! Connection limits, and slots that are free the moment their client is gone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use fanfare_testkit::{Fanfare, SseClient, SseRequest, eventually, fanfare_binary, tool};

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

fn run(command: &str) -> String {
    let mut words = command.split(' ');
    let program = words.next().unwrap();
    let output = Command::new(program).args(words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Two hosts of the test's own with one cable between them, deleted when dropped. Nothing of this
/// machine's own network is touched.
struct Hosts {
    server: String,
    client: String,
}

impl Hosts {
    const ADDRESS: &str = "198.51.100.1";

    fn new() -> Option<Self> {
        tool::require("ip", "iproute2")?;
        tool::require("curl", "curl")?;
        let hosts = Self {
            server: format!("fanfare-s{}", std::process::id()),
            client: format!("fanfare-c{}", std::process::id()),
        };
        let (server, client) = (&hosts.server, &hosts.client);
        let made = Command::new("ip")
            .args(["netns", "add", server])
            .output()
            .ok()?;
        if !made.status.success() {
            eprintln!("SKIPPED: needs the right to make network namespaces (root)");
            return None;
        }
        run(&format!("ip netns add {client}"));
        run(&format!(
            "ip link add cable netns {server} type veth peer name cable netns {client}"
        ));
        run(&format!(
            "ip -n {server} addr add {}/30 dev cable",
            Self::ADDRESS
        ));
        run(&format!(
            "ip -n {client} addr add 198.51.100.2/30 dev cable"
        ));
        run(&format!("ip -n {server} link set lo up"));
        run(&format!("ip -n {server} link set cable up"));
        run(&format!("ip -n {client} link set cable up"));
        Some(hosts)
    }

    /// Starts a program on one of the hosts.
    fn start(host: &str, command: &mut Vec<String>) -> Child {
        let child = Command::new("ip")
            .args(["netns", "exec", host])
            .args(command)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        child.unwrap()
    }

    /// A metric of the server; `None` while it does not answer.
    fn metric(&self, name: &str) -> Option<u64> {
        let url = "http://127.0.0.1:8081/metrics";
        let scrape = Command::new("ip")
            .args(["netns", "exec", &self.server, "curl", "-s", "-m", "2", url])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&scrape.stdout).into_owned();
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in [&self.server, &self.client] {
            let _ = Command::new("ip").args(["netns", "del", host]).status();
        }
    }
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The cable is pulled: no FIN, no RST. The node notices by what it cannot deliver.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_gives_its_slot_back() {
    let Some(hosts) = Hosts::new() else { return };
    let address = Hosts::ADDRESS;
    let config = format!(
        r#"{CONFIG}
        [server]
        listen = "{address}:8080"
        [auth]
        anonymous = {{ subscribe = [">"], publish = [] }}
        [heartbeat]
        interval = "1s"
        [delivery]
        stall_timeout = "3s"
        "#
    );
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("fanfare.toml");
    std::fs::write(&file, config).unwrap();
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    let binary = fanfare_binary();
    let mut serve = words(&[
        binary.to_str().unwrap(),
        "serve",
        "--config",
        file.to_str().unwrap(),
    ]);
    let _server = Running(Hosts::start(&hosts.server, &mut serve));
    eventually("the node is ready", PATIENCE, || async {
        (hosts.metric("fanfare_edge_ready")? == 1).then_some(())
    })
    .await;
    let url = format!("http://{address}:8080/events?channel=a");
    let mut curl = words(&["curl", "-sN", &url]);
    let _clients: Vec<_> = (0..6)
        .map(|_| Running(Hosts::start(&hosts.client, &mut curl)))
        .collect();
    eventually("six are there", PATIENCE, || async {
        (hosts.metric("fanfare_edge_connections")? == 6).then_some(())
    })
    .await;
    run(&format!("ip -n {} link set cable down", hosts.client));
    eventually("all slots are free", Duration::from_secs(60), || async {
        (hosts.metric("fanfare_edge_connections")? == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_nothing_starts_without_auth() {
    let config = "[server]\nlisten = \"0.0.0.0:0\"\n[broker]\nkind = \"memory\"\n";
    let exited = Fanfare::builder(config).refuses().await;
    assert!(!exited.status.success());
    assert!(exited.output.contains("auth"), "{}", exited.output);
}
