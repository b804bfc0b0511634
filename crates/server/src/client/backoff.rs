//! How long to wait before the next try.

use std::time::Duration;

/// The longest wait.
const LONGEST: Duration = Duration::from_secs(30);
/// The first wait, until the server names another with `retry:`.
const FIRST: Duration = Duration::from_secs(1);

/// Waits that double, with jitter, so that clients that lost the same server do not come back
/// together.
#[derive(Debug)]
pub(crate) struct Backoff {
    base: Duration,
    failures: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: FIRST,
            failures: 0,
        }
    }
}

impl Backoff {
    /// What the server asked for: the first wait from now on.
    pub(crate) fn base(&mut self, base: Duration) {
        self.base = base.clamp(Duration::from_millis(100), LONGEST);
    }

    /// It worked: the next wait is the first again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// It did not work: how long to wait, between half the time and the whole.
    pub(crate) fn next(&mut self) -> Duration {
        let doubled = self.base.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        doubled.min(LONGEST).mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_are_spread() {
        let mut backoff = Backoff::default();
        backoff.base(Duration::from_secs(2));
        for wait in [2, 4, 8, 16, 30, 30, 30] {
            let next = backoff.next();
            assert!(next <= Duration::from_secs(wait), "{next:?}");
            assert!(next >= Duration::from_secs(wait) / 2, "{next:?}");
        }
        for _ in 0..100 {
            backoff.next();
        }
        assert!(backoff.next() <= LONGEST);
        backoff.reset();
        assert!(backoff.next() <= Duration::from_secs(2));
        let waits: std::collections::HashSet<_> = (0..20).map(|_| backoff.next()).collect();
        assert!(waits.len() > 10);
    }
}
