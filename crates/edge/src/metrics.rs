//! The metrics of the edge.

use std::{ops::Deref, sync::Arc};

use http::StatusCode;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector,
    exponential_buckets,
};

use crate::{connection::Door, problem::REASONS};

/// The metrics of the edge. A clone is the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    all: Arc<All>,
}

#[derive(Debug)]
pub(crate) struct All {
    pub(crate) connections: IntGauge,
    pub(crate) connections_limit: IntGauge,
    pub(crate) sockets: IntGauge,
    pub(crate) sockets_refused: IntCounter,
    pub(crate) publish_bytes: IntCounter,
    pub(crate) connection_seconds: Histogram,
    pub(crate) draining: IntGauge,
    pub(crate) ready: IntGauge,
    requests: IntCounterVec,
    refusals: IntCounterVec,
    published: IntCounterVec,
    accept_errors: IntCounterVec,
    streams: IntCounterVec,
    pub(crate) certificate_expiry: IntGauge,
    pub(crate) keys: IntGauge,
    key_fetches: IntCounterVec,
    handshake_failures: IntCounterVec,
}

/// Why a TLS handshake failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HandshakeFailure {
    /// The client went away.
    Closed,
    /// The two sides did not agree, or the client speaks no TLS.
    Protocol,
    Timeout,
}

impl HandshakeFailure {
    const ALL: [Self; 3] = [Self::Closed, Self::Protocol, Self::Timeout];

    fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
        }
    }
}

/// The closed set of routes that requests are counted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Route {
    Events,
    Publish,
    Poll,
    History,
    Page,
    Admin,
    Other,
}

/// How a publication ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Ok,
    Duplicate,
    /// The client's fault.
    Rejected,
    /// The bus's or the server's.
    Error,
}

impl Route {
    const ALL: [Self; 7] = [
        Self::Events,
        Self::Publish,
        Self::Poll,
        Self::History,
        Self::Page,
        Self::Admin,
        Self::Other,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Publish => "publish",
            Self::Poll => "poll",
            Self::History => "history",
            Self::Page => "page",
            Self::Admin => "admin",
            Self::Other => "other",
        }
    }
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Ok, Self::Duplicate, Self::Rejected, Self::Error];

    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Duplicate => "duplicate",
            Self::Rejected => "rejected",
            Self::Error => "error",
        }
    }
}

const STATUSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn add<C: Collector + Clone + 'static>(&self, made: C) -> prometheus::Result<C> {
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }
    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::new(format!("fanfare_edge_{name}"), help)?)
    }
    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(format!("fanfare_edge_{name}"), help)?)
    }
    fn counters(&self, name: &str, help: &str, by: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(
            Opts::new(format!("fanfare_edge_{name}"), help),
            by,
        )?)
    }
}

impl Deref for Metrics {
    type Target = All;

    fn deref(&self) -> &All {
        &self.all
    }
}

impl Metrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    /// Where the registry holds metrics of these names.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let make = Maker(registry);
        let life = HistogramOpts::new("fanfare_edge_connection_seconds", "How long streams lived.")
            .buckets(exponential_buckets(0.1, 4.0, 10)?);
        let all = All {
            connections: make.gauge("connections", "Streams and polls that hold a slot.")?,
            connections_limit: make.gauge("connections_limit", "The most streams and polls.")?,
            sockets: make.gauge("sockets", "Open sockets of both listeners.")?,
            sockets_refused: make.counter(
                "sockets_refused_total",
                "Sockets closed at once, for want of room.",
            )?,
            publish_bytes: make.counter("publish_bytes_total", "Bytes of data published here.")?,
            connection_seconds: make.add(Histogram::with_opts(life)?)?,
            draining: make.gauge("draining", "1 while the node is going away.")?,
            ready: make.gauge("ready", "1 while the node wants new clients.")?,
            requests: make.counters(
                "requests_total",
                "Requests by route and class of status.",
                &["route", "status"],
            )?,
            refusals: make.counters(
                "refusals_total",
                "Refused requests by reason.",
                &["reason"],
            )?,
            published: make.counters(
                "published_total",
                "Publications that came in here, by outcome.",
                &["outcome"],
            )?,
            accept_errors: make.counters(
                "accept_errors_total",
                "Connections that could not be accepted, by reason.",
                &["reason"],
            )?,
            keys: make.gauge(
                "jwks_keys",
                "Keys of tokens that were fetched; 0 without a URL.",
            )?,
            key_fetches: make.counters(
                "jwks_fetches_total",
                "Fetches of the keys of tokens, by outcome.",
                &["outcome"],
            )?,
            streams: make.counters(
                "streams_total",
                "Streams that were opened, by the door that their bytes leave through.",
                &["door"],
            )?,
            certificate_expiry: make.gauge(
                "tls_certificate_expiry_timestamp_seconds",
                "When the certificate of the public listener ends; 0 without TLS.",
            )?,
            handshake_failures: make.counters(
                "tls_handshake_failures_total",
                "TLS handshakes that failed, by reason.",
                &["reason"],
            )?,
        };
        let metrics = Self { all: Arc::new(all) };
        metrics.announce_labels();
        Ok(metrics)
    }

    /// Every label stands from the start, so that a rate over it sees the first increase.
    fn announce_labels(&self) {
        for route in Route::ALL {
            for status in STATUSES {
                self.requests.with_label_values(&[route.as_str(), status]);
            }
        }
        REASONS
            .iter()
            .for_each(|reason| drop(self.refusals.with_label_values(&[*reason])));
        for outcome in Outcome::ALL {
            self.published.with_label_values(&[outcome.as_str()]);
        }
        for reason in ["fd_limit", "other"] {
            self.accept_errors.with_label_values(&[reason]);
        }
        for outcome in ["ok", "error"] {
            self.key_fetches.with_label_values(&[outcome]);
        }
        for door in Door::ALL {
            self.streams.with_label_values(&[door.as_str()]);
        }
        for failure in HandshakeFailure::ALL {
            self.handshake_failures
                .with_label_values(&[failure.as_str()]);
        }
    }

    pub(crate) fn request(&self, route: Route, status: StatusCode) {
        let class = match status.as_u16() {
            500.. => "5xx",
            400..500 => "4xx",
            300..400 => "3xx",
            _ => "2xx",
        };
        self.requests
            .with_label_values(&[route.as_str(), class])
            .inc();
    }

    pub(crate) fn door(&self, door: Door) {
        self.streams.with_label_values(&[door.as_str()]).inc();
    }

    pub(crate) fn refusal(&self, reason: &'static str) {
        self.refusals.with_label_values(&[reason]).inc();
    }

    pub(crate) fn published(&self, outcome: Outcome) {
        self.published.with_label_values(&[outcome.as_str()]).inc();
    }

    pub(crate) fn accept_error(&self, fd_limit: bool) {
        let reason = if fd_limit { "fd_limit" } else { "other" };
        self.accept_errors.with_label_values(&[reason]).inc();
    }

    pub(crate) fn key_fetch(&self, good: bool) {
        let outcome = if good { "ok" } else { "error" };
        self.key_fetches.with_label_values(&[outcome]).inc();
    }

    pub(crate) fn handshake_failure(&self, failure: HandshakeFailure) {
        self.handshake_failures
            .with_label_values(&[failure.as_str()])
            .inc();
    }
}
