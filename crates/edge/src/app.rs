//! What every route works with.

use std::{net::IpAddr, sync::Arc, time::Duration};

use fanfare_core::{Broker, BrokerError, ErrorKind, Pattern};
use fanfare_delivery::{Filter, Hub, Seat, Subscriber};
use http::request::Parts;
use prometheus::Registry;
use tokio::time;

use crate::{
    auth::{Action, Authenticator, Identity},
    client_key::{ClientKey, client_address},
    config::EdgeConfig,
    connection::Connection,
    filter::Filters,
    hook::Hooks,
    limit::{Limiter, Permit, Slots},
    metrics::Metrics,
    problem::Refusal,
    readiness::Readiness,
    registry::Connections,
};

/// What every route works with. A reload makes another one of the same edge.
pub(crate) struct App {
    pub(crate) config: EdgeConfig,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) hub: Hub,
    pub(crate) auth: Arc<Authenticator>,
    pub(crate) limiter: Limiter,
    pub(crate) histories: Limiter,
    pub(crate) connections: Connections,
    pub(crate) hooks: Hooks,
    pub(crate) filters: Filters,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
    /// The publish requests that may be under way.
    pub(crate) publishes: Slots,
    pub(crate) registry: Registry,
}

/// A client that may read.
pub(crate) struct Reader {
    pub(crate) identity: Identity,
    /// What it may follow: what it asked for, or what hooks left of it.
    pub(crate) channels: Vec<Pattern>,
    pub(crate) filter: Option<Arc<dyn Filter>>,
}

impl App {
    /// The same edge under other settings: counts, tables and whatever runs are shared.
    pub(crate) fn under(&self, config: EdgeConfig, auth: Arc<Authenticator>) -> Self {
        let limits = &config.limits;
        Self {
            broker: self.broker.clone(),
            hub: self.hub.clone(),
            auth,
            limiter: self.limiter.within(limits.connections, limits),
            histories: self.histories.within(limits.histories, limits),
            connections: self.connections.clone(),
            hooks: self.hooks.with_retry(limits.retry_after),
            filters: self
                .filters
                .within(limits.filter_classes, limits.retry_after),
            metrics: self.metrics.clone(),
            readiness: self.readiness.clone(),
            publishes: self.publishes.within(limits.publishes),
            registry: self.registry.clone(),
            config,
        }
    }

    /// Takes a slot of `limiter` for a client.
    pub(crate) fn slot(
        &self,
        limiter: &Limiter,
        parts: &Parts,
        connection: &Connection,
        identity: &Identity,
    ) -> Result<Permit, Refusal> {
        let address = self.address(parts, connection);
        limiter
            .admit(ClientKey::new(identity, address))
            .inspect_err(|_| {
                if address == connection.peer() && parts.headers.contains_key("x-forwarded-for") {
                    tracing::debug!(
                        %address,
                        "a proxy's clients share its limit: it is not in limits.trusted_proxies"
                    );
                }
            })
    }

    /// Who asks, if they may read the channels that they ask for.
    pub(crate) fn identify_reader(
        &self,
        parts: &Parts,
        channels: &[Pattern],
    ) -> Result<Identity, Refusal> {
        let identity = self.auth.identify(parts)?;
        self.auth
            .authorize(&identity, Action::Subscribe, channels)?;
        Ok(identity)
    }

    /// Asks hooks and filters about somebody who may read.
    pub(crate) async fn reader(
        &self,
        parts: &Parts,
        connection: &Connection,
        identity: Identity,
        channels: Vec<Pattern>,
    ) -> Result<Reader, Refusal> {
        let address = self.address(parts, connection);
        let channels = self
            .hooks
            .subscribe(&identity, address, &parts.headers, channels)
            .await?;
        let filter = self.filters.of(&identity, &channels)?;
        Ok(Reader {
            identity,
            channels,
            filter,
        })
    }

    /// The client's address, proxies seen through.
    pub(crate) fn address(&self, parts: &Parts, connection: &Connection) -> IpAddr {
        client_address(
            connection.peer(),
            &parts.headers,
            &self.config.limits.trusted_proxies,
        )
    }

    /// Joins the hub.
    pub(crate) async fn join(&self, subscriber: Subscriber) -> Result<Seat, Refusal> {
        let joined = self
            .in_time("subscribing", self.hub.join(subscriber))
            .await?;
        joined.map_err(|error| Refusal::of_join(error, self.retry_after()))
    }

    /// The answer of a call to the broker, if it comes in time.
    pub(crate) async fn in_time<T>(
        &self,
        what: &str,
        call: impl Future<Output = T>,
    ) -> Result<T, Refusal> {
        let timeout = self.config.server.broker_timeout;
        let answer = time::timeout(timeout, call).await;
        answer.map_err(|_| self.late(what))
    }

    /// The broker did not answer in time.
    pub(crate) fn late(&self, what: &str) -> Refusal {
        let timeout = self.config.server.broker_timeout;
        let backend = self.broker.capabilities().backend;
        let message = format!("{what} took more than {timeout:?}");
        self.broker_failed(BrokerError::new(ErrorKind::Timeout, backend, message))
    }

    pub(crate) fn broker_failed(&self, source: BrokerError) -> Refusal {
        Refusal::Broker {
            source,
            retry_after: self.retry_after(),
        }
    }

    pub(crate) fn retry_after(&self) -> Duration {
        self.config.limits.retry_after
    }
}
