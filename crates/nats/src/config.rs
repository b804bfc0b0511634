//! How to reach NATS, what to take from it, and the bounds.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use async_nats::ServerAddr;
use fanfare_core::{BrokerError, Channel, Claim, ErrorKind};

use crate::{
    envelope::{EVENT, Names},
    error::error,
    jetstream::config::stream_name,
    subjects::{Rule, Subjects},
};

/// The most headers of a rule that become tags.
const MAX_TAG_HEADERS: usize = 32;

/// How to reach NATS, what to take from it, and the bounds.
#[derive(Clone)]
pub struct NatsConfig {
    /// Servers of one cluster: `nats://host:4222`, `tls://host`, with `user:password@` or `token@`
    /// where the server wants it.
    pub urls: Vec<String>,
    /// Whether servers that the cluster names are used too. `false`: only `urls`, for instance where
    /// the cluster names addresses that cannot be reached from here.
    pub discover: bool,
    /// The first tokens of every subject that Fanfare itself writes.
    pub prefix: String,
    /// What to take from subjects that others write. The first rule that selects a subject counts.
    pub ingest: Vec<Ingest>,
    /// Who we are, where the URL does not say it.
    pub credentials: Credentials,
    /// TLS.
    pub tls: Tls,
    /// This node's name in the server's monitoring.
    pub name: String,
    /// The longest time to reach one server, TLS and log-in included.
    pub connect_timeout: Duration,
    /// The longest time for the server to confirm a publish or a subscribe.
    pub command_timeout: Duration,
    /// How often a server that says nothing is pinged, at least. One that stands still is noticed
    /// after one and a half of it.
    pub ping_interval: Duration,
    /// The longest time for a probe.
    pub probe_timeout: Duration,
    /// The longest wait between two attempts to reconnect; attempts are jittered, so that nodes do
    /// not come back in step.
    pub reconnect_delay: Duration,
    /// How long a subscription stays that nobody follows any more. At least 100 ms: what the server
    /// was about to hand over when it ended must still find it.
    pub linger: Duration,
    /// The largest data of a message that is taken, in bytes; larger ones become a gap.
    pub max_data_bytes: usize,
    /// About the most bytes of publications that wait for the server's confirmation; then
    /// publishers wait.
    pub outbound_bytes: usize,
    /// The most messages of one subscription that wait to be taken up; what does not fit becomes a
    /// gap. Positive.
    pub queue_messages: usize,
    /// How long a key of a rule's `key_header` is known.
    pub key_window: Duration,
    /// The most such keys that are known; then the oldest is forgotten early.
    pub max_keys: usize,
}

/// What to take from subjects that others write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ingest {
    /// Core subjects or a JetStream stream.
    pub from: IngestFrom,
    /// The stream; with `jetstream` only.
    pub stream: Option<String>,
    /// The subjects, `*` and `>` allowed; each captures.
    pub source: String,
    /// The channel: `{1}` the first capture, `{name}` the whole subject.
    pub channel: String,
    /// The message header that names the event type; without it, `Fanfare-Event`.
    pub event_header: Option<String>,
    /// The message header that holds an idempotency key: of messages with one key a node takes the
    /// first. With `core` only; a stream has `Nats-Msg-Id` for it.
    pub key_header: Option<String>,
    /// Message headers that become tags of these names, which filters see.
    pub tag_headers: Vec<String>,
    /// Who keeps the events.
    pub retain: Retain,
}

/// Where a rule takes messages from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IngestFrom {
    /// Core subjects.
    #[default]
    Core,
    /// A JetStream stream.
    JetStream,
}

/// Who keeps events of a bus that keeps nothing. Core NATS does not look at it: retention is a
/// wrapper around this broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Retain {
    /// Nobody.
    None,
    /// This node, in memory.
    #[default]
    Node,
    /// One node for all; needs a durable log.
    Shared,
}

/// Who we are. At most one of `user`, `token`, `nkey_seed_file` and `credentials_file`.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The user.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<String>,
    /// A token.
    pub token: Option<String>,
    /// A file with an nkey seed (`SU…`). Read at each log-in.
    pub nkey_seed_file: Option<PathBuf>,
    /// A credentials file of `nsc`: a user JWT and its seed. Read at each log-in.
    pub credentials_file: Option<PathBuf>,
}

/// TLS towards the server. It is also used, without being `required`, where the server asks for it
/// or the URL begins with `tls://`. Files are read at each connect.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Whether a server without TLS is refused.
    pub required: bool,
    /// A PEM file of the authorities to trust, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// A PEM file with our certificate; with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// A PEM file with our key.
    pub key_file: Option<PathBuf>,
}

impl Default for NatsConfig {
    /// A server on this machine, core NATS alone.
    fn default() -> Self {
        Self {
            urls: vec!["nats://127.0.0.1:4222".into()],
            discover: true,
            prefix: "fanfare".into(),
            ingest: Vec::new(),
            credentials: Credentials::default(),
            tls: Tls::default(),
            name: "fanfare".into(),
            connect_timeout: Duration::from_secs(2),
            command_timeout: Duration::from_secs(2),
            ping_interval: Duration::from_secs(2),
            probe_timeout: Duration::from_secs(2),
            reconnect_delay: Duration::from_secs(2),
            linger: Duration::from_secs(1),
            max_data_bytes: 8 << 20,
            outbound_bytes: 16 << 20,
            queue_messages: 65_536,
            key_window: Duration::from_secs(120),
            max_keys: 100_000,
        }
    }
}

impl Default for Ingest {
    /// Every subject that others write would need a `source`; it is empty here.
    fn default() -> Self {
        Self {
            from: IngestFrom::Core,
            stream: None,
            source: String::new(),
            channel: "{name}".into(),
            event_header: None,
            key_header: None,
            tag_headers: Vec::new(),
            retain: Retain::default(),
        }
    }
}

pub(crate) fn bad(setting: &str, why: impl fmt::Display) -> BrokerError {
    error(ErrorKind::Rejected, format!("broker.nats.{setting} {why}"))
}

impl NatsConfig {
    /// The servers.
    pub(crate) fn servers(&self) -> Result<Vec<ServerAddr>, BrokerError> {
        if self.urls.is_empty() {
            return Err(bad("url", "is empty; at least one server is needed"));
        }
        let parse = |url: &String| {
            // The text may hold a password, and so may the parser's message: neither is shown.
            let addr: ServerAddr = url
                .parse()
                .map_err(|_| bad("url", "is no URL; `nats://host:4222` is one"))?;
            if addr.is_websocket() || addr.host().is_empty() {
                return Err(bad(
                    "url",
                    "has no host, or is neither `nats://` nor `tls://`",
                ));
            }
            Ok(addr)
        };
        self.urls.iter().map(parse).collect()
    }

    /// Checks everything and answers the subjects of raw channels.
    pub(crate) fn subjects(&self) -> Result<Subjects, BrokerError> {
        let rules = self.rules(IngestFrom::Core)?;
        let rules = rules.into_iter().map(|(_, rule)| rule).collect();
        Ok(Subjects::new(&self.prefix, rules))
    }

    /// Checks everything that can be checked without a server.
    ///
    /// # Errors
    /// A bad setting, by its name.
    pub fn validate(&self) -> Result<(), BrokerError> {
        self.servers()?;
        self.rules(IngestFrom::Core)?;
        Ok(())
    }

    /// Which channels come from core subjects by rules.
    ///
    /// # Errors
    /// A bad setting, by its name.
    pub fn raw_claim(&self) -> Result<Claim, BrokerError> {
        let subjects = self.subjects()?;
        Ok(Arc::new(move |pattern| subjects.claims(pattern)))
    }

    /// Checks everything and answers the rules for what comes from there, each with its place in
    /// the list of all.
    pub(crate) fn rules(&self, from: IngestFrom) -> Result<Vec<(usize, Rule)>, BrokerError> {
        let reserved = self.prefix.starts_with('$') || self.prefix.starts_with("_INBOX");
        if reserved || self.prefix.len() > 100 {
            return Err(bad(
                "prefix",
                "begins with `$` or `_INBOX`, or has more than 100 bytes",
            ));
        }
        Channel::parse(&self.prefix).map_err(|why| bad("prefix", why))?;
        let bounds = [
            ("connect_timeout", self.connect_timeout),
            ("command_timeout", self.command_timeout),
            ("ping_interval", self.ping_interval),
            ("probe_timeout", self.probe_timeout),
        ];
        if let Some((setting, _)) = bounds.iter().find(|(_, value)| value.is_zero()) {
            return Err(bad(setting, "is zero; it must be positive"));
        }
        if self.queue_messages == 0 {
            return Err(bad("queue_messages", "is zero; it must be positive"));
        }
        if self.linger < Duration::from_millis(100) {
            return Err(bad("linger", "is shorter than 100ms"));
        }
        self.credentials.check()?;
        if self.tls.cert_file.is_some() != self.tls.key_file.is_some() {
            return Err(bad("tls", "has only one of `cert_file` and `key_file`"));
        }
        let mut rules = Vec::new();
        for (at, ingest) in self.ingest.iter().enumerate() {
            let rule = ingest.parse(at)?;
            if ingest.from == from {
                rules.push((at, rule));
            }
        }
        Ok(rules)
    }
}

impl Ingest {
    fn parse(&self, at: usize) -> Result<Rule, BrokerError> {
        let key = |field: &str| format!("ingest[{at}].{field}");
        match (self.from, &self.stream) {
            (IngestFrom::Core, Some(_)) => {
                return Err(bad(&key("stream"), "is for `from = \"jetstream\"` only"));
            }
            (IngestFrom::JetStream, None) => {
                return Err(bad(&key("stream"), "is missing; it names the stream"));
            }
            (IngestFrom::JetStream, Some(name)) => stream_name(&key("stream"), name)?,
            (IngestFrom::Core, None) => {}
        }
        match (self.from, self.retain) {
            (IngestFrom::JetStream, Retain::None) => {
                let why = "is for `from = \"core\"` only: a stream keeps its messages";
                return Err(bad(&key("retain"), why));
            }
            (IngestFrom::Core, Retain::Shared) => {
                let why = "is `shared`; `none` and `node` are allowed. A JetStream stream that \
                           captures the subjects shares them among all nodes";
                return Err(bad(&key("retain"), why));
            }
            _ => {}
        }
        if self.from == IngestFrom::JetStream && self.key_header.is_some() {
            let why = "is for `from = \"core\"` only: a stream has `Nats-Msg-Id`";
            return Err(bad(&key("key_header"), why));
        }
        let header = |field: &str, name: &String| {
            let token = |b: u8| b.is_ascii_graphic() && b != b':';
            if name.is_empty() || !name.bytes().all(token) {
                let why = "is no header name; visible ASCII without `:` is allowed";
                return Err(bad(&key(field), why));
            }
            Ok(Box::from(name.as_str()))
        };
        if self.tag_headers.len() > MAX_TAG_HEADERS {
            let why = format!("names more than {MAX_TAG_HEADERS} headers");
            return Err(bad(&key("tag_headers"), why));
        }
        let event = self.event_header.as_ref();
        let event = event.map(|name| header("event_header", name)).transpose()?;
        let tags = self.tag_headers.iter();
        let tags: Result<_, _> = tags.map(|name| header("tag_headers", name)).collect();
        let unique = self.key_header.as_ref();
        let unique = unique.map(|name| header("key_header", name)).transpose()?;
        let names = Names {
            key: unique,
            tags: tags?,
            event: event.unwrap_or_else(|| EVENT.into()),
        };
        Rule::parse(&self.source, &self.channel, names)
            .map_err(|why| bad(&format!("ingest[{at}]"), why))
    }
}

impl Credentials {
    /// Which of the forms are set.
    pub(crate) fn set(&self) -> Vec<&'static str> {
        [
            ("user", self.user.is_some()),
            ("token", self.token.is_some()),
            ("nkey_seed_file", self.nkey_seed_file.is_some()),
            ("credentials_file", self.credentials_file.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, set)| set.then_some(name))
        .collect()
    }

    fn check(&self) -> Result<(), BrokerError> {
        let set = self.set();
        if set.len() > 1 {
            return Err(bad(
                "credentials",
                format!("names {}; one of them is allowed", set.join(", ")),
            ));
        }
        if self.user.is_some() != self.password.is_some() {
            return Err(bad("credentials", "has only one of `user` and `password`"));
        }
        Ok(())
    }
}

impl fmt::Debug for NatsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> = self.urls.iter().map(|url| public_part(url)).collect();
        f.debug_struct("NatsConfig")
            .field("urls", &hosts)
            .field("prefix", &self.prefix)
            .field("ingest", &self.ingest)
            .field("credentials", &self.credentials)
            .field("tls", &self.tls)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A URL without what stands before the `@`.
fn public_part(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.rsplit_once('@').map_or(rest, |(_, host)| host)
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.set().join(", "))
    }
}

#[cfg(test)]
mod tests;
