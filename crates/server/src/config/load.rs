//! Reads the file and the environment into one [`Config`].

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use config::{ConfigError, Environment, File, FileFormat, Map, Value};

use super::{
    Config,
    check::check,
    problem::{Given, Problem, Problems},
    secret_file, tls,
};

/// Variables with the prefix that are no settings: options of commands.
const COMMAND_VARIABLES: [&str; 3] = ["FANFARE_CONFIG", "FANFARE_URL", "FANFARE_TOKEN"];

/// A configuration, and what there is to say about where it came from.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    /// Sentences for the log.
    pub(crate) warnings: Vec<String>,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
}

/// Reads the file, lays the environment over it, and checks the whole.
///
/// `variables` are those of the process, in any order.
///
/// # Errors
/// [`Problems`] names every key that cannot be used, its value and what is allowed.
pub(crate) fn load(
    file: Option<&Path>,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, Problems> {
    let ours = variables.into_iter().filter(|(name, _)| {
        let name = name.to_uppercase();
        name.starts_with("FANFARE_") && !COMMAND_VARIABLES.contains(&&*name)
    });
    // Kubernetes gives every pod variables such as FANFARE_PORT=tcp://… for a Service called
    // `fanfare`. Ours always name a section and a key.
    let (settings, strangers): (Vec<_>, Vec<_>) = ours.partition(|(name, _)| {
        name.get("FANFARE_".len()..)
            .is_some_and(|rest| rest.contains("__"))
    });
    let warnings = strangers
        .into_iter()
        .map(|(name, _)| {
            format!("the environment variable {name} is ignored: settings are FANFARE_SECTION__KEY")
        })
        .collect();

    let given = read(file, settings)?;
    let mut config = deserialise(&given).map_err(|problem| Problems(vec![problem]))?;
    if !given.has("server.node") {
        config.server.node = host_name();
    }
    let mut problems = secret_file::read_all(&mut config, &given);
    problems.extend(tls::read(&mut config.server.tls, &given));
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    let problems = check(&config, &given);
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    Ok(Loaded {
        config,
        warnings,
        file: file.map(Path::to_path_buf),
    })
}

fn read(file: Option<&Path>, settings: Vec<(String, String)>) -> Result<Given, Problems> {
    let whole = |message: String| {
        Problems(vec![Problem {
            message,
            ..Problem::default()
        }])
    };
    let mut builder = config::Config::builder();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path)
            .map_err(|error| whole(format!("cannot read {}: {error}", path.display())))?;
        // The syntax is checked apart: the parser's own message shows the line.
        if let Err(error) = toml::from_str::<toml::Table>(&text) {
            return Err(whole(syntax(path, &text, &error)));
        }
        builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
    }
    let variables: BTreeSet<String> = settings.iter().map(|(name, _)| name.clone()).collect();
    let environment = Environment::with_prefix("FANFARE")
        .prefix_separator("_")
        .separator("__")
        // A password such as 0123456 is text.
        .try_parsing(false)
        .source(Some(settings.into_iter().collect::<Map<_, _>>()));
    let values = builder
        .add_source(environment)
        .build()
        .and_then(config::Config::try_deserialize::<Value>)
        .map_err(|error| whole(error.to_string()))?;
    Ok(Given {
        values,
        file: file.map(|path| path.display().to_string()),
        variables,
        known: Config::known(),
    })
}

/// The place of a syntax error. The line itself is not shown: it may hold a secret.
fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> String {
    let before = error
        .span()
        .and_then(|span| text.get(..span.start))
        .unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    format!(
        "{} line {line} is not TOML: {}",
        path.display(),
        error.message()
    )
}

fn deserialise(given: &Given) -> Result<Config, Problem> {
    let values = given.values.clone();
    serde_path_to_error::deserialize::<_, Config>(values).map_err(|error| {
        let path = error.path().clone();
        let error: ConfigError = error.into_inner();
        given.explain(&path, &error)
    })
}

/// This machine's name: in a pod, the pod's.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => Config::default().server.node,
        name => name.to_owned(),
    }
}
