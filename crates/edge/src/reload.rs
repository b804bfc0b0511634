//! Other settings for an edge that serves, without a disconnect.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use axum::Router;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    auth::Authenticator,
    config::{ConfigError, EdgeConfig, TlsConfig},
    metrics::Metrics,
    router,
    tls::{self, Tls},
};

/// Gives an edge other settings while it serves. A clone is of the same edge.
///
/// Each request is judged by the settings in force when it came, from its first check to its
/// answer. What is open already goes on: a stream keeps the grant that it was opened with until
/// its token expires, and a bound below what is held refuses what is new and cuts nobody.
#[derive(Clone, Debug)]
pub struct Reloader {
    state: Arc<Mutex<State>>,
}

/// What is in force.
struct State {
    config: EdgeConfig,
    auth: Arc<Authenticator>,
    tls: Option<Arc<Tls>>,
    serving: Option<Serving>,
}

/// An edge that runs. Not held: its run alone says how long it lives.
struct Serving {
    app: Weak<App>,
    router: Weak<RwLock<Router>>,
    runtime: Handle,
    /// Ends what was started here.
    end: CancellationToken,
}

impl Reloader {
    /// The sections of [`EdgeConfig`] that a reload takes, each as a whole. The rest sizes or
    /// binds what exists since the start.
    pub const SECTIONS: [&str; 4] = ["auth", "cors", "limits", "page"];

    pub(crate) fn new(config: EdgeConfig, metrics: &Metrics) -> Result<Self, ConfigError> {
        let tls = config.server.tls.as_ref();
        let tls = tls.map(|tls| Tls::new(tls, metrics.clone())).transpose()?;
        let state = State {
            auth: Arc::new(Authenticator::new(&config.auth, &config.cors)?),
            tls: tls.map(Arc::new),
            config,
            serving: None,
        };
        Ok(Self {
            state: Arc::new(Mutex::new(state)),
        })
    }

    /// Takes the [`SECTIONS`](Self::SECTIONS) of a configuration: in force for every request
    /// that comes after this has returned. An edge that does not run yet begins with them.
    ///
    /// Of an edge with TLS it takes [`ServerConfig::tls`](crate::config::ServerConfig::tls) too,
    /// but for `http2_streams`: see [`renew`](Self::renew). Whether there is TLS at all stays.
    ///
    /// # Errors
    /// The first setting that is not allowed, by itself or at the addresses that the edge is
    /// bound to. Nothing has changed then.
    pub fn reload(&self, new: &EdgeConfig) -> Result<(), ConfigError> {
        new.check()?;
        let mut state = self.state.lock();
        let mut config = EdgeConfig {
            limits: new.limits.clone(),
            auth: new.auth.clone(),
            cors: new.cors.clone(),
            page: new.page.clone(),
            ..state.config.clone()
        };
        // Open to anybody may be allowed where `new` would listen and not where this edge does.
        config.check()?;
        let auth = state
            .auth
            .replaced(&state.config.auth, &config.auth, &config.cors)?;
        let auth = Arc::new(auth);
        if let Some(tls) = &new.server.tls {
            state.renew(tls)?;
        }
        if let Some((app, router)) = state.serving.as_ref().and_then(Serving::upgrade) {
            if let Some(serving) = &state.serving {
                serving.keep_keys(&app, &auth, Some(&state.auth));
            }
            let app = Arc::new(app.under(config.clone(), auth.clone()));
            *router.write() = router::public(&app);
        }
        config.server.tls.clone_from(&state.config.server.tls);
        state.config = config;
        state.auth = auth;
        Ok(())
    }

    /// Takes another certificate and key, for every handshake after this has returned.
    /// Connections that are open stay. Nothing happens at an edge without TLS.
    ///
    /// # Errors
    /// The setting that cannot be used. The certificate from before stays then.
    pub fn renew(&self, tls: &TlsConfig) -> Result<(), ConfigError> {
        tls::check(tls)?;
        self.state.lock().renew(tls)
    }

    pub(crate) fn tls(&self) -> Option<Arc<Tls>> {
        self.state.lock().tls.clone()
    }

    /// Makes the edge's first app of the settings in force, and its router, which reloads from
    /// now on replace.
    pub(crate) fn serve(
        &self,
        end: CancellationToken,
        make: impl FnOnce(EdgeConfig, Arc<Authenticator>) -> App,
    ) -> (Arc<App>, Arc<RwLock<Router>>) {
        let mut state = self.state.lock();
        let app = Arc::new(make(state.config.clone(), state.auth.clone()));
        let router = Arc::new(RwLock::new(router::public(&app)));
        let serving = Serving {
            app: Arc::downgrade(&app),
            router: Arc::downgrade(&router),
            runtime: Handle::current(),
            end,
        };
        serving.keep_keys(&app, &state.auth, None);
        state.serving = Some(serving);
        (app, router)
    }
}

impl State {
    fn renew(&mut self, tls: &TlsConfig) -> Result<(), ConfigError> {
        if let (Some(held), Some(config)) = (&self.tls, &mut self.config.server.tls) {
            held.renew(tls)?;
            config.clone_from(tls);
        }
        Ok(())
    }
}

impl Serving {
    fn upgrade(&self) -> Option<(Arc<App>, Arc<RwLock<Router>>)> {
        Some((self.app.upgrade()?, self.router.upgrade()?))
    }

    /// Begins to fetch published keys where that is not under way.
    fn keep_keys(&self, app: &App, auth: &Authenticator, before: Option<&Authenticator>) {
        let kept = auth.keep_keys(before, app.readiness.clone(), app.metrics.clone());
        if let Some(kept) = kept {
            let kept = self.end.clone().run_until_cancelled_owned(kept);
            self.runtime.spawn(kept);
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
