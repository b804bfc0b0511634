//! A nats-server with JetStream, and what an operator does to its streams.

use std::time::Duration;

use fanfare_core::{Broker, BrokerMetrics, Retention, RetentionRule, StoreConfig};
use fanfare_nats::{Ingest, IngestFrom, NatsConfig, NatsDurable};
use fanfare_testkit::{NatsRelease, NatsServer};
use serde_json::{Value, json};

use super::PATIENCE;

/// A nats-server with JetStream, and an operator's link to it.
pub(crate) struct Js {
    pub(crate) server: NatsServer,
}

/// What to take from streams of others: stream, source, channel.
#[derive(Clone, Copy, Default)]
pub(crate) struct Stock {
    pub(crate) rules: &'static [(&'static str, &'static str, &'static str)],
    pub(crate) event_header: Option<&'static str>,
}

impl Stock {
    pub(crate) fn config(&self, url: String) -> NatsConfig {
        let rule = |(stream, source, channel): &(&str, &str, &str)| Ingest {
            from: IngestFrom::JetStream,
            stream: Some((*stream).into()),
            source: (*source).into(),
            channel: (*channel).into(),
            event_header: self.event_header.map(Into::into),
            ..Ingest::default()
        };
        NatsConfig {
            urls: vec![url],
            ingest: self.rules.iter().map(rule).collect(),
            linger: Duration::from_millis(100),
            ..NatsConfig::default()
        }
    }
}

pub(crate) fn metrics() -> BrokerMetrics {
    BrokerMetrics::unregistered("nats")
}

/// The default rules, with so many bytes of memory at most.
pub(crate) fn keeping(bytes: usize) -> StoreConfig {
    StoreConfig {
        max_total_bytes: if bytes == 0 { 0 } else { 256 << 20 },
        ..StoreConfig::default()
    }
}

/// So many events of each channel.
pub(crate) fn counting(max_count: usize) -> StoreConfig {
    let all = RetentionRule::of(fanfare_core::Pattern::all());
    StoreConfig {
        retention: Retention::new([RetentionRule { max_count, ..all }]),
        ..StoreConfig::default()
    }
}

/// Waits until probes go through.
pub(crate) async fn green(node: &NatsDurable) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while let Err(error) = node.probe().await {
        assert!(tokio::time::Instant::now() < deadline, "not back: {error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Js {
    pub(crate) async fn start() -> Option<Self> {
        Self::start_release(NatsRelease::Installed).await
    }

    pub(crate) async fn start_release(release: NatsRelease) -> Option<Self> {
        let server = NatsServer::start_release(release, &["-js"]).await?;
        let js = Self { server };
        // It takes a moment after its first word.
        js.ask("INFO", json!({})).await;
        Some(js)
    }

    /// Asks the JetStream API, again until it answers, and answers what it says.
    pub(crate) async fn ask(&self, verb: &str, body: Value) -> Value {
        let client = async_nats::connect(self.server.url()).await.unwrap();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let payload = body.to_string().into();
            let answer = client.request(format!("$JS.API.{verb}"), payload).await;
            match answer {
                Ok(answer) => return serde_json::from_slice(&answer.payload).unwrap(),
                Err(why) => assert!(tokio::time::Instant::now() < deadline, "{verb}: {why}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn done(&self, verb: &str, body: Value) -> Value {
        let answer = self.ask(verb, body).await;
        assert!(answer.get("error").is_none(), "{verb}: {answer}");
        answer
    }

    pub(crate) async fn make(&self, name: &str, subject: &str) {
        self.make_with(name, subject, json!({})).await;
    }

    pub(crate) async fn make_with(&self, name: &str, subject: &str, more: Value) {
        let mut config = json!({
            "name": name, "subjects": [subject], "retention": "limits", "storage": "file",
            "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "num_replicas": 1,
            "discard": "old",
        });
        for (field, value) in more.as_object().unwrap() {
            config[field] = value.clone();
        }
        self.done(&format!("STREAM.CREATE.{name}"), config).await;
    }

    pub(crate) async fn delete(&self, name: &str) {
        self.done(&format!("STREAM.DELETE.{name}"), json!({})).await;
    }

    pub(crate) async fn purge(&self, name: &str, filter: &str) {
        let verb = format!("STREAM.PURGE.{name}");
        self.done(&verb, json!({ "filter": filter })).await;
    }

    pub(crate) async fn info(&self, name: &str) -> Value {
        self.done(&format!("STREAM.INFO.{name}"), json!({})).await
    }
}
