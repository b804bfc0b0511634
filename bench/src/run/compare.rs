//! What changed since the last kept run.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::row::{Figure, Row, Sample, ratio, sample, values};

/// How much worse is a regression, where also no round of the one run was like one of the other.
const TOLERANCE: f64 = 1.10;

/// A figure that is compared: the ratio to the scenario's first server where there is one, since
/// absolute figures of different hours cannot be compared.
const COMPARED: &[(Figure, bool, &str)] = &[
    (Figure::Cpu, true, "CPU for a delivery, as a multiple"),
    (Figure::P99, true, "p99, as a multiple"),
    (Figure::IdleBytes, false, "bytes of an idle client"),
    (Figure::ConnectCpu, true, "CPU of a connect, as a multiple"),
];

/// The rows of a folder.
pub(crate) fn read(folder: &Path) -> io::Result<Vec<Row>> {
    let text = fs::read_to_string(folder.join("rows.jsonl"))?;
    text.lines()
        .map(|line| serde_json::from_str(line).map_err(io::Error::from))
        .collect()
}

/// The kept run before this one: folders are named by their dates.
pub(crate) fn last_before(out: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(out.parent()?).ok()?;
    let mut folders: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.as_path() < out && path.join("rows.jsonl").exists())
        .collect();
    folders.sort();
    folders.pop()
}

/// What became worse, as sentences. `first` names the server that others of its scenario are
/// compared with.
pub(crate) fn regressions(
    before: &[Row],
    now: &[Row],
    pairs: &[(&str, &str, &str)],
) -> Vec<String> {
    let mut found = Vec::new();
    for (scenario, server, first) in pairs {
        for (figure, relative, about) in COMPARED {
            // Without load there is nothing to compare but the connections.
            if matches!(figure, Figure::Cpu | Figure::P99)
                && values(now, scenario, server, *figure)
                    .iter()
                    .all(|(_, value)| *value == 0.0)
            {
                continue;
            }
            let of = |rows: &[Row]| -> Option<Sample> {
                if *relative {
                    ratio(rows, scenario, [server, first], *figure)
                } else {
                    sample(rows, scenario, server, *figure)
                }
            };
            let (Some(before), Some(now)) = (of(before), of(now)) else {
                continue;
            };
            if now.median > before.median * TOLERANCE && now.min > before.max {
                found.push(format!(
                    "{scenario}, {server}: {about} was {:.2} ({:.2}–{:.2}) and is {:.2} ({:.2}–{:.2})",
                    before.median, before.min, before.max, now.median, now.min, now.max
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::row::tests::rows;

    fn run(floor: &[f64], fanfare: &[f64]) -> Vec<Row> {
        let mut all = rows("floor", floor);
        all.extend(rows("fanfare", fanfare));
        all
    }

    #[test]
    fn a_slow_hour_is_no_regression_and_a_slow_server_is() {
        let pairs = [("s", "fanfare", "floor")];
        let before = run(&[2.0, 2.0, 2.0], &[2.2, 2.4, 2.2]);
        let slow_hour = run(&[5.0, 4.0, 5.0], &[5.5, 4.5, 5.6]);
        assert!(regressions(&before, &slow_hour, &pairs).is_empty());
        // One bad round of three.
        let noisy = run(&[2.0, 2.0, 2.0], &[2.2, 4.0, 2.6]);
        assert!(regressions(&before, &noisy, &pairs).is_empty());
        let slower = run(&[2.0, 2.0, 2.0], &[2.8, 2.9, 2.7]);
        let found = regressions(&before, &slower, &pairs);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].contains("1.10 (1.10–1.20) and is 1.40 (1.35–1.45)"),
            "{found:?}"
        );
    }

    #[test]
    fn the_last_run_is_the_newest_before() {
        let runs = tempfile::tempdir().unwrap();
        for name in [
            "2026-01-01-a",
            "2026-02-01-b",
            "2026-04-01-d",
            "2026-02-15-empty",
        ] {
            fs::create_dir(runs.path().join(name)).unwrap();
            if !name.ends_with("empty") {
                fs::write(runs.path().join(name).join("rows.jsonl"), "").unwrap();
            }
        }
        let last = last_before(&runs.path().join("2026-03-01-c")).unwrap();
        assert!(last.ends_with("2026-02-01-b"));
        assert_eq!(last_before(&runs.path().join("2025-01-01-z")), None);
    }
}
