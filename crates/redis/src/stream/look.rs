//! Looking at a stream: where it stands, which life of it this is, and a part of it, in one step.

use std::time::Duration;

use fanfare_core::{BrokerError, Channel, Epoch, ErrorKind, IdempotencyKey, Offset};
use redis::{RedisResult, Script, ScriptInvocation, aio::MultiplexedConnection};

use super::{
    entry::{Fields, Raw},
    facts::Facts,
    id,
};
use crate::{
    command::Commands,
    error::{Failure, error},
};

/// How long Redis keeps what was seen of a stream that nobody looks at.
const KEPT: Duration = Duration::from_secs(30 * 86_400);

/// The scripts, and the names of what Fanfare itself writes beside foreign streams.
pub(crate) struct Looks {
    look: Script,
    publish: Script,
    /// What the names begin with.
    root: String,
    max_data_bytes: usize,
}

/// What a node has seen of a stream: a place, and the mark of the entry there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Known {
    pub(super) epoch: Epoch,
    pub(super) offset: Offset,
    /// Empty where no entry stands there.
    pub(super) mark: String,
}

/// Which part of a stream to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    Nothing,
    /// Oldest first.
    After(Offset),
    /// Newest first.
    Newest,
}

/// Bounds of a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bounds {
    /// The most entries.
    pub(super) entries: usize,
    /// About the most bytes; one entry is always answered.
    pub(super) bytes: usize,
}

/// What was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(super) epoch: Epoch,
    /// The epoch of every stream's first life.
    pub(super) base: Epoch,
    pub(super) facts: Facts,
    /// Of [`Part::After`], whether an entry stands there or right after it.
    pub(super) found: bool,
    /// Whether a bound cut the part.
    pub(super) more: bool,
    /// The mark of the last entry: of the part, where there is more of it; else of the stream.
    pub(super) mark: String,
    pub(super) entries: Vec<(Offset, Raw)>,
}

/// Where a publication stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Placed {
    pub(super) duplicate: bool,
    pub(super) epoch: Epoch,
    pub(super) offset: Offset,
}

impl Bounds {
    /// Of nothing.
    pub(super) const NONE: Self = Self {
        entries: 1,
        bytes: 1,
    };
}

impl Known {
    /// Nothing yet.
    pub(super) fn nothing(epoch: Epoch) -> Self {
        Self {
            epoch,
            offset: Offset::ZERO,
            mark: String::new(),
        }
    }
}

impl Looks {
    pub(super) fn new(prefix: &str, max_data_bytes: usize) -> Self {
        const HEAD: &str = include_str!("../script/stream.lua");
        let with = |body: &str| Script::new(&format!("{HEAD}\n{body}"));
        Self {
            look: with(include_str!("../script/stream_look.lua")),
            publish: with(include_str!("../script/stream_publish.lua")),
            root: format!("{prefix}:streams:"),
            max_data_bytes,
        }
    }

    /// A stream of our own, by which a node wakes its readers.
    pub(super) fn bell(&self, number: u64) -> String {
        format!("{}bell:{number:016x}", self.root)
    }

    fn begin<'s>(
        &self,
        script: &'s Script,
        key: &str,
        known: Option<&Known>,
    ) -> ScriptInvocation<'s> {
        let mut call = script.prepare_invoke();
        call.key(key)
            .key(format!("{}at:{key}", self.root))
            .key(format!("{}home", self.root))
            // Short: it stands in every id.
            .arg(fastrand::u32(1..))
            .arg(KEPT.as_millis() as u64);
        match known {
            Some(known) => call
                .arg(known.epoch.0)
                .arg(id::id(known.offset))
                .arg(&known.mark),
            None => call.arg("").arg("0-0").arg(""),
        };
        call
    }

    /// Looks at a stream, on this link. `known` is the furthest that this node has handed on of it.
    pub(super) async fn look(
        &self,
        mut link: MultiplexedConnection,
        key: &str,
        fields: &Fields,
        known: Option<&Known>,
        part: Part,
        bounds: Bounds,
    ) -> RedisResult<Seen> {
        let mut call = self.begin(&self.look, key, known);
        let (which, from) = match part {
            Part::Nothing => ("none", Offset::ZERO),
            Part::After(offset) => ("after", offset),
            Part::Newest => ("newest", Offset::ZERO),
        };
        call.arg(which)
            .arg(id::id(from))
            .arg(id::id(Offset(from.0.saturating_add(1))))
            .arg(bounds.entries)
            .arg(bounds.bytes)
            // Beside the data there is the type, the tags, and the names.
            .arg(self.max_data_bytes.saturating_add(16 << 10))
            .arg(fields.wanted());
        let answer: Answer = call.invoke_async(&mut link).await?;
        Ok(answer.into_seen())
    }

    /// The same over the link for commands.
    pub(super) async fn ask(
        &self,
        commands: &Commands,
        key: &str,
        fields: &Fields,
        known: Option<&Known>,
        part: Part,
        bounds: Bounds,
    ) -> Result<Seen, Failure> {
        let run = |link, _| self.look(link, key, fields, known, part, bounds);
        commands.run(run).await
    }

    /// Adds an entry.
    pub(super) async fn publish(
        &self,
        commands: &Commands,
        key: &str,
        channel: &Channel,
        once: Option<(&IdempotencyKey, Duration)>,
        entry: &[(&str, &[u8])],
    ) -> Result<Placed, BrokerError> {
        let (length, most) = (
            entry.first().map_or(0, |(_, data)| data.len()),
            self.max_data_bytes,
        );
        if length > most {
            let message = format!("the data has {length} bytes; at most {most} are allowed");
            return Err(error(ErrorKind::TooLarge, message));
        }
        let run = |mut link, _| async move {
            let mut call = self.begin(&self.publish, key, None);
            let window = match once {
                Some((once, window)) => {
                    // A channel has no space, so two channels never share one.
                    call.key(format!("{}key:{channel} {}", self.root, once.as_str()));
                    window.as_millis().max(1)
                }
                None => 0,
            };
            call.arg(u64::try_from(window).unwrap_or(u64::MAX));
            for (name, value) in entry {
                call.arg(*name).arg(*value);
            }
            let answer: (u8, u64, String) = call.invoke_async(&mut link).await?;
            Ok(answer)
        };
        let answer = commands.run(run).await;
        let (duplicate, epoch, at) = answer.map_err(|failure| failure.into_error("publishing"))?;
        Ok(Placed {
            duplicate: duplicate == 1,
            epoch: Epoch(epoch),
            offset: id::offset(&at).unwrap_or_default(),
        })
    }
}

/// What the script answers.
type Answer = (
    (u64, u64),
    (String, String, String, u64, u64),
    (bool, bool, String),
    Vec<(String, redis::Value)>,
);

trait IntoSeen {
    fn into_seen(self) -> Seen;
}

impl IntoSeen for Answer {
    fn into_seen(self) -> Seen {
        let ((epoch, base), (last, first, deleted, added, length), (found, more, mark), entries) =
            self;
        let offset = |text: &str| id::offset(text).unwrap_or_default();
        let fields = |value| match value {
            redis::Value::Array(_) => redis::from_redis_value(value).ok(),
            _ => None,
        };
        let entry = |(at, value): (String, redis::Value)| (offset(&at), fields(value));
        Seen {
            epoch: Epoch(epoch),
            base: Epoch(base),
            facts: Facts {
                last: offset(&last),
                first: id::offset(&first),
                deleted: offset(&deleted),
                added,
                length,
            },
            found,
            more,
            mark,
            entries: entries.into_iter().map(entry).collect(),
        }
    }
}

impl std::fmt::Debug for Looks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Looks({})", self.root)
    }
}
