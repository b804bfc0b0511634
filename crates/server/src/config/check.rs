//! What concerns several keys, or what only a room can say.

use std::{collections::BTreeSet, time::Duration};

use config::{Value, ValueKind};
use fanfare_core::{BrokerError, StoreConfig};
use fanfare_delivery::DeliveryConfig;
use fanfare_edge::config::ConfigError;
use serde_json::Value as Known;

use super::{
    Config,
    nats::From as IngestFrom,
    problem::{Given, Problem, join},
    values::Span,
};

/// Everything that is wrong with a configuration whose values are well-formed. The settings of
/// buses that are not chosen are checked too: choosing one must not bring up old mistakes.
pub(crate) fn check(config: &Config, given: &Given) -> Vec<Problem> {
    let mut problems = Vec::new();
    kinds("", &given.values, given, &mut problems);
    edge(config, given, &mut problems);
    delivery(config, given, &mut problems);
    write_delays(config, given, &mut problems);
    redis(config, given, &mut problems);
    nats(config, given, &mut problems);
    problems
}

/// The library takes `true` for 1 and 1.5 for 1: in a file, these are slips.
fn kinds(path: &str, value: &Value, given: &Given, problems: &mut Vec<Problem>) {
    let known = given.known.get(path);
    let wanted = match (&value.kind, known) {
        (ValueKind::Table(table), _) => {
            for (key, value) in table {
                kinds(&join(path, key), value, given, problems);
            }
            return;
        }
        (ValueKind::Array(items), _) => {
            for (index, item) in items.iter().enumerate() {
                kinds(&format!("{path}[{index}]"), item, given, problems);
            }
            return;
        }
        (ValueKind::Boolean(_), Some(Known::Bool(_) | Known::Null)) => return,
        (ValueKind::Boolean(_) | ValueKind::Float(_), Some(Known::Number(_))) => {
            "expected a whole number, not negative"
        }
        (ValueKind::Boolean(_), _) => "expected a text or a number, not true or false",
        (ValueKind::Float(_), _) => "expected a text or a whole number",
        (ValueKind::String(_) | ValueKind::Nil, _) => return,
        (_, Some(Known::Bool(_))) => "expected true or false",
        _ => return,
    };
    problems.push(given.problem(path, wanted));
}

fn edge(config: &Config, given: &Given, problems: &mut Vec<Problem>) {
    match config.edge().check() {
        Ok(()) => {}
        Err(ConfigError::Value { key, allowed, .. }) => problems.push(given.problem(key, allowed)),
        Err(other) => problems.push(Problem {
            message: other.to_string(),
            ..Problem::default()
        }),
    }
}

fn delivery(config: &Config, given: &Given, problems: &mut Vec<Problem>) {
    let delivery = &config.delivery;
    for (key, value) in [
        ("delivery.outbox_bytes", delivery.outbox_bytes.0),
        ("delivery.page_events", delivery.page_events),
        ("delivery.page_bytes", delivery.page_bytes.0),
        ("delivery.history_calls", delivery.history_calls),
        (
            "delivery.history_calls_per_client",
            delivery.history_calls_per_client,
        ),
        ("delivery.feed_items", delivery.feed_items),
        ("delivery.feed_bytes", delivery.feed_bytes.0),
        (
            "broker.memory.max_channels",
            config.broker.memory.max_channels,
        ),
    ] {
        if value == 0 {
            problems.push(given.problem(key, "expected more than zero"));
        }
    }
    let renewal = config
        .server
        .tls
        .as_ref()
        .and_then(|tls| tls.reload_interval.0);
    for (key, value) in [
        ("heartbeat.interval", config.heartbeat.interval),
        ("delivery.stall_timeout", delivery.stall_timeout),
        ("delivery.retry", delivery.retry),
        (
            "server.tls.reload_interval",
            renewal.unwrap_or(Span::secs(1)),
        ),
    ] {
        if value.0.is_zero() {
            problems.push(given.problem(key, "expected more than zero"));
        }
    }
}

/// Each delay by itself, and how many there are.
fn write_delays(config: &Config, given: &Given, problems: &mut Vec<Problem>) {
    let rules = config.write_delay.iter().enumerate();
    let rules = rules.map(|(at, rule)| (format!("write_delay[{at}].delay"), rule.delay.0));
    let own = (
        "delivery.write_delay".to_owned(),
        config.delivery.write_delay.0,
    );
    let mut known = BTreeSet::new();
    for (key, delay) in std::iter::once(own).chain(rules) {
        if delay.is_zero() {
            continue;
        }
        if !(Duration::from_millis(1)..=DeliveryConfig::MAX_WRITE_DELAY).contains(&delay)
            || delay.subsec_nanos() % 1_000_000 != 0
        {
            problems.push(given.problem(&key, "expected 0s, or 1ms to 1s in whole milliseconds"));
        } else if known.insert(delay) && known.len() > DeliveryConfig::MAX_WRITE_DELAYS {
            problems.push(given.problem(&key, "expected at most 8 different delays in all"));
        }
    }
}

fn redis(config: &Config, given: &Given, problems: &mut Vec<Problem>) {
    if let Err(error) = config.broker.redis.to_room().validate() {
        problems.push(of_backend(&error, given));
    }
}

/// A backend's problem begins with its name, then the key.
fn of_backend(error: &BrokerError, given: &Given) -> Problem {
    let text = error.to_string();
    let text = text.split_once(": ").map_or(&*text, |(_, text)| text);
    match text.split_once(' ') {
        Some((key, why)) if key.starts_with("broker.") => {
            given.problem(key.trim_end_matches(':'), why)
        }
        _ => Problem {
            message: text.into(),
            ..Problem::default()
        },
    }
}

fn nats(config: &Config, given: &Given, problems: &mut Vec<Problem>) {
    let nats = &config.broker.nats;
    let durable = nats.to_durable(StoreConfig::default());
    let room = nats.to_room("");
    if let Err(error) = room.validate().and_then(|()| durable.validate()) {
        problems.push(of_backend(&error, given));
    }
    if nats.jetstream {
        return;
    }
    for (at, rule) in nats.ingest.iter().enumerate() {
        if rule.from == IngestFrom::JetStream {
            problems.push(given.problem(
                &format!("broker.nats.ingest[{at}].from"),
                "expected `core`, since broker.nats.jetstream is false",
            ));
        }
    }
}
