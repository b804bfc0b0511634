//! `fanfare serve`: from a configuration to a server that ends well.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use fanfare_edge::Edge;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

use crate::{
    backends, certificates,
    config::{Auth, Config, Kind, Loaded},
    exit::Failure,
    files, logging,
    reload::Reload,
    signals::{Asked, Signals},
};

/// The addresses of a server that runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Running {
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// Serves until a signal asks for the end.
///
/// # Errors
/// Where the configuration cannot be used, the bus cannot be reached or an address is taken.
pub(crate) async fn run(file: Option<PathBuf>) -> Result<ExitCode, Failure> {
    let Loaded {
        config,
        warnings,
        file,
    } = crate::load(file.as_deref())?;
    let logging = logging::start(&config.log)?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let reload = Reload::new(config.clone(), file, logging);
    serve(config, Some(reload), |_| std::future::pending()).await
}

/// Serves a configuration of the program's own, with a task beside it that ends with it.
///
/// # Errors
/// As [`run`], and where the task fails.
pub(crate) async fn run_demo<F: Future<Output = Result<(), Failure>>>(
    mut config: Config,
    beside: impl FnOnce(Running) -> F,
) -> Result<ExitCode, Failure> {
    config.log.level = "warn".parse().map_err(Failure::failed)?;
    logging::start(&config.log)?;
    serve(config, None, beside).await
}

async fn serve<F: Future<Output = Result<(), Failure>>>(
    config: Config,
    mut reload: Option<Reload>,
    beside: impl FnOnce(Running) -> F,
) -> Result<ExitCode, Failure> {
    // One provider for all of rustls in this process; it fails only where one is installed.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    files::make_room(config.limits.connections);
    starting(&config);
    let mut signals = Signals::listen().map_err(Failure::failed)?;
    let registry = Registry::new();
    let broker = tokio::select! {
        broker = backends::connect(&config, &registry) => broker?,
        // Nothing is served yet: there is nothing to drain.
        () = signals.end() => return Ok(ExitCode::SUCCESS),
    };
    let edge = Edge::build(config.edge(), broker.clone(), &registry).map_err(Failure::failed)?;
    let reloader = edge.reloader();
    let running = Running {
        public: edge.public_addr(),
        admin: edge.admin_addr(),
    };

    let stop = CancellationToken::new();
    let mut serving = std::pin::pin!(edge.run(stop.clone().cancelled_owned()));
    let mut beside = std::pin::pin!(beside(running));
    let mut renewing = std::pin::pin!(certificates::renew(
        config.server.tls.clone(),
        reloader.clone()
    ));
    let served = loop {
        tokio::select! {
            served = &mut serving => break served.map_err(Failure::failed),
            ended = &mut beside, if !stop.is_cancelled() => {
                ended?;
                stop.cancel();
            }
            never = &mut renewing => match never {},
            asked = signals.next() => match asked {
                Asked::Reload => match &mut reload {
                    Some(reload) => {
                        reload.run(&reloader);
                        renewing.set(certificates::renew(reload.tls(), reloader.clone()));
                    }
                    None => tracing::warn!("there is no configuration to read again"),
                },
                Asked::End(_) if !stop.is_cancelled() => {
                    tracing::info!("a signal asks for the end; a second one ends at once");
                    stop.cancel();
                }
                Asked::End(code) => {
                    tracing::warn!("ended at once by a second signal");
                    return Ok(ExitCode::from(code));
                }
            },
        }
    };
    broker.close().await;
    tracing::info!("ended");
    served.map(|_| ExitCode::SUCCESS)
}

/// What is not said by the edge, which names the node and the addresses.
fn starting(config: &Config) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        broker = %config.broker.kind,
        auth = auth_mode(&config.auth),
        "starting"
    );
    if config.broker.kind == Kind::Memory {
        tracing::info!("the broker is this process: other nodes do not share its channels");
    }
}

fn auth_mode(auth: &Auth) -> &'static str {
    match (&auth.jwt, &auth.anonymous) {
        (None, None) => "none: anybody on this machine may subscribe and publish",
        (None, Some(_)) => "anonymous, by patterns",
        (Some(_), None) => "tokens",
        (Some(_), Some(_)) => "tokens, and anonymous by patterns",
    }
}
