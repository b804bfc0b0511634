//! `[broker.redis]`.

use std::path::PathBuf;

use fanfare_redis::{
    Ingest, IngestFrom, RedisConfig, RedisSentinels, RedisTls as Tls, Retain as Keep,
};
use serde::{Deserialize, Serialize};

use super::{
    choice::choice,
    nats::whole_name,
    secret::Url,
    values::{Bytes, Span, list},
};

choice! {
    /// Where a rule takes messages from.
    #[derive(Default)]
    From {
        /// What is published on pub/sub channels.
        #[default]
        Pubsub = "pubsub",
        /// What is added to streams.
        Stream = "stream",
    }
}

choice! {
    /// Who keeps the events of pub/sub, which keeps nothing.
    #[derive(Default)]
    Retain {
        /// Nobody.
        None = "none",
        /// Each node, in its own memory.
        #[default]
        Node = "node",
        /// One node for all, in Redis.
        Shared = "shared",
    }
}

/// How to reach Redis, and what to take from it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Redis {
    pub(crate) url: Url,
    pub(crate) url_file: Option<PathBuf>,
    pub(crate) sentinel: Option<RedisSentinel>,
    #[serde(deserialize_with = "list")]
    pub(crate) cluster: Vec<Url>,
    pub(crate) tls: RedisTls,
    pub(crate) prefix: String,
    /// `None`: one, or with a cluster [`RedisConfig::CLUSTER_PARTITIONS`].
    pub(crate) partitions: Option<usize>,
    pub(crate) max_channels: usize,
    pub(crate) connect_timeout: Span,
    pub(crate) command_timeout: Span,
    pub(crate) ping_interval: Span,
    pub(crate) probe_timeout: Span,
    pub(crate) reconnect_delay: Span,
    pub(crate) linger: Span,
    pub(crate) max_lingering: usize,
    pub(crate) key_window: Span,
    pub(crate) recorder_lease: Span,
    pub(crate) recorder_buffer: Bytes,
    pub(crate) stream_search_interval: Span,
    pub(crate) max_data_bytes: Bytes,
    pub(crate) ingest: Vec<RedisIngest>,
}

/// The sentinels that name the primary.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RedisSentinel {
    pub(crate) master: String,
    #[serde(deserialize_with = "list")]
    pub(crate) urls: Vec<Url>,
}

/// Whom to trust, and what to show, over `rediss://`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RedisTls {
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) cert_file: Option<PathBuf>,
    pub(crate) key_file: Option<PathBuf>,
}

/// What to take from pub/sub channels and streams that others write.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RedisIngest {
    #[serde(default)]
    pub(crate) from: From,
    pub(crate) source: String,
    #[serde(default = "whole_name")]
    pub(crate) channel: String,
    #[serde(default)]
    pub(crate) retain: Retain,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) event: Option<String>,
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    #[serde(default = "max_streams")]
    pub(crate) max_streams: usize,
}

fn max_streams() -> usize {
    Ingest::default().max_streams
}

impl Default for Redis {
    fn default() -> Self {
        let room = RedisConfig::default();
        Self {
            url: Url::new(room.url),
            url_file: None,
            sentinel: None,
            cluster: Vec::new(),
            tls: RedisTls::default(),
            prefix: room.prefix,
            partitions: None,
            max_channels: room.max_channels,
            connect_timeout: Span(room.connect_timeout),
            command_timeout: Span(room.command_timeout),
            ping_interval: Span(room.ping_interval),
            probe_timeout: Span(room.probe_timeout),
            reconnect_delay: Span(room.reconnect_delay),
            linger: Span(room.linger),
            max_lingering: room.max_lingering,
            key_window: Span(room.key_window),
            recorder_lease: Span(room.recorder_lease),
            recorder_buffer: Bytes(room.recorder_buffer),
            stream_search_interval: Span(room.stream_search_interval),
            max_data_bytes: Bytes(room.max_data_bytes),
            ingest: Vec::new(),
        }
    }
}

impl Redis {
    /// Source and channel of the rules whose events nobody keeps.
    pub(crate) fn not_retained(&self) -> impl Iterator<Item = (&str, &str)> {
        let is_kept_by_nobody =
            |rule: &&RedisIngest| rule.from == From::Pubsub && rule.retain == Retain::None;
        let rules = self.ingest.iter().filter(is_kept_by_nobody);
        rules.map(|rule| (&*rule.source, &*rule.channel))
    }

    /// As the backend wants it, with retention and queues at their defaults.
    pub(crate) fn to_room(&self) -> RedisConfig {
        RedisConfig {
            url: self.url.expose().to_owned(),
            sentinel: self.sentinel.as_ref().map(|sentinel| RedisSentinels {
                master: sentinel.master.clone(),
                urls: exposed(&sentinel.urls),
            }),
            cluster: exposed(&self.cluster),
            tls: Tls {
                ca_file: self.tls.ca_file.clone(),
                cert_file: self.tls.cert_file.clone(),
                key_file: self.tls.key_file.clone(),
            },
            prefix: self.prefix.clone(),
            partitions: self.partitions.unwrap_or_else(|| {
                if self.cluster.is_empty() {
                    RedisConfig::default().partitions
                } else {
                    RedisConfig::CLUSTER_PARTITIONS
                }
            }),
            max_channels: self.max_channels,
            ingest: self.ingest.iter().map(RedisIngest::to_room).collect(),
            connect_timeout: self.connect_timeout.0,
            command_timeout: self.command_timeout.0,
            ping_interval: self.ping_interval.0,
            probe_timeout: self.probe_timeout.0,
            reconnect_delay: self.reconnect_delay.0,
            linger: self.linger.0,
            max_lingering: self.max_lingering,
            key_window: self.key_window.0,
            recorder_lease: self.recorder_lease.0,
            recorder_buffer: self.recorder_buffer.0,
            stream_search_interval: self.stream_search_interval.0,
            max_data_bytes: self.max_data_bytes.0,
            ..RedisConfig::default()
        }
    }
}

fn exposed(urls: &[Url]) -> Vec<String> {
    urls.iter().map(|url| url.expose().to_owned()).collect()
}

impl RedisIngest {
    fn to_room(&self) -> Ingest {
        Ingest {
            from: match self.from {
                From::Pubsub => IngestFrom::PubSub,
                From::Stream => IngestFrom::Stream,
            },
            source: self.source.clone(),
            channel: self.channel.clone(),
            retain: match self.retain {
                Retain::None => Keep::None,
                Retain::Node => Keep::Node,
                Retain::Shared => Keep::Shared,
            },
            data: self.data.clone(),
            event: self.event.clone(),
            tags: self.tags.clone(),
            max_streams: self.max_streams,
        }
    }
}
