//! What the figures should be.

use super::row::{Figure, Row, Sample, compared, ratio, sample};

/// A bound on a figure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// What it is about.
    pub(crate) about: &'static str,
    pub(crate) scenario: &'static str,
    pub(crate) server: &'static str,
    pub(crate) figure: Figure,
    pub(crate) against: Against,
    pub(crate) bound: Bound,
    pub(crate) unit: &'static str,
}

/// What a figure is set against.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Against {
    /// As it is.
    Nothing,
    /// As a multiple of another server's in the same round.
    Times(&'static str),
    /// What it is more than another server's in the same round.
    Above(&'static str),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

const FLOOR: Against = Against::Times("floor");
const MEMORY: Against = Against::Times("fanfare");

/// All of them.
pub(crate) const TARGETS: &[Target] = &[
    fanfare(
        "user memory of an idle client",
        "idle",
        Figure::IdleBytes,
        Against::Nothing,
        Bound::AtMost(400.0),
        "B",
    ),
    fanfare(
        "CPU, 1x1000, 100 B",
        "1x1000-100B",
        Figure::Cpu,
        FLOOR,
        Bound::AtMost(1.15),
        "x floor",
    ),
    fanfare(
        "CPU, 1x1000, 1 KiB",
        "1x1000-1KiB",
        Figure::Cpu,
        FLOOR,
        Bound::AtMost(1.15),
        "x floor",
    ),
    fanfare(
        "CPU, 1x10000, 100 B",
        "1x10000-100B",
        Figure::Cpu,
        FLOOR,
        Bound::AtMost(1.15),
        "x floor",
    ),
    fanfare(
        "CPU, 1x10000, 1 KiB",
        "1x10000-1KiB",
        Figure::Cpu,
        FLOOR,
        Bound::AtMost(1.15),
        "x floor",
    ),
    fanfare(
        "CPU, 1000x10, 100 B",
        "1000x10-100B",
        Figure::Cpu,
        FLOOR,
        Bound::AtMost(1.15),
        "x floor",
    ),
    fanfare(
        "CPU, 1000x10, 1 KiB",
        "1000x10-1KiB",
        Figure::Cpu,
        FLOOR,
        Bound::AtMost(1.15),
        "x floor",
    ),
    fanfare(
        "backlog, deliveries/s",
        "1x1000-100B-backlog",
        Figure::Rate,
        Against::Nothing,
        Bound::AtLeast(2_500_000.0),
        "/s",
    ),
    fanfare(
        "backlog, beside the coalescing floor",
        "1x1000-100B-backlog",
        Figure::Rate,
        Against::Times("floor-coalesced"),
        Bound::AtLeast(0.5),
        "x",
    ),
    fanfare(
        "latency at 20/s, p50",
        "1x1000-100B-20/s",
        Figure::P50,
        FLOOR,
        Bound::AtMost(1.15),
        "x floor",
    ),
    fanfare(
        "latency at 20/s, p99",
        "1x1000-100B-20/s",
        Figure::P99,
        FLOOR,
        Bound::AtMost(1.15),
        "x floor",
    ),
    fanfare(
        "CPU of a connect, no auth",
        "idle",
        Figure::ConnectCpu,
        Against::Nothing,
        Bound::AtMost(20.0),
        "µs",
    ),
    Target {
        server: "fanfare-hs256",
        ..fanfare(
            "CPU of a connect, HS256",
            "idle",
            Figure::ConnectCpu,
            Against::Nothing,
            Bound::AtMost(40.0),
            "µs",
        )
    },
    fanfare(
        "NDJSON into memory",
        "publish-ndjson",
        Figure::Published,
        Against::Nothing,
        Bound::AtLeast(300_000.0),
        "/s",
    ),
    Target {
        server: "fanfare-redis",
        ..fanfare(
            "NDJSON, durable on Redis",
            "publish-ndjson",
            Figure::Published,
            Against::Nothing,
            Bound::AtLeast(100_000.0),
            "/s",
        )
    },
    Target {
        server: "fanfare-redis",
        ..fanfare(
            "CPU of the edge through Redis",
            "buses",
            Figure::Cpu,
            MEMORY,
            Bound::AtMost(1.2),
            "x memory",
        )
    },
    Target {
        server: "fanfare-jetstream",
        ..fanfare(
            "CPU of the edge through JetStream",
            "buses",
            Figure::Cpu,
            MEMORY,
            Bound::AtMost(1.2),
            "x memory",
        )
    },
    Target {
        server: "fanfare-redis",
        ..fanfare(
            "p99 through Redis above memory",
            "buses-20/s",
            Figure::P99,
            Against::Above("fanfare"),
            Bound::AtMost(2000.0),
            "µs",
        )
    },
    Target {
        server: "fanfare-jetstream",
        ..fanfare(
            "p99 through JetStream above memory",
            "buses-20/s",
            Figure::P99,
            Against::Above("fanfare"),
            Bound::AtMost(2000.0),
            "µs",
        )
    },
    Target {
        server: "3-classes",
        ..fanfare(
            "rate with 3 classes of filters",
            "filters",
            Figure::Rate,
            Against::Times("unfiltered"),
            Bound::AtLeast(0.9),
            "x unfiltered",
        )
    },
];

const fn fanfare(
    about: &'static str,
    scenario: &'static str,
    figure: Figure,
    against: Against,
    bound: Bound,
    unit: &'static str,
) -> Target {
    Target {
        about,
        scenario,
        server: "fanfare",
        figure,
        against,
        bound,
        unit,
    }
}

impl Target {
    /// What was found, over all rounds; `None` where it was not measured.
    pub(crate) fn found(&self, rows: &[Row]) -> Option<Sample> {
        let Self {
            scenario,
            server,
            figure,
            ..
        } = *self;
        match self.against {
            Against::Nothing => sample(rows, scenario, server, figure),
            Against::Times(base) => ratio(rows, scenario, [server, base], figure),
            Against::Above(base) => {
                compared(rows, scenario, [server, base], figure, |value, base| {
                    value - base
                })
            }
        }
    }
}

impl Bound {
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::scenario;

    #[test]
    fn targets_are_about_what_is_measured() {
        let scenarios = scenario::all();
        for target in TARGETS {
            let found = scenarios.iter().find(|it| it.name == target.scenario);
            let servers: Vec<_> = found.unwrap().servers.iter().map(|it| it.name()).collect();
            assert!(servers.contains(&target.server), "{}", target.about);
            if let Against::Times(base) | Against::Above(base) = target.against {
                assert!(servers.contains(&base), "{}", target.about);
            }
        }
    }
}
