//! How this node reaches a server and logs in: the client's options, and what its refusals mean.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{
    Client, ConnectError, ConnectErrorKind, ConnectOptions, ServerAddr, ServerError, rustls,
};
use fanfare_core::{BrokerError, ErrorKind};

use crate::{
    config::{Credentials, NatsConfig},
    envelope::unescape,
    error::error,
    key_file::KeyFile,
};

/// The first wait of a reconnect; each further one is twice as long, up to the configured bound.
const FIRST_DELAY: Duration = Duration::from_millis(50);

/// Reaches the first server that answers. The caller adds what to do with events.
///
/// # Errors
/// They name the setting and hold no secret.
pub(crate) async fn connect(
    config: &NatsConfig,
    servers: &[ServerAddr],
    listen: impl FnOnce(ConnectOptions) -> ConnectOptions,
) -> Result<Client, BrokerError> {
    // The client takes the process's provider of cryptography, and panics where it cannot tell
    // which. Where there is one, this changes nothing.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let options = listen(options(config, servers).await?);
    // The client's own bound leaves out the look-up of names.
    let tries = u32::try_from(servers.len()).unwrap_or(u32::MAX);
    let patience = config
        .connect_timeout
        .saturating_mul(tries.saturating_add(1));
    let start = Instant::now();
    let client = match tokio::time::timeout(patience, options.connect(servers)).await {
        Ok(result) => result.map_err(|why| refusal(config, &why))?,
        Err(_) => {
            let message = format!("no server answers within {:?}", start.elapsed());
            return Err(error(ErrorKind::Timeout, message));
        }
    };
    if !client.server_info().headers {
        let message = "the server does not do headers; nats-server 2.2 or later is needed";
        return Err(error(ErrorKind::Rejected, message));
    }
    Ok(client)
}

async fn options(
    config: &NatsConfig,
    servers: &[ServerAddr],
) -> Result<ConnectOptions, BrokerError> {
    let longest = config.reconnect_delay;
    let delay = move |attempt: usize| {
        let doublings = u32::try_from(attempt.saturating_sub(1)).map_or(16, |n| n.min(16));
        let delay = FIRST_DELAY.saturating_mul(1 << doublings).min(longest);
        // So that nodes do not come back in step.
        delay.mul_f64(0.5 + fastrand::f64() / 2.0)
    };
    let options = match KeyFile::of(&config.credentials).await? {
        Some(file) => {
            let file = Arc::new(file);
            ConnectOptions::with_auth_callback(move |nonce| {
                let file = file.clone();
                async move { file.prove(&nonce).await }
            })
        }
        None => ConnectOptions::new(),
    };
    let mut options = options
        .name(&config.name)
        .connection_timeout(config.connect_timeout)
        // The client gives up at the third ping in a row that is unanswered.
        .ping_interval(config.ping_interval / 2)
        .subscription_capacity(config.queue_messages)
        .reconnect_delay_callback(delay)
        .require_tls(config.tls.required);
    if !config.discover {
        options = options.ignore_discovered_servers();
    }
    if let Some(path) = &config.tls.ca_file {
        options = options.add_root_certificates(path.clone());
    }
    if let (Some(cert), Some(key)) = (&config.tls.cert_file, &config.tls.key_file) {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    let Credentials {
        user,
        password,
        token,
        ..
    } = &config.credentials;
    Ok(if let (Some(user), Some(password)) = (user, password) {
        options.user_and_password(user.clone(), password.clone())
    } else if let Some(token) = token {
        options.token(token.clone())
    } else if config.credentials.set().is_empty() {
        match servers.iter().find_map(user_info) {
            Some((user, Some(password))) => options.user_and_password(user, password),
            Some((token, None)) => options.token(token),
            None => options,
        }
    } else {
        options
    })
}

fn user_info(url: &ServerAddr) -> Option<(String, Option<String>)> {
    Some((unescape(url.username()?), url.password().map(unescape)))
}

/// What the caller of `connect` is told.
fn refusal(config: &NatsConfig, why: &ConnectError) -> BrokerError {
    let tls = || {
        let message = format!("no link over TLS ({why}); see broker.nats.tls");
        error(ErrorKind::Rejected, message)
    };
    let log_in = || {
        let settings = match config.credentials.set().first() {
            Some(name) => format!("broker.nats.credentials.{name}"),
            None => "broker.nats.url or broker.nats.credentials".into(),
        };
        let message = format!("the server refused the log-in ({why}); see {settings}");
        error(ErrorKind::Rejected, message)
    };
    match why.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => log_in(),
        ConnectErrorKind::Tls => tls(),
        // Both come as errors of the socket.
        ConnectErrorKind::Io if is_caused_by::<rustls::Error>(why) => tls(),
        ConnectErrorKind::Io if is_caused_by::<ServerError>(why) => log_in(),
        ConnectErrorKind::TimedOut => error(
            ErrorKind::Timeout,
            format!("no server answers within {:?}", config.connect_timeout),
        ),
        _ => error(
            ErrorKind::Unavailable,
            format!("no server can be reached ({why}); see broker.nats.url"),
        ),
    }
}

fn is_caused_by<E: Error + 'static>(why: &ConnectError) -> bool {
    let mut cause = why.source();
    while let Some(error) = cause {
        // An error that is wrapped in one of the socket does not name it as its source.
        let inner = error.downcast_ref::<std::io::Error>();
        let inner = inner.and_then(std::io::Error::get_ref);
        if error.is::<E>() || inner.is_some_and(|inner| inner.is::<E>()) {
            return true;
        }
        cause = error.source();
    }
    false
}
