//! Others' figures, which this run did not take.

/// Measured on 21 November 2026 with the ancestor of this bench, each beside its own floor. Kept
/// here so that every summary can be read alone.
pub(crate) const TABLE: &str = "
## Peers, published in docs/performance.md (not measured in this run)

| Server | CPU, 1x1000, x floor | CPU, 1000x10, x floor | CPU at 20/s, x floor | backlog, deliveries/s | B of an idle client | connect, µs |
|---|---|---|---|---|---|---|
| raw `send` loop | 1.00 | 1.00 | 1.00 | 280,000 | 121 | 13 |
| coalescing `send` loop | 0.99 | 1.02 | 1.00 | 5,141,000 | | |
| axum/hyper body, pre-encoded frames | 1.61 | 1.52 | 1.64 | 1,429,000 | 17,976 | 32–36 |
| nginx with nchan 1.3.6, 1 worker | 1.81 | 1.57 | 1.73 | 170,000 | 10,230 | 20–25 |
| axum `Sse` over a broadcast channel | 1.98 | 1.52 | 1.99 | 870,000 | 19,344 | 22–33 |
| node 20, `res.write` | 2.42 | 1.83 | 2.05 | 100,000 | 9,750 | 64–91 |
| pushpin 1.36 | 14.5 | 11.2 | 12 | | 45,300 | 970–1,380 |
";
