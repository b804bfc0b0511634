//! A subscriber on its way from its starting place to live: how far it has come in each log.

use std::collections::VecDeque;

use fanfare_core::{Epoch, Gap, GapCause, History, Live, LogId, Pattern, Position, Since};

use super::member::{JoiningLog, Seated};
use crate::Cursor;

/// A subscriber on its way from its starting place to live.
#[derive(Debug)]
pub(super) struct CatchUp {
    pub(super) logs: Vec<LogCatchUp>,
    pub(super) hello: bool,
    pub(super) resumes: bool,
    /// How many pages have been asked for and have not come.
    asked: usize,
    /// Whom to tell that the starting place is known. From then on it holds: what is published
    /// after the edge has answered the client is after it.
    pub(super) seated: Option<Seated>,
}

/// Its way through one log.
#[derive(Debug)]
pub(super) struct LogCatchUp {
    pub(super) log: LogId,
    pub(super) channels: Vec<Pattern>,
    since: Since,
    foreign: Option<Position>,
    /// A page has been asked for and has not come.
    is_asked: bool,
    /// What came of history and was not handed over yet.
    pub(super) pending: VecDeque<Live>,
    /// How far history answered; `None` before the first page.
    pub(super) upto: Option<Position>,
    pub(super) more: bool,
    /// Everything up to here was handed over, withheld, or told lost.
    pub(super) place: Option<Position>,
    /// The ring was of this epoch when history was asked whether it or the place is the newer.
    pub(super) asked_about: Option<Epoch>,
    /// The epoch of the ring that history has shown to be older than the place.
    pub(super) older: Option<Epoch>,
}

/// A page to ask for.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) log: LogId,
    pub(super) channels: Vec<Pattern>,
    pub(super) since: Since,
}

impl CatchUp {
    pub(super) fn new(
        logs: Vec<JoiningLog>,
        hello: bool,
        resumes: bool,
        seated: Option<Seated>,
    ) -> Self {
        let logs = logs.into_iter().map(LogCatchUp::new).collect();
        Self {
            logs,
            hello,
            resumes,
            asked: 0,
            seated,
        }
    }

    /// Of a subscriber that was live and said hello long ago.
    pub(super) fn again() -> Self {
        Self::new(Vec::new(), false, false, None)
    }

    /// Goes through one more log, from a place on.
    pub(super) fn add(&mut self, log: LogId, channels: &[Pattern], since: Since) {
        self.logs.push(LogCatchUp::new(JoiningLog {
            log,
            channels: channels.to_vec(),
            since,
            foreign: None,
        }));
    }

    /// Goes on in a log of which everything up to here was handed over.
    pub(super) fn stands(
        &mut self,
        log: LogId,
        channels: &[Pattern],
        place: Position,
        older: Option<Epoch>,
    ) {
        self.add(log, channels, Since::After(place.clone()));
        if let Some(held) = self.logs.last_mut() {
            held.upto = Some(place.clone());
            held.place = Some(place);
            held.older = older;
        }
    }

    /// Notes that pages are asked for and answers which, so that at most so many are on their way:
    /// the first of each log before anything else, since `hello` says whether there is a gap.
    /// Further ones once all have come, so that no more than these wait to be handed over.
    pub(super) fn ask(&mut self, most: usize) -> Vec<Page> {
        let for_first = self.logs.iter().any(|log| log.upto.is_none());
        if !for_first && self.is_waiting() {
            return Vec::new();
        }
        let room = most.saturating_sub(self.asked);
        let wanting = self.logs.iter_mut().filter(|log| match for_first {
            true => log.wants_first(),
            false => log.wants_further(),
        });
        let pages: Vec<Page> = wanting.take(room).filter_map(LogCatchUp::ask).collect();
        self.asked += pages.len();
        pages
    }

    /// Whether pages have been asked for and have not come.
    pub(super) fn is_waiting(&self) -> bool {
        self.asked > 0
    }

    /// Whether pages are to be asked for before it can go on.
    pub(super) fn wants(&self) -> bool {
        let mut logs = self.logs.iter();
        logs.any(|log| log.wants_first() || log.wants_further())
    }

    /// A page came. Pages come in any order.
    pub(super) fn take(&mut self, log: &LogId, page: History) {
        let asked = |held: &&mut LogCatchUp| held.is_asked && held.log == *log;
        if let Some(held) = self.logs.iter_mut().find(asked) {
            self.asked -= 1;
            held.take(page);
        }
    }

    pub(super) fn has_gap(&self) -> bool {
        self.logs
            .iter()
            .any(|log| log.pending.iter().any(|item| matches!(item, Live::Gap(_))))
    }

    /// Where the subscriber stands in all its logs.
    pub(super) fn cursor(&self) -> Cursor {
        self.logs
            .iter()
            .filter_map(|log| log.place.clone())
            .collect()
    }

    /// Takes whom to tell, if the starting place is not known yet.
    pub(super) fn unseated(&mut self) -> Option<Seated> {
        self.seated.take()
    }
}

impl LogCatchUp {
    fn new(joining: JoiningLog) -> Self {
        Self {
            log: joining.log,
            channels: joining.channels,
            since: joining.since,
            foreign: joining.foreign,
            is_asked: false,
            pending: VecDeque::new(),
            upto: None,
            more: false,
            place: None,
            asked_about: None,
            older: None,
        }
    }

    fn wants_first(&self) -> bool {
        !self.is_asked && self.upto.is_none()
    }

    fn wants_further(&self) -> bool {
        !self.is_asked && self.upto.is_some() && self.more && self.pending.is_empty()
    }

    fn ask(&mut self) -> Option<Page> {
        let since = match &self.upto {
            None => self.since.clone(),
            Some(_) => Since::After(self.place.clone()?),
        };
        self.is_asked = true;
        Some(Page {
            log: self.log.clone(),
            channels: self.channels.clone(),
            since,
        })
    }

    fn take(&mut self, page: History) {
        self.is_asked = false;
        let first = self.upto.is_none();
        let mut items: VecDeque<Live> = page.items.into();
        if first {
            self.place = Some(self.starting_place(&items, &page.upto));
            if let Some(foreign) = self.foreign.take() {
                self.place = Some(foreign.clone());
                items.push_front(Live::Gap(Gap {
                    scope: Pattern::all(),
                    cause: GapCause::NewEpoch,
                    after: Some(foreign),
                    next: page.upto.clone(),
                }));
            }
        }
        if let Some(epoch) = self.asked_about.take()
            && page.upto.epoch != epoch
        {
            // History has moved on to another epoch than the ring's: what comes live of that is
            // older than what history gave.
            self.older = Some(epoch);
        }
        self.pending = items;
        self.more = page.more;
        self.upto = Some(page.upto);
    }

    /// What `hello` names: from here a client that got nothing yet gets everything. Where the page
    /// begins with a gap, that is where the client stood: `hello` only announces the gap, and who
    /// breaks off before it comes is told it again.
    fn starting_place(&self, items: &VecDeque<Live>, upto: &Position) -> Position {
        match &self.since {
            Since::After(place) if matches!(items.front(), Some(Live::Gap(_))) => place.clone(),
            Since::After(place) if place.log == upto.log && place.epoch == upto.epoch => {
                // Beyond the end of the log is no place to come back to.
                if place.offset <= upto.offset {
                    place.clone()
                } else {
                    first_place(items, upto)
                }
            }
            Since::Now => upto.clone(),
            _ => first_place(items, upto),
        }
    }
}

/// The place before the first item: after its gap, before its first event.
fn first_place(items: &VecDeque<Live>, upto: &Position) -> Position {
    match items.front() {
        Some(Live::Event(event)) => event.position.at(event.position.offset.before()),
        Some(Live::Gap(gap)) if gap.next.epoch == upto.epoch => gap.next.clone(),
        _ => upto.clone(),
    }
}
