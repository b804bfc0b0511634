//! Publishing on raw channels: the bare data, on the name that their followers listen to.

use std::{sync::Arc, time::Duration};

use fanfare_core::{BrokerError, Channel, ErrorKind, Publication, Published};
use redis::Script;

use super::routes::{Routes, Target};
use crate::{command::Commands, config::RedisConfig, error::error};

/// Publishes on raw channels.
#[derive(Debug)]
pub(crate) struct RawPublisher {
    routes: Arc<Routes>,
    max_data_bytes: usize,
    key_window: Duration,
    publish_once: Script,
}

impl RawPublisher {
    pub(crate) fn new(config: &RedisConfig, routes: Arc<Routes>) -> Self {
        Self {
            routes,
            max_data_bytes: config.max_data_bytes,
            key_window: config.key_window,
            publish_once: Script::new(include_str!("../script/publish_once.lua")),
        }
    }

    /// Publishes, unless the publication's key is known.
    pub(crate) async fn publish(
        &self,
        commands: &Commands,
        channel: &Channel,
        publication: &Publication,
    ) -> Result<Published, BrokerError> {
        let (name, message) = self.message(channel, publication)?;
        let answer = match &publication.key {
            None => {
                let mut publish = redis::cmd("PUBLISH");
                publish.arg(name).arg(message);
                let publish = &publish;
                let run = |mut link, _| async move { publish.query_async::<u64>(&mut link).await };
                commands.insist(run).await.map(|_| false)
            }
            Some(key) => {
                let window = self.key_window.as_millis().max(1);
                let mut once = self.publish_once.prepare_invoke();
                once.key(self.routes.key(channel, key.as_str()))
                    .arg(u64::try_from(window).unwrap_or(u64::MAX))
                    .arg(name)
                    .arg(message);
                let once = &once;
                let run = |mut link, _| async move { once.invoke_async::<u64>(&mut link).await };
                commands.insist(run).await.map(|published| published == 0)
            }
        };
        let duplicate = answer.map_err(|failure| failure.into_error("publishing"))?;
        Ok(Published {
            position: None,
            duplicate,
        })
    }

    /// The name to publish on and the message.
    fn message(
        &self,
        channel: &Channel,
        publication: &Publication,
    ) -> Result<(String, Vec<u8>), BrokerError> {
        let (length, most) = (publication.data.len(), self.max_data_bytes);
        if length > most {
            let message = format!("the data has {length} bytes; at most {most} are allowed");
            return Err(error(ErrorKind::TooLarge, message));
        }
        match self.routes.target(channel) {
            Target::Nowhere => {
                let message = format!("no ingest rule makes the channel {channel}");
                Err(error(ErrorKind::Unsupported, message))
            }
            Target::Raw(name) => {
                let extra = match publication {
                    p if p.event_type.is_some() => "an event type",
                    p if !p.tags.is_empty() => "tags",
                    p => return Ok((name, p.data.bytes().to_vec())),
                };
                let message = format!(
                    "{channel} is a raw channel of an ingest rule, which carries bare data; \
                     {extra} cannot be published on it"
                );
                Err(error(ErrorKind::Unsupported, message))
            }
            Target::Ambiguous(rule) => {
                let message = format!(
                    "{channel} is a raw channel of the ingest rule `{rule}`, which does not say \
                     on which one name to publish it; publish to Redis itself, or use a channel \
                     that the rule does not make"
                );
                Err(error(ErrorKind::Unsupported, message))
            }
        }
    }
}
