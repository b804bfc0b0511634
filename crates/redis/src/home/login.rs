//! How to log in at a server, whichever it is.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use fanfare_core::BrokerError;
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    TlsCertificates, io::tcp::TcpSettings,
};
use socket2::TcpKeepalive;

use crate::config::{RedisConfig, bad};

/// Where a server is.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Address {
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
}

/// How to log in: user, password, database, TLS.
#[derive(Clone)]
pub(crate) struct Login {
    info: ConnectionInfo,
}

impl Login {
    /// Reads a URL, which a setting gives.
    pub(crate) fn parse(
        setting: &str,
        url: &str,
        config: &RedisConfig,
    ) -> Result<(Self, Address), BrokerError> {
        // The text may hold a password, and so may the parser's message: neither is shown.
        let form = "is no URL of Redis; `redis://host:6379` and `rediss://host:6379` are";
        let known = ["redis://", "rediss://"];
        let known = known.iter().any(|scheme| url.starts_with(scheme));
        let info = url.into_connection_info();
        let info = info
            .ok()
            .filter(|_| known)
            .ok_or_else(|| bad(setting, form))?;
        let login = info.redis_settings().clone();
        let login = login
            .set_protocol(ProtocolVersion::RESP3)
            .set_lib_name("fanfare", env!("CARGO_PKG_VERSION"));
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(15))
            .with_interval(Duration::from_secs(5));
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(keepalive);
        #[cfg(target_os = "linux")]
        let tcp = tcp.set_user_timeout(config.connect_timeout + config.command_timeout);
        let info = info.set_tcp_settings(tcp).set_redis_settings(login);
        let (address, info) = match info.addr().clone() {
            ConnectionAddr::Tcp(host, port) => (Address::new(&host, port), info),
            ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                ..
            } => (Address::new(&host, port), trusting(info, config)?),
            ConnectionAddr::TcpTls { .. } => {
                let why = "asks for TLS that trusts everyone; give the authority in tls.ca_file";
                return Err(bad(setting, why));
            }
            _ => return Err(bad(setting, form)),
        };
        Ok((Self { info }, address))
    }

    /// A client of the server there.
    pub(crate) fn client(&self, address: &Address) -> Result<Client, redis::RedisError> {
        let host = address.host.to_string();
        let port = address.port;
        let addr = match self.info.addr() {
            ConnectionAddr::TcpTls { tls_params, .. } => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(host, port),
        };
        Client::open(self.info.clone().set_addr(addr))
    }

    /// Whether it speaks TLS.
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self.info.addr(), ConnectionAddr::TcpTls { .. })
    }

    /// The number of the database.
    pub(crate) fn database(&self) -> i64 {
        self.info.redis_settings().db()
    }
}

/// The same, which trusts the authority that the settings name and shows their certificate.
fn trusting(info: ConnectionInfo, config: &RedisConfig) -> Result<ConnectionInfo, BrokerError> {
    let tls = &config.tls;
    let read = |setting: &str, file: &Option<PathBuf>| {
        let read = file.as_ref().map(std::fs::read).transpose();
        read.map_err(|why| bad(&format!("tls.{setting}"), format!("cannot be read: {why}")))
    };
    match (&tls.cert_file, &tls.key_file) {
        (Some(_), None) => return Err(bad("tls.key_file", "is missing; cert_file needs it")),
        (None, Some(_)) => return Err(bad("tls.cert_file", "is missing; key_file needs it")),
        _ => {}
    }
    let client_tls = match (
        read("cert_file", &tls.cert_file)?,
        read("key_file", &tls.key_file)?,
    ) {
        (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig {
            client_cert,
            client_key,
        }),
        _ => None,
    };
    let root_cert = read("ca_file", &tls.ca_file)?;
    if root_cert.is_none() && client_tls.is_none() {
        return Ok(info);
    }
    let certificates = TlsCertificates {
        client_tls,
        root_cert,
    };
    let client = Client::build_with_tls(info, certificates);
    // The message may hold a part of a file.
    let client =
        client.map_err(|_| bad("tls", "has a file that is no certificate or key in PEM"))?;
    Ok(client.get_connection_info().clone())
}

impl Address {
    pub(crate) fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}
