//! What is wrong with a configuration, in a sentence that helps: which key, its value, where it
//! came from, what is allowed, and which key was probably meant.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use config::{ConfigError, Value, ValueKind};
use serde_path_to_error::{Path, Segment};

use super::secret::HIDDEN;

/// Everything that was found wrong.
#[derive(Debug)]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Problem {
    /// The full dotted path, as `broker.redis.ingest[0].source`; empty: no key of the file.
    pub(crate) key: String,
    /// What was given, where it may be shown.
    pub(crate) value: Option<String>,
    /// The file or environment variable it came from.
    pub(crate) origin: Option<String>,
    /// What is allowed.
    pub(crate) message: String,
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration cannot be used")?;
        self.0
            .iter()
            .try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        if let Some(origin) = &self.origin {
            write!(f, " ({origin})")?;
        }
        let colon = if self.key.is_empty() { "" } else { ": " };
        write!(f, "{colon}{}", self.message)
    }
}

/// The values as they were read, and where from: what a problem is explained with.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) values: Value,
    /// Where the file's values come from, in words.
    pub(crate) file: Option<String>,
    /// Names of the environment variables that were taken.
    pub(crate) variables: BTreeSet<String>,
    /// Every key outside of lists, dotted, with its default as it is printed.
    pub(crate) known: BTreeMap<String, serde_json::Value>,
}

impl Given {
    /// A problem with the value of `key`.
    pub(crate) fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        Problem {
            key: key.into(),
            value: self.shown(key),
            origin: self.origin(key),
            message: message.into(),
        }
    }

    /// Whether a value was given for `key`, or for one below it.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.look_up(key).is_some()
    }

    /// A problem that deserialising found.
    pub(crate) fn explain(&self, path: &Path, error: &ConfigError) -> Problem {
        let path = dotted(path);
        let message = match innermost(error) {
            ConfigError::Type { expected, .. } => format!("expected {}", plain(expected)),
            other => other.to_string(),
        };
        if let Some(field) = quoted(&message, "unknown field ") {
            let parent = match path.rsplit_once('.') {
                Some((parent, last)) if last == field => parent,
                None if path == field => "",
                _ => &path,
            };
            return self.unknown(parent, field, &message);
        }
        if let ConfigError::NotFound(field) = innermost(error) {
            let field = field.rsplit(['.', ']']).next().unwrap_or(field);
            let mut problem = self.problem(&join(&path, field), "this key is needed here");
            problem.origin = self.origin(&path);
            return problem;
        }
        let message = message
            .strip_prefix("invalid type: ")
            .map_or(message.clone(), |rest| {
                rest.split_once("expected ")
                    .map_or(rest.into(), |(_, what)| format!("expected {what}"))
            });
        let message = match &*message {
            "expected a sequence" => "expected a list",
            text if text.starts_with("expected struct ") => "expected a section with keys",
            text => text,
        };
        self.problem(&path, message)
    }

    /// The value is not shown: a misspelt key may hold a secret.
    fn unknown(&self, parent: &str, field: &str, message: &str) -> Problem {
        let key = join(parent, field);
        let siblings: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
        let near = siblings
            .iter()
            .map(|sibling| (strsim::damerau_levenshtein(field, sibling), *sibling))
            .filter(|(distance, sibling)| *distance <= 1 + sibling.len() / 4)
            .min()
            .map(|(_, sibling)| join(parent, sibling));
        let elsewhere = || {
            self.known
                .keys()
                .find(|known| known.rsplit('.').next() == Some(field))
                .cloned()
        };
        let allowed = match siblings[..] {
            [] => String::new(),
            _ if parent.is_empty() => format!("; sections: {}", siblings.join(", ")),
            _ => format!("; keys of {parent}: {}", siblings.join(", ")),
        };
        let meant = near
            .or_else(elsewhere)
            .map(|key| format!("; did you mean {key}?"));
        Problem {
            origin: self.origin(&key),
            key,
            value: None,
            message: format!("there is no such key{}{allowed}", meant.unwrap_or_default()),
        }
    }

    /// Where a key's value came from. Variables win over the file.
    fn origin(&self, key: &str) -> Option<String> {
        let name = format!("FANFARE_{}", key.replace('.', "__").to_uppercase());
        let below = format!("{name}__");
        let named = |variable: &&String| {
            let variable = variable.to_uppercase();
            variable == name || variable.starts_with(&below)
        };
        match self.variables.iter().find(named) {
            Some(variable) => Some(format!("environment variable {variable}")),
            None => self
                .look_up(key)
                .and(self.file.clone())
                .or_else(|| key.is_empty().then(|| self.file.clone()).flatten()),
        }
    }

    fn shown(&self, key: &str) -> Option<String> {
        let secret = [
            "secret",
            "password",
            "token",
            "url",
            "urls",
            "cluster",
            "sentinel",
            "jwt",
            "redis",
            "nats",
            "credentials",
        ];
        let last = key.rsplit('.').next().unwrap_or(key);
        let last = last.split('[').next().unwrap_or(last);
        match &self.look_up(key)?.kind {
            ValueKind::Nil => None,
            ValueKind::Table(_) | ValueKind::Array(_) => None,
            _ if secret.contains(&last) => Some(HIDDEN.into()),
            ValueKind::String(text) => {
                let short: String = text.chars().take(100).collect();
                Some(format!("{short:?}"))
            }
            other => Some(other.to_string()),
        }
    }

    fn look_up(&self, key: &str) -> Option<&Value> {
        key.split(['.', '['])
            .try_fold(&self.values, |value, segment| match &value.kind {
                ValueKind::Table(table) => table.get(segment),
                ValueKind::Array(items) => {
                    items.get(segment.strip_suffix(']')?.parse::<usize>().ok()?)
                }
                _ => None,
            })
    }
}

fn dotted(path: &Path) -> String {
    path.iter()
        .fold(String::new(), |so_far, segment| match segment {
            Segment::Seq { index } => format!("{so_far}[{index}]"),
            Segment::Map { key } => join(&so_far, key),
            _ => so_far,
        })
}

pub(crate) fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() {
        key.into()
    } else {
        format!("{parent}.{key}")
    }
}

fn innermost(error: &ConfigError) -> &ConfigError {
    match error {
        ConfigError::At { error, .. } => innermost(error),
        other => other,
    }
}

/// What stands in backticks right after `before`.
fn quoted<'a>(message: &'a str, before: &str) -> Option<&'a str> {
    message
        .strip_prefix(before)?
        .strip_prefix('`')?
        .split('`')
        .next()
}

/// The words of the library, in those of this program.
fn plain(expected: &str) -> &str {
    match expected {
        "a boolean" => "true or false",
        number if number.contains("integer") => "a whole number, not negative",
        other => other,
    }
}
