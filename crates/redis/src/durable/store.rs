//! One partition as Redis holds it: its place, and reading what it retains.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use fanfare_core::{Channel, Epoch, LogId, Pattern, Retention};
use redis::{Cmd, FromRedisValue, Pipeline, Script, ScriptInvocation};

use super::{
    entry::Range,
    names::{Names, glob},
};
use crate::{command::Commands, error::Failure, links::fresh_epoch, reader::Server};

/// The most channels that are found by what changed; over it, they are found by their names.
const CHANGED: usize = 10_000;
/// The most names in one question.
const NAMES: usize = 1000;
/// How many names a step of a scan looks at.
const SCANNED: usize = 1000;
/// The longest time that is handed to Redis, which counts in signed milliseconds.
const MAX_AGE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// One partition in Redis.
pub(crate) struct Store {
    pub(crate) log: LogId,
    pub(crate) partition: usize,
    pub(crate) names: Arc<Names>,
    pub(crate) max_data_bytes: usize,
    pub(crate) retention: Retention,
    pub(crate) max_channels: usize,
    pub(crate) key_window: Duration,
    /// What is read goes over a link of its own: a large page must not delay publications.
    pub(crate) reads: Arc<Commands>,
    pub(crate) scripts: Arc<Scripts>,
}

/// The scripts, each with the part that all share.
#[derive(Debug)]
pub(crate) struct Scripts {
    head: Script,
    pub(super) publish: Script,
}

/// Where a log stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Stand {
    pub(crate) epoch: Epoch,
    /// The last place that was given.
    pub(crate) offset: u64,
    /// The place where the epoch began.
    pub(crate) begin: u64,
    /// No channel that is not listed has an event after this place.
    pub(crate) forgotten: u64,
    /// What nobody can name and is not there, oldest first.
    pub(crate) holes: Arc<[Hole]>,
    /// Places that the log never gave, since another server began further on; the last of each was
    /// its first word.
    pub(crate) apart: Arc<[Hole]>,
    /// The epochs, in turn.
    pub(crate) begun: Arc<[Begun]>,
    /// On which run of the server.
    pub(crate) run: Arc<str>,
}

/// The beginning of an epoch, and after which place of which epoch before it what it tells was lost;
/// `None` where nobody knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Begun {
    pub(crate) epoch: Epoch,
    pub(crate) lost: Option<(Epoch, u64)>,
}

/// Events after a place, up to and including another, that were never stored: nobody knows of which
/// channels, nor whether there were any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hole {
    pub(crate) after: u64,
    pub(crate) next: u64,
}

/// The furthest place that this node has seen, and on which run of the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(crate) epoch: Epoch,
    pub(crate) offset: u64,
    pub(crate) run: Arc<str>,
}

/// Why a page could not be read.
#[derive(Debug)]
pub(crate) enum Unread {
    /// The log began another epoch meanwhile.
    Moved,
    Failed(Failure),
}

impl From<Failure> for Unread {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The listed channels that a question selects, with the last place of each, and the names among
/// the question's patterns that are not listed.
#[derive(Debug, Default)]
pub(crate) struct Selected {
    pub(crate) listed: HashMap<Channel, u64>,
    pub(crate) unlisted: Vec<Pattern>,
}

impl Stand {
    /// The last place before anything was lost that epochs tell which began since: for who was here,
    /// in an epoch, until now. `None` where it is not known.
    pub(crate) fn whole(&self, epoch: Epoch, offset: u64) -> Option<(Epoch, u64)> {
        let turn = |of: Epoch| self.begun.iter().position(|begun| begun.epoch == of);
        let Some(here) = turn(epoch) else {
            // The log was lost, or this is long ago: nothing is known of what lies between.
            return Some((epoch, offset));
        };
        let mut whole = (here, offset);
        for begun in &self.begun[here + 1..] {
            let (epoch, offset) = begun.lost?;
            whole = whole.min((turn(epoch)?, offset));
        }
        let (turn, offset) = whole;
        Some((self.begun[turn].epoch, offset))
    }

    pub(crate) fn seen(&self) -> Seen {
        Seen {
            epoch: self.epoch,
            offset: self.offset,
            run: self.run.clone(),
        }
    }
}

/// How events get into their channels, for scripts that store some.
pub(crate) const CHANNEL: &str = include_str!("../script/channel.lua");

/// A script of these parts, on a log that it stands on.
pub(crate) fn script(parts: &[&str]) -> Script {
    const STAND: &str = include_str!("../script/stand.lua");
    Script::new(&[&[STAND], parts].concat().join("\n"))
}

/// A span as Redis counts it, which does so in signed milliseconds.
pub(crate) fn millis(time: Duration) -> u64 {
    time.min(MAX_AGE).as_millis() as u64
}

impl Hole {
    /// Holes as a log's stand tells them.
    fn parse_all(text: &str) -> Arc<[Self]> {
        let holes = numbers(text);
        let holes = holes.chunks_exact(2).map(|hole| Self {
            after: hole[0],
            next: hole[1],
        });
        holes.collect()
    }
}

impl Begun {
    /// Epochs as a log's stand tells them.
    fn parse_all(text: &str) -> Arc<[Self]> {
        let all = numbers(text);
        let all = all.chunks_exact(3).map(|one| Self {
            epoch: Epoch(one[0]),
            lost: (one[1] != 0).then_some((Epoch(one[1]), one[2])),
        });
        all.collect()
    }
}

fn numbers(text: &str) -> Vec<u64> {
    let words = text.split(' ');
    words.filter_map(|word| word.parse().ok()).collect()
}

impl Default for Scripts {
    fn default() -> Self {
        Self {
            head: script(&[include_str!("../script/head.lua")]),
            publish: script(&[CHANNEL, include_str!("../script/publish.lua")]),
        }
    }
}

impl Store {
    /// The keys and arguments of `stand.lua`.
    pub(crate) fn stand_on<'s>(
        &self,
        script: &'s Script,
        seen: &Seen,
        run: &str,
    ) -> ScriptInvocation<'s> {
        let mut call = script.prepare_invoke();
        call.key(self.names.meta(self.partition))
            .key(self.names.channels(self.partition))
            .arg(self.names.partitions())
            .arg(fresh_epoch().0)
            .arg(run)
            .arg(seen.epoch.0)
            .arg(seen.offset)
            .arg(&*seen.run);
        call
    }

    /// Where the log stands now; with `mint`, after a place without an event.
    pub(crate) async fn stand(&self, seen: &Seen, mint: bool) -> Result<Stand, Failure> {
        let ask = |mut link, server: Server| async move {
            let mut call = self.stand_on(&self.scripts.head, seen, &server.run);
            call.arg(u8::from(mint));
            let answer: (u64, u64, u64, u64, String, String, String) =
                call.invoke_async(&mut link).await?;
            Ok((answer, server.run))
        };
        let ((epoch, offset, begin, forgotten, holes, apart, begun), run) =
            self.reads.insist(ask).await?;
        Ok(Stand {
            epoch: Epoch(epoch),
            offset,
            begin,
            forgotten,
            holes: Hole::parse_all(&holes),
            apart: Hole::parse_all(&apart),
            begun: Begun::parse_all(&begun),
            run,
        })
    }

    /// The channels with something after a place.
    pub(crate) async fn select(
        &self,
        patterns: &[Pattern],
        after: u64,
    ) -> Result<Selected, Failure> {
        let mut selected = Selected::default();
        let (wild, names): (Vec<_>, Vec<_>) = patterns.iter().partition(|p| p.is_wild());
        for names in names.chunks(NAMES) {
            let mut ask = redis::cmd("ZMSCORE");
            ask.arg(self.names.channels(self.partition));
            ask.arg(names.iter().map(|name| name.as_str()).collect::<Vec<_>>());
            let scores: Vec<Option<f64>> = self.ask(ask).await?;
            for (name, score) in names.iter().zip(scores) {
                match (name.as_channel(), score) {
                    (Some(channel), Some(score)) => selected.add(channel, score, after),
                    _ => selected.unlisted.push((*name).clone()),
                }
            }
        }
        if wild.is_empty() {
            return Ok(selected);
        }
        let mut ask = redis::cmd("ZRANGEBYSCORE");
        ask.arg(self.names.channels(self.partition))
            .arg(format!("({after}"))
            .arg("+inf")
            .arg("WITHSCORES")
            .arg(("LIMIT", 0, CHANGED));
        let changed: Vec<(String, f64)> = self.ask(ask).await?;
        let is_all = changed.len() < CHANGED;
        selected.add_matches(&wild, changed, after);
        if !is_all {
            for pattern in &wild {
                self.scan(pattern, after, &mut selected).await?;
            }
        }
        Ok(selected)
    }

    /// Finds the channels of a pattern by their names. It costs the server a look at every name,
    /// in steps.
    async fn scan(
        &self,
        pattern: &Pattern,
        after: u64,
        selected: &mut Selected,
    ) -> Result<(), Failure> {
        let mut cursor = 0;
        loop {
            let mut ask = redis::cmd("ZSCAN");
            ask.arg(self.names.channels(self.partition))
                .arg(cursor)
                .arg(("MATCH", glob(pattern)))
                .arg(("COUNT", SCANNED));
            let (next, found): (u64, Vec<(String, f64)>) = self.ask(ask).await?;
            selected.add_matches(&[pattern], found, after);
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// Parts of the streams of several channels, in one round trip.
    pub(crate) async fn ranges(
        &self,
        parts: impl Iterator<Item = (&Channel, Part)>,
    ) -> Result<Vec<Range>, Failure> {
        let mut pipeline = Pipeline::new();
        for (channel, part) in parts {
            let stream = self.names.stream(self.partition, channel);
            match part {
                Part::After(offset, count) => pipeline
                    .cmd("XRANGE")
                    .arg(stream)
                    .arg(format!("({offset}-0"))
                    .arg("+")
                    .arg(("COUNT", count)),
                Part::UpTo(offset, count) => pipeline
                    .cmd("XREVRANGE")
                    .arg(stream)
                    .arg(format!("{offset}-0"))
                    .arg("-")
                    .arg(("COUNT", count)),
            };
        }
        let pipeline = &pipeline;
        let run = |mut link, _| async move { pipeline.query_async(&mut link).await };
        self.reads.insist(run).await
    }

    /// The epoch now; `None` where the log is lost.
    pub(crate) async fn epoch(&self) -> Result<Option<Epoch>, Failure> {
        let mut ask = redis::cmd("HGET");
        ask.arg(self.names.meta(self.partition)).arg("epoch");
        let epoch: Option<u64> = self.ask(ask).await?;
        Ok(epoch.map(Epoch))
    }

    async fn ask<T: FromRedisValue>(&self, ask: Cmd) -> Result<T, Failure> {
        let ask = &ask;
        let run = |mut link, _| async move { ask.query_async(&mut link).await };
        self.reads.insist(run).await
    }
}

/// A part of a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    /// At most so many after a place.
    After(u64, usize),
    /// At most so many, backwards from a place on.
    UpTo(u64, usize),
}

impl Selected {
    fn add(&mut self, channel: Channel, score: f64, after: u64) {
        let last = score as u64;
        if last > after {
            self.listed.insert(channel, last);
        }
    }

    fn add_matches(&mut self, wild: &[&Pattern], found: Vec<(String, f64)>, after: u64) {
        for (name, score) in found {
            // Only Fanfare writes here, and only names of channels.
            let Ok(channel) = Channel::parse(&name) else {
                continue;
            };
            if wild.iter().any(|pattern| pattern.matches(&channel)) {
                self.add(channel, score, after);
            }
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.log)
    }
}
