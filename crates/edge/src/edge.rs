//! The edge: both listeners bound, then served until told to stop.

use std::{future::Future, io, net::SocketAddr, sync::Arc};

use fanfare_core::Broker;
use fanfare_delivery::Hub;
use prometheus::{IntGauge, Opts, Registry};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::App,
    config::{ConfigError, EdgeConfig},
    connection::{Bounds, Service},
    drain::{self, Drained},
    filter::{FilterFactory, Filters},
    hook::{Hook, Hooks},
    limit::{Limiter, Slots},
    listener::{Listener, Loop},
    metrics::Metrics,
    readiness::Readiness,
    registry::Connections,
    reload::Reloader,
    router,
};

/// An edge whose listeners are bound. Nothing is accepted until it [runs](Self::run).
#[derive(Debug)]
pub struct Edge {
    reloader: Reloader,
    broker: Arc<dyn Broker>,
    registry: Registry,
    metrics: Metrics,
    delivery: fanfare_delivery::Metrics,
    public: Listener,
    admin: Listener,
    filters: Vec<Arc<dyn FilterFactory>>,
    hooks: Vec<Arc<dyn Hook>>,
}

/// Why no edge was built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A setting that is not allowed.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A listener that could not be bound.
    #[error("{key} = \"{address}\": {source}")]
    Listen {
        /// The setting.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The registry holds metrics of these names: an edge a registry.
    #[error("metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// What stops with the edge's run, both listeners alike.
pub(crate) struct Tokens {
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    pub(crate) closing: CancellationToken,
    pub(crate) cut: CancellationToken,
}

impl Edge {
    /// Checks the configuration, registers metrics and binds both listeners. Spawns nothing.
    ///
    /// # Errors
    /// [`BuildError`] names the setting that is not allowed or the address that is taken.
    pub fn build(
        mut config: EdgeConfig,
        broker: Arc<dyn Broker>,
        registry: &Registry,
    ) -> Result<Self, BuildError> {
        config.check()?;
        config.delivery.node.clone_from(&config.server.node);
        let metrics = Metrics::register(registry)?;
        let delivery = fanfare_delivery::Metrics::register(registry)?;
        register_build_info(registry)?;
        let bind = |key, address| {
            Listener::bind(address, &config.server).map_err(|source| BuildError::Listen {
                key,
                address,
                source,
            })
        };
        let public = bind("server.listen", config.server.listen)?;
        let admin = bind("admin.listen", config.admin.listen)?;
        Ok(Self {
            reloader: Reloader::new(config, &metrics)?,
            broker,
            registry: registry.clone(),
            metrics,
            delivery,
            public,
            admin,
            filters: Vec::new(),
            hooks: Vec::new(),
        })
    }

    /// Adds a factory of filters. Each sees what the ones before it left.
    #[must_use]
    pub fn filter(mut self, factory: Arc<dyn FilterFactory>) -> Self {
        self.filters.push(factory);
        self
    }

    /// Adds a hook. Hooks are asked in the order they were added.
    #[must_use]
    pub fn hook(mut self, hook: Arc<dyn Hook>) -> Self {
        self.hooks.push(hook);
        self
    }

    /// Where the public listener is bound.
    pub fn public_addr(&self) -> SocketAddr {
        self.public.address
    }

    /// Where the operators' listener is bound.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.address
    }

    /// A handle that gives this edge other settings, before its run and during it.
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// Serves until `shutdown` is ready, then drains: readiness turns red at once; after
    /// `server.drain_delay` nothing more is accepted and streams end, spread over
    /// `server.drain_window`; what is left after `server.drain_grace` is cut. The broker is left
    /// open: it is its owner's.
    ///
    /// Dropping the future drops every connection at once.
    ///
    /// # Errors
    /// Where the runtime does not take the listeners.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> io::Result<Drained> {
        let Self {
            reloader,
            broker,
            registry,
            metrics,
            delivery,
            public,
            admin,
            filters,
            hooks,
        } = self;
        let (outside, inside) = (Tokens::new(), Tokens::new());
        let (app, router) = reloader.serve(outside.cut.clone(), |config, auth| {
            let limits = &config.limits;
            let hooks = Hooks::new(hooks, config.server.hook_timeout, limits.retry_after);
            App {
                hub: Hub::spawn(config.delivery.clone(), broker.clone(), delivery),
                auth,
                limiter: Limiter::connections(limits, &metrics),
                histories: Limiter::histories(limits),
                connections: Connections::new(hooks.clone(), metrics.clone()),
                hooks,
                filters: Filters::new(filters, limits.filter_classes, limits.retry_after),
                readiness: Readiness::new(config.probe, metrics.clone()),
                metrics,
                publishes: Slots::new(limits.publishes),
                registry,
                broker: broker.clone(),
                config,
            }
        });
        tracing::info!(
            node = app.config.server.node,
            public = %public.address,
            admin = %admin.address,
            backend = broker.capabilities().backend,
            "serving"
        );
        // Whoever drops this future drops what it started.
        let _guards = [
            outside.cut.clone().drop_guard(),
            inside.cut.clone().drop_guard(),
        ];
        let _cut = CutOnDrop(app.hub.clone());
        let watch = app.readiness.clone().watch(broker);
        let (server, admins) = (&app.config.server, &app.config.admin);
        let serve_outside = public.run(Loop {
            tls: reloader.tls(),
            ..outside.accept(&app, router::outside(&app, router), server.sockets)
        });
        let serve_inside = admin.run(inside.accept(&app, router::inside(&app), admins.sockets));
        let drained = drain::run(&app, shutdown, &outside, &inside);
        tokio::select! {
            drained = async { tokio::join!(drained, serve_outside, serve_inside) } => {
                let (drained, outside, inside) = drained;
                outside.and(inside).map(|()| drained)
            }
            () = watch => Err(io::Error::other("the broker's watch ended")),
        }
    }
}

/// Ends the streams that no task of the edge serves.
struct CutOnDrop(Hub);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.cut();
    }
}

impl Tokens {
    fn new() -> Self {
        Self {
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            closing: CancellationToken::new(),
            cut: CancellationToken::new(),
        }
    }

    fn accept(&self, app: &App, service: Service, sockets: usize) -> Loop {
        let server = &app.config.server;
        Loop {
            service,
            bounds: Bounds {
                head_timeout: server.head_timeout,
                idle_timeout: server.idle_timeout,
                head_bytes: server.head_bytes,
                peer_timeout: server.peer_timeout,
                http2_streams: server.tls.as_ref().map_or(1, |tls| tls.http2_streams),
            },
            tls: None,
            sockets,
            metrics: app.metrics.clone(),
            tasks: self.tasks.clone(),
            stop: self.stop.clone(),
            closing: self.closing.clone(),
            cut: self.cut.clone(),
        }
    }
}

fn register_build_info(registry: &Registry) -> prometheus::Result<()> {
    let opts = Opts::new("fanfare_build_info", "1, with the version as its label.")
        .const_label("version", env!("CARGO_PKG_VERSION"));
    let info = IntGauge::with_opts(opts)?;
    info.set(1);
    registry.register(Box::new(info))?;
    #[cfg(target_os = "linux")]
    registry.register(Box::new(
        prometheus::process_collector::ProcessCollector::for_self(),
    ))?;
    Ok(())
}
