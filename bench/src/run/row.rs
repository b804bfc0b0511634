//! Raw rows, and what is read out of them.

use serde::{Deserialize, Serialize};

use crate::load::{measured::Measured, ndjson::NdjsonMeasured};

/// One server, measured once: a line of `rows.jsonl`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) scenario: String,
    pub(crate) server: String,
    /// Servers of one round were measured one after the other.
    pub(crate) round: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fan_out: Option<Measured>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ndjson: Option<NdjsonMeasured>,
}

/// A figure of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Figure {
    /// CPU seconds for a million deliveries.
    Cpu,
    /// Deliveries a second.
    Rate,
    /// Latency of the first flow, microseconds.
    P50,
    P99,
    /// User-space memory of an idle client.
    IdleBytes,
    /// CPU of a connect, microseconds.
    ConnectCpu,
    /// Events published a second.
    Published,
    /// Seconds until all who came back had caught up.
    CaughtUp,
}

/// A figure over all rounds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Sample {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Figure {
    /// Whether it depends on what else runs, and not on CPU time or memory alone.
    pub(crate) fn is_of_the_clock(self) -> bool {
        match self {
            Self::Cpu | Self::IdleBytes | Self::ConnectCpu => false,
            Self::Rate | Self::P50 | Self::P99 | Self::Published | Self::CaughtUp => true,
        }
    }

    pub(crate) fn of(self, row: &Row) -> Option<f64> {
        let fan_out = row.fan_out.as_ref();
        let first = fan_out.and_then(|measured| measured.flows.first());
        match self {
            Self::Cpu => fan_out.map(|measured| measured.cpu_s_per_million),
            Self::Rate => fan_out.map(|measured| measured.deliveries_per_s),
            Self::IdleBytes => fan_out.map(|measured| measured.idle_bytes),
            Self::ConnectCpu => fan_out.map(|measured| measured.connect_cpu_us),
            Self::P50 => first.map(|flow| flow.p50_us),
            Self::P99 => first.map(|flow| flow.p99_us),
            Self::Published => row.ndjson.as_ref().map(|measured| measured.events_per_s),
            Self::CaughtUp => fan_out.and_then(|measured| Some(measured.storm?.seconds)),
        }
    }
}

impl Sample {
    /// `None` where there are no values.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            (values[middle - 1] + values[middle]) / 2.0
        };
        Some(Self { median, min, max })
    }
}

/// A figure of a server in a scenario, round by round.
pub(crate) fn values(
    rows: &[Row],
    scenario: &str,
    server: &str,
    figure: Figure,
) -> Vec<(usize, f64)> {
    rows.iter()
        .filter(|row| row.scenario == scenario && row.server == server)
        .filter_map(|row| Some((row.round, figure.of(row)?)))
        .collect()
}

/// The same over all rounds.
pub(crate) fn sample(rows: &[Row], scenario: &str, server: &str, figure: Figure) -> Option<Sample> {
    let values = values(rows, scenario, server, figure);
    Sample::of(values.into_iter().map(|(_, value)| value).collect())
}

/// Two servers compared within each round, and only then over all rounds: what the machine did in
/// that minute falls on both.
pub(crate) fn compared(
    rows: &[Row],
    scenario: &str,
    [server, base]: [&str; 2],
    figure: Figure,
    how: impl Fn(f64, f64) -> f64,
) -> Option<Sample> {
    let bases = values(rows, scenario, base, figure);
    let pairs = values(rows, scenario, server, figure)
        .into_iter()
        .filter_map(|(round, value)| {
            let base = bases.iter().find(|(other, _)| *other == round)?.1;
            (base > 0.0).then(|| how(value, base))
        });
    Sample::of(pairs.collect())
}

/// [`compared`] as a ratio.
pub(crate) fn ratio(
    rows: &[Row],
    scenario: &str,
    pair: [&str; 2],
    figure: Figure,
) -> Option<Sample> {
    compared(rows, scenario, pair, figure, |value, base| value / base)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Rows of a scenario `s` with these CPU figures, one a round.
    pub(in crate::run) fn rows(server: &str, cpu: &[f64]) -> Vec<Row> {
        let row = |(round, cpu): (usize, &f64)| Row {
            scenario: "s".into(),
            server: server.into(),
            round,
            fan_out: Some(Measured {
                cpu_s_per_million: *cpu,
                ..Measured::default()
            }),
            ndjson: None,
        };
        cpu.iter().enumerate().map(row).collect()
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine was three times slower in the second round.
        let mut all = rows("floor", &[2.0, 6.0, 2.0]);
        all.extend(rows("fanfare", &[3.0, 9.0, 4.0]));
        let found = ratio(&all, "s", ["fanfare", "floor"], Figure::Cpu).unwrap();
        assert_eq!((found.median, found.min, found.max), (1.5, 1.5, 2.0));
        // A round that one of them missed does not count.
        all.extend(rows("nchan", &[4.0]));
        let found = ratio(&all, "s", ["nchan", "floor"], Figure::Cpu).unwrap();
        assert_eq!((found.median, found.max), (2.0, 2.0));
        assert!(ratio(&all, "s", ["nobody", "floor"], Figure::Cpu).is_none());
    }

    #[test]
    fn the_median_of_two_is_between_them() {
        assert_eq!(Sample::of(vec![3.0, 1.0]).unwrap().median, 2.0);
        assert_eq!(Sample::of(vec![9.0, 1.0, 2.0]).unwrap().median, 2.0);
    }
}
