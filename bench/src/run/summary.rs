//! Rows as tables for people.

use std::fmt::Write as _;

use super::{
    peers,
    row::{Figure, Row, Sample, ratio, sample},
    scenario::{Load, Scenario},
    target::{Against, Bound, TARGETS},
};

/// More than this of a core used by others: a row is said to be disturbed.
pub(crate) const QUIET: f64 = 0.25;

/// What a run found, beside its rows.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) title: String,
    /// Others used the machine: what goes by the clock is not judged.
    pub(crate) loaded: bool,
    /// What was not measured, and why.
    pub(crate) skipped: Vec<String>,
    /// What became worse since the last kept run; `None` where there is none.
    pub(crate) regressions: Option<(String, Vec<String>)>,
}

/// `summary.md`.
pub(crate) fn write(rows: &[Row], scenarios: &[Scenario], notes: &Notes) -> String {
    let mut text = format!("# {}\n\n", notes.title);
    text.push_str(
        "Medians over the rounds, least and greatest in parentheses. `x` columns: the ratio to the first \
         server of the table, taken within each round. CPU is of the server, user and system.\n\n",
    );
    load(&mut text, rows);
    targets(&mut text, rows, notes.loaded);
    for scenario in scenarios {
        match scenario.load {
            Load::FanOut { .. } => fan_out(&mut text, rows, scenario),
            Load::Ndjson => ndjson(&mut text, rows, scenario),
        }
    }
    text.push_str(peers::TABLE);
    list(&mut text, "Not measured", &notes.skipped);
    let faults: Vec<String> = rows.iter().filter_map(faults).collect();
    list(&mut text, "Lost, repeated, reordered, or failed", &faults);
    match &notes.regressions {
        None => text.push_str("\n## Since the last kept run\n\nThere is none.\n"),
        Some((last, found)) => list(&mut text, &format!("Worse than in {last}"), found),
    }
    text
}

fn list(text: &mut String, title: &str, lines: &[String]) {
    let _ = writeln!(text, "\n## {title}\n");
    if lines.is_empty() {
        text.push_str("Nothing.\n");
    }
    for line in lines {
        let _ = writeln!(text, "- {line}");
    }
}

fn load(text: &mut String, rows: &[Row]) {
    let others: Vec<f64> = rows
        .iter()
        .filter_map(|row| row.fan_out.as_ref())
        .filter(|measured| measured.seconds > 0.0)
        .map(|measured| measured.foreign_cores)
        .collect();
    let disturbed = others.iter().filter(|cores| **cores > QUIET).count();
    if let Some(all) = Sample::of(others.clone()) {
        let _ = writeln!(
            text,
            "Others on the machine used {:.2} cores (up to {:.2}) beside the processes of this run; {disturbed} of {} rows \
             with more than {QUIET}.\n",
            all.median,
            all.max,
            others.len()
        );
    }
}

fn targets(text: &mut String, rows: &[Row], loaded: bool) {
    text.push_str("## Targets\n\n");
    if loaded {
        text.push_str(
            "`loaded`: goes by the clock, and is not judged on a machine that others use.\n\n",
        );
    }
    text.push_str("| Figure | Target | Today | Kept |\n|---|---|---|---|\n");
    for target in TARGETS {
        let bound = match target.bound {
            Bound::AtMost(most) => format!("≤ {}", number(most)),
            Bound::AtLeast(least) => format!("≥ {}", number(least)),
        };
        let (found, kept) = match target.found(rows) {
            Some(found) => {
                let kept = match target.bound.holds(found.median) {
                    _ if loaded && target.figure.is_of_the_clock() => "loaded",
                    true => "yes",
                    false => "no",
                };
                (spread(found), kept)
            }
            None => ("not measured".into(), ""),
        };
        let _ = writeln!(
            text,
            "| {} | {bound} {} | {found} | {kept} |",
            target.about,
            unit(target.unit, target.against)
        );
    }
}

fn unit(unit: &str, against: Against) -> String {
    match against {
        Against::Above(_) => format!("{unit} more"),
        _ => unit.to_owned(),
    }
}

fn heading(text: &mut String, scenario: &Scenario) {
    let _ = writeln!(text, "\n## {}\n\n{}.\n", scenario.name, scenario.about);
}

fn fan_out(text: &mut String, rows: &[Row], scenario: &Scenario) {
    let Some(first) = scenario.servers.first() else {
        return;
    };
    if !rows.iter().any(|row| row.scenario == scenario.name) {
        return;
    }
    heading(text, scenario);
    let idle = scenario.name == "idle";
    text.push_str(if idle {
        "| Server | rounds | B of a client | CPU of a connect, µs | x | connects/s |\n|---|---|---|---|---|---|\n"
    } else {
        "| Server | rounds | deliveries/s | CPU s/M | x | user part | beside s/M | p50 µs | p99 µs | events/read | B/delivery | busy |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n"
    });
    for server in &scenario.servers {
        let of: Vec<&Row> = rows
            .iter()
            .filter(|row| row.scenario == scenario.name && row.server == server.name())
            .collect();
        if of.is_empty() {
            continue;
        }
        let show = |figure| {
            sample(rows, scenario.name, server.name(), figure).map_or_else(String::new, spread)
        };
        let times = |figure| {
            let pair = [server.name(), first.name()];
            ratio(rows, scenario.name, pair, figure).map_or_else(String::new, spread)
        };
        let plain = |of_row: fn(&crate::load::measured::Measured) -> f64| {
            let values = of.iter().filter_map(|row| row.fan_out.as_ref().map(of_row));
            Sample::of(values.collect()).map_or_else(String::new, |it| number(it.median))
        };
        let (name, rounds) = (server.name(), of.len());
        let _ = if idle {
            writeln!(
                text,
                "| {name} | {rounds} | {} | {} | {} | {} |",
                show(Figure::IdleBytes),
                show(Figure::ConnectCpu),
                times(Figure::ConnectCpu),
                plain(|it| it.connects_per_s)
            )
        } else {
            writeln!(
                text,
                "| {name} | {rounds} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                show(Figure::Rate),
                show(Figure::Cpu),
                times(Figure::Cpu),
                plain(|it| it.user_s_per_million),
                plain(|it| it.beside_s_per_million),
                show(Figure::P50),
                show(Figure::P99),
                plain(|it| it.events_per_read),
                plain(|it| it.bytes_per_delivery),
                plain(|it| it.server_busy)
            )
        };
    }
    for server in &scenario.servers {
        let name = server.name();
        if let Some(caught_up) = sample(rows, scenario.name, name, Figure::CaughtUp) {
            let storms = rows
                .iter()
                .filter(|row| row.scenario == scenario.name && row.server == name);
            let storms: Vec<_> = storms
                .filter_map(|row| row.fan_out.as_ref()?.storm)
                .collect();
            let of = |value: fn(&crate::load::measured::StormMeasured) -> f64| {
                Sample::of(storms.iter().map(value).collect()).map_or(0.0, |it| it.median)
            };
            let _ = writeln!(
                text,
                "\n{name}: all had caught up after {} s; {} events replayed a second; {} µs of CPU a client.",
                spread(caught_up),
                number(of(|it| it.replayed_per_s)),
                number(of(|it| it.cpu_us_per_client))
            );
        }
    }
}

fn ndjson(text: &mut String, rows: &[Row], scenario: &Scenario) {
    heading(text, scenario);
    text.push_str(
        "| Server | rounds | events/s | CPU µs/event | beside µs/event |\n|---|---|---|---|---|\n",
    );
    for server in &scenario.servers {
        let name = server.name();
        let of: Vec<_> = rows
            .iter()
            .filter(|row| row.scenario == scenario.name && row.server == name)
            .filter_map(|row| row.ndjson.as_ref())
            .collect();
        let Some(rate) = sample(rows, scenario.name, name, Figure::Published) else {
            continue;
        };
        let median = |values: Vec<f64>| Sample::of(values).map_or_else(String::new, spread);
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} |",
            of.len(),
            spread(rate),
            median(of.iter().map(|it| it.cpu_us_per_event).collect()),
            median(of.iter().map(|it| it.beside_us_per_event).collect())
        );
    }
}

fn faults(row: &Row) -> Option<String> {
    let words = match (&row.fan_out, &row.ndjson) {
        (Some(measured), _) => measured.faults(),
        (_, Some(measured)) if measured.errors > 0 => Some(format!("{} refused", measured.errors)),
        _ => None,
    };
    Some(format!(
        "{}, {}, round {}: {}",
        row.scenario, row.server, row.round, words?
    ))
}

/// `median (min–max)`.
pub(crate) fn spread(sample: Sample) -> String {
    let Sample { median, min, max } = sample;
    if min == max {
        return number(median);
    }
    format!("{} ({}–{})", number(median), number(min), number(max))
}

/// Three digits that matter, thousands apart.
fn number(value: f64) -> String {
    if value.abs() >= 1000.0 {
        let digits = format!("{:.0}", value.abs());
        let mut text = String::from(if value < 0.0 { "-" } else { "" });
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        return text;
    }
    match value.abs() {
        value_of if value_of >= 100.0 || value == value.trunc() => format!("{value:.0}"),
        value_of if value_of >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::run::row::tests::rows;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (1.149, "1.15"),
            (12.34, "12.3"),
            (400.0, "400"),
            (1234.5, "1,234"),
            (-2_500_000.0, "-2,500,000"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    /// `bench/run --publish` puts it there; a page that says otherwise than its run is not true.
    #[test]
    fn the_published_targets_are_those_of_a_kept_run() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let page = fs::read_to_string(root.join("docs/performance.md")).unwrap();
        let (_, part) = page.split_once("<!-- targets -->\n").unwrap();
        let (part, _) = part.split_once("<!-- end of targets -->").unwrap();
        let link = part
            .split("(../")
            .nth(1)
            .unwrap()
            .split(')')
            .next()
            .unwrap();
        let kept = fs::read_to_string(root.join(link)).unwrap();
        let lines: Vec<_> = part.lines().filter(|line| line.starts_with('|')).collect();
        assert!(lines.len() > 10, "{part}");
        for line in lines {
            assert!(kept.lines().any(|held| held == line), "{line}");
        }
    }

    #[test]
    fn what_was_lost_and_skipped_is_told() {
        let mut all = rows("fanfare", &[1.0]);
        all[0].fan_out.as_mut().unwrap().lost = 3;
        let notes = Notes {
            skipped: vec!["nchan: not installed".into()],
            ..Notes::default()
        };
        let text = write(&all, &[], &notes);
        assert!(text.contains("- s, fanfare, round 0: 3 lost"), "{text}");
        assert!(text.contains("- nchan: not installed"), "{text}");
        assert!(
            text.contains("| CPU, 1x1000, 100 B | ≤ 1.15 x floor | not measured |  |"),
            "{text}"
        );
    }
}
