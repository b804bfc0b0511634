//! How this node logs in.

use std::path::Path;

use async_nats::ServerAddr;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use serde_json::{Map, Value};

use crate::{config::Credentials, envelope::unescape};

/// The fields of `CONNECT` that log in, with `nonce` signed where that is asked for.
/// Files are read each time, so that new credentials need no restart.
///
/// The error is text that names the setting and holds no secret.
pub(crate) async fn log_in(
    credentials: &Credentials,
    urls: &[ServerAddr],
    nonce: &str,
) -> Result<Map<String, Value>, String> {
    let mut fields = Map::new();
    let mut set = |name: &str, value: &str| fields.insert(name.into(), value.into());
    if let (Some(user), Some(password)) = (&credentials.user, &credentials.password) {
        set("user", user);
        set("pass", password);
    } else if let Some(token) = &credentials.token {
        set("auth_token", token);
    } else if let Some(path) = &credentials.nkey_seed_file {
        let text = read("nkey_seed_file", path).await?;
        let seed = text
            .lines()
            .map(str::trim)
            .find(|line| line.starts_with('S'));
        let key = key("nkey_seed_file", seed)?;
        set("nkey", &key.public_key());
        set("sig", &sign(&key, nonce)?);
    } else if let Some(path) = &credentials.credentials_file {
        let text = read("credentials_file", path).await?;
        let mut parts = decorated(&text);
        let jwt = parts.next().ok_or("credentials_file holds no user JWT")?;
        let key = key("credentials_file", parts.next())?;
        set("jwt", jwt);
        set("sig", &sign(&key, nonce)?);
    } else if let Some((user, password)) = urls.iter().find_map(user_info) {
        match password {
            Some(password) => {
                set("user", &user);
                set("pass", &password);
            }
            None => {
                set("auth_token", &user);
            }
        }
    }
    Ok(fields)
}

/// The settings that a refused log-in can be mended with.
pub(crate) fn settings(credentials: &Credentials) -> String {
    match credentials.set().first() {
        Some(name) => format!("broker.nats.credentials.{name}"),
        None => "broker.nats.url or broker.nats.credentials".into(),
    }
}

fn user_info(url: &ServerAddr) -> Option<(String, Option<String>)> {
    Some((unescape(url.username()?), url.password().map(unescape)))
}

async fn read(setting: &str, path: &Path) -> Result<String, String> {
    tokio::fs::read_to_string(path)
        .await
        .map_err(|why| format!("{setting} cannot be read: {}", why.kind()))
}

fn key(setting: &str, seed: Option<&str>) -> Result<KeyPair, String> {
    seed.and_then(|seed| KeyPair::from_seed(seed).ok())
        .ok_or_else(|| format!("{setting} holds no nkey seed (`SU…`)"))
}

fn sign(key: &KeyPair, nonce: &str) -> Result<String, String> {
    key.sign(nonce.as_bytes())
        .map(|signature| URL_SAFE_NO_PAD.encode(signature))
        .map_err(|_| "the nkey seed cannot sign".into())
}

/// What stands between `---BEGIN …---` and `---END …---`, in order.
fn decorated(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().map(str::trim).filter(move |line| {
        if line.starts_with("---") {
            inside = line.contains("BEGIN");
            return false;
        }
        inside && !line.is_empty()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(credentials: &Credentials, url: &str) -> Result<Map<String, Value>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(log_in(credentials, &[url.parse().unwrap()], "nonce"))
    }

    fn verifies(key: &KeyPair, fields: &Map<String, Value>) {
        let signature = URL_SAFE_NO_PAD.decode(fields["sig"].as_str().unwrap());
        key.verify(b"nonce", &signature.unwrap()).unwrap();
    }

    #[test]
    fn the_url_names_a_user_or_a_token() {
        let none = Credentials::default();
        let found = fields(&none, "nats://me:p%40ss@h").unwrap();
        assert_eq!(
            (&found["user"], &found["pass"]),
            (&"me".into(), &"p@ss".into())
        );
        assert_eq!(fields(&none, "nats://tok@h").unwrap()["auth_token"], "tok");
        assert!(fields(&none, "nats://h").unwrap().is_empty());
    }

    #[test]
    fn files_sign_the_nonce() {
        let dir = std::env::temp_dir().join(format!("fanfare-nats-{}", fastrand::u64(..)));
        std::fs::create_dir(&dir).unwrap();
        let key = KeyPair::new_user();
        let seed = key.seed().unwrap();
        let path = dir.join("seed");
        std::fs::write(&path, format!("# mine\n{seed}\n")).unwrap();
        let nkey = Credentials {
            nkey_seed_file: Some(path),
            ..Credentials::default()
        };
        let found = fields(&nkey, "nats://h").unwrap();
        assert_eq!(found["nkey"], key.public_key());
        verifies(&key, &found);

        let path = dir.join("creds");
        let text = format!(
            "-----BEGIN NATS USER JWT-----\nhead.body.sig\n------END NATS USER JWT------\n\n*** IMPORTANT ***\n-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        std::fs::write(&path, text).unwrap();
        let creds = Credentials {
            credentials_file: Some(path.clone()),
            ..Credentials::default()
        };
        let found = fields(&creds, "nats://h").unwrap();
        assert_eq!(found["jwt"], "head.body.sig");
        verifies(&key, &found);

        std::fs::write(&path, "s3cret").unwrap();
        let why = fields(&creds, "nats://h").unwrap_err();
        assert!(
            why.contains("credentials_file") && !why.contains("s3cret"),
            "{why}"
        );
        std::fs::remove_dir_all(dir).unwrap();
    }
}
