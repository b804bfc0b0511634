//! Runs: servers side by side in the same minute, round by round, and a folder that keeps it.

mod compare;
mod machine;
mod peers;
mod row;
mod scenario;
mod server;
mod summary;
mod target;

use std::{
    error::Error,
    fs,
    io::{self, Write},
    path::PathBuf,
    process::Command,
};

use clap::Args;
use row::Row;
use scenario::{Load, Scenario};
use serde::{Serialize, de::DeserializeOwned};
use server::{NotStarted, Places, Running, Server};
use summary::Notes;

use crate::load::{measured::Measured, ndjson::NdjsonPlan, plan::Plan};

const QUICK_ROUNDS: usize = 3;
const FULL_ROUNDS: usize = 7;
const WARMUP_MS: u64 = 400;
const NDJSON_MS: u64 = 2000;

/// What to run, and where to keep it.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The folder to write.
    #[arg(long)]
    out: PathBuf,
    /// The real binary.
    #[arg(long)]
    fanfare: PathBuf,
    /// Every scenario, and more rounds; else the quick ones.
    #[arg(long)]
    full: bool,
    /// Rounds of each scenario: 3, or 7 in a full run.
    #[arg(long)]
    rounds: Option<usize>,
    /// Scenarios whose names begin so; may be repeated.
    #[arg(long)]
    only: Vec<String>,
    /// Measure though others use the machine. The summary says so.
    #[arg(long)]
    loaded: bool,
    /// Cores of servers, as `taskset` takes them.
    #[arg(long, default_value = "0")]
    server_cores: String,
    /// Core of the generator, which never sleeps.
    #[arg(long, default_value = "1")]
    generator_core: String,
}

struct Run {
    options: Options,
    places: Places,
    rows: Vec<Row>,
    skipped: Vec<String>,
    file: fs::File,
    commands: fs::File,
}

/// Runs and writes the folder.
///
/// # Errors
/// Where the machine is not quiet, or a floor or the real binary cannot be measured.
pub(crate) fn run(options: Options) -> Result<(), Box<dyn Error>> {
    if !server::has("taskset") {
        return Err("taskset is missing: apt-get install util-linux".into());
    }
    let others = machine::others()?;
    if others > summary::QUIET && !options.loaded {
        return Err(format!(
            "others use {others:.2} cores of this machine: figures would be theirs. Wait, or say --loaded"
        )
        .into());
    }
    fs::create_dir_all(&options.out)?;
    let description = machine::describe();
    fs::write(
        options.out.join("machine.txt"),
        format!("{description}others before the run: {others:.2} cores\n"),
    )?;
    let mut run = Run {
        places: Places {
            fanfare: options.fanfare.canonicalize()?,
            bench: std::env::current_exe()?,
            server_cores: options.server_cores.clone(),
            generator_cores: options.generator_core.clone(),
        },
        rows: Vec::new(),
        skipped: Vec::new(),
        file: fs::File::create(options.out.join("rows.jsonl"))?,
        commands: fs::File::create(options.out.join("commands.txt"))?,
        options,
    };
    let arguments: Vec<String> = std::env::args().collect();
    writeln!(run.commands, "{}", arguments.join(" "))?;
    let scenarios: Vec<Scenario> = scenario::all()
        .into_iter()
        .filter(|scenario| run.options.wants(scenario))
        .collect();
    for scenario in &scenarios {
        run.scenario(scenario)?;
        // Also in the middle: what was measured is not lost with a run that is broken off.
        run.summarise(&scenarios)?;
    }
    println!("{}", run.options.out.join("summary.md").display());
    Ok(())
}

impl Options {
    fn wants(&self, scenario: &Scenario) -> bool {
        if self.only.is_empty() {
            return self.full || scenario.quick;
        }
        self.only.iter().any(|name| scenario.name.starts_with(name))
    }

    fn rounds(&self) -> usize {
        let default = if self.full { FULL_ROUNDS } else { QUICK_ROUNDS };
        self.rounds.unwrap_or(default)
    }
}

impl Run {
    fn scenario(&mut self, scenario: &Scenario) -> Result<(), Box<dyn Error>> {
        let mut servers = scenario.servers.clone();
        for round in 0..self.options.rounds() {
            let mut able = Vec::new();
            for server in servers {
                match self.measure(scenario, server) {
                    Ok(mut row) => {
                        row.round = round;
                        writeln!(self.file, "{}", serde_json::to_string(&row)?)?;
                        eprintln!("{}", line(&row));
                        self.rows.push(row);
                        able.push(server);
                    }
                    Err(NotStarted::Missing(why)) => {
                        eprintln!("{} {}: SKIPPED {why}", scenario.name, server.name());
                        self.skipped
                            .push(format!("{}, {}: {why}", scenario.name, server.name()));
                    }
                    Err(NotStarted::Failed(why)) => {
                        eprintln!("{} {}: FAILED {why}", scenario.name, server.name());
                        self.skipped.push(format!(
                            "{}, {}, round {round}: failed: {why}",
                            scenario.name,
                            server.name()
                        ));
                        able.push(server);
                    }
                }
            }
            servers = able;
        }
        Ok(())
    }

    fn measure(&mut self, scenario: &Scenario, server: Server) -> Result<Row, NotStarted> {
        let mut places = self.places.clone();
        if scenario.both_cores {
            places.server_cores = format!("{},{}", places.server_cores, places.generator_cores);
        }
        let running = server.start(&places)?;
        let mut row = Row {
            scenario: scenario.name.into(),
            server: server.name().into(),
            ..Row::default()
        };
        match &scenario.load {
            Load::FanOut { .. } => {
                let plan = plan(&scenario.load, &running);
                row.fan_out = plan
                    .map(|plan| self.generate::<_, Measured>("load", &plan))
                    .transpose()?;
            }
            Load::Ndjson => {
                let plan = NdjsonPlan {
                    publish_at: running.subscribe_at,
                    connections: 1,
                    bytes: 100,
                    pids: running.pids.clone(),
                    beside: running.beside.clone(),
                    measure_ms: NDJSON_MS,
                };
                row.ndjson = Some(self.generate("ndjson", &plan)?);
            }
        }
        Ok(row)
    }

    /// Runs a generator on its own core.
    fn generate<P: Serialize, M: DeserializeOwned>(
        &mut self,
        command: &str,
        plan: &P,
    ) -> Result<M, NotStarted> {
        let failed = |error: &dyn ToString| NotStarted::Failed(error.to_string());
        let plan = serde_json::to_string(plan).map_err(|error| failed(&error))?;
        let core = &self.places.generator_cores;
        let bench = self.places.bench.display();
        writeln!(
            self.commands,
            "taskset -c {core} {bench} {command} '{plan}'"
        )?;
        let mut generator = Command::new("taskset");
        generator
            .args(["-c", core])
            .arg(&self.places.bench)
            .args([command, &plan]);
        let output = generator.output()?;
        if !output.status.success() {
            return Err(failed(&String::from_utf8_lossy(&output.stderr).trim()));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| failed(&error))
    }

    fn summarise(&self, scenarios: &[Scenario]) -> io::Result<()> {
        let mut pairs = Vec::new();
        for scenario in scenarios {
            let Some(first) = scenario.servers.first() else {
                continue;
            };
            let own = scenario.servers.iter().filter(|server| server.is_ours());
            pairs.extend(own.map(|server| (scenario.name, server.name(), first.name())));
        }
        let regressions = match compare::last_before(&self.options.out) {
            Some(folder) => {
                let before = compare::read(&folder)?;
                let name = folder
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                Some((name, compare::regressions(&before, &self.rows, &pairs)))
            }
            None => None,
        };
        let mut skipped = self.skipped.clone();
        skipped.dedup();
        let kind = if self.options.full { "full" } else { "quick" };
        let name = self
            .options
            .out
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        let loaded = if self.options.loaded {
            ", on a machine that others use too"
        } else {
            ""
        };
        let notes = Notes {
            title: format!("{name}: a {kind} run{loaded}"),
            loaded: self.options.loaded,
            skipped,
            regressions,
        };
        fs::write(
            self.options.out.join("summary.md"),
            summary::write(&self.rows, scenarios, &notes),
        )
    }
}

fn plan(load: &Load, running: &Running) -> Option<Plan> {
    let Load::FanOut {
        flows,
        storm,
        measure_ms,
    } = load
    else {
        return None;
    };
    Some(Plan {
        subscribe_at: vec![running.subscribe_at],
        publish_at: running.publish_at,
        dialect: running.dialect,
        token: running.token.clone(),
        pids: running.pids.clone(),
        beside: running.beside.clone(),
        warmup_ms: WARMUP_MS,
        measure_ms: *measure_ms,
        flows: flows.clone(),
        storm: *storm,
    })
}

/// A row in one line, while it runs.
fn line(row: &Row) -> String {
    let found = match (&row.fan_out, &row.ndjson) {
        (Some(it), _) => format!(
            "{:>10.0} /s  {:>6.2} CPU s/M  p99 {:>8.0} us  {:>6.0} B  {:>5.1} us/connect  others {:.2}  {}",
            it.deliveries_per_s,
            it.cpu_s_per_million,
            it.flows.first().map_or(0.0, |flow| flow.p99_us),
            it.idle_bytes,
            it.connect_cpu_us,
            it.foreign_cores,
            it.faults().unwrap_or_default()
        ),
        (_, Some(it)) => format!(
            "{:>10.0} /s  {:>6.2} us/event",
            it.events_per_s, it.cpu_us_per_event
        ),
        _ => String::new(),
    };
    format!("{:<24} {:<18} {found}", row.scenario, row.server)
}
