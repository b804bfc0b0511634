//! The metrics that every backend keeps, so that one dashboard fits all of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use crate::{BrokerError, GapCause, Published};

/// A backend's metrics, with the label `backend` resolved.
///
/// Cheap to clone. [`BrokerMetrics::unregistered`] counts for nobody, for tests and examples.
#[derive(Clone, Debug)]
pub struct BrokerMetrics {
    /// Whether the bus answers.
    pub up: IntGauge,
    /// Links to the bus that were made anew.
    pub reconnects: IntCounter,
    /// Events received from the bus, or placed where the backend is the bus.
    pub events: IntCounter,
    /// Events that were missed live and read from the bus's store, so that nobody missed them.
    pub healed: IntCounter,
    /// Publications that were stored or announced.
    pub published: IntCounter,
    /// Publications whose idempotency key was known.
    pub duplicates: IntCounter,
    /// Publications that failed.
    pub publish_errors: IntCounter,
    /// How long a publish took.
    pub publish_seconds: Histogram,
    /// How long a probe took that went through.
    pub probe_seconds: Histogram,
    /// Probes that did not go through.
    pub probe_failures: IntCounter,
    /// Now less the time of publishing, where the bus carries that.
    pub lag_seconds: Histogram,
    /// Subscriptions held on the bus.
    pub subscriptions: IntGauge,
    /// Retained events.
    pub retained_events: IntGauge,
    /// What they weigh, in bytes.
    pub retained_bytes: IntGauge,
    /// Channels that retain something.
    pub retained_channels: IntGauge,
    gaps: IntCounterVec,
    undeliverable: IntCounterVec,
    evicted: IntCounterVec,
    links: Arc<Mutex<Links>>,
    backend: &'static str,
}

/// A backend's links to its bus, of which each is up or down.
#[derive(Clone, Copy, Debug, Default)]
struct Links {
    all: usize,
    up: usize,
}

/// One of several links of a backend to its bus: [`BrokerMetrics::up`] is 1 while all are up.
/// Dropping it takes the link out of the count.
#[derive(Debug)]
pub struct LinkUp {
    metrics: BrokerMetrics,
    is_up: AtomicBool,
}

impl LinkUp {
    /// Notes whether the link is up.
    pub fn set(&self, is_up: bool) {
        self.metrics.count_links(|links| {
            let was_up = self.is_up.swap(is_up, Ordering::Relaxed);
            links.up -= usize::from(was_up);
            links.up += usize::from(is_up);
        });
    }
}

impl Drop for LinkUp {
    fn drop(&mut self) {
        self.set(false);
        self.metrics.count_links(|links| links.all -= 1);
    }
}

/// Why a message of the bus cannot become an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Undeliverable {
    /// Its data is not UTF-8.
    NotUtf8,
    /// Its data is larger than an event may be.
    TooLarge,
    /// Its name on the bus gives no channel name.
    BadChannel,
    /// It stands where only Fanfare writes, and is not what Fanfare writes.
    BadEnvelope,
    /// Its event type breaks a rule.
    BadEventType,
    /// It lacks the field that holds the data.
    MissingField,
}

/// Why retention took an event away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Evicted {
    /// More events than `max_count`.
    Count,
    /// More bytes than `max_bytes`, of the channel or of all channels.
    Bytes,
    /// Older than `max_age`.
    Age,
    /// Its channel was forgotten.
    Idle,
    /// It was deleted on request.
    Purged,
}

impl Undeliverable {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::NotUtf8,
        Self::TooLarge,
        Self::BadChannel,
        Self::BadEnvelope,
        Self::BadEventType,
        Self::MissingField,
    ];

    /// The reason's name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotUtf8 => "not_utf8",
            Self::TooLarge => "too_large",
            Self::BadChannel => "bad_channel",
            Self::BadEnvelope => "bad_envelope",
            Self::BadEventType => "bad_event_type",
            Self::MissingField => "missing_field",
        }
    }
}

impl Evicted {
    const ALL: [Self; 5] = [
        Self::Count,
        Self::Bytes,
        Self::Age,
        Self::Idle,
        Self::Purged,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Bytes => "bytes",
            Self::Age => "age",
            Self::Idle => "idle",
            Self::Purged => "purged",
        }
    }
}

impl BrokerMetrics {
    /// Makes the metrics of a backend and registers them. Backends of different names share one
    /// registry.
    ///
    /// # Errors
    /// Where the registry holds other metrics of these names.
    pub fn register(registry: &Registry, backend: &'static str) -> prometheus::Result<Self> {
        let (metrics, collectors) = Self::make(backend)?;
        for collector in collectors {
            registry.register(collector)?;
        }
        Ok(metrics)
    }

    /// Metrics that no registry shows.
    ///
    /// # Panics
    /// Never: the names are fixed and valid.
    pub fn unregistered(backend: &'static str) -> Self {
        #[expect(clippy::expect_used, reason = "the names are fixed; a test makes them")]
        Self::make(backend).expect("fixed names").0
    }

    fn make(
        backend: &'static str,
    ) -> prometheus::Result<(Self, Vec<Box<dyn prometheus::core::Collector>>)> {
        let mut all: Vec<Box<dyn prometheus::core::Collector>> = Vec::new();
        let opts = |name: &str, help: &str| {
            Opts::new(format!("fanfare_{name}"), help).const_label("backend", backend)
        };
        let mut counter = |name: &str, help: &str, label: &str| {
            let made = IntCounterVec::new(
                opts(name, help),
                if label.is_empty() {
                    &[]
                } else {
                    std::slice::from_ref(&label)
                },
            )?;
            all.push(Box::new(made.clone()));
            prometheus::Result::Ok(made)
        };
        let none: &[&str] = &[];
        let reconnects = counter(
            "broker_reconnects_total",
            "Links to the bus that were made anew.",
            "",
        )?;
        let events = counter(
            "broker_events_total",
            "Events received from the bus, or placed by it.",
            "",
        )?;
        let healed = counter(
            "broker_healed_total",
            "Events that were missed live and read from the bus's store.",
            "",
        )?;
        let published = counter(
            "broker_published_total",
            "Publications by outcome.",
            "outcome",
        )?;
        let gaps = counter(
            "broker_gaps_total",
            "Gaps that the backend announced, by cause.",
            "cause",
        )?;
        let undeliverable = counter(
            "broker_undeliverable_total",
            "Messages of the bus that cannot become events, by reason.",
            "reason",
        )?;
        let probe_failures = counter(
            "broker_probe_failures_total",
            "Probes that did not come back in time.",
            "",
        )?;
        let evicted = counter(
            "retained_evicted_total",
            "Retained events taken away, by reason.",
            "reason",
        )?;
        let mut gauge = |name: &str, help: &str| {
            let made = IntGaugeVec::new(opts(name, help), none)?;
            all.push(Box::new(made.clone()));
            made.get_metric_with_label_values(none)
        };
        let up = gauge("broker_up", "1 while the bus answers.")?;
        let subscriptions = gauge("broker_subscriptions", "Subscriptions held on the bus.")?;
        let retained_events = gauge("retained_events", "Retained events.")?;
        let retained_bytes = gauge(
            "retained_bytes",
            "What the retained events weigh, in bytes.",
        )?;
        let retained_channels = gauge("retained_channels", "Channels that retain something.")?;
        let mut histogram = |name: &str, help: &str| {
            let buckets = prometheus::exponential_buckets(0.000_1, 2.5, 13)?;
            let made =
                HistogramVec::new(HistogramOpts::from(opts(name, help)).buckets(buckets), none)?;
            all.push(Box::new(made.clone()));
            made.get_metric_with_label_values(none)
        };
        // All labels from the start: an alert on `increase` does not see a series that is born at 1.
        for cause in GapCause::ALL {
            gaps.get_metric_with_label_values(&[cause.as_str()])?;
        }
        for reason in Undeliverable::ALL {
            undeliverable.get_metric_with_label_values(&[reason.as_str()])?;
        }
        for reason in Evicted::ALL {
            evicted.get_metric_with_label_values(&[reason.as_str()])?;
        }
        let metrics = Self {
            up,
            reconnects: reconnects.get_metric_with_label_values(none)?,
            events: events.get_metric_with_label_values(none)?,
            healed: healed.get_metric_with_label_values(none)?,
            duplicates: published.get_metric_with_label_values(&["duplicate"])?,
            publish_errors: published.get_metric_with_label_values(&["error"])?,
            published: published.get_metric_with_label_values(&["ok"])?,
            publish_seconds: histogram("broker_publish_seconds", "How long a publish took.")?,
            probe_seconds: histogram(
                "broker_probe_seconds",
                "How long a probe took that went through.",
            )?,
            lag_seconds: histogram(
                "broker_lag_seconds",
                "From publishing to arrival at this node.",
            )?,
            probe_failures: probe_failures.get_metric_with_label_values(none)?,
            subscriptions,
            retained_events,
            retained_bytes,
            retained_channels,
            gaps,
            undeliverable,
            evicted,
            links: Arc::default(),
            backend,
        };
        Ok((metrics, all))
    }

    /// The backend that these are of.
    pub fn backend(&self) -> &'static str {
        self.backend
    }

    /// Another link of this backend to its bus, which is down yet. A backend with one link may set
    /// [`up`](Self::up) itself.
    pub fn link(&self) -> LinkUp {
        self.count_links(|links| links.all += 1);
        LinkUp {
            metrics: self.clone(),
            is_up: AtomicBool::new(false),
        }
    }

    fn count_links(&self, change: impl FnOnce(&mut Links)) {
        let mut links = self.links.lock();
        change(&mut links);
        let whole = links.all > 0 && links.up == links.all;
        self.up.set(i64::from(whole));
    }

    /// Counts a publication by what it was answered.
    pub fn publish_ended(&self, answer: &Result<Published, BrokerError>, took: Duration) {
        match answer {
            Ok(published) => {
                self.publish_seconds.observe(took.as_secs_f64());
                if published.duplicate {
                    self.duplicates.inc();
                } else {
                    self.published.inc();
                }
            }
            Err(_) => self.publish_errors.inc(),
        }
    }

    /// Counts a gap that the backend announced.
    pub fn gap(&self, cause: GapCause) {
        self.gaps.with_label_values(&[cause.as_str()]).inc();
    }

    /// Counts a message of the bus that cannot become an event.
    pub fn undeliverable(&self, reason: Undeliverable) {
        self.undeliverable
            .with_label_values(&[reason.as_str()])
            .inc();
    }

    /// Counts retained events that were taken away.
    pub fn evicted(&self, reason: Evicted, events: u64) {
        self.evicted
            .with_label_values(&[reason.as_str()])
            .inc_by(events);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_backends_share_a_registry() {
        let registry = Registry::new();
        let one = BrokerMetrics::register(&registry, "memory").unwrap();
        let _two = BrokerMetrics::register(&registry, "redis").unwrap();
        assert!(BrokerMetrics::register(&registry, "redis").is_err());
        one.gap(GapCause::Evicted);
        one.up.set(1);
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap();
        assert!(text.contains("fanfare_broker_gaps_total{backend=\"memory\",cause=\"evicted\"} 1"));
        assert!(text.contains("fanfare_broker_up{backend=\"memory\"} 1"));
    }

    #[test]
    fn a_backend_is_up_while_all_its_links_are() {
        let metrics = BrokerMetrics::unregistered("redis");
        let (one, two) = (metrics.link(), metrics.clone().link());
        one.set(true);
        one.set(true);
        assert_eq!(metrics.up.get(), 0);
        two.set(true);
        assert_eq!(metrics.up.get(), 1);
        one.set(false);
        assert_eq!(metrics.up.get(), 0);
        drop(one);
        assert_eq!(metrics.up.get(), 1);
        drop(two);
        assert_eq!(metrics.up.get(), 0);
    }

    #[test]
    fn every_label_is_there_before_it_counts() {
        let registry = Registry::new();
        BrokerMetrics::register(&registry, "nats").unwrap();
        let families = registry.gather();
        let series = |name: &str| {
            let found = families.iter().find(|family| family.name() == name);
            found.map_or(0, |family| family.get_metric().len())
        };
        assert_eq!(series("fanfare_broker_gaps_total"), GapCause::ALL.len());
        assert_eq!(
            series("fanfare_broker_undeliverable_total"),
            Undeliverable::ALL.len()
        );
        assert_eq!(series("fanfare_retained_evicted_total"), Evicted::ALL.len());
    }
}
