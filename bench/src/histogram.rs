//! Latencies in bounded memory.

/// Bits of precision: a value is kept to one part in 64.
const BITS: u32 = 6;
const PER_POWER: usize = 1 << BITS;
const BUCKETS: usize = (64 - BITS as usize + 1) * PER_POWER;

/// Counts of values (nanoseconds), kept to 1.6 %.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            count: 0,
            max: 0,
        }
    }
}

impl Histogram {
    /// Counts a value.
    pub(crate) fn record(&mut self, value: u64) {
        if let Some(count) = self.counts.get_mut(bucket(value)) {
            *count += 1;
        }
        self.count += 1;
        self.max = self.max.max(value);
    }

    /// The least value that this share of all values does not exceed, within the precision; 0
    /// where there are none.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        let rank = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper(bucket).min(self.max);
            }
        }
        self.max
    }

    /// The greatest value, exactly.
    pub(crate) fn max(&self) -> u64 {
        self.max
    }
}

fn bucket(value: u64) -> usize {
    let power = (u64::BITS - value.leading_zeros()).saturating_sub(BITS + 1);
    // The first two powers share one linear scale.
    let within = (value >> power) as usize;
    power as usize * PER_POWER + within
}

/// The greatest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let power = (bucket / PER_POWER).saturating_sub(1);
    let within = bucket - power * PER_POWER;
    (((within as u64) + 1) << power) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_sorted_values_within_the_precision() {
        let mut values: Vec<u64> = (0..10_000_u64).map(|n| n * n * 37 % 1_000_003).collect();
        let mut histogram = Histogram::default();
        values.iter().for_each(|value| histogram.record(*value));
        values.sort_unstable();
        for share in [0.01, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let exact = values[(values.len() as f64 * share).ceil() as usize - 1];
            let found = histogram.quantile(share);
            assert!(found >= exact, "{share}: {found} < {exact}");
            let most = exact + exact / PER_POWER as u64 + 1;
            assert!(found <= most, "{share}: {found} > {most}");
        }
        assert_eq!(histogram.quantile(1.0), histogram.max());
    }

    #[test]
    fn a_bucket_holds_what_falls_into_it() {
        for value in (0..64).flat_map(|shift| [1_u64 << shift, (1 << shift) - 1, u64::MAX >> shift])
        {
            let at = bucket(value);
            assert!(at < BUCKETS, "{value}");
            if value < u64::MAX >> 1 {
                assert!(upper(at) >= value, "{value}");
                assert!(at == 0 || upper(at - 1) < value, "{value}");
            }
        }
        assert_eq!(Histogram::default().quantile(0.5), 0);
    }
}
