//! Metrics of foreign streams, beside those that every backend has.

use prometheus::{Histogram, HistogramOpts, IntGauge, Registry};

/// Metrics of foreign streams.
#[derive(Clone, Debug)]
pub struct StreamMetrics {
    /// Streams that wildcards were found to select.
    pub known: IntGauge,
    /// Streams that wildcards select and that are not followed: over a rule's bound.
    pub refused: IntGauge,
    /// How long a search for streams took.
    pub search_seconds: Histogram,
}

impl StreamMetrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    /// Where the registry holds others of these names.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self::make()?;
        registry.register(Box::new(metrics.known.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.search_seconds.clone()))?;
        Ok(metrics)
    }

    /// Metrics that no registry shows.
    ///
    /// # Panics
    /// Never: the names are fixed and valid.
    pub fn unregistered() -> Self {
        #[expect(clippy::expect_used, reason = "the names are fixed; a test makes them")]
        Self::make().expect("fixed names")
    }

    fn make() -> prometheus::Result<Self> {
        let buckets = prometheus::exponential_buckets(0.001, 4.0, 9)?;
        let search = HistogramOpts::new(
            "fanfare_redis_stream_search_seconds",
            "How long a search for streams took.",
        );
        Ok(Self {
            known: IntGauge::new(
                "fanfare_redis_streams_known",
                "Streams that followed wildcards were found to select.",
            )?,
            refused: IntGauge::new(
                "fanfare_redis_streams_refused",
                "Streams that followed wildcards select and that are over a rule's bound.",
            )?,
            search_seconds: Histogram::with_opts(search.buckets(buckets))?,
        })
    }
}
