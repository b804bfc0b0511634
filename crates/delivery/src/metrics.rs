//! The metrics of delivery.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector,
    exponential_buckets,
};

use fanfare_core::GapCause;

use crate::CloseReason;

/// The metrics of delivery. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) subscribers: IntGauge,
    pub(crate) channels: IntGauge,
    pub(crate) events: IntCounter,
    pub(crate) frames: IntCounter,
    pub(crate) bytes: IntCounter,
    pub(crate) withheld: IntCounter,
    pub(crate) replayed: IntCounter,
    pub(crate) heartbeats: IntCounter,
    pub(crate) filter_evaluations: IntCounter,
    pub(crate) filter_failures: IntCounter,
    pub(crate) latency: Histogram,
    pub(crate) outbox_bytes: IntGauge,
    pub(crate) ring_bytes: IntGauge,
    pub(crate) feed_depth: IntGauge,
    pub(crate) resumed: IntCounter,
    pub(crate) resumed_with_gap: IntCounter,
    gaps: IntCounterVec,
    closes: IntCounterVec,
}

struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn add<C: Collector + Clone + 'static>(&self, made: C) -> prometheus::Result<C> {
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }
    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::new(format!("fanfare_delivery_{name}"), help)?)
    }
    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(format!("fanfare_delivery_{name}"), help)?)
    }
    fn counters(&self, name: &str, help: &str, label: &str) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(
            Opts::new(format!("fanfare_delivery_{name}"), help),
            &[label],
        )?)
    }
}

impl Metrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    /// Where the registry holds metrics of these names.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let make = Maker(registry);
        let resumes = make.counters(
            "resumes_total",
            "Streams that came with a cursor, by outcome.",
            "outcome",
        )?;
        let latency = HistogramOpts::new(
            "fanfare_delivery_latency_seconds",
            "From publishing to hand-over to the sinks of a shard; one observation an event and shard.",
        )
        .buckets(exponential_buckets(0.000_05, 2.5, 15)?);
        let metrics = Self {
            subscribers: make.gauge("subscribers", "Streams and polls being served.")?,
            channels: make.gauge("channels", "Channels and patterns that this node follows.")?,
            events: make.counter(
                "events_total",
                "Events that this node took from its broker.",
            )?,
            frames: make.counter("frames_total", "Frames handed to sinks: deliveries.")?,
            bytes: make.counter("bytes_total", "Bytes handed to sinks.")?,
            withheld: make.counter("withheld_total", "Deliveries that a filter withheld.")?,
            replayed: make.counter("replayed_total", "Events of history handed to sinks.")?,
            heartbeats: make.counter("heartbeats_total", "Heartbeats handed to sinks.")?,
            filter_evaluations: make
                .counter("filter_evaluations_total", "Questions put to filters.")?,
            filter_failures: make.counter("filter_failures_total", "Filters that panicked.")?,
            latency: make.add(Histogram::with_opts(latency)?)?,
            outbox_bytes: make.gauge("outbox_bytes", "Bytes that wait for subscribers.")?,
            ring_bytes: make.gauge(
                "ring_bytes",
                "Bytes of recent frames kept for joining subscribers.",
            )?,
            feed_depth: make.gauge("feed_depth", "Events that wait for the relay.")?,
            resumed: resumes.with_label_values(&["complete"]),
            resumed_with_gap: resumes.with_label_values(&["gap"]),
            gaps: make.counters(
                "gaps_total",
                "Gap events handed to sinks, by cause.",
                "cause",
            )?,
            closes: make.counters("closes_total", "Streams that ended, by reason.", "reason")?,
        };
        // Every label stands from the start, so that a rate over it sees the first increase.
        GapCause::ALL
            .iter()
            .for_each(|cause| drop(metrics.gaps.with_label_values(&[cause.as_str()])));
        CloseReason::ALL
            .iter()
            .for_each(|why| drop(metrics.closes.with_label_values(&[why.as_str()])));
        Ok(metrics)
    }

    pub(crate) fn gap(&self, cause: GapCause) {
        self.gaps.with_label_values(&[cause.as_str()]).inc();
    }

    pub(crate) fn close(&self, reason: CloseReason) {
        self.closes.with_label_values(&[reason.as_str()]).inc();
    }
}
