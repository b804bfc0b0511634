//! `[broker.nats]`.

use std::path::PathBuf;

use fanfare_core::StoreConfig;
use fanfare_nats::{
    Credentials, DurableConfig, Ingest, IngestFrom, NatsConfig, Retain as Keep, Tls,
};
use serde::{Deserialize, Serialize};

use super::{
    broker::Retain,
    choice::choice,
    secret::{Secret, Url},
    values::{Bytes, Span, list},
};

choice! {
    /// Where a rule takes messages from.
    #[derive(Default)]
    From {
        /// Core subjects.
        #[default]
        Core = "core",
        /// A stream of JetStream.
        JetStream = "jetstream",
    }
}

/// How to reach NATS, and what to take from it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Nats {
    #[serde(deserialize_with = "list")]
    pub(crate) url: Vec<Url>,
    /// Whether servers that the cluster names are used too.
    pub(crate) discover: bool,
    pub(crate) prefix: String,
    /// Whether channels that no rule makes are durable, in a stream of Fanfare's own.
    pub(crate) jetstream: bool,
    pub(crate) stream: String,
    pub(crate) replicas: usize,
    pub(crate) stream_max_bytes: Bytes,
    pub(crate) compression: bool,
    pub(crate) key_window: Span,
    pub(crate) replay_messages: usize,
    pub(crate) checked_messages: usize,
    pub(crate) reads: usize,
    /// This node's name in the server's monitoring; by default, `server.node`.
    pub(crate) name: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) token: Option<Secret>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) nkey_seed_file: Option<PathBuf>,
    pub(crate) credentials_file: Option<PathBuf>,
    pub(crate) connect_timeout: Span,
    pub(crate) command_timeout: Span,
    pub(crate) ping_interval: Span,
    pub(crate) probe_timeout: Span,
    pub(crate) reconnect_delay: Span,
    pub(crate) linger: Span,
    pub(crate) max_data_bytes: Bytes,
    pub(crate) outbound_bytes: Bytes,
    pub(crate) queue_messages: usize,
    pub(crate) max_keys: usize,
    pub(crate) tls: NatsTls,
    pub(crate) ingest: Vec<NatsIngest>,
}

/// TLS towards the server.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NatsTls {
    pub(crate) required: bool,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) cert_file: Option<PathBuf>,
    pub(crate) key_file: Option<PathBuf>,
}

/// What to take from subjects that others write.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NatsIngest {
    #[serde(default)]
    pub(crate) from: From,
    #[serde(default)]
    pub(crate) stream: Option<String>,
    pub(crate) source: String,
    #[serde(default = "whole_name")]
    pub(crate) channel: String,
    #[serde(default)]
    pub(crate) retain: Retain,
    #[serde(default)]
    pub(crate) event_header: Option<String>,
    #[serde(default)]
    pub(crate) key_header: Option<String>,
    #[serde(default)]
    pub(crate) tag_headers: Vec<String>,
}

pub(crate) fn whole_name() -> String {
    "{name}".into()
}

impl Default for Nats {
    fn default() -> Self {
        let room = NatsConfig::default();
        let durable = DurableConfig::default();
        Self {
            url: room.urls.into_iter().map(Url::new).collect(),
            discover: room.discover,
            prefix: room.prefix,
            jetstream: true,
            stream: durable.stream,
            replicas: durable.replicas,
            stream_max_bytes: Bytes(usize::try_from(durable.max_bytes).unwrap_or(usize::MAX)),
            compression: durable.compression,
            key_window: Span(durable.key_window),
            replay_messages: durable.replay_messages,
            checked_messages: durable.checked_messages,
            reads: durable.reads,
            name: None,
            user: None,
            password: None,
            password_file: None,
            token: None,
            token_file: None,
            nkey_seed_file: None,
            credentials_file: None,
            connect_timeout: Span(room.connect_timeout),
            command_timeout: Span(room.command_timeout),
            ping_interval: Span(room.ping_interval),
            probe_timeout: Span(room.probe_timeout),
            reconnect_delay: Span(room.reconnect_delay),
            linger: Span(room.linger),
            max_data_bytes: Bytes(room.max_data_bytes),
            outbound_bytes: Bytes(room.outbound_bytes),
            queue_messages: room.queue_messages,
            max_keys: room.max_keys,
            tls: NatsTls::default(),
            ingest: Vec::new(),
        }
    }
}

impl Nats {
    /// Source and channel of the rules whose events nobody keeps.
    pub(crate) fn not_retained(&self) -> impl Iterator<Item = (&str, &str)> {
        let rules = self
            .ingest
            .iter()
            .filter(|rule| rule.retain == Retain::None);
        rules.map(|rule| (&*rule.source, &*rule.channel))
    }

    /// The bounds of durable channels, as the backend wants them.
    pub(crate) fn to_durable(&self, store: StoreConfig) -> DurableConfig {
        DurableConfig {
            stream: self.stream.clone(),
            replicas: self.replicas,
            max_bytes: self.stream_max_bytes.0 as u64,
            compression: self.compression,
            key_window: self.key_window.0,
            replay_messages: self.replay_messages,
            checked_messages: self.checked_messages,
            reads: self.reads,
            store,
        }
    }

    /// As the backend wants it; `node` names it where nothing else does.
    pub(crate) fn to_room(&self, node: &str) -> NatsConfig {
        NatsConfig {
            urls: self.url.iter().map(|url| url.expose().to_owned()).collect(),
            discover: self.discover,
            prefix: self.prefix.clone(),
            ingest: self.ingest.iter().map(NatsIngest::to_room).collect(),
            credentials: Credentials {
                user: self.user.clone(),
                password: self
                    .password
                    .as_ref()
                    .map(|secret| secret.expose().to_owned()),
                token: self.token.as_ref().map(|secret| secret.expose().to_owned()),
                nkey_seed_file: self.nkey_seed_file.clone(),
                credentials_file: self.credentials_file.clone(),
            },
            tls: Tls {
                required: self.tls.required,
                ca_file: self.tls.ca_file.clone(),
                cert_file: self.tls.cert_file.clone(),
                key_file: self.tls.key_file.clone(),
            },
            name: self.name.clone().unwrap_or_else(|| node.to_owned()),
            connect_timeout: self.connect_timeout.0,
            command_timeout: self.command_timeout.0,
            ping_interval: self.ping_interval.0,
            probe_timeout: self.probe_timeout.0,
            reconnect_delay: self.reconnect_delay.0,
            linger: self.linger.0,
            max_data_bytes: self.max_data_bytes.0,
            outbound_bytes: self.outbound_bytes.0,
            queue_messages: self.queue_messages,
            key_window: self.key_window.0,
            max_keys: self.max_keys,
        }
    }
}

impl NatsIngest {
    fn to_room(&self) -> Ingest {
        Ingest {
            from: match self.from {
                From::Core => IngestFrom::Core,
                From::JetStream => IngestFrom::JetStream,
            },
            stream: self.stream.clone(),
            source: self.source.clone(),
            channel: self.channel.clone(),
            event_header: self.event_header.clone(),
            key_header: self.key_header.clone(),
            tag_headers: self.tag_headers.clone(),
            retain: match self.retain {
                Retain::None => Keep::None,
                Retain::Node => Keep::Node,
            },
        }
    }
}
