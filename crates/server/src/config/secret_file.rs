//! Secrets that stand in files of their own, as orchestrators mount them.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use super::{
    Config,
    problem::{Given, Problem},
    secret::{Secret, Url},
};

/// The longest file with a secret or a key, in bytes.
const LONGEST: u64 = 64 << 10;

/// Puts the contents of `*_file` settings into their places.
pub(crate) fn read_all(config: &mut Config, given: &Given) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut fill = |key: &str, place: &mut Option<Secret>, file: &Option<PathBuf>| {
        let Some(file) = file else { return };
        let key_of_file = format!("{key}_file");
        if place.is_some() {
            problems.push(given.problem(&key_of_file, format!("give {key} or this, not both")));
            return;
        }
        match read_secret(file) {
            Ok(text) => *place = Some(Secret::new(text)),
            Err(why) => problems.push(given.problem(&key_of_file, why)),
        }
    };
    if let Some(jwt) = &mut config.auth.jwt {
        fill("auth.jwt.secret", &mut jwt.secret, &jwt.secret_file);
        fill(
            "auth.jwt.public_key",
            &mut jwt.public_key,
            &jwt.public_key_file,
        );
    }
    let nats = &mut config.broker.nats;
    fill(
        "broker.nats.password",
        &mut nats.password,
        &nats.password_file,
    );
    fill("broker.nats.token", &mut nats.token, &nats.token_file);
    let redis = &mut config.broker.redis;
    let mut url = given
        .has("broker.redis.url")
        .then(|| Secret::new(redis.url.expose()));
    fill("broker.redis.url", &mut url, &redis.url_file);
    if let Some(url) = url {
        redis.url = Url::new(url.expose());
    }
    problems
}

/// The text of a file with a secret. White space at its end does not count: editors add it.
///
/// # Errors
/// In words, where it cannot be read, is empty, or is larger than 64 KiB.
pub(crate) fn read_secret(file: &Path) -> Result<String, String> {
    read_text(file, LONGEST)
}

/// The text of a file of at most so many bytes, without the white space at its end.
pub(super) fn read_text(file: &Path, longest: u64) -> Result<String, String> {
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|open| open.take(longest + 1).read_to_string(&mut text))
        .map_err(|error| format!("the file cannot be read: {error}"))?;
    if text.len() as u64 > longest {
        return Err(format!("the file is larger than {longest} bytes"));
    }
    text.truncate(text.trim_end().len());
    if text.is_empty() {
        Err("the file is empty".into())
    } else {
        Ok(text)
    }
}
