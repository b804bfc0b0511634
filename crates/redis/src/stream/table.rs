//! The streams that this node knows: those that somebody follows by name, and those that were found.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Weak},
};

use fanfare_core::{BrokerError, Epoch, ErrorKind, Interest, LogId, Offset, Pattern, PatternMap};
use parking_lot::Mutex;

use super::{
    followed::Followed,
    reader::Readers,
    rules::{Place, StreamRules},
};
use crate::error::error;

/// The streams that this node knows.
pub(crate) struct Table {
    rules: Arc<StreamRules>,
    interest: Interest,
    readers: Arc<Readers>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    streams: HashMap<LogId, Stream>,
    /// How many of them there are, by rule.
    counts: Vec<usize>,
    /// The wildcards that are followed since a search for streams that began after they were.
    established: PatternMap<()>,
}

struct Stream {
    followed: Arc<Followed>,
    /// How many follow it by name.
    holds: usize,
    /// In which search it was found last.
    found: Option<u64>,
    is_read: bool,
}

/// A hold on a stream. Dropping it lets go.
#[must_use = "dropping it lets go"]
pub(crate) struct StreamHold {
    table: Weak<Table>,
    log: LogId,
}

/// What became of a stream that was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    Known,
    New,
    /// It is over the rule's bound, or has the same log as another stream.
    Refused,
}

impl Table {
    pub(super) fn new(rules: Arc<StreamRules>, interest: Interest, readers: Arc<Readers>) -> Self {
        let state = State {
            counts: vec![0; rules.rules().len()],
            ..State::default()
        };
        Self {
            rules,
            interest,
            readers,
            state: Mutex::new(state),
        }
    }

    /// Holds the stream of a channel.
    pub(super) fn hold(
        self: &Arc<Self>,
        place: &Place,
    ) -> Result<(Arc<Followed>, StreamHold), BrokerError> {
        let mut state = self.state.lock();
        if !state.add(place, &self.rules) {
            let most = self.rules.rule(place).max_streams;
            let message = format!(
                "{} cannot be followed: its ingest rule has {most} streams, its `max_streams`, \
                 already",
                place.channel
            );
            return Err(error(ErrorKind::Rejected, message));
        }
        let is_owed = state.established.has_match(&place.channel);
        let Some(stream) = state.streams.get_mut(&place.log) else {
            return Err(error(ErrorKind::Rejected, "there is no such stream"));
        };
        if stream.holds == 0 && stream.found.is_none() && is_owed {
            // It was not there when the wildcard was first followed: all of it is owed.
            stream.followed.begin_before(self.readers.base());
        }
        stream.holds += 1;
        let hold = StreamHold {
            table: Arc::downgrade(self),
            log: place.log.clone(),
        };
        Ok((stream.followed.clone(), hold))
    }

    /// Notes a stream that exists. One that is new is owed in full to those who follow a wildcard
    /// since before.
    pub(super) fn found(&self, place: &Place, search: u64) -> Found {
        let mut state = self.state.lock();
        let is_new = match state.streams.get(&place.log) {
            Some(known) => known.found.is_none(),
            None => true,
        };
        if !state.add(place, &self.rules) {
            return Found::Refused;
        }
        let is_owed = state.established.has_match(&place.channel);
        if let Some(stream) = state.streams.get_mut(&place.log) {
            stream.found = Some(search);
            if is_new && is_owed {
                stream.followed.begin_before(self.readers.base());
            }
        }
        if !is_new {
            return Found::Known;
        }
        self.settle(&mut state, &place.log);
        Found::New
    }

    /// A search is over: a rule's streams that were not found by it, nor by the one before, are no
    /// more.
    pub(super) fn searched(&self, rule: usize, search: u64) {
        let mut state = self.state.lock();
        let is_gone = |stream: &&mut Stream| {
            let is_known =
                stream.holds > 0 || stream.found.is_some_and(|found| found + 1 >= search);
            stream.followed.place.rule == rule && !is_known
        };
        let mut gone = Vec::new();
        for stream in state.streams.values_mut().filter(is_gone) {
            stream.found = None;
            gone.push(stream.followed.place.log.clone());
        }
        gone.iter().for_each(|log| self.settle(&mut state, log));
    }

    /// How many streams were found, over all rules.
    pub(super) fn known(&self) -> usize {
        let state = self.state.lock();
        let found = state
            .streams
            .values()
            .filter(|stream| stream.found.is_some());
        found.count()
    }

    /// The epoch of streams' first lives.
    pub(super) fn base(&self) -> Epoch {
        self.readers.base()
    }

    /// The found streams of a wildcard.
    pub(super) fn of(&self, pattern: &Pattern) -> Vec<Arc<Followed>> {
        let state = self.state.lock();
        let found = state.streams.values().filter(|stream| {
            stream.found.is_some() && pattern.matches(&stream.followed.place.channel)
        });
        found.map(|stream| stream.followed.clone()).collect()
    }

    /// The stream of a log.
    pub(super) fn get(&self, log: &LogId) -> Option<Arc<Followed>> {
        let state = self.state.lock();
        state.streams.get(log).map(|stream| stream.followed.clone())
    }

    pub(super) fn is_read(&self, log: &LogId) -> bool {
        let state = self.state.lock();
        state.streams.get(log).is_some_and(|stream| stream.is_read)
    }

    /// Reads it from now on, if it is to be read and it is known from where.
    pub(super) fn begun(&self, log: &LogId) {
        self.settle(&mut self.state.lock(), log);
    }

    /// From here on, a stream of the wildcard that is found was not there before.
    pub(super) fn establish(&self, pattern: &Pattern) {
        self.state.lock().established.entry(pattern, || ());
    }

    pub(super) fn is_established(&self, pattern: &Pattern) -> bool {
        self.state.lock().established.get_mut(pattern).is_some()
    }

    /// Nobody follows the wildcard any more.
    pub(super) fn abandon(&self, pattern: &Pattern) {
        let mut state = self.state.lock();
        if self.interest.follows_pattern(pattern) {
            return;
        }
        state.established.remove(pattern);
        let selected = state
            .streams
            .values()
            .filter(|stream| stream.is_read && pattern.matches(&stream.followed.place.channel));
        let logs: Vec<_> = selected
            .map(|stream| stream.followed.place.log.clone())
            .collect();
        logs.iter().for_each(|log| self.settle(&mut state, log));
    }

    /// Reads a stream, or does not any more, or forgets it, as it is wanted.
    fn settle(&self, state: &mut State, log: &LogId) {
        let Some(stream) = state.streams.get_mut(log) else {
            return;
        };
        let place = stream.followed.place.clone();
        // One that is gone is read until its loss has been told.
        let handed_on = stream.followed.known().map(|known| known.offset);
        let is_owed = stream.is_read && handed_on.is_some_and(|offset| offset > Offset::ZERO);
        let is_wanted = stream.holds > 0
            || (stream.found.is_some() || is_owed) && self.interest.follows(&place.channel);
        if is_wanted && !stream.is_read && stream.followed.known().is_some() {
            stream.is_read = true;
            self.readers.add(stream.followed.clone());
        }
        if !is_wanted {
            if std::mem::take(&mut stream.is_read) {
                self.readers.remove(log);
            }
            if stream.followed.known().is_some() {
                // Who comes next begins where it stands then.
                let fields = stream.followed.fields.clone();
                stream.followed = Arc::new(Followed::new(place.clone(), fields));
            }
        }
        if stream.holds == 0 && stream.found.is_none() && !is_wanted {
            let rule = place.rule;
            state.streams.remove(log);
            state.counts[rule] -= 1;
            if state.streams.is_empty() {
                state.streams.shrink_to_fit();
            }
        }
    }
}

impl State {
    /// Makes room for a stream. Answers no where there is none.
    fn add(&mut self, place: &Place, rules: &StreamRules) -> bool {
        if let Some(known) = self.streams.get(&place.log) {
            let is_it = known.followed.place == *place;
            if !is_it {
                let (one, other) = (&known.followed.place.channel, &place.channel);
                tracing::error!(%one, %other, "two streams have one log; the later one is refused");
            }
            return is_it;
        }
        let rule = rules.rule(place);
        if self.counts[place.rule] >= rule.max_streams {
            return false;
        }
        self.counts[place.rule] += 1;
        let stream = Stream {
            followed: Arc::new(Followed::new(place.clone(), rule.fields.clone())),
            holds: 0,
            found: None,
            is_read: false,
        };
        self.streams.insert(place.log.clone(), stream);
        true
    }
}

impl Drop for StreamHold {
    fn drop(&mut self) {
        let Some(table) = self.table.upgrade() else {
            return;
        };
        let mut state = table.state.lock();
        if let Some(stream) = state.streams.get_mut(&self.log) {
            stream.holds -= 1;
        }
        table.settle(&mut state, &self.log);
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Table")
            .field("streams", &state.streams.len())
            .field("readers", &self.readers)
            .finish_non_exhaustive()
    }
}
