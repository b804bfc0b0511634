//! Finding the streams of wildcards: streams come into being at any time, and nothing tells of it.

use std::{fmt, sync::Arc, time::Duration};

use fanfare_core::{Gap, GapCause, Interest, Offset, Pattern, Position, Undeliverable};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    followed::Outlet,
    index,
    metrics::StreamMetrics,
    rules::{NoPlace, StreamRules},
    table::{Found, Table},
};
use crate::{
    command::Commands,
    error::{BACKEND, Failure},
};

/// About how many keys one step of a search looks at.
const STEP: usize = 1000;
/// A search rests so many times as long as it took, if that is longer than the interval: a server with
/// very many keys must not do nothing else.
const REST: u32 = 9;
/// How often followers are told of streams that are refused.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// Searches for streams, while a wildcard over them is followed.
pub(crate) struct Discovery {
    pub(super) rules: Arc<StreamRules>,
    pub(super) table: Arc<Table>,
    pub(super) interest: Interest,
    pub(super) outlet: Arc<Outlet>,
    pub(super) metrics: StreamMetrics,
    pub(super) reads: Arc<Commands>,
    pub(super) interval: Duration,
    pub(super) state: Mutex<State>,
    pub(super) wake: Notify,
}

#[derive(Default)]
pub(super) struct State {
    /// Who waits for a search that begins after now.
    waiting: Vec<Waiting>,
    search: u64,
    /// When each rule's followers were told last of streams that are refused.
    told: Vec<Option<Instant>>,
    /// Places in the index logs, in which that is told.
    telling: u128,
}

struct Waiting {
    rules: Vec<usize>,
    answer: oneshot::Sender<Result<(), Failure>>,
}

impl Discovery {
    /// Searches for the streams of a wildcard: those that exist now are known when it returns.
    pub(super) async fn search(&self, pattern: &Pattern) -> Result<(), Failure> {
        let rules = self.rules.rules_of(pattern).collect();
        let (answer, answered) = oneshot::channel();
        self.state.lock().waiting.push(Waiting { rules, answer });
        self.wake.notify_one();
        answered.await.unwrap_or(Err(Failure::Closed))
    }

    /// Which search is the latest.
    pub(super) fn current(&self) -> u64 {
        self.state.lock().search
    }

    /// Searches whenever somebody waits for it, and from time to time.
    pub(super) async fn keep(&self) {
        let mut next = Instant::now();
        loop {
            tokio::select! {
                () = self.wake.notified() => {}
                () = sleep_until(next) => {}
            }
            let began = Instant::now();
            let waiting = std::mem::take(&mut self.state.lock().waiting);
            self.search_for(waiting).await;
            next = Instant::now() + self.interval.max(began.elapsed() * REST);
        }
    }

    async fn search_for(&self, waiting: Vec<Waiting>) {
        let mut rules: Vec<usize> = waiting.iter().flat_map(|one| one.rules.clone()).collect();
        let wild = self
            .interest
            .patterns()
            .into_iter()
            .filter(Pattern::is_wild);
        wild.for_each(|pattern| rules.extend(self.rules.rules_of(&pattern)));
        rules.sort_unstable();
        rules.dedup();
        if rules.is_empty() {
            return;
        }
        let search = {
            let mut state = self.state.lock();
            state.search += 1;
            state.search
        };
        let timer = self.metrics.search_seconds.start_timer();
        let mut refused = Vec::new();
        let mut failed = None;
        for rule in &rules {
            match self.search_rule(*rule, search).await {
                Ok(0) => {}
                Ok(count) => refused.push((*rule, count)),
                Err(failure) => failed = Some(failure),
            }
        }
        timer.observe_duration();
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.known.set(gauge(self.table.known()));
        if let Some(failure) = failed {
            tracing::warn!(
                backend = BACKEND,
                ?failure,
                "streams cannot be searched for"
            );
            for one in waiting {
                let _ = one.answer.send(Err(failure.clone()));
            }
            return;
        }
        let sum = refused.iter().map(|(_, count)| count).sum();
        self.metrics.refused.set(gauge(sum));
        for (rule, count) in &refused {
            self.tell(*rule, *count);
        }
        for one in waiting {
            let over = refused.iter().find(|(rule, _)| one.rules.contains(rule));
            let answer = over.map_or(Ok(()), |(rule, count)| {
                let most = self.rules.rules()[*rule].max_streams;
                let why = format!(
                    "an ingest rule has {count} streams more than the {most} of its `max_streams`"
                );
                Err(Failure::Refused(why.into()))
            });
            let _ = one.answer.send(answer);
        }
    }

    /// Answers how many streams were refused.
    async fn search_rule(&self, rule: usize, search: u64) -> Result<usize, Failure> {
        let Some(glob) = &self.rules.rules()[rule].glob else {
            return Ok(self.note(self.rules.names_of(rule), rule, search));
        };
        let (mut cursor, mut refused) = (0, 0);
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor)
                .arg(("MATCH", glob))
                .arg(("COUNT", STEP))
                .arg(("TYPE", "stream"));
            let run = |mut link, _| async move { scan.query_async(&mut link).await };
            let (next, keys): (u64, Vec<Vec<u8>>) = self.reads.run(run).await?;
            refused += self.note(keys, rule, search);
            if next == 0 {
                break;
            }
            cursor = next;
        }
        self.table.searched(rule, search);
        Ok(refused)
    }

    fn note(&self, keys: Vec<Vec<u8>>, rule: usize, search: u64) -> usize {
        let mut refused = 0;
        for key in keys {
            match self.rules.read(&key) {
                // A key can come up twice, and under several rules' globs.
                Ok(place) if place.rule == rule => {
                    let is_refused = self.table.found(&place, search) == Found::Refused;
                    refused += usize::from(is_refused);
                }
                Ok(_) | Err(NoPlace::Other) => {}
                Err(NoPlace::BadName(why)) => {
                    self.unnamed(&key, &format!("the channel name {why}"));
                }
                Err(NoPlace::Taken(channel)) => {
                    let why = format!("its channel {channel} is that of another key");
                    self.unnamed(&key, &why);
                }
            }
        }
        refused
    }

    fn unnamed(&self, key: &[u8], why: &str) {
        self.outlet.metrics.undeliverable(Undeliverable::BadChannel);
        self.outlet.complaints.of(key, why);
    }

    /// Tells those who follow a rule's wildcards that some of its streams are refused.
    fn tell(&self, rule: usize, count: usize) {
        let stream_rule = &self.rules.rules()[rule];
        let now = Instant::now();
        let place = {
            let mut state = self.state.lock();
            let rules = self.rules.rules().len();
            state.told.resize(rules, None);
            if state.told[rule].is_some_and(|told| now - told < TELL_EVERY) {
                return;
            }
            state.told[rule] = Some(now);
            state.telling += 1;
            state.telling
        };
        tracing::warn!(
            backend = BACKEND,
            count,
            most = stream_rule.max_streams,
            "an ingest rule has more streams than its max_streams; the others are not followed"
        );
        if let Some(index) = &stream_rule.index {
            self.outlet.gap(Gap {
                scope: stream_rule.image.clone(),
                cause: GapCause::NotFollowed,
                after: None,
                next: Position {
                    offset: Offset(place),
                    ..index::place(index, self.table.base())
                },
            });
        }
    }
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovery")
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}
