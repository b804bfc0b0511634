//! One request's publisher: what it may do, and the way of each publication to the broker.

use std::{net::IpAddr, sync::Arc};

use axum::response::{IntoResponse, Response};
use fanfare_core::{Channel, Pattern, Publication};
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
        publication: Publication,
    ) -> Result<Receipt, Refusal> {
        let bytes = publication.data.len();
        match self.try_publish(channel, publication).await {
            Ok(receipt) => {
                let metrics = &self.app.metrics;
                let duplicate = receipt.duplicate;
                metrics.published(if duplicate {
                    Outcome::Duplicate
                } else {
                    Outcome::Ok
                });
                if !duplicate {
                    metrics
                        .publish_bytes
                        .inc_by(u64::try_from(bytes).unwrap_or_default());
                }
                Ok(receipt)
            }
            Err(refusal) => Err(self.rejected(refusal)),
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

    async fn try_publish(
        &self,
        channel: Channel,
        mut publication: Publication,
    ) -> Result<Receipt, Refusal> {
        let app = &self.app;
        self.authorize(&channel)?;
        let context = PublishContext {
            identity: &self.identity,
            address: self.address,
            channel: &channel,
            headers: &self.headers,
        };
        app.hooks.publish(context, &mut publication).await?;
        let most = app.config.limits.event_bytes;
        if publication.data.len() > most {
            return Err(Refusal::TooLarge {
                what: "the event",
                allowed: format!("{most} bytes"),
            });
        }
        let published = app
            .in_time("publishing", app.broker.publish(&channel, publication))
            .await?;
        let published = published.map_err(|error| app.broker_failed(error))?;
        Ok(Receipt {
            channel: channel.as_str().to_owned(),
            id: published
                .position
                .map(|place| Cursor::from(place).to_string()),
            duplicate: published.duplicate,
        })
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
