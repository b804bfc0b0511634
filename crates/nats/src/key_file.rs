//! Keys that prove who we are, read from their file at each log-in: a renewed file counts from the
//! next connection on, without a restart.

use std::{fmt, io, path::PathBuf, sync::Arc};

use async_nats::{Auth, AuthError};
use fanfare_core::BrokerError;
use nkeys::KeyPair;
use parking_lot::Mutex;

use crate::config::{Credentials, bad};

/// The largest file that is read, in bytes; user tokens have some hundreds.
const MOST_BYTES: u64 = 1 << 20;

/// A file with a key.
#[derive(Debug)]
pub(crate) struct KeyFile {
    path: PathBuf,
    form: Form,
    /// What was read last: a file that cannot be read for a moment costs no link.
    last: Mutex<Arc<Proof>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// An nkey seed.
    Seed,
    /// A user JWT and its seed, as `nsc` writes them.
    Credentials,
}

/// What proves who we are.
struct Proof {
    jwt: Option<String>,
    key: KeyPair,
}

impl KeyFile {
    /// The file that the settings name, if any, read once.
    ///
    /// # Errors
    /// The setting and what is wrong with the file; nothing of what stands in it.
    pub(crate) async fn of(credentials: &Credentials) -> Result<Option<Self>, BrokerError> {
        let (path, form) = match (&credentials.nkey_seed_file, &credentials.credentials_file) {
            (Some(path), _) => (path.clone(), Form::Seed),
            (None, Some(path)) => (path.clone(), Form::Credentials),
            (None, None) => return Ok(None),
        };
        let proof = form.read(&path).await;
        let last = proof.map_err(|why| bad(form.setting(), why))?;
        Ok(Some(Self {
            path,
            form,
            last: Mutex::new(Arc::new(last)),
        }))
    }

    /// Answers a server's challenge.
    pub(crate) async fn prove(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let proof = match self.form.read(&self.path).await {
            Ok(proof) => {
                let proof = Arc::new(proof);
                *self.last.lock() = proof.clone();
                proof
            }
            Err(why) => {
                tracing::warn!(
                    "broker.nats.{} {why}; what it held before is used",
                    self.form.setting()
                );
                self.last.lock().clone()
            }
        };
        let mut auth = Auth::new();
        auth.signature = Some(proof.key.sign(nonce).map_err(AuthError::new)?);
        match &proof.jwt {
            Some(jwt) => auth.jwt = Some(jwt.clone()),
            None => auth.nkey = Some(proof.key.public_key()),
        }
        Ok(auth)
    }
}

impl Form {
    fn setting(self) -> &'static str {
        match self {
            Self::Seed => "credentials.nkey_seed_file",
            Self::Credentials => "credentials.credentials_file",
        }
    }

    async fn read(self, path: &PathBuf) -> Result<Proof, String> {
        let unreadable = |why: io::Error| format!("cannot be read: {}", why.kind());
        let size = tokio::fs::metadata(path).await.map_err(unreadable)?.len();
        if size > MOST_BYTES {
            return Err(format!("has {size} bytes; at most {MOST_BYTES} are read"));
        }
        let text = tokio::fs::read_to_string(path).await.map_err(unreadable)?;
        self.parse(&text)
    }

    fn parse(self, text: &str) -> Result<Proof, String> {
        let (jwt, seed) = match self {
            Self::Seed => {
                let mut lines = text.lines().map(str::trim);
                let seed = lines.find(|line| line.starts_with("SU"));
                (None, seed.ok_or("holds no nkey seed (`SU…`)")?)
            }
            Self::Credentials => {
                let mut blocks = blocks(text);
                let jwt = blocks.next().ok_or("holds no user JWT")?;
                let seed = blocks.next().ok_or("holds no seed behind the user JWT")?;
                (Some(jwt.to_owned()), seed)
            }
        };
        let key = KeyPair::from_seed(seed).map_err(|_| "holds a seed that is none")?;
        Ok(Proof { jwt, key })
    }
}

/// The first lines of what stands between lines of dashes.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    let mut lines = text.lines().map(str::trim);
    std::iter::from_fn(move || {
        let begins = |line: &str| line.starts_with("---") && line.contains("BEGIN");
        lines.find(|line| begins(line))?;
        lines.find(|line| !line.is_empty())
    })
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn creds(jwt: &str, seed: &str) -> String {
        format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             ************* IMPORTANT *************\nNKEYs are secrets.\n\n\
             -----BEGIN USER NKEY SEED-----\r\n{seed}\r\n------END USER NKEY SEED------\n"
        )
    }

    #[test]
    fn both_forms_are_read() {
        let key = KeyPair::new_user();
        let seed = key.seed().unwrap();
        let read = Form::Credentials.parse(&creds("a.b.c", &seed)).unwrap();
        assert_eq!(read.jwt.as_deref(), Some("a.b.c"));
        assert_eq!(read.key.public_key(), key.public_key());
        let read = Form::Seed.parse(&format!("# ours\n {seed} \n")).unwrap();
        assert_eq!(read.key.public_key(), key.public_key());
        assert!(read.jwt.is_none());
    }

    #[test]
    fn a_file_without_keys_says_so_and_nothing_of_what_it_holds() {
        let broken = format!("SU{}", "S3CRET".repeat(9));
        for (form, text, says) in [
            (Form::Seed, "S3CRET".to_owned(), "no nkey seed"),
            (Form::Seed, broken.clone(), "a seed that is none"),
            (Form::Credentials, "S3CRET".to_owned(), "no user JWT"),
            (Form::Credentials, creds("S3CRET", &broken), "that is none"),
        ] {
            let why = form.parse(&text).err().unwrap();
            assert!(why.contains(says) && !why.contains("S3CRET"), "{why}");
        }
    }
}
