//! A stream: what it is, and where it stands.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::jetstream::stream::{
    Compression, Config, DiscardPolicy, RetentionPolicy, StorageType,
};
use fanfare_core::{BrokerError, Epoch, ErrorKind, Pattern, RetentionRule};
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, time::sleep};

use super::{
    config::DurableConfig,
    place::born,
    tenure::{Cluster, Tenure},
    wire::{Trouble, Wire},
};
use crate::{config::bad, error::error, subjects::Subjects};

/// The most channels whose counts are looked at to tell who lost something.
const COUNTED: u64 = 100_000;
/// How often a stream is looked at whose end is before what is known.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);
/// For how long at least a stream of several copies must end before what is known, however long its
/// leader leads.
const SHORTEST_DOUBT: Duration = Duration::from_millis(500);
/// After how long it is given up to find out; who asks comes again.
const LONGEST_DOUBT: Duration = Duration::from_secs(8);

/// A stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) name: String,
    pub(super) subjects: Subjects,
    pub(super) wire: Arc<Wire>,
    /// Where it is marked, if it is our own.
    pub(super) marks: Option<String>,
    /// What it must be, where it is our own.
    own: Option<Box<Config>>,
    /// The newest answer, and when it was asked for.
    newest: Mutex<Option<(Instant, Arc<Info>)>>,
    tenure: parking_lot::Mutex<Tenure>,
}

/// What the server says of a stream.
#[derive(Deserialize, Debug)]
pub(super) struct Info {
    pub(super) config: Config,
    /// When it was created, as the server writes it: the same text as long as it lives.
    pub(super) created: String,
    pub(super) state: State,
    cluster: Option<Cluster>,
}

/// What a stream holds.
#[derive(Deserialize, Debug)]
pub(super) struct State {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
    /// How many sequences between the first and the last hold nothing.
    #[serde(default)]
    pub(super) num_deleted: u64,
    #[serde(default)]
    pub(super) deleted: Option<Vec<u64>>,
    #[serde(default)]
    pub(super) subjects: Option<HashMap<String, u64>>,
}

#[derive(Serialize, Default)]
struct InfoRequest {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted_details: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    subjects_filter: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

impl Info {
    /// Whether one server has all there is, so that what it says of the stream is so.
    pub(super) fn is_alone(&self) -> bool {
        self.config.num_replicas <= 1
    }

    /// Whether a server has all of the stream that its leader has.
    pub(super) fn is_current(&self, server: &str) -> bool {
        let cluster = self.cluster.as_ref();
        self.is_alone() || cluster.is_none_or(|cluster| cluster.is_current(server))
    }

    /// Whether only its limits take messages away, from each subject the oldest first: what can be
    /// proved of such a stream, nobody's deleting can make untrue.
    pub(super) fn only_limits_take(&self) -> bool {
        let Config {
            deny_delete,
            deny_purge,
            allow_rollup,
            allow_message_ttl,
            ..
        } = self.config;
        deny_delete && deny_purge && !allow_rollup && !allow_message_ttl
    }
}

impl Stream {
    /// Fanfare's own.
    pub(super) fn own(
        config: &DurableConfig,
        subjects: Subjects,
        subject: String,
        wire: Arc<Wire>,
    ) -> Self {
        let wanted = Config {
            name: config.stream.clone(),
            subjects: vec![subject],
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            discard: DiscardPolicy::Old,
            num_replicas: config.replicas,
            max_bytes: i64::try_from(config.max_bytes).unwrap_or(i64::MAX),
            max_messages: -1,
            // One more than the longest rule: with it, a client that missed no more than the rule
            // keeps finds an event that it knows, and so the proof that nothing is missing.
            max_messages_per_subject: longest(config).saturating_add(1),
            max_age: oldest(config),
            duplicate_window: config.key_window.min(oldest(config)),
            deny_delete: true,
            deny_purge: true,
            compression: config.compression.then_some(Compression::S2),
            ..Config::default()
        };
        Self {
            name: config.stream.clone(),
            marks: subjects.marks().map(Into::into),
            subjects,
            wire,
            own: Some(Box::new(wanted)),
            newest: Mutex::default(),
            tenure: parking_lot::Mutex::default(),
        }
    }

    /// One of somebody else's.
    pub(super) fn of_others(name: &str, subjects: Subjects, wire: Arc<Wire>) -> Self {
        Self {
            name: name.into(),
            marks: None,
            subjects,
            wire,
            own: None,
            newest: Mutex::default(),
            tenure: parking_lot::Mutex::default(),
        }
    }

    /// Makes our own where it is missing, and checks that a stream is what it must be.
    ///
    /// # Errors
    /// They name the field that differs.
    pub(super) async fn ready(&self) -> Result<(), BrokerError> {
        let what = format!("stream {}", self.name);
        let info = match self.info().await {
            Err(trouble) if trouble.is_no_stream() && self.own.is_some() => {
                self.create().await.map_err(|trouble| trouble.of(&what))?
            }
            info => info.map_err(|trouble| match trouble {
                trouble if trouble.is_no_stream() => error(
                    ErrorKind::Rejected,
                    format!("{what}: there is none; broker.nats.ingest names it"),
                ),
                trouble => trouble.of(&what),
            })?,
        };
        match &self.own {
            Some(wanted) => self.check_own(wanted, &info.config),
            None => self.check_others(&info.config),
        }
    }

    fn check_own(&self, wanted: &Config, there: &Config) -> Result<(), BrokerError> {
        let differs = |field: &str, there: &dyn std::fmt::Debug, wanted: &dyn std::fmt::Debug| {
            let message = format!(
                "stream {} is there and differs: its `{field}` is {there:?}, and {wanted:?} is \
                 wanted; edit the stream, or name another in broker.nats.stream",
                self.name
            );
            Err(error(ErrorKind::Rejected, message))
        };
        macro_rules! same {
            ($($field:ident as $name:literal),+ $(,)?) => {$(
                if there.$field != wanted.$field {
                    return differs($name, &there.$field, &wanted.$field);
                }
            )+};
        }
        same!(
            subjects as "subjects",
            retention as "retention",
            storage as "storage",
            discard as "discard",
            num_replicas as "num_replicas",
            max_bytes as "max_bytes",
            max_messages as "max_msgs",
            max_messages_per_subject as "max_msgs_per_subject",
            max_age as "max_age",
            duplicate_window as "duplicate_window",
            deny_delete as "deny_delete",
            deny_purge as "deny_purge",
            allow_rollup as "allow_rollup_hdrs",
            sealed as "sealed",
            no_ack as "no_ack",
            mirror as "mirror",
            sources as "sources",
            subject_transform as "subject_transform",
        );
        let compressed = |config: &Config| config.compression == Some(Compression::S2);
        if compressed(there) != compressed(wanted) {
            return differs("compression", &there.compression, &wanted.compression);
        }
        Ok(())
    }

    fn check_others(&self, there: &Config) -> Result<(), BrokerError> {
        if there.retention != RetentionPolicy::Limits {
            let message = format!(
                "stream {}: its `retention` is {:?}; only `limits` lets several nodes read the \
                 same messages",
                self.name, there.retention
            );
            return Err(error(ErrorKind::Rejected, message));
        }
        Ok(())
    }

    /// # Errors
    /// A rule's source that selects nothing of the stream.
    pub(super) async fn check_sources(&self, rules: &[(usize, &str)]) -> Result<(), BrokerError> {
        let what = format!("stream {}", self.name);
        let info = self.info().await.map_err(|trouble| trouble.of(&what))?;
        // A mirror has none.
        if info.config.subjects.is_empty() {
            return Ok(());
        }
        for (at, source) in rules {
            let meets = |subject: &String| match (Pattern::parse(subject), Pattern::parse(source)) {
                (Ok(subject), Ok(source)) => subject.intersects(&source),
                _ => subject == source,
            };
            if !info.config.subjects.iter().any(meets) {
                let why = format!(
                    "selects nothing of the stream {}, whose subjects are {:?}",
                    self.name, info.config.subjects
                );
                return Err(bad(&format!("ingest[{at}].source"), why));
            }
        }
        Ok(())
    }

    async fn create(&self) -> Result<Arc<Info>, Trouble> {
        let Some(wanted) = &self.own else {
            return Err(Trouble::Nobody);
        };
        let verb = format!("STREAM.CREATE.{}", self.name);
        match self.wire.ask::<Info>(&verb, wanted).await {
            Ok(info) => {
                tracing::info!(stream = %self.name, "created a stream");
                Ok(Arc::new(info))
            }
            // Another node was quicker.
            Err(Trouble::Refused { number: 10058, .. }) => self.info().await,
            Err(trouble) => Err(trouble),
        }
    }

    /// Where it stands now. Our own is made again where it is gone.
    pub(super) async fn attend(&self) -> Result<Arc<Info>, Trouble> {
        match self.info().await {
            Err(trouble) if trouble.is_no_stream() && self.own.is_some() => self.create().await,
            info => info,
        }
    }

    /// Where it stands now, and whether it surely ends before `seq`, which it once reached in the
    /// life of `life`.
    ///
    /// # Errors
    /// [`Trouble::Behind`] where that cannot be told: its leader may be behind.
    pub(super) async fn ends_before(
        &self,
        seq: u64,
        life: Option<Epoch>,
    ) -> Result<(Arc<Info>, bool), Trouble> {
        let began = Instant::now();
        loop {
            let info = self.attend().await?;
            if info.state.last_seq >= seq || Some(born(&info.created)) != life {
                return Ok((info, false));
            }
            let doubted = began.elapsed();
            if info.is_alone() || doubted >= SHORTEST_DOUBT && self.is_believed(&info) {
                return Ok((info, true));
            }
            if doubted >= LONGEST_DOUBT {
                return Err(Trouble::Behind);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Whether what its servers lack of it is lost, and not late, by what is known of them now.
    pub(super) fn is_believed(&self, info: &Info) -> bool {
        info.is_alone() || self.tenure.lock().is_long()
    }

    /// The newest answer to where it stands, however old.
    pub(super) async fn newest(&self) -> Result<Arc<Info>, Trouble> {
        let newest = self.newest.lock().await.clone();
        match newest {
            Some((_, info)) => Ok(info),
            None => self.info().await,
        }
    }

    /// Where it stands, asked for after the call was made. Callers at a time share an answer: a
    /// storm of them asks the server about as often as one of them.
    pub(super) async fn info(&self) -> Result<Arc<Info>, Trouble> {
        let called = Instant::now();
        let mut newest = self.newest.lock().await;
        if let Some((asked, info)) = &*newest
            && *asked >= called
        {
            return Ok(info.clone());
        }
        let asked = Instant::now();
        let info = Arc::new(self.ask_info(&InfoRequest::default()).await?);
        *newest = Some((asked, info.clone()));
        Ok(info)
    }

    async fn ask_info(&self, request: &InfoRequest) -> Result<Info, Trouble> {
        let verb = format!("STREAM.INFO.{}", self.name);
        let asked = Instant::now();
        let answer = self.wire.ask::<Info>(&verb, request).await;
        let cluster = answer.as_ref().ok().and_then(|info| info.cluster.as_ref());
        self.tenure.lock().look(cluster, asked);
        let info = answer?;
        if matches!(&info.cluster, Some(cluster) if cluster.leader().is_none()) {
            return Err(Trouble::Nobody);
        }
        Ok(info)
    }

    /// The sequences between the first and the last that hold nothing.
    pub(super) async fn deleted(&self) -> Result<Vec<u64>, Trouble> {
        let request = InfoRequest {
            deleted_details: true,
            ..InfoRequest::default()
        };
        let info = self.ask_info(&request).await?;
        Ok(info.state.deleted.unwrap_or_default())
    }

    /// Whether a message that was once stored is there no more.
    pub(super) async fn is_gone(&self, seq: u64) -> Result<bool, Trouble> {
        if self.attend().await?.state.first_seq > seq {
            return Ok(true);
        }
        Ok(self.deleted().await?.contains(&seq))
    }

    /// How many messages it holds of each subject that `filter` selects; `None` where there are
    /// too many to look at.
    pub(super) async fn counts(
        &self,
        filter: String,
    ) -> Result<Option<HashMap<String, u64>>, Trouble> {
        let request = InfoRequest {
            subjects_filter: Some(filter),
            offset: Some(0),
            ..InfoRequest::default()
        };
        let info = self.ask_info(&request).await?;
        let counts = info.state.subjects.unwrap_or_default();
        Ok(Some(counts).filter(|counts| (counts.len() as u64) < COUNTED))
    }
}

/// The rules that some channel can come to: what stands behind one for all channels never counts.
fn rules(config: &DurableConfig) -> impl Iterator<Item = &RetentionRule> {
    let rules = config.store.retention.rules();
    let all = Pattern::all();
    let last = rules.iter().position(|rule| rule.channels.covers(&all));
    rules.iter().take(last.map_or(rules.len(), |last| last + 1))
}

/// The highest count of the rules.
fn longest(config: &DurableConfig) -> i64 {
    let count = rules(config).map(|rule| rule.max_count).max();
    i64::try_from(count.unwrap_or(0)).unwrap_or(i64::MAX - 1)
}

/// The longest age of the rules. To the server, zero would mean for ever.
fn oldest(config: &DurableConfig) -> Duration {
    let age = rules(config).map(|rule| rule.max_age).max();
    // What the server counts in.
    let bound = Duration::from_nanos(i64::MAX as u64);
    age.unwrap_or_default().clamp(Duration::from_secs(1), bound)
}
