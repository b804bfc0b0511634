//! The arrows of `ARCHITECTURE.md`, held against the manifests: who may import whom, and who may
//! know which library. Dev-dependencies are exempt: a test may stand anywhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

/// The rooms and what each may import of the workspace. A new crate under `crates/` needs a line.
const ARROWS: &[(&str, &[&str])] = &[
    ("fanfare-core", &[]),
    ("fanfare-sse", &[]),
    ("fanfare-memory", &["fanfare-core"]),
    ("fanfare-redis", &["fanfare-core"]),
    ("fanfare-nats", &["fanfare-core"]),
    ("fanfare-conformance", &["fanfare-core"]),
    ("fanfare-delivery", &["fanfare-core", "fanfare-sse"]),
    ("fanfare-edge", &["fanfare-core", "fanfare-delivery"]),
    (
        "fanfare",
        &[
            "fanfare-core",
            "fanfare-delivery",
            "fanfare-edge",
            "fanfare-memory",
            "fanfare-nats",
            "fanfare-redis",
            "fanfare-sse",
        ],
    ),
];

/// Libraries that stay in their rooms.
const KEPT: &[(&str, &[&str])] = &[
    ("axum", &["fanfare-edge", "fanfare"]),
    ("tower", &["fanfare-edge", "fanfare"]),
    ("tower-http", &["fanfare-edge", "fanfare"]),
    ("jsonwebtoken", &["fanfare-edge", "fanfare"]),
    ("hyper", &["fanfare-edge", "fanfare"]),
    ("hyper-util", &["fanfare-edge", "fanfare"]),
    ("redis", &["fanfare-redis"]),
    ("async-nats", &["fanfare-nats"]),
    ("clap", &["fanfare"]),
    ("config", &["fanfare"]),
    ("tracing-subscriber", &["fanfare"]),
];

/// Rooms that open no socket and start no task: neither do their imports.
const NO_RUNTIME: &[&str] = &["fanfare-sse"];

/// Files over [`MOST_LINES`], each with the reason why it is one noun all the same.
const LONG: &[(&str, &str)] = &[
    (
        "crates/edge/src/problem.rs",
        "every refusal and its one HTTP answer: splitting the enum from its table would let them drift",
    ),
    (
        "crates/server/src/config/values.rs",
        "the types of config values, a few lines each, with their tests",
    ),
];
const MOST_LINES: usize = 500;
/// Tests in a file of their own read from top to bottom; they may be longer.
const MOST_TEST_LINES: usize = 1000;

#[test]
fn every_manifest_keeps_the_arrows() {
    let workspace = Workspace::read();
    let mut broken = Vec::new();
    for path in rooms() {
        broken.extend(workspace.broken(&read(&path.join("Cargo.toml"))));
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn every_room_has_its_line() {
    let found: BTreeSet<String> = rooms()
        .iter()
        .map(|path| name(&read(&path.join("Cargo.toml"))))
        .collect();
    let listed: BTreeSet<String> = ARROWS.iter().map(|(room, _)| (*room).to_owned()).collect();
    assert_eq!(found, listed);
}

#[test]
fn broken_arrows_are_seen() {
    let workspace = Workspace::read();
    let cases = [
        // A room that may not be imported, in each place where an import can stand.
        (
            "fanfare-redis",
            "[dependencies]\nfanfare-delivery.workspace = true",
            1,
        ),
        (
            "fanfare-core",
            "[build-dependencies]\nfanfare-sse = { workspace = true }",
            1,
        ),
        (
            "fanfare-nats",
            "[target.'cfg(unix)'.dependencies]\nfanfare-memory = { path = \"../memory\" }",
            1,
        ),
        // Under another name.
        (
            "fanfare-edge",
            "[dependencies]\nbus = { package = \"fanfare-redis\", path = \"../redis\" }",
            1,
        ),
        // Optional is imported too.
        (
            "fanfare-sse",
            "[dependencies]\nfanfare-core = { workspace = true, optional = true }",
            1,
        ),
        // A library outside of its rooms.
        ("fanfare-delivery", "[dependencies]\naxum = \"0.8\"", 1),
        (
            "fanfare-sse",
            "[dependencies]\ntokio = { workspace = true }",
            1,
        ),
        // A room that nobody has thought of.
        (
            "fanfare-kafka",
            "[dependencies]\nfanfare-core = { workspace = true }",
            1,
        ),
        // The suite and the testkit are for tests alone.
        (
            "fanfare-memory",
            "[dependencies]\nfanfare-conformance.workspace = true\nfanfare-testkit.workspace = true",
            2,
        ),
        // What is allowed.
        (
            "fanfare-edge",
            "[dependencies]\nfanfare-core.workspace = true\naxum.workspace = true",
            0,
        ),
        (
            "fanfare-redis",
            "[dev-dependencies]\nfanfare-conformance.workspace = true\nfanfare-memory.workspace = true",
            0,
        ),
    ];
    for (room, dependencies, count) in cases {
        let manifest = format!("[package]\nname = \"{room}\"\n{dependencies}\n");
        let broken = workspace.broken(&manifest.parse().expect("a manifest"));
        assert_eq!(broken.len(), count, "{manifest}{broken:?}");
    }
}

#[test]
fn no_file_outgrows_its_noun() {
    let mut long = BTreeMap::new();
    for room in rooms() {
        for file in sources(&room.join("src")) {
            let lines = fs::read_to_string(&file)
                .expect("a source file")
                .lines()
                .count();
            let tests =
                file.ends_with("tests.rs") || file.parent().is_some_and(|it| it.ends_with("tests"));
            if lines > if tests { MOST_TEST_LINES } else { MOST_LINES } {
                let path = file.strip_prefix(root()).expect("inside the workspace");
                long.insert(path.display().to_string(), lines);
            }
        }
    }
    for (path, reason) in LONG {
        assert!(
            !reason.is_empty(),
            "{path} is listed as long without a reason"
        );
        assert!(
            root().join(path).exists(),
            "{path} is listed as long, and is gone"
        );
        long.remove(*path);
    }
    assert!(
        long.is_empty(),
        "over {MOST_LINES} lines: split it, or list it with a reason: {long:?}"
    );
}

/// The root manifest's own names for dependencies.
struct Workspace {
    dependencies: Table,
}

impl Workspace {
    fn read() -> Self {
        let manifest = read(&root().join("Cargo.toml"));
        let dependencies = manifest["workspace"]["dependencies"].as_table();
        Self {
            dependencies: dependencies.expect("[workspace.dependencies]").clone(),
        }
    }

    /// The arrows that a manifest breaks, each as a sentence.
    fn broken(&self, manifest: &Table) -> Vec<String> {
        let room = name(manifest);
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == room) else {
            return vec![format!("{room} has no line in ARROWS")];
        };
        let mut broken = Vec::new();
        for import in self.imports(manifest) {
            let ours = import == "fanfare" || import.starts_with("fanfare-");
            if ours && !allowed.contains(&import.as_str()) {
                broken.push(format!("{room} may not import {import}"));
            }
            let kept = KEPT.iter().find(|(library, _)| *library == import);
            if let Some((_, rooms)) = kept
                && !rooms.contains(&room.as_str())
            {
                broken.push(format!("{room} may not know {import}: only {rooms:?} do"));
            }
            if NO_RUNTIME.contains(&room.as_str()) && import == "tokio" {
                broken.push(format!("{room} may not know tokio: it is bytes only"));
            }
        }
        broken
    }

    /// Packages that a manifest imports outside of tests, by their real names.
    fn imports(&self, manifest: &Table) -> Vec<String> {
        let targets = manifest.get("target").and_then(Value::as_table);
        let places = std::iter::once(manifest).chain(
            targets
                .into_iter()
                .flatten()
                .filter_map(|(_, target)| target.as_table()),
        );
        places
            .flat_map(|place| [place.get("dependencies"), place.get("build-dependencies")])
            .filter_map(|dependencies| dependencies?.as_table())
            .flatten()
            .map(|(key, dependency)| {
                package(dependency)
                    .or_else(|| package(self.dependencies.get(key)?))
                    .unwrap_or(key)
                    .to_owned()
            })
            .collect()
    }
}

fn package(dependency: &Value) -> Option<&str> {
    dependency.get("package")?.as_str()
}

fn name(manifest: &Table) -> String {
    manifest["package"]["name"]
        .as_str()
        .expect("a name")
        .to_owned()
}

fn read(manifest: &Path) -> Table {
    let text = fs::read_to_string(manifest).expect("a manifest");
    text.parse().expect("TOML")
}

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the workspace").to_owned()
}

fn rooms() -> Vec<PathBuf> {
    let mut rooms: Vec<_> = fs::read_dir(root().join("crates"))
        .expect("crates/")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("Cargo.toml").exists())
        .collect();
    rooms.sort();
    rooms
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("src/") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
