//! How to reach Redis, what to take from it, and the bounds.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use fanfare_core::{
    BrokerError, Channel, Claim, Dialect, ErrorKind, Mapping, Retention, feed::FeedBounds,
};

use crate::{
    error::error,
    home::Home,
    raw::routes::{Routes, Side},
    stream::{entry::Fields, rules::StreamRules},
};

/// The longest prefix, in bytes.
const MAX_PREFIX_BYTES: usize = 100;
/// The most partitions. A client's cursor may name each of them.
const MAX_PARTITIONS: usize = 64;
/// The shortest lease: it is renewed four times in its life.
const SHORTEST_LEASE: Duration = Duration::from_millis(200);

/// How to reach Redis, what to take from it, and the bounds.
#[derive(Clone)]
pub struct RedisConfig {
    /// The server: `redis://host:6379`, `rediss://` for TLS, with `user:password@` where it wants
    /// one and `/2` for a database. For TLS the process needs an installed rustls provider. With
    /// [`sentinel`](Self::sentinel), how to log in at the primary, wherever it is; with
    /// [`cluster`](Self::cluster), not used.
    pub url: String,
    /// The sentinels that name the primary; `None` where nothing fails over.
    pub sentinel: Option<RedisSentinels>,
    /// Nodes of a Redis Cluster, as URLs, by which the others are found; empty where it is none.
    /// The first one's login and TLS count at all nodes.
    pub cluster: Vec<String>,
    /// Whom to trust, and what to show, over `rediss://`.
    pub tls: RedisTls,
    /// What every key and pub/sub channel begins with that Fanfare itself writes.
    pub prefix: String,
    /// How many partitions the durable channels live in, 1 to 64. Each is a log of its own: events
    /// of channels in different partitions have no order. All nodes have the same number, and it
    /// does not change while the logs live.
    pub partitions: usize,
    /// How much of each durable channel Redis keeps, by the rules of the node that publishes.
    pub retention: Retention,
    /// The most durable channels that a partition knows. Over it, the one that was published on
    /// least recently is forgotten, with what it retains.
    pub max_channels: usize,
    /// Bounds of what waits in one partition while missed events are read. Over it, what waits is
    /// read too.
    pub intake: FeedBounds,
    /// What to take from names that others write. The first rule that selects a name counts.
    pub ingest: Vec<Ingest>,
    /// The longest time to make a link, TLS and log-in included.
    pub connect_timeout: Duration,
    /// The longest time for an answer to a command, a subscribe or a ping. While messages keep
    /// coming on a link, up to [`PATIENCE`](crate::RedisConfig::PATIENCE) times as long.
    pub command_timeout: Duration,
    /// How often the link for subscriptions is pinged. A server that stands still is noticed after
    /// at most this and `command_timeout` together.
    pub ping_interval: Duration,
    /// The longest time for a probe.
    pub probe_timeout: Duration,
    /// The longest wait between two attempts to reconnect; attempts are jittered, so that nodes do
    /// not come back in step.
    pub reconnect_delay: Duration,
    /// How long a subscription stays on the bus that nobody follows any more. Zero ends it at once.
    pub linger: Duration,
    /// The most subscriptions that stay so; over it, the oldest end early.
    pub max_lingering: usize,
    /// How long an idempotency key is known.
    pub key_window: Duration,
    /// How long the recorder of `Retain::Shared` may be silent before the standby takes over. No
    /// event is lost or doubled by that, however short it is. At least 200 ms.
    pub recorder_lease: Duration,
    /// About how many bytes the recorder and the standby hold each of what was heard and is not
    /// known to be recorded. Over it the oldest is dropped, which can become a gap.
    pub recorder_buffer: usize,
    /// How long after one search for the streams of wildcards the next one begins. A stream that comes
    /// into being is delivered from its first entry on, at most so much later.
    pub stream_search_interval: Duration,
    /// The largest data of an event, in bytes. A larger publication is refused; a larger message
    /// of others becomes a gap.
    pub max_data_bytes: usize,
}

/// The sentinels that name the primary.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct RedisSentinels {
    /// What they call it.
    pub master: String,
    /// Each sentinel's URL, with its own login.
    pub urls: Vec<String>,
}

/// Whom to trust, and what to show, over `rediss://`: files in PEM, read when links are made first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RedisTls {
    /// The authorities that servers' certificates come from; `None`: those of this system.
    pub ca_file: Option<PathBuf>,
    /// This client's certificate, where the server wants one.
    pub cert_file: Option<PathBuf>,
    /// The certificate's key.
    pub key_file: Option<PathBuf>,
}

/// What to take from names that others write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ingest {
    /// Pub/sub or streams.
    pub from: IngestFrom,
    /// The names, a Redis glob; each `*` captures.
    pub source: String,
    /// The channel: `{1}` the first capture, `{name}` the whole name with `:` and `/` as `.`.
    pub channel: String,
    /// Who keeps the events of pub/sub. Streams keep theirs.
    pub retain: Retain,
    /// Of streams: the entry's field with the data. Without it, the data is a JSON object of all
    /// fields, and nothing can be published on the rule's channels.
    pub data: Option<String>,
    /// Of streams: the entry's field with the event type.
    pub event: Option<String>,
    /// Of streams: fields of the entry that become tags of their names, for filters.
    pub tags: Vec<String>,
    /// Of streams: the most of them that a node follows at once, by name or found for wildcards.
    pub max_streams: usize,
}

/// Where a rule takes messages from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IngestFrom {
    /// Pub/sub channels.
    #[default]
    PubSub,
    /// Streams.
    Stream,
}

/// Who keeps the events of pub/sub, which keeps nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Retain {
    /// Nobody.
    None,
    /// This node, in memory: by a wrapper around [`RedisBroker`](crate::RedisBroker).
    #[default]
    Node,
    /// One node at a time for all, in Redis, so that clients resume on any node: see
    /// [`RedisRecorded`](crate::RedisRecorded). For pub/sub.
    Shared,
}

impl Default for RedisConfig {
    /// A server on this machine.
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379".into(),
            sentinel: None,
            cluster: Vec::new(),
            tls: RedisTls::default(),
            prefix: "fanfare".into(),
            partitions: 1,
            retention: Retention::default(),
            max_channels: 1_000_000,
            intake: FeedBounds::default(),
            ingest: Vec::new(),
            connect_timeout: Duration::from_secs(2),
            command_timeout: Duration::from_secs(2),
            ping_interval: Duration::from_secs(2),
            probe_timeout: Duration::from_secs(2),
            reconnect_delay: Duration::from_secs(2),
            linger: Duration::from_secs(5),
            max_lingering: 10_000,
            key_window: Duration::from_secs(120),
            recorder_lease: Duration::from_secs(3),
            recorder_buffer: 64 << 20,
            stream_search_interval: Duration::from_secs(2),
            max_data_bytes: 1 << 20,
        }
    }
}

impl Default for Ingest {
    /// Pub/sub, retained by the node; `source` is empty and must be set.
    fn default() -> Self {
        Self {
            from: IngestFrom::PubSub,
            source: String::new(),
            channel: "{name}".into(),
            retain: Retain::Node,
            data: None,
            event: None,
            tags: Vec::new(),
            max_streams: 1000,
        }
    }
}

pub(crate) fn bad(setting: &str, why: impl fmt::Display) -> BrokerError {
    error(ErrorKind::Rejected, format!("broker.redis.{setting} {why}"))
}

impl RedisConfig {
    /// How many times `command_timeout` an answer may take while messages keep coming: it waits
    /// behind them.
    pub const PATIENCE: u32 = 15;

    /// How many partitions suit a cluster: enough for a few nodes to share the work. Each costs three
    /// connections, and a place in the id of clients that follow patterns.
    pub const CLUSTER_PARTITIONS: usize = 8;

    /// Checks everything that can be checked without a server.
    ///
    /// # Errors
    /// [`ErrorKind::Rejected`] or [`ErrorKind::Unsupported`] names the setting and what is
    /// allowed, never the URL's secret.
    pub fn validate(&self) -> Result<(), BrokerError> {
        self.client()?;
        self.routes(Side::Node)?;
        self.stream_rules()?;
        if self.cluster.is_empty() {
            return Ok(());
        }
        for (at, rule) in self.ingest.iter().enumerate() {
            let why = match (rule.from, rule.retain) {
                (IngestFrom::Stream, _) => {
                    "from = \"stream\" does not work with broker.redis.cluster yet; \
                     `pubsub` is allowed"
                }
                (_, Retain::Shared) => {
                    "retain = \"shared\" does not work with broker.redis.cluster: what is \
                     published on several nodes has no one order that a standby could prove; \
                     `none` or `node` are allowed"
                }
                _ => continue,
            };
            let message = format!("broker.redis.ingest[{at}].{why}");
            return Err(error(ErrorKind::Unsupported, message));
        }
        Ok(())
    }

    /// Which channels are [`RedisBroker`](crate::RedisBroker)'s: those that a rule makes which
    /// nobody keeps, or each node. `None` where there is no such rule.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn claim(&self) -> Result<Option<Claim>, BrokerError> {
        self.claim_of(Side::Node)
    }

    /// Which channels are [`RedisRecorded`](crate::RedisRecorded)'s: those that a rule makes with
    /// [`Retain::Shared`]. `None` where there is no such rule.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn shared_claim(&self) -> Result<Option<Claim>, BrokerError> {
        self.claim_of(Side::Shared)
    }

    fn claim_of(&self, side: Side) -> Result<Option<Claim>, BrokerError> {
        let routes = self.routes(side)?;
        let has_side = routes.has_side();
        let claim: Claim = Arc::new(move |pattern| routes.claims(pattern));
        Ok(has_side.then_some(claim))
    }

    /// Which channels are [`RedisStreams`](crate::RedisStreams)': those that an ingest rule for streams
    /// makes. `None` where there is no such rule.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn claim_streams(&self) -> Result<Option<Claim>, BrokerError> {
        let rules = self.stream_rules()?;
        let has_rules = !rules.rules().is_empty();
        let claim: Claim = Arc::new(move |pattern| rules.claims(pattern));
        Ok(has_rules.then_some(claim))
    }

    /// The streams of others.
    pub(crate) fn stream_rules(&self) -> Result<StreamRules, BrokerError> {
        let mut rules = Vec::new();
        for (at, rule) in self.ingest.iter().enumerate() {
            if rule.from == IngestFrom::Stream {
                rules.push(rule.parse_stream(at)?);
            }
        }
        Ok(StreamRules::new(&self.prefix, rules))
    }

    /// Who serves.
    pub(crate) fn client(&self) -> Result<Home, BrokerError> {
        Home::new(self)
    }

    /// The names on the bus.
    pub(crate) fn routes(&self, side: Side) -> Result<Routes, BrokerError> {
        if self.prefix.len() > MAX_PREFIX_BYTES {
            return Err(bad("prefix", "is longer than 100 bytes"));
        }
        Channel::parse(&self.prefix).map_err(|why| bad("prefix", why))?;
        let times = [
            ("connect_timeout", self.connect_timeout),
            ("command_timeout", self.command_timeout),
            ("ping_interval", self.ping_interval),
            ("probe_timeout", self.probe_timeout),
            ("reconnect_delay", self.reconnect_delay),
            ("key_window", self.key_window),
            ("stream_search_interval", self.stream_search_interval),
        ];
        if let Some((setting, _)) = times.iter().find(|(_, time)| time.is_zero()) {
            return Err(bad(setting, "is zero; it must be positive"));
        }
        if self.recorder_lease < SHORTEST_LEASE {
            let why = format!("is shorter than {SHORTEST_LEASE:?}");
            return Err(bad("recorder_lease", why));
        }
        let counts = [
            ("recorder_buffer", self.recorder_buffer),
            ("max_data_bytes", self.max_data_bytes),
            ("max_channels", self.max_channels),
            ("intake.items", self.intake.items),
            ("intake.bytes", self.intake.bytes),
        ];
        if let Some((setting, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(bad(setting, "is zero; it must be positive"));
        }
        if !(1..=MAX_PARTITIONS).contains(&self.partitions) {
            let why = format!("is {}; 1 to {MAX_PARTITIONS} are allowed", self.partitions);
            return Err(bad("partitions", why));
        }
        let rules = self.ingest.iter().enumerate();
        let rules = rules.filter(|(_, rule)| rule.from == IngestFrom::PubSub);
        let rules = rules.map(|(at, rule)| rule.parse(at));
        let rules = rules.collect::<Result<_, _>>()?;
        Ok(Routes::new(&self.prefix, rules, side))
    }
}

impl Ingest {
    fn parse(&self, at: usize) -> Result<(Mapping, Side), BrokerError> {
        let key = |field: &str| format!("ingest[{at}].{field}");
        let of_streams = [
            ("data", self.data.is_some()),
            ("event", self.event.is_some()),
            ("tags", !self.tags.is_empty()),
        ];
        if let Some((field, _)) = of_streams.iter().find(|(_, is_set)| *is_set) {
            let why = "is of streams; messages of pub/sub have no fields";
            return Err(bad(&key(field), why));
        }
        let side = match self.retain {
            Retain::None | Retain::Node => Side::Node,
            Retain::Shared => Side::Shared,
        };
        let mapping = Mapping::parse(Dialect::Glob, &self.source, &self.channel)
            .map_err(|why| bad(&format!("ingest[{at}]:"), why))?;
        Ok((mapping, side))
    }
}

impl Ingest {
    fn parse_stream(&self, at: usize) -> Result<(Mapping, Fields, usize), BrokerError> {
        let key = |field: &str| format!("ingest[{at}].{field}");
        if self.retain != Retain::default() {
            return Err(bad(
                &key("retain"),
                "is of pub/sub; a stream keeps its events itself",
            ));
        }
        let fields = Fields {
            data: self.data.clone(),
            event: self.event.clone(),
            tags: self.tags.clone(),
        };
        let names = [("data", &self.data), ("event", &self.event)];
        if let Some((field, _)) = names.iter().find(|(_, name)| name.as_deref() == Some("")) {
            return Err(bad(&key(field), "is empty; the name of a field is needed"));
        }
        let mut used: Vec<&String> = self
            .data
            .iter()
            .chain(&self.event)
            .chain(&self.tags)
            .collect();
        used.sort_unstable();
        if let Some(twice) = used.windows(2).find(|pair| pair[0] == pair[1]) {
            let why = format!("names the field {:?} for two things", twice[0]);
            return Err(bad(&format!("ingest[{at}]"), why));
        }
        if self.max_streams == 0 {
            return Err(bad(&key("max_streams"), "is zero; it must be positive"));
        }
        let mapping = Mapping::parse(Dialect::Glob, &self.source, &self.channel)
            .map_err(|why| bad(&format!("ingest[{at}]:"), why))?;
        Ok((mapping, fields, self.max_streams))
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("url", &public_part(&self.url))
            .field("sentinel", &self.sentinel)
            .field("cluster", &public_parts(&self.cluster))
            .field("tls", &self.tls)
            .field("prefix", &self.prefix)
            .field("ingest", &self.ingest)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RedisSentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSentinels")
            .field("master", &self.master)
            .field("urls", &public_parts(&self.urls))
            .finish()
    }
}

fn public_parts(urls: &[String]) -> Vec<&str> {
    urls.iter().map(|url| public_part(url)).collect()
}

/// A URL's host and port. What stands before an `@` or after a `?` may be a secret.
fn public_part(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    host.split(['/', '?', '#']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
