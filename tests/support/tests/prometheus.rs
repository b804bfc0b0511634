//! A real Prometheus scrapes a page of metrics.

mod common;

use std::time::Duration;

use common::{Scripted, answer};
use fanfare_testkit::{Prometheus, eventually};

const METRICS: &str = "# TYPE x_total counter\nx_total{a=\"b\"} 42\n";
const RULE: &str = "groups: [{name: g, rules: [{record: 'x:twice', expr: '2 * x_total'}]}]";

#[tokio::test]
async fn scraped_values_are_asked_for_and_rules_are_evaluated() {
    let page = answer(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n\r\n{METRICS}"
    ));
    let server = Scripted::start([page]).await;
    let Some(prometheus) = Prometheus::start_with_rules(&[server.address], &[RULE]).await else {
        return;
    };
    for (expression, expected) in [
        ("x_total{a=\"b\", job=\"fanfare\"}", "42"),
        ("x:twice", "84"),
    ] {
        let value = eventually(expression, Duration::from_secs(20), async || {
            let result = prometheus.query(expression).await;
            result[0]["value"][1].as_str().map(str::to_owned)
        });
        assert_eq!(value.await, expected);
    }
    assert_eq!(
        prometheus.query("no_such_metric").await,
        serde_json::json!([])
    );
}
