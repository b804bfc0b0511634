//! Secrets, and URLs that may carry one: nothing prints them.

use std::{convert::Infallible, fmt, str::FromStr};

use serde::{Deserialize, Serialize, Serializer};

/// What stands where a secret would.
pub(crate) const HIDDEN: &str = "(hidden)";

/// A secret. Neither `Debug` nor `Serialize` shows it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself: for the room that needs it, never for a message.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(HIDDEN)
    }
}

/// A URL that may carry a password. Neither `Debug`, `Display` nor `Serialize` shows it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Url(String);

impl Url {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The URL with its password: for the client that connects, never for a message.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl Serialize for Url {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted(&self.0))
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", redacted(&self.0))
    }
}

/// A URL without what stands before the `@` and after a `?`.
///
/// The last `@` counts: a password that was not escaped may hold one.
pub(crate) fn redacted(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), url),
    };
    let rest = match rest.rsplit_once('@') {
        Some((_, host)) => format!("{HIDDEN}@{host}"),
        None => rest.to_owned(),
    };
    match rest.split_once('?') {
        Some((host, _)) => format!("{scheme}{host}?{HIDDEN}"),
        None => format!("{scheme}{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_never_show_what_they_carry() {
        for (url, shown) in [
            ("redis://:p@ss@h:6379/0", "redis://(hidden)@h:6379/0"),
            ("nats://u:p@h", "nats://(hidden)@h"),
            ("redis://h:6379?password=x", "redis://h:6379?(hidden)"),
            ("u:p@h", "(hidden)@h"),
            ("redis://h", "redis://h"),
        ] {
            assert_eq!(redacted(url), shown);
            let url = Url::new(url);
            assert_eq!(format!("{url:?} {url}"), format!("{shown:?} {shown}"));
        }
    }

    #[test]
    fn secrets_are_never_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), HIDDEN);
        assert_eq!(
            serde_json::to_string(&secret).unwrap(),
            format!("\"{HIDDEN}\"")
        );
        assert_eq!(secret.expose(), "hunter2");
    }
}
