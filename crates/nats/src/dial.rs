//! Reaching one server: TCP, TLS where asked for, log-in.

use std::{io, sync::Arc, time::Duration};

use async_nats::ServerAddr;
use bytes::BytesMut;
use fanfare_core::{BrokerError, ErrorKind};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

use crate::{
    config::{NatsConfig, Tls},
    credentials,
    error::error,
    wire::{Info, NotNats, Op, Parser},
};

/// A socket, encrypted or not.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A server that has logged us in.
pub(crate) struct Dialled {
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) server: ServerAddr,
    pub(crate) info: Info,
    /// What was read beyond the log-in.
    pub(crate) read: BytesMut,
}

/// Why a server could not be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("cannot be reached: {0}")]
    Io(#[from] io::Error),
    #[error("did not answer within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    NotNats(#[from] NotNats),
    #[error("TLS: {0}")]
    Tls(String),
    #[error("refused the log-in ({why}); see {settings}")]
    Refused { why: String, settings: String },
    #[error("broker.nats.credentials.{0}")]
    Credentials(String),
    #[error("does not do headers; nats-server 2.2 or later is needed")]
    TooOld,
}

impl DialError {
    /// What the caller of `connect` is told.
    pub(crate) fn into_broker_error(self, server: &ServerAddr) -> BrokerError {
        let kind = match self {
            Self::Io(_) | Self::NotNats(_) => ErrorKind::Unavailable,
            Self::Timeout(_) => ErrorKind::Timeout,
            Self::Tls(_) | Self::Refused { .. } | Self::Credentials(_) | Self::TooOld => {
                ErrorKind::Rejected
            }
        };
        let place = format!("{}:{}", server.host(), server.port());
        error(kind, format!("the server {place}: {self}"))
    }
}

/// Connects to one server and logs in, within the connect timeout.
///
/// `urls` are the configured ones: they hold the log-in, and the name in the server's certificate
/// where a cluster tells addresses only.
pub(crate) async fn dial(
    config: &NatsConfig,
    urls: &[ServerAddr],
    server: ServerAddr,
) -> Result<Dialled, DialError> {
    let attempt = connect(config, urls, server);
    match tokio::time::timeout(config.connect_timeout, attempt).await {
        Ok(result) => result,
        Err(_) => Err(DialError::Timeout(config.connect_timeout)),
    }
}

async fn connect(
    config: &NatsConfig,
    urls: &[ServerAddr],
    server: ServerAddr,
) -> Result<Dialled, DialError> {
    let tcp = TcpStream::connect((server.host(), server.port())).await?;
    tcp.set_nodelay(true)?;
    let mut stream: Box<dyn Stream> = Box::new(tcp);
    let mut read = BytesMut::with_capacity(4096);
    let mut parser = Parser::new(0);
    let Op::Info(info) = next(&mut stream, &mut parser, &mut read).await? else {
        return Err(io::Error::other("no INFO from the server").into());
    };
    let encrypt = config.tls.required || server.tls_required() || info.tls_required;
    if encrypt {
        let name = certificate_name(&server, urls)?;
        let tls = client_config(config.tls.clone()).await?;
        let secured = TlsConnector::from(Arc::new(tls))
            .connect(name, stream)
            .await
            .map_err(|why| DialError::Tls(why.to_string()))?;
        // What came before the handshake was not under its protection.
        read.clear();
        stream = Box::new(secured);
    }
    if !info.headers {
        return Err(DialError::TooOld);
    }
    let own: Vec<_> = std::iter::once(server.clone())
        .chain(urls.iter().cloned())
        .collect();
    let mut fields = credentials::log_in(&config.credentials, &own, &info.nonce)
        .await
        .map_err(DialError::Credentials)?;
    if let Value::Object(options) = json!({
        "verbose": false,
        "pedantic": false,
        "tls_required": encrypt,
        "name": config.name,
        "lang": "rust",
        "version": env!("CARGO_PKG_VERSION"),
        "protocol": 1,
        "echo": true,
        "headers": true,
        "no_responders": false,
    }) {
        fields.extend(options);
    }
    let hello = format!("CONNECT {}\r\nPING\r\n", Value::Object(fields));
    stream.write_all(hello.as_bytes()).await?;
    stream.flush().await?;
    loop {
        match next(&mut stream, &mut parser, &mut read).await? {
            Op::Pong => break,
            Op::Err(why) => {
                let settings = credentials::settings(&config.credentials);
                return Err(DialError::Refused { why, settings });
            }
            _ => {}
        }
    }
    Ok(Dialled {
        stream,
        server,
        info: *info,
        read,
    })
}

async fn next(
    stream: &mut Box<dyn Stream>,
    parser: &mut Parser,
    read: &mut BytesMut,
) -> Result<Op, DialError> {
    loop {
        if let Some(op) = parser.next(read)? {
            return Ok(op);
        }
        if stream.read_buf(read).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

/// The name that the certificate must bear: of a server that the cluster told by address only,
/// that of the configured one.
fn certificate_name(
    server: &ServerAddr,
    urls: &[ServerAddr],
) -> Result<ServerName<'static>, DialError> {
    let is_address = |host: &str| host.parse::<std::net::IpAddr>().is_ok();
    let configured = urls.iter().any(|url| url == server);
    let host = match urls.first() {
        Some(first) if is_address(server.host()) && !configured => first.host(),
        _ => server.host(),
    };
    ServerName::try_from(host.to_owned()).map_err(|why| DialError::Tls(why.to_string()))
}

/// Files are read each time, so that new certificates need no restart.
async fn client_config(tls: Tls) -> Result<ClientConfig, DialError> {
    tokio::task::spawn_blocking(move || read_client_config(&tls))
        .await
        .map_err(|why| DialError::Tls(why.to_string()))?
}

fn read_client_config(tls: &Tls) -> Result<ClientConfig, DialError> {
    let bad = |setting: &str, why: &dyn std::fmt::Display| {
        DialError::Tls(format!("broker.nats.tls.{setting}: {why}"))
    };
    let certificates = |setting: &str, path: &std::path::Path| {
        CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|why| bad(setting, &why))
    };
    let mut roots = RootCertStore::empty();
    let trusted = match &tls.ca_file {
        Some(path) => certificates("ca_file", path)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    if roots.add_parsable_certificates(trusted).0 == 0 {
        return Err(bad("ca_file", &"no certificate authority to trust"));
    }
    // The provider is named: where several are built in, the default would be a panic.
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|why| DialError::Tls(why.to_string()))?
        .with_root_certificates(roots);
    match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) => {
            let chain = certificates("cert_file", cert)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|why| bad("key_file", &why))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|why| bad("cert_file", &why))
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}
