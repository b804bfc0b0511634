//! `[log]`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use super::choice::choice;

choice! {
    /// What log lines look like.
    #[derive(Default)]
    Format {
        /// Lines for people.
        #[default]
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

/// What is logged.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    pub(crate) format: Format,
    pub(crate) level: Level,
}

/// Which log lines: a level, or directives for parts of the program.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Level(String);

impl Level {
    pub(crate) fn filter(&self) -> EnvFilter {
        // Checked when it was parsed. The NATS client tells each message that it drops at `info`:
        // the backend counts them and tells a gap. A directive of the user's for it comes later
        // and wins.
        EnvFilter::new(format!("async_nats=warn,{}", self.0))
    }
}

impl Default for Level {
    fn default() -> Self {
        Self("info".into())
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Level {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        const WORDS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let text: String = text.split_whitespace().collect();
        // The filter alone takes any word for the name of a module: a typo would switch logs off.
        let known = |part: &str| {
            let level = part.rsplit('=').next().unwrap_or(part);
            WORDS.contains(&&*level.to_ascii_lowercase())
        };
        if text.split(',').all(known) && EnvFilter::try_new(&text).is_ok() {
            return Ok(Self(text));
        }
        Err(format!(
            "expected one of: {}; or directives such as \"info,fanfare_redis=debug\"",
            WORDS.join(", ")
        ))
    }
}

impl TryFrom<String> for Level {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Level> for String {
    fn from(level: Level) -> Self {
        level.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_words_or_directives() {
        for good in [
            "info",
            "INFO",
            "off",
            "info,fanfare_redis=debug",
            "warn, fanfare=trace",
        ] {
            assert!(good.parse::<Level>().is_ok(), "{good}");
        }
        for bad in ["", "verbose", "inof", "fanfare", "info,,", "fanfare=loud"] {
            assert!(bad.parse::<Level>().is_err(), "{bad}");
        }
    }
}
