//! `docs/metrics.md` is the contract: what it names exists, what exists it names, and what alerts
//! and dashboards ask for is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use fanfare_testkit::{
    Fanfare, NatsServer, Prometheus, RedisServer, SseClient, SseRequest, eventually, http,
    try_eventually,
};
use serde_json::Value;

/// Type and labels of each metric, by its name.
type Contract = BTreeMap<String, (String, BTreeSet<String>)>;

const SOON: Duration = Duration::from_secs(20);

/// These may be NaN: quantiles of what the memory broker has none of.
const MAY_BE_EMPTY: [&str; 1] = ["fanfare_broker_lag_seconds"];

#[tokio::test]
async fn the_memory_broker_keeps_the_contract() {
    let fanfare = Fanfare::start("").await;
    assert_eq!(scraped(&fanfare.metrics().await), documented());
    traffic_once(&fanfare).await;
    assert_eq!(
        scraped(&fanfare.metrics().await),
        documented(),
        "after traffic"
    );
}

#[tokio::test]
async fn redis_keeps_the_contract() {
    let Some(redis) = RedisServer::start().await else {
        return;
    };
    let config = format!(
        "[broker]\nkind = \"redis\"\n[broker.redis]\nurl = \"{}\"",
        redis.url()
    );
    let fanfare = Fanfare::start(&config).await;
    assert_eq!(scraped(&fanfare.metrics().await), documented());
}

#[tokio::test]
async fn nats_keeps_the_contract() {
    let Some(nats) = NatsServer::start_jetstream().await else {
        return;
    };
    let config = format!(
        "[broker]\nkind = \"nats\"\n[broker.nats]\nurl = \"{}\"\n\
         [[broker.nats.ingest]]\nsource = \"raw.>\"",
        nats.url()
    );
    let fanfare = Fanfare::start(&config).await;
    assert_eq!(scraped(&fanfare.metrics().await), documented());
}

#[test]
fn alerts_and_dashboards_ask_for_documented_metrics() {
    let exposed: BTreeSet<String> = documented()
        .into_iter()
        .flat_map(|(name, (kind, _))| {
            let suffixes: &[&str] = match kind.as_str() {
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            suffixes
                .iter()
                .map(move |suffix| format!("{name}{suffix}"))
                .collect::<Vec<_>>()
        })
        .collect();
    let mut asked = BTreeSet::new();
    for expression in queries()
        .into_iter()
        .map(|(_, expression)| expression)
        .chain(alerts())
    {
        asked.extend(metric_names(&expression));
    }
    assert!(asked.len() > 30, "the files were read: {asked:?}");
    let unknown: Vec<_> = asked.difference(&exposed).collect();
    assert!(unknown.is_empty(), "not in docs/metrics.md: {unknown:?}");
}

#[tokio::test]
async fn every_dashboard_query_returns_data_and_no_alert_fires() {
    let fanfare = Fanfare::start("").await;
    let rules = fs::read_to_string(root().join("monitoring/prometheus/alerts.yaml")).unwrap();
    let targets = [fanfare.admin_address()];
    let Some(prometheus) = Prometheus::start_with_rules(&targets, &[&rules]).await else {
        return;
    };

    let mut pending = queries();
    let done = AtomicBool::new(false);
    let traffic = async {
        while !done.load(Ordering::Relaxed) {
            traffic_once(&fanfare).await;
        }
    };
    let ask = async {
        let all = try_eventually(Duration::from_secs(60), async || {
            let mut without = Vec::new();
            for (title, expression) in pending.drain(..) {
                if !has_data(&prometheus, &expression).await {
                    without.push((title, expression));
                }
            }
            pending = without;
            pending.is_empty().then_some(())
        })
        .await;
        done.store(true, Ordering::Relaxed);
        all
    };
    tokio::join!(traffic, ask);
    assert!(pending.is_empty(), "no data: {pending:#?}");

    let rules = prometheus.api("rules").await;
    let rules = rules["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.len() > 20);
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        assert_ne!(rule["state"], "firing", "on a healthy node: {rule}");
    }
}

/// A publication, a refusal, a client that comes, goes, and comes back with its id.
async fn traffic_once(fanfare: &Fanfare) {
    let publish = async |channel: &str| {
        let url = format!("{}/publish/{channel}", fanfare.base_url());
        http::request("POST", &url, &[], b"some data")
            .await
            .expect("an answer")
            .status
    };
    let follow = || SseRequest::get(fanfare.address(), "/events?channel=live.%3E");
    let mut client: SseClient = follow().connect().await.expect("a stream");
    assert_eq!(publish("live.one").await, 201);
    assert_eq!(publish("not%20a%20channel").await, 400);
    let event = eventually("the event arrives", SOON, async || {
        client
            .next_event(SOON)
            .await
            .expect("a stream")
            .filter(|event| event.data == "some data")
    })
    .await;
    client.close();
    assert_eq!(publish("live.two").await, 201);
    let mut back = follow()
        .last_event_id(event.id)
        .connect()
        .await
        .expect("a stream");
    eventually("what was missed arrives", SOON, async || {
        back.next_event(SOON)
            .await
            .expect("a stream")
            .filter(|event| event.data == "some data")
    })
    .await;
    back.close();
    let resumed = async || {
        fanfare
            .metric("fanfare_delivery_resumes_total{outcome=\"complete\"}")
            .await
    };
    eventually("the resume is counted", SOON, async || {
        resumed().await.filter(|count| *count > 0.0)
    })
    .await;
}

async fn has_data(prometheus: &Prometheus, expression: &str) -> bool {
    let result = prometheus.query(expression).await;
    let samples = result.as_array().expect("samples");
    let number = |sample: &Value| {
        let text = sample["value"][1].as_str().expect("a value");
        text.parse().is_ok_and(|number: f64| !number.is_nan())
    };
    let may_be_empty = MAY_BE_EMPTY.iter().any(|name| expression.contains(name));
    !samples.is_empty() && (may_be_empty || samples.iter().any(number))
}

/// The tables of `docs/metrics.md`: `| `name` | type | `label`, … | …`.
fn documented() -> Contract {
    let text = fs::read_to_string(root().join("docs/metrics.md")).expect("docs/metrics.md");
    let mut contract = Contract::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [
            "",
            name,
            kind @ ("counter" | "gauge" | "histogram"),
            labels,
            ..,
        ] = cells[..]
        else {
            continue;
        };
        let labels = labels
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect();
        let before = contract.insert(name.trim_matches('`').to_owned(), (kind.to_owned(), labels));
        assert!(before.is_none(), "{name} stands twice");
    }
    contract
}

/// What a scrape shows. Every series counts from the start, so labels are seen before anything
/// happens.
fn scraped(text: &str) -> Contract {
    let mut contract = Contract::new();
    for line in text.lines() {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, kind) = typed.split_once(' ').expect("name and type");
            contract.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if let Some((series, labels)) = line.split_once('{') {
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| {
                    series
                        .strip_suffix(suffix)
                        .filter(|it| contract.contains_key(*it))
                })
                .unwrap_or(series);
            let (_, found) = contract.get_mut(family).expect("a type before its series");
            let labels = labels
                .split("=\"")
                .filter_map(|part| part.rsplit([',', '"']).next());
            let names =
                labels.filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
            found.extend(
                names
                    .filter(|name| !name.is_empty() && *name != "le")
                    .map(str::to_owned),
            );
        }
    }
    contract
}

/// Title and PromQL of every panel, with Grafana's variables filled in. Annotations are left out:
/// they mark what is rare.
fn queries() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for entry in fs::read_dir(root().join("monitoring/grafana/dashboards")).expect("dashboards") {
        let text = fs::read_to_string(entry.expect("an entry").path()).expect("a dashboard");
        let dashboard: Value = serde_json::from_str(&text).expect("JSON");
        for panel in dashboard["panels"].as_array().into_iter().flatten() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let expression = text(&target["expr"])
                    .replace("$__rate_interval", "1m")
                    .replace("$job", ".*")
                    .replace("$instance", ".*");
                queries.push((text(&panel["title"]), expression));
            }
        }
    }
    queries
}

/// The text of the alerts; their prose names metrics too, and is held to the same.
fn alerts() -> Vec<String> {
    let text = fs::read_to_string(root().join("monitoring/prometheus/alerts.yaml"));
    let text = text.expect("alerts.yaml");
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .map(str::to_owned)
        .collect()
}

fn metric_names(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("fanfare_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the workspace").to_owned()
}
