//! The section `[server.tls]`: TLS on the public listener.

use std::path::PathBuf;

use fanfare_edge::{auth::Secret, config::TlsConfig};
use serde::{Deserialize, Serialize};

use super::{
    problem::{Given, Problem},
    secret_file::read_text,
    section::Setting,
    values::{Maybe, Span},
};

/// The longest file of certificates, in bytes: bundles of authorities are long.
const LONGEST: u64 = 1 << 20;

/// TLS on the public listener.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Tls {
    pub(crate) cert_file: Option<PathBuf>,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) client_ca_file: Option<PathBuf>,
    pub(crate) http2: bool,
    pub(crate) http2_streams: u32,
    pub(crate) handshake_timeout: Span,
    pub(crate) reload_interval: Maybe<Span>,
    /// What the files held when they were read.
    #[serde(skip)]
    pem: Pem,
}

#[derive(Clone, PartialEq, Debug)]
struct Pem {
    certificate: String,
    key: Secret,
    client_ca: Option<String>,
}

/// A setting whose file cannot be used, and why.
type Unread = (&'static str, String);

impl Default for Tls {
    fn default() -> Self {
        let pem = Pem::default();
        let room = TlsConfig::new("", pem.key.clone());
        Self {
            cert_file: None,
            key_file: None,
            client_ca_file: None,
            http2: room.http2,
            http2_streams: room.http2_streams,
            handshake_timeout: Span(room.handshake_timeout),
            reload_interval: Maybe(Some(Span::secs(60))),
            pem,
        }
    }
}

impl Default for Pem {
    fn default() -> Self {
        Self {
            certificate: String::new(),
            key: Secret::new(""),
            client_ca: None,
        }
    }
}

impl Tls {
    /// Reads the files. Answers whether they hold something else than before.
    ///
    /// # Errors
    /// The settings whose files cannot be used; what was read before stays then.
    pub(crate) fn read(&mut self) -> Result<bool, Vec<Unread>> {
        let mut unread = Vec::new();
        let mut text = |key, file: Option<&PathBuf>| {
            let text = match file {
                Some(file) => read_text(file, LONGEST),
                None => Err("a file in PEM is needed here".into()),
            };
            text.unwrap_or_else(|why| {
                unread.push((key, why));
                String::new()
            })
        };
        let client_ca = self.client_ca_file.as_ref();
        let pem = Pem {
            certificate: text("server.tls.cert_file", self.cert_file.as_ref()),
            key: Secret::new(text("server.tls.key_file", self.key_file.as_ref())),
            client_ca: client_ca.map(|file| text("server.tls.client_ca_file", Some(file))),
        };
        if !unread.is_empty() {
            return Err(unread);
        }
        let differs = pem != self.pem;
        self.pem = pem;
        Ok(differs)
    }

    /// As the edge wants it, with what the files held.
    pub(crate) fn to_room(&self) -> TlsConfig {
        TlsConfig {
            certificate: self.pem.certificate.clone(),
            key: self.pem.key.clone(),
            client_ca: self.pem.client_ca.clone(),
            http2: self.http2,
            http2_streams: self.http2_streams,
            handshake_timeout: self.handshake_timeout.0,
        }
    }
}

/// Reads the files of `[server.tls]`, and answers what is wrong with them.
pub(super) fn read(tls: &mut Option<Tls>, given: &Given) -> Vec<Problem> {
    let unread = tls.as_mut().map_or(Ok(false), Tls::read).err();
    let unread = unread.unwrap_or_default().into_iter();
    unread.map(|(key, why)| given.problem(key, why)).collect()
}

impl Setting for Option<Tls> {
    type Room = Option<TlsConfig>;

    /// A room's own default has no files.
    fn of_room(_: Self::Room) -> Self {
        None
    }

    fn to_room(&self) -> Self::Room {
        self.as_ref().map(Tls::to_room)
    }
}
