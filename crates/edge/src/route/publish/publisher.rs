//! One request's publisher: what it may do, and the way of each publication to the broker.

use std::{net::IpAddr, sync::Arc};

use axum::response::{IntoResponse, Response};
use fanfare_core::{Channel, Pattern, Publication, Published};
use fanfare_delivery::Cursor;
use http::{HeaderMap, StatusCode, request::Parts};
use serde::Serialize;

use crate::{
    app::App,
    auth::{Action, Identity},
    hook::PublishContext,
    limit::Slot,
    metrics::Outcome,
    problem::Refusal,
    route::{connection, json},
};

/// Who publishes with this request.
pub(super) struct Publisher {
    pub(super) app: Arc<App>,
    identity: Identity,
    address: IpAddr,
    headers: HeaderMap,
    /// One of the publish requests that may be under way, which bounds what they buffer.
    _slot: Slot,
}

/// What a publisher is told. A new event is 201; a publication whose idempotency key is known is
/// 200 with the first one's id, since nothing was made.
#[derive(Serialize, Debug)]
pub(super) struct Receipt {
    channel: String,
    /// The event's place; `None` on a raw bus, where each node places events on arrival.
    id: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

impl Publisher {
    pub(super) fn new(app: &Arc<App>, parts: &Parts) -> Result<Self, Refusal> {
        let identity = app.auth.identify_publisher(parts)?;
        let address = app.address(parts, &connection(parts)?);
        let slot = app.publishes.take().ok_or_else(|| Refusal::Busy {
            what: "publish requests",
            retry_after: app.retry_after(),
        })?;
        let headers = parts.headers.clone();
        Ok(Self {
            app: app.clone(),
            identity,
            address,
            headers,
            _slot: slot,
        })
    }

    /// Whether this publisher may publish on a channel.
    pub(super) fn authorize(&self, channel: &Channel) -> Result<(), Refusal> {
        let wanted = [Pattern::from(channel)];
        self.app
            .auth
            .authorize(&self.identity, Action::Publish, &wanted)
    }

    /// Publishes, once the grant and the hooks allow it.
    pub(super) async fn publish(
        &self,
        channel: Channel,
        mut publication: Publication,
    ) -> Result<Receipt, Refusal> {
        let app = &self.app;
        let bytes = publication.data.len();
        let published = async {
            self.admit(&channel, &mut publication).await?;
            let call = app.broker.publish(&channel, publication);
            let published = app.in_time("publishing", call).await?;
            published.map_err(|error| app.broker_failed(error))
        };
        match published.await {
            Ok(published) => Ok(self.received(&channel, bytes, published)),
            Err(refusal) => Err(self.rejected(refusal)),
        }
    }

    /// Publishes some in their order, at most [`MAX_BATCH`](fanfare_core::MAX_BATCH). Each stands for
    /// itself; what is none already stays what it is.
    pub(super) async fn publish_all(
        &self,
        items: Vec<Result<(Channel, Publication), Refusal>>,
    ) -> Vec<Result<Receipt, Refusal>> {
        let app = &self.app;
        let mut batch = Vec::with_capacity(items.len());
        let mut refusals = Vec::with_capacity(items.len());
        for item in items {
            let admitted = match item {
                Ok((channel, mut publication)) => self
                    .admit(&channel, &mut publication)
                    .await
                    .map(|()| batch.push((channel, publication))),
                Err(refusal) => Err(refusal),
            };
            refusals.push(admitted.err());
        }
        let published = match batch.is_empty() {
            true => Ok(Vec::new()),
            false => {
                let call = app.broker.publish_all(&batch);
                app.in_time("publishing", call).await
            }
        };
        let mut published = published.unwrap_or_default().into_iter();
        let mut batch = batch.iter();
        let mut result = |refusal: Option<Refusal>| {
            if let Some(refusal) = refusal {
                return Err(self.rejected(refusal));
            }
            match (batch.next(), published.next()) {
                (Some((channel, publication)), Some(Ok(published))) => {
                    Ok(self.received(channel, publication.data.len(), published))
                }
                (_, Some(Err(error))) => Err(self.rejected(app.broker_failed(error))),
                (_, _) => Err(self.rejected(app.late("publishing"))),
            }
        };
        refusals.into_iter().map(&mut result).collect()
    }

    /// Counts a publication that was taken, and what its publisher is told.
    fn received(&self, channel: &Channel, bytes: usize, published: Published) -> Receipt {
        let metrics = &self.app.metrics;
        if published.duplicate {
            metrics.published(Outcome::Duplicate);
        } else {
            metrics.published(Outcome::Ok);
            let bytes = u64::try_from(bytes).unwrap_or_default();
            metrics.publish_bytes.inc_by(bytes);
        }
        Receipt {
            channel: channel.as_str().to_owned(),
            id: published
                .position
                .map(|place| Cursor::from(place).to_string()),
            duplicate: published.duplicate,
        }
    }

    /// Counts a publication that is refused.
    pub(super) fn rejected(&self, refusal: Refusal) -> Refusal {
        let server = refusal.problem().status >= 500;
        self.app.metrics.published(if server {
            Outcome::Error
        } else {
            Outcome::Rejected
        });
        refusal
    }

    /// Whether the grant, the hooks and the bounds allow a publication, which a hook may change.
    async fn admit(&self, channel: &Channel, publication: &mut Publication) -> Result<(), Refusal> {
        let app = &self.app;
        self.authorize(channel)?;
        let context = PublishContext {
            identity: &self.identity,
            address: self.address,
            channel,
            headers: &self.headers,
        };
        app.hooks.publish(context, publication).await?;
        let most = app.config.limits.event_bytes;
        if publication.data.len() > most {
            return Err(Refusal::TooLarge {
                what: "the event",
                allowed: format!("{most} bytes"),
            });
        }
        Ok(())
    }
}

impl Receipt {
    /// A repetition answers as the first one did, so that a publisher which retries need not tell
    /// them apart.
    pub(super) fn status(&self) -> StatusCode {
        StatusCode::CREATED
    }
}

impl IntoResponse for Receipt {
    fn into_response(self) -> Response {
        // A struct of strings: serialising it does not fail.
        json(self.status(), serde_json::to_vec(&self).unwrap_or_default())
    }
}
